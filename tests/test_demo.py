"""The whole recipe with a few steps of each stage: every part meets the next one, and a second start is idle."""

import json
import re
from pathlib import Path

import pytest

from qvl import demo
from qvl.cli import main
from qvl.data.sample import read_split
from qvl.evaluate.world import world_scores
from qvl.explain.words import WORDS

RECIPES = Path("recipes/tiny")
SMALL_WORLD = {"train": 120, "test": 40, "dense": 64, "evaluate_limit": 1}
SMALL_STAGE = {"steps": 2, "batch_rows": 2, "warmup_steps": 1}


@pytest.fixture(scope="module")
def small_recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real recipes, with few samples and steps."""
    folder = tmp_path_factory.mktemp("recipes")
    for path in RECIPES.glob("*.toml"):
        text = path.read_text(encoding="utf-8")
        for key, value in (SMALL_WORLD if path.name == demo.WORLD_NAME else SMALL_STAGE).items():
            text, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
            assert found == 1, f"{path.name}: {key}"
        (folder / path.name).write_text(text, encoding="utf-8")
    return folder


def test_the_demo_runs_from_nothing_to_the_report(
    small_recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "found_documents", list)  # the machine's own documents are many
    command = ["demo", "--recipes", str(small_recipes), "--out", str(tmp_path)]
    assert main(command) == 0
    stages = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert stages == ["warmup_text", "warmup_vision", "pretrain", "multitask", "sft"]
    assert len(list(read_split(tmp_path / "documents"))) > 50
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(stage in report for stage in stages)
    assert "best constant" in report
    scores = world_scores(tmp_path / "sft" / "eval")
    assert {"caption", "vqa", "referring", "ocr"} <= scores["en"].keys() & scores["zh"].keys()
    said = capsys.readouterr().out
    assert "chat:" in said
    mainly = {"warmup_text": "text", "pretrain": "caption", "multitask": "referring", "sft": "dialogue"}
    for stage, task in mainly.items():
        assert re.search(rf"again: .* --id \S+-{task}-\S+ --model \S+/{stage}/", said)
        assert 'class="token"' in (tmp_path / stage / "loss.html").read_text(encoding="utf-8")

    assert sum(said.count(words["forced"]) for words in WORDS.values()) == len(mainly)

    before = (tmp_path / "sft" / "log.jsonl").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "sft" / "log.jsonl").stat().st_mtime_ns == before


def test_a_wrong_recipe_ends_the_demo_before_it_begins(
    small_recipes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "recipes"
    broken.mkdir()
    for path in small_recipes.glob("*.toml"):
        (broken / path.name).write_text(path.read_text().replace("peak_lr", "peek_lr"))
    assert main(["demo", "--recipes", str(broken), "--out", str(tmp_path / "out")]) == 3
    assert "did you mean 'peak_lr'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
