"""Rows that are kept for evaluation: no reader gives them."""

import re

OTHER_SPLIT = "not of the train split"
_OTHER = re.compile(r"(?<![a-z])(val|validation|test|testdev)(?![a-z])", re.IGNORECASE)


def names_other_split(name: str) -> bool:
    """Whether a file's name or address says that it is for evaluation: val2014/1.jpg, testdev_questions.json."""
    return bool(_OTHER.search(name))
