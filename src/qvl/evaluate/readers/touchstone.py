"""TouchStone: open questions about pictures, with people's descriptions and answers made from them, for a judge."""

import base64
import binascii
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from qvl.errors import DataError
from qvl.evaluate.rows import Row, at

COLUMNS = ("index", "question", "human_annotation", "gpt4_ha_answer", "category", "task_name")


def read_touchstone(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """touchstone_20230831.tsv: the columns above and image, a picture in base64."""
    [path] = files
    csv.field_size_limit(sys.maxsize)  # pictures are cells
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if missing := [name for name in (*COLUMNS, "image") if name not in (reader.fieldnames or ())]:
            raise DataError(f"{path}: lacks the columns {', '.join(missing)}")
        for number, cells in enumerate(reader):
            with at(path, f"row {number}"):
                try:
                    picture = base64.b64decode(cells["image"], validate=True)
                except binascii.Error as error:
                    raise ValueError(f"image is not base64: {error}") from error
                truth = {name: cells[name] for name in COLUMNS}
                if None in truth.values():
                    raise ValueError("fewer cells than columns")
                rows.append(Row(cells["index"], (picture,), {"question": cells["question"]}, truth, cells["category"]))
    return rows
