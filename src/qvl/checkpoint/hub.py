"""Models by name: in the local cache of either hub, or downloaded when the user asks, code left out."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from qvl.errors import CheckpointError, MissingDependencyError

HUBS = ("huggingface", "modelscope")
_OR = " or ".join(HUBS)
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_BESIDE = ["*.json", "*.tiktoken", "*.md", "LICENSE*", "NOTICE*"]
_WEIGHTS = ("*.safetensors", "*.bin")  # the first that are there


def find_model(name: str | Path, hub: str | None = None) -> Path:
    """A folder as it is; else `owner/model` in the hubs' caches, newest layout first; with hub, downloaded from it.

    CheckpointError says what was looked for where; MissingDependencyError names the hub's client.
    """
    if Path(name).is_dir():
        return Path(name)
    if not _NAME.fullmatch(str(name)):
        raise CheckpointError(f"{name}: no such checkpoint folder")
    if hub is not None:
        return _download(str(name), hub)
    for folder in _cached(*str(name).split("/")):
        if (folder / "config.json").exists():
            return folder
    raise CheckpointError(f"{name}: no such checkpoint folder, nor in a hub's cache; download it with a hub ({_OR})")


def _cached(owner: str, model: str) -> Iterator[Path]:
    """Where either client puts, and older ones put, a model."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    first = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    yield from _snapshots(first / f"models--{owner}--{model}")
    second = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
    yield from _snapshots(second / "models" / f"{owner}--{model}")
    for parent in ("models", "hub/models", "hub", "."):
        for spelled in (model.replace(".", "___"), model):
            yield second / parent / owner / spelled


def _snapshots(folder: Path) -> Iterator[Path]:
    """The one that `main` or `master` names, else the newest."""
    for branch in ("main", "master"):
        if (ref := folder / "refs" / branch).exists():
            yield folder / "snapshots" / ref.read_text(encoding="utf-8").strip()
        yield folder / "snapshots" / branch
    found = (folder / "snapshots").glob("*")
    yield from sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _download(name: str, hub: str) -> Path:
    try:
        if hub == HUBS[0]:
            from huggingface_hub import snapshot_download
        elif hub == HUBS[1]:
            from modelscope import snapshot_download  # type: ignore[no-redef]
        else:
            raise CheckpointError(f"hub {hub!r}: there is {_OR}")
    except ImportError as error:
        raise MissingDependencyError(f"downloading needs {error.name}: pip install 'qvl[hub]'") from error
    try:
        for kind in _WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*_BESIDE, kind]))
            if any(folder.glob(kind)):
                return folder
    except Exception as error:
        raise CheckpointError(f"{name}: {hub} does not give it ({type(error).__name__}: {error})") from error
    raise CheckpointError(f"{name}: has neither {' nor '.join(_WEIGHTS)} on {hub}")
