"""Run the commands of a Markdown page and compare what they print with what the page shows.

    python scripts/check_guide.py docs/guide/*.md            # says where the output changed
    python scripts/check_guide.py --update docs/guide/*.md   # writes the new output into the pages

Blocks marked `console` hold commands behind `$ ` (with `> ` for further lines) and their output. A page's commands run
in order in one new folder, where `examples/` and `recipes/` are as in the repository. In an output `...` stands for
anything, within a line or for whole lines, and numbers may differ by a fiftieth part or by one in the last digit
shown, because processors round differently. What goes to stderr (progress) is shown where a command fails.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?%?")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
TIMEOUT_S = 300


@dataclass(frozen=True)
class Command:
    """A command and what the page says that it prints."""

    text: str
    shown: str


@dataclass(frozen=True)
class Change:
    """A command that printed something else."""

    command: Command
    printed: str


def commands(page: str) -> Iterator[Command]:
    """Of a page, in order."""
    for block in BLOCK.finditer(page):
        for part in re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            more = 1
            while more < len(lines) and lines[more].startswith("> "):
                more += 1
            text = "\n".join([lines[0], *(line[2:] for line in lines[1:more])])
            yield Command(text, "\n".join(lines[more:]).strip("\n"))


def same(shown: str, printed: str) -> bool:
    """Whether an output is the one shown, but for `...` and the last digits of numbers."""
    pattern = re.escape(NUMBER.sub("\0", _plain(shown)))
    pattern = pattern.replace(re.escape("..."), ".*?").replace(re.escape("\0"), f"({NUMBER.pattern})")
    found = re.fullmatch(pattern, _plain(printed), re.DOTALL)
    if found is None:
        return False
    return all(_close(a, b) for a, b in zip(NUMBER.findall(_plain(shown)), found.groups(), strict=True))


def run_page(path: Path) -> list[Change]:
    """The commands of a page whose output changed."""
    changes = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("examples", "recipes"):
            shutil.copytree(ROOT / name, Path(folder) / name)
        for command in commands(path.read_text(encoding="utf-8")):
            printed = _run(command, Path(folder))
            if not same(command.shown, printed):
                changes.append(Change(command, printed))
    return changes


def updated(page: str, changes: list[Change]) -> str:
    """The page with the new outputs."""
    for change in changes:
        lines = change.command.text.splitlines()
        head = "\n".join([f"$ {lines[0]}", *(f"> {line}" for line in lines[1:])])
        old = f"{head}\n{change.command.shown}\n" if change.command.shown else f"{head}\n"
        page = page.replace(old, f"{head}\n{_plain(change.printed)}\n", 1)
    return page


def main() -> int:
    """Exit code 1 where an output changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--update", action="store_true", help="write the new outputs into the pages")
    args = parser.parse_args()
    failed = False
    for path in args.pages:
        changes = run_page(path)
        for change in changes:
            print(f"{path}: $ {change.command.text}\n--- shown\n{change.command.shown}\n--- printed\n{change.printed}")
        if changes and args.update:
            path.write_text(updated(path.read_text(encoding="utf-8"), changes), encoding="utf-8")
        failed = failed or bool(changes)
        print(f"{path}: {len(changes)} outputs changed")
    return int(failed and not args.update)


def _run(command: Command, folder: Path) -> str:
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command.text],
        cwd=folder,
        env={**os.environ, "PATH": paths, "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    failed = f"\n(exit code {done.returncode})\n{done.stderr}" if done.returncode else ""
    return (done.stdout + failed).strip("\n")


def _plain(text: str) -> str:
    """Without colours, and without blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in COLOURS.sub("", text).splitlines())


def _close(shown: str, printed: str) -> bool:
    number, other = (float(text.rstrip("%")) for text in (shown, printed))
    digits = len(shown.rstrip("%").partition(".")[2])
    last_digit = 1.01 * 10**-digits if digits or shown.endswith("%") else 0
    return shown.endswith("%") == printed.endswith("%") and abs(number - other) <= max(number / 50, last_digit)


if __name__ == "__main__":
    sys.exit(main())
