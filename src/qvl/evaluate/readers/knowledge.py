"""MMLU, CMMLU and C-Eval: four options, five solved questions of the same subject before each.

Source: evaluate_mmlu.py, evaluate_cmmlu.py and evaluate_ceval.py of Qwen's published code. Its files go through pandas,
which reads columns of numbers as numbers ("007" becomes 7, an empty cell nan): published numbers have it so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl.errors import DataError, MissingDependencyError
from qvl.evaluate.metrics.choice import LETTERS
from qvl.evaluate.readers.choices import letters
from qvl.evaluate.rows import Row

SHOTS = 5
CHOICES = 4


@dataclass(frozen=True)
class Exam:
    """How a set's files are called, what their columns are, and how its questions are put."""

    dev_suffix: str  # of the files with the solved questions: SUBJECT_dev.csv
    test_suffix: str
    columns: tuple[str, ...]  # question, options, answer
    has_header: bool
    header: str  # before the solved questions; {subject}
    question: str
    answer: str
    space: str  # before the letter, in the prompt's end and as a token


MMLU = Exam(
    "_dev.csv",
    "_test.csv",
    ("question", "A", "B", "C", "D", "answer"),
    False,
    "The following are multiple choice questions (with answers) about {subject}.\n\n",
    "Question: ",
    "\nAnswer:",
    " ",
)
CMMLU = Exam(".csv", ".csv", ("Question", "A", "B", "C", "D", "Answer"), True, "", "问题：", "\n答案：", "")
CEVAL = Exam("_dev.csv", "_val.csv", ("question", "A", "B", "C", "D", "answer"), True, "", "问题：", "\n答案：", "")


def read_exam(files: Sequence[Path], images_dir: Path, exam: Exam) -> list[Row]:
    """The folder of solved questions, then the folder of questions: a CSV file for each subject."""
    dev_dir, test_dir = files
    rows = []
    for path in sorted(test_dir.glob(f"*{exam.test_suffix}")):
        subject = path.name.removesuffix(exam.test_suffix)
        solved = dev_dir / f"{subject}{exam.dev_suffix}"
        if not solved.is_file():
            raise DataError(f"{path}: the solved questions of {subject}, {solved}, are not there")
        rows += subject_rows(exam, subject, solved, path)
    return rows


def subject_rows(exam: Exam, subject: str, dev_path: Path, test_path: Path) -> list[Row]:
    """The questions of a subject; the prompt of each is whole in the field "prompt"."""
    header = exam.header.format(subject=subject.replace("_", " "))
    shots = _table(exam, dev_path)[:SHOTS]
    before = header + "".join(f"{_asked(exam, shot)}{exam.space}{shot[-1]}\n\n" for shot in shots)
    rows = []
    for number, cells in enumerate(_table(exam, test_path)):
        if cells[-1] not in LETTERS[:CHOICES]:
            raise DataError(f"{test_path}: row {number}: answer is {cells[-1]!r}, not one of A to D")
        fields = {"prompt": before + _asked(exam, cells)}
        rows.append(Row(f"{subject}-{number}", (), fields, cells[-1], subject, letters(CHOICES, exam.space)))
    return rows


def _asked(exam: Exam, cells: Sequence[Any]) -> str:
    options = "".join(f"\n{letter}. {cell}" for letter, cell in zip(LETTERS, cells[1:5], strict=False))
    return f"{exam.question}{cells[0]}{options}{exam.answer}"


def _table(exam: Exam, path: Path) -> list[list[Any]]:
    read_csv = _pandas_reader()
    try:
        frame = read_csv(path) if exam.has_header else read_csv(path, names=exam.columns)
        frame = frame[list(exam.columns)]
    except KeyError as error:
        raise DataError(f"{path}: lacks a column of {', '.join(exam.columns)}") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error
    # Row by row from the columns: a row's own type would turn its whole numbers into fractions.
    return [list(cells) for cells in zip(*(frame[name] for name in exam.columns), strict=True)]


def _pandas_reader() -> Callable[..., Any]:
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError("MMLU, CMMLU and C-Eval need pandas: pip install 'qvl[eval]'") from error
    return pandas.read_csv
