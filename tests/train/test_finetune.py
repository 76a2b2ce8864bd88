"""From a file of dialogues to adapters and to a merged checkpoint, by the commands that a user types."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

import qvl
from qvl.checkpoint import load_model
from qvl.cli import main
from qvl.data.sample import read_split
from qvl.data.world.tasks import make_sample
from qvl.text.tokenizer import Tokenizer
from qvl.train.finetune import form_of
from qvl.train.lora import load_adapter
from qvl.train.merge import probe_logits

MODEL = Path(qvl.__file__).parent / "assets" / "tiny"


def dialogue(number: int, answer: str) -> dict[str, Any]:
    said = f"Picture 1: <img>{number}.png</img>\nWhat is this?"
    return {
        "id": f"id{number}",
        "conversations": [{"from": "user", "value": said}, {"from": "assistant", "value": answer}],
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty dialogues in Qwen-VL's own JSON, with an answer that the model does not know."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(40):
        [picture] = make_sample(5, "train", i, "vqa", "en").images
        PILImage.open(io.BytesIO(picture)).save(folder / f"{i}.png")
    rows = [dialogue(i, "a thing of the tiny world") for i in range(40)]
    (folder / "data.json").write_text(json.dumps(rows))
    rows[3] = dialogue(3, "<ref>it</ref><box>(0.1,0.2),(0.3,0.4)</box>")
    rows[4] = dialogue(99, "no picture")
    (folder / "bad.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def tuned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short fine-tuning with adapters."""
    out = tmp_path_factory.mktemp("tuned") / "mine"
    values = ["--set", "steps=12", "--set", "optim.peak_lr=2e-3", "--set", "lora.r=8", "--set", "precision=float32"]
    command = ["finetune", "--model", str(MODEL), "--data", str(data / "data.json"), "--out", str(out), *values]
    assert main(command) == 0
    return out


def test_held_out_dialogues_are_learnt_and_not_trained_on(tuned: Path) -> None:
    counts = [len(list(read_split(tuned / "data" / name))) for name in ("train", "held_out")]
    assert sum(counts) == 40
    assert 1 <= counts[1] < 8
    losses = [json.loads(line)["loss"] for line in (tuned / "held_out.jsonl").read_text().splitlines()]
    assert min(losses) < 0.8 * losses[0]
    assert (tuned / "adapter" / "adapter_config.json").exists()


def test_the_recipe_that_was_written_is_the_one_that_was_trained(
    tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tuned / "finetune.toml"), "--out", str(tuned.parent)]) == 0
    assert "checkpoint" in capsys.readouterr().out  # finished: nothing trains again


def test_merged_is_the_adapter_and_its_base(tuned: Path, tmp_path: Path) -> None:
    assert main(["merge", str(tuned / "adapter"), "--out", str(tmp_path / "merged")]) == 0
    tokenizer = Tokenizer.from_dir(tmp_path / "merged")
    apart, merged = load_model(MODEL), load_model(tmp_path / "merged")
    plain = probe_logits(apart, tokenizer)
    load_adapter(apart, tuned / "adapter")
    # In double precision the difference is what rounding the merged weights to float32 does.
    expected, found = (probe_logits(model.double(), tokenizer) for model in (apart, merged))
    assert max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)) < 1e-5
    assert max(float((a - b).abs().max()) for a, b in zip(expected, plain, strict=True)) > 0.1  # it learnt something


def test_samples_with_problems_are_named_and_nothing_stays(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "--model", str(MODEL), "--data", str(data / "bad.json"), "--out", str(tmp_path / "x")]
    assert main(command) == 4
    said = capsys.readouterr().err
    assert "2 of 40 samples have problems" in said
    assert "id3" in said
    assert "99.png" in said
    assert not list(tmp_path.rglob("*.parquet"))
    assert main([*command, "--leave-out-bad", "--dry-run"]) == 0
    assert "left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages"),
        ({"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nhi"}]}, "llava"),
        ({"id": "1", "conversations": [{"from": "user", "value": "hi"}]}, "qwen"),
    ],
)
def test_the_form_of_a_file_is_recognised(row: dict[str, Any], form: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps([row]))
    assert form_of(tmp_path / "data.json") == form
