"""MME: a text file for each subtask, two questions about each picture."""

from collections.abc import Sequence
from pathlib import Path

from qvl.errors import DataError
from qvl.evaluate.rows import Row


def read_mme(files: Sequence[Path], images_dir: Path, subtasks: Sequence[str]) -> list[Row]:
    """The folder of SUBTASK.txt, lines of picture, question, Yes or No between tabs; two lines after each other belong
    to a picture. Pictures in a folder of the subtask, or in its folder images."""
    [folder] = files
    rows = []
    for subtask in subtasks:
        path = folder / f"{subtask}.txt"
        if not path.is_file():
            raise DataError(f"{path}: not there; each of MME's subtasks has a file")
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(lines) % 2:
            raise DataError(f"{path}: {len(lines)} lines, but two belong to each picture")
        for number, line in enumerate(lines):
            cells = line.strip().split("\t")
            if len(cells) != 3 or cells[2] not in ("Yes", "No"):
                raise DataError(f"{path}: line {number + 1}: not picture, question, and Yes or No between tabs")
            picture, fields = _picture(images_dir / subtask, cells[0]), {"question": cells[1]}
            rows.append(Row(f"{subtask}-{number}", (picture,), fields, cells[2], subtask))
    return rows


def _picture(folder: Path, name: str) -> Path:
    inner = folder / "images" / name
    return inner if inner.is_file() else folder / name
