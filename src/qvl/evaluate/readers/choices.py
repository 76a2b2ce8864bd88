"""Questions with options: ScienceQA's with a picture, SEED-Bench's about pictures and videos."""

from collections.abc import Collection, Sequence
from pathlib import Path

from qvl.data.sources.common import of_form, read_json, rows_of
from qvl.errors import DataError
from qvl.evaluate.metrics.choice import LETTERS, SEED_VIDEO_TYPES
from qvl.evaluate.rows import Row, at, by_id, text_of, texts_of

VIDEO_FRAMES = 4  # pictures that stand for a video


def read_scienceqa(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """problems.json: id -> question, hint, choices, answer (from 0), image (or null), split. The test questions with a
    picture, images/test/ID/image.png."""
    [path] = files
    problems = read_json(path)
    if not isinstance(problems, dict):
        raise of_form(path, "problem id -> question, hint, choices, answer, image, split")
    rows = []
    for key, problem in problems.items():
        with at(path, f"problem {key}"):
            if problem["split"] != "test" or not problem["image"]:
                continue
            choices, answer = texts_of(problem, "choices"), problem["answer"]
            if not isinstance(answer, int) or not 0 <= answer < len(choices) <= len(LETTERS):
                raise ValueError(f"answer {answer!r} of {len(choices)} choices")
            fields = {
                "context": problem["hint"] or "N/A",
                "question": text_of(problem, "question"),
                "options": lettered(choices),
            }
            image = images_dir / key / text_of(problem, "image")
            rows.append(Row(key, (image,), fields, LETTERS[answer], options=letters(len(choices))))
    return rows


def read_seed_bench(files: Sequence[Path], images_dir: Path, kinds: Collection[int]) -> list[Row]:
    """SEED-Bench.json: questions of question_id, question_type_id, data_id, question, choice_a to choice_d, answer;
    those of some types.

    A video's frames are files ID_0.jpg, ID_1.jpg, ... of the question's id.
    """
    [path] = files
    form = "questions (question_id, question_type_id, data_id, question, choice_a ... choice_d, answer)"
    content = read_json(path)
    questions = rows_of(path, content.get("questions") if isinstance(content, dict) else None, form)
    rows = []
    for key, question in by_id(path, questions, "question_id").items():
        with at(path, f"question {key}"):
            if (kind := question["question_type_id"]) not in kinds:
                continue
            choices = [text_of(question, f"choice_{c}") for c in "abcd"]
            if question["answer"] not in LETTERS[: len(choices)]:
                raise ValueError(f"answer is {question['answer']!r}, not one of A to D")
            fields = {"question": text_of(question, "question"), "options": lettered(choices)}
            if kind in SEED_VIDEO_TYPES:
                pictures = tuple(images_dir / f"{key}_{i}.jpg" for i in range(VIDEO_FRAMES))
            else:
                pictures = (images_dir / text_of(question, "data_id"),)
            rows.append(Row(str(key), pictures, fields, question["answer"], str(kind), letters(len(choices))))
    return rows


def lettered(choices: Sequence[str]) -> str:
    """Options as prompts list them: `A. one`, a line each."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def letters(count: int, before: str = " ") -> tuple[str, ...]:
    """The continuations that stand for so many options."""
    if count > len(LETTERS):
        raise DataError(f"{count} options, at most {len(LETTERS)}")
    return tuple(before + letter for letter in LETTERS[:count])
