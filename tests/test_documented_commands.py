"""What the documentation tells a user to type works, and prints what the guide shows."""

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient import NotebookClient

from qvl.cli import build_parser

GUIDE = sorted(Path("docs/guide").glob("[0-9]*.md"))
PAGES_OF_ONE = ("README.md", "README.zh.md")  # one text in two languages
PAGES = [*map(Path, PAGES_OF_ONE), *sorted(Path("docs").rglob("*.md"))]
SHELL = re.compile(r"^```(?:sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_guide", "scripts/check_guide.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_guide"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


check_guide = load_script()


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_the_guide_shows_what_its_commands_print(page: Path) -> None:
    """`python scripts/check_guide.py --update docs/guide/*.md` writes new output into the pages."""
    changes = check_guide.run_page(page)
    assert not changes, "\n".join(f"$ {change.command.text}\n{change.printed}" for change in changes)


def test_the_notebook_says_the_same_when_it_is_run() -> None:
    page = Path("docs/tour.ipynb")
    kept = nbformat.read(page, as_version=4)
    run = nbformat.read(page, as_version=4)
    NotebookClient(run, timeout=300, resources={"metadata": {"path": str(page.parent)}}).execute()
    for before, after in zip(kept.cells, run.cells, strict=True):
        if before.cell_type == "code":
            assert check_guide.same(_said(before), _said(after)), _said(after)
            assert [o.output_type for o in before.outputs if o.output_type != "stream"] == [
                o.output_type for o in after.outputs if o.output_type != "stream"
            ]


def _said(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def documented() -> Iterator[tuple[str, str]]:
    """(page, command) of every `qvl ...` in a shell block; lines that end in a backslash go on in the next."""
    for page in PAGES:
        for block in SHELL.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?qvl (.*)", line)
                if found and "..." not in found[1]:
                    yield str(page), found[1]


@pytest.mark.parametrize(("page", "command"), list(documented()))
def test_every_command_has_the_flags_that_the_docs_give_it(page: str, command: str) -> None:
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("|&;<>"):
            break
        words.append(word)
    assert callable(build_parser().parse_args(words).run)  # an unknown flag leaves with status 2


@pytest.mark.parametrize(
    ("shown", "printed", "is_same"),
    [
        ("loss 2.51", "loss 2.53", True),
        ("loss 2.51", "loss 2.71", False),
        ("0.001", "0.002", True),
        ("12 samples", "13 samples", False),
        ("36% of it", "37% of it", True),
        ("36% of it", "37 of it", False),
        ("1200 places", "1210 places", True),
        ("first\n...\nlast 3", "first\nsecond 2\nlast 3", True),
        ("a ... c", "a b c", True),
        ("a", "a\nb", False),
        ("(1,2)", "(1.2)", False),
    ],
)
def test_outputs_are_compared_by_text_and_nearly_by_number(shown: str, printed: str, is_same: bool) -> None:
    assert check_guide.same(shown, printed) == is_same


def test_a_changed_output_is_found_and_written_into_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text\n\n```console\n$ echo one\ntwo\n$ cat <<X\n> three\n> X\nthree\n$ exit 3\n```\n")
    changes = check_guide.run_page(page)
    assert [change.command.text for change in changes] == ["echo one", "exit 3"]
    assert "exit code 3" in changes[1].printed
    assert check_guide.updated(page.read_text(), changes[:1]).startswith("Text\n\n```console\n$ echo one\none\n$ cat")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:  # the site has no page for a folder
            linked = page.parent / target
            assert linked.is_file() or (page.name in PAGES_OF_ONE and linked.is_dir()), f"{page}: {target}"


def test_the_readme_s_loss_table_is_the_guide_s() -> None:
    guide = Path("docs/guide/5-loss.md").read_text(encoding="utf-8").splitlines()
    [table] = re.findall(r"^```text\n(.*?)^```$", Path("README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert [line for line in table.splitlines() if line not in guide] == []


def test_both_readmes_show_the_same_commands() -> None:
    first, second = ([command.split()[0] for page, command in documented() if page == name] for name in PAGES_OF_ONE)
    assert first == second
