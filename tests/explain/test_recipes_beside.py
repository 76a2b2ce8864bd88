"""Recipes side by side: what is said of them is what they do."""

from pathlib import Path

import pytest

from qvl.cli import main
from qvl.explain.recipes import OF_BOTH, OF_DIALOGUES, OF_PATCHES, OF_TASKS, compared, compared_text, lr_curve
from qvl.train.recipe import load_recipe

PAPER = [load_recipe(Path(f"recipes/{stage}.toml")) for stage in ("pretrain", "multitask", "sft")]


def test_the_papers_three_stages() -> None:
    """Table 8 of the paper, by the numbers that differ."""
    rows = compared(PAPER)
    assert rows["loss of"] == [OF_TASKS, OF_TASKS, OF_DIALOGUES]
    assert rows["pictures"][0].startswith("224 px: 256 patches")
    assert rows["pictures"][1].startswith("448 px: 1,024 patches -> 256")
    assert [row.split(" rows")[0] for row in rows["a step"]] == ["30,720", "1,024", "128"]
    assert rows["steps"][2] == "8,000, of them warm-up 3,000"
    assert "language" not in rows["trains"][0]
    assert rows["frozen"] == [rows["frozen"][0], "nothing", "vision 1.84B"]
    assert "language.blocks 6.48B" in rows["frozen"][0]
    text = compared_text([recipe.name for recipe in PAPER], rows)
    assert max(map(len, text.splitlines())) <= 120


def test_curves_rise_and_fall() -> None:
    curve = lr_curve(PAPER[2], 100)
    assert max(curve) == pytest.approx(1, abs=1e-3)
    assert curve.index(max(curve)) == pytest.approx(3000 / 8000 * 100, abs=2)
    assert curve[-1] == pytest.approx(PAPER[2].optim.min_lr / PAPER[2].optim.peak_lr, rel=1e-3)


def test_warm_ups_and_mixtures_of_both_kinds() -> None:
    tiny = [load_recipe(path) for path in sorted(Path("recipes/tiny").glob("*.toml")) if path.stem != "world"]
    found = dict(zip([recipe.name for recipe in tiny], compared(tiny)["loss of"], strict=True))
    assert found["warmup_vision"] == OF_PATCHES
    assert found["multitask"] == OF_TASKS
    assert found["sft"] in (OF_BOTH, OF_DIALOGUES)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "recipes.html"
    assert main(["explain", "recipe", "--page", str(page)]) == 0
    assert "pretrain" in capsys.readouterr().out
    assert page.read_text().count("<polyline") == 3
    assert main(["explain", "recipe", str(tmp_path / "no.toml")]) != 0
    assert "no.toml" in capsys.readouterr().err
