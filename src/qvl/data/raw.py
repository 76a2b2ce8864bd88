"""What files from outside may hold, made safe: names and texts that no report can write, JSON without end."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def printable(name: str) -> str:
    """A name that fits any report: file names that are not UTF-8, and unpaired surrogates, become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def encodable(text: str) -> bool:
    """Whether it is Unicode text: unpaired surrogates, which JSON can spell, are not."""
    return text.isascii() or printable(text) == text


def parse_json(data: bytes | str) -> Any:
    """ValueError where it is not JSON, or nested so deeply that no reader follows."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def told_apart(names: Mapping[Path, str]) -> dict[Path, str]:
    """The name of each file, printable; files of one name get as many of the folders above them as it takes."""
    out = dict(names)
    while doubled := {name for name, count in Counter(out.values()).items() if count > 1}:
        for path, name in out.items():
            if name in doubled:
                out[path] = str(Path(*path.parts[-len(Path(name).parts) - 1 :]))
    return {path: printable(name) for path, name in out.items()}
