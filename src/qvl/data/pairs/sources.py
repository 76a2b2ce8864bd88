"""A data set's settings: where its columns are, which rules in which order, and what the paper kept of it."""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from qvl.data.pairs.rules import Rule, make_rule
from qvl.errors import UsageError

KEYS = {"name", "about", "language", "paper", "columns", "rules"}
LANGUAGES = ("en", "zh", "auto")
COLUMNS = ("text", "clip_score")


@dataclass(frozen=True)
class SourceSettings:
    """One source, as its TOML file says."""

    name: str
    about: str
    language: str  # en, zh, or auto: told from each text
    paper: tuple[float, float] | None  # pairs before and after in Table 2
    columns: dict[str, tuple[str, ...]]  # what is looked for -> the names tried, the first one present wins
    rules: tuple[Rule, ...]
    version: str  # name@hash of the settings

    @property
    def paper_retention(self) -> float | None:
        """Share of the pairs that the paper kept, 0..1."""
        return self.paper[1] / self.paper[0] if self.paper else None


def bundled_sources() -> list[str]:
    """Names of the settings that come with qvl: the ten sources of Table 2, and Flickr30K."""
    return sorted(path.stem for path in _bundled().glob("*.toml"))


def load_source(name_or_path: str | Path) -> SourceSettings:
    """Settings by the name of a bundled source or from a TOML file. UsageError names what is wrong where."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _bundled() / f"{name_or_path}.toml"
        if not path.exists():
            known = ", ".join(bundled_sources())
            raise UsageError(f"source {str(name_or_path)!r}: known are {known}; or give your own file.toml")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such settings file") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise UsageError(f"{path}: not a readable TOML file ({error})") from error
    return parse_source(values, str(path))


def parse_source(values: dict[str, Any], where: str) -> SourceSettings:
    """Parsed TOML -> settings. UsageError names the key that is missing, unknown or does not fit."""
    if wrong := sorted(set(values) - KEYS) or sorted(KEYS - {"paper"} - set(values)):
        state = "unknown" if wrong[0] not in KEYS else "missing"
        raise UsageError(f"{where}: {wrong[0]!r} is {state}; a source has {', '.join(sorted(KEYS))}")
    if values["language"] not in LANGUAGES:
        raise UsageError(f"{where}: language {values['language']!r} is not one of {', '.join(LANGUAGES)}")
    for table in ("columns", "rules"):
        if not isinstance(values[table], dict):
            raise UsageError(f"{where}: {table} is a table, as in [{table}]")
    columns = values["columns"]
    if wrong := sorted(set(columns) ^ set(COLUMNS)):
        raise UsageError(f"{where}: columns needs {' and '.join(COLUMNS)}; look at {wrong[0]!r}")
    if not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in columns.values()):
        raise UsageError(f"{where}: each of columns is a list of names")
    paper = values.get("paper")
    if paper is not None and (
        set(paper) != {"before", "after"} or not all(isinstance(n, int | float) for n in paper.values())
    ):
        raise UsageError(f"{where}: paper has two numbers, before and after")
    digest = hashlib.sha256(json.dumps(values, sort_keys=False, ensure_ascii=False).encode()).hexdigest()[:12]
    return SourceSettings(
        values["name"],
        values["about"],
        values["language"],
        (float(paper["before"]), float(paper["after"])) if paper else None,
        {key: tuple(names) for key, names in columns.items()},
        tuple(make_rule(name, rule, where) for name, rule in values["rules"].items()),
        f"{values['name']}@{digest}",
    )


def _bundled() -> Path:
    return Path(str(resources.files("qvl.assets") / "sources"))
