"""Lower layers never import upper ones: the table of docs/architecture.md against the imports in the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path("src/qvl")
TABLE = Path("docs/architecture.md")
MODULES = sorted(SOURCE.rglob("*.py"))
TOP = {"__init__", "__main__", "cli", "demo"}  # these put the layers together


def layer_table() -> dict[str, set[str]]:
    """layer -> what it may import, from the section "Who may import whom"; "a.b" allows that module only."""
    section = TABLE.read_text(encoding="utf-8").split("## Who may import whom")[1].split("\n## ")[0]
    rules = re.findall(r"(\w+) ← ([^.]+(?:\.\w[^.]*)*)\.", section)
    return {layer: set(re.findall(r"[a-z_]+(?:\.[a-z_]+)?", allowed)) - {"nothing"} for layer, allowed in rules}


def layer_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names under qvl that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("qvl.") for a in node.names if a.name.startswith("qvl."))
        elif isinstance(node, ast.ImportFrom) and node.module == "qvl":
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qvl."):
            yield (node.module or "").removeprefix("qvl.")


def allowed(name: str, layer: str, table: dict[str, set[str]]) -> bool:
    head = name.split(".")[0]
    return head == layer or head in table[layer] or any(f"{name}.".startswith(f"{rule}.") for rule in table[layer])


def test_table_names_every_layer() -> None:
    layers = {layer_of(path) for path in MODULES} - TOP - {"assets"}
    assert layers == set(layer_table()) - {"cli"}


@pytest.mark.parametrize("path", [p for p in MODULES if layer_of(p) not in TOP], ids=str)
def test_imports_follow_the_table(path: Path) -> None:
    table = layer_table()
    wrong = [name for name in imported(path) if not allowed(name, layer_of(path), table)]
    assert not wrong, f"{path} imports {', '.join(wrong)}: see 'Who may import whom' in {TABLE}"


def test_text_and_errors_need_no_torch() -> None:
    """So that tokenizing and --help are quick."""
    for path in [SOURCE / "errors.py", *(SOURCE / "text").glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {a.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert "torch" not in names, path


@pytest.mark.parametrize("path", [p for p in MODULES if layer_of(p) != "cli"], ids=str)
def test_only_the_cli_imports_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    late = [
        ast.unparse(n)
        for function in functions
        for n in ast.walk(function)
        if isinstance(n, ast.Import | ast.ImportFrom) and "qvl" in ast.unparse(n)
    ]
    assert not late, f"{path}: {late}"
