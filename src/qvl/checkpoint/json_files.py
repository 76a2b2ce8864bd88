"""JSON files of a checkpoint folder."""

import json
from pathlib import Path
from typing import Any

from qvl.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; CheckpointError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; a checkpoint folder needs it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value
