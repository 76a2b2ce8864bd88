"""A user's dialogues: what is refused, what is held out, and a model that learns them."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage
from PIL import ImageDraw

import qvl
from qvl.cli import main
from qvl.data.prepare import HELD_OUT_SHARE, Account, Reading, choose_held_out, prepare_dialogues
from qvl.data.sample import read_split
from qvl.errors import DataError, RecipeError, UsageError
from qvl.quantize.layout import load_any, save_int4, to_int4
from qvl.text.markup import Image, Text
from qvl.text.tokenizer import Tokenizer
from qvl.train import best
from qvl.train.best import KeepBest
from qvl.train.finetune import prepare
from qvl.train.recipe import Recipe, load_recipe, recipe_to_toml

SHIPPED = Path(qvl.__file__).parent / "assets" / "tiny"
RECIPES = sorted(path for path in Path("recipes").rglob("*.toml") if path.name != "world.toml")
READING = Reading(Tokenizer.tiny(), num_image_tokens=16, max_length=256)
NAMES = ("red", "blue")  # of black squares that are filled, and that are not: nothing that the shipped model knows


def draw(path: Path, side: int, filled: bool) -> None:
    picture = PILImage.new("RGB", (224, 224), "white")
    box = (20, 20, 20 + side, 20 + side)
    ImageDraw.Draw(picture).rectangle(box, fill="black" if filled else None, outline="black", width=6)
    picture.save(path)


def row(form: str, number: int, image: str, question: str, answer: str) -> dict[str, Any]:
    """One exchange about one picture."""
    if form == "messages":
        parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": question}]
        return {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]}
    shown = "<image>\n" if form == "llava" else f"Picture 1: <img>{image}</img>\n"
    said = [("human", shown + question), ("gpt", answer)]
    extra = {"image": image} if form == "llava" else {}
    return {"id": f"r{number}", **extra, "conversations": [{"from": who, "value": what} for who, what in said]}


def write_data(folder: Path, form: str = "qwen", count: int = 40, extra: Sequence[dict[str, Any]] = ()) -> Path:
    """A file of dialogues with its pictures, half of them of either name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        draw(folder / f"{number}.png", 60 + 3 * number, filled=number % 2 == 0)
        rows.append(row(form, number, f"{number}.png", "Which one?", NAMES[number % 2]))
    path = folder / "own.json"
    path.write_text(json.dumps([*rows, *extra]))
    return path


@pytest.mark.parametrize("form", ["qwen", "llava", "messages"])
def test_every_form_is_known_and_no_sample_lost(form: str, tmp_path: Path) -> None:
    data = write_data(tmp_path, form)
    account = prepare_dialogues(data, tmp_path / "out", READING)
    assert account.form == form
    assert account.train + account.held_out == 40
    assert not account.left_out
    train, held_out = (list(read_split(tmp_path / "out" / name)) for name in ("train", "held_out"))
    assert (len(train), len(held_out)) == (account.train, account.held_out)
    assert len({sample.id for sample in train + held_out}) == 40
    assert train[0].turns[0].content == (Image(0), Text("Which one?"))
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))
    assert prepare_dialogues(data, tmp_path / "out", READING) == account
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")) == before
    data.write_text(json.dumps(json.loads(data.read_text())[1:]))
    with pytest.raises(UsageError, match="made of other data"):
        prepare_dialogues(data, tmp_path / "out", READING)


def test_lines_of_json_are_read_as_well(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    lines = data.with_suffix(".jsonl")
    lines.write_text("".join(json.dumps(row) + "\n" for row in json.loads(data.read_text())))
    assert prepare_dialogues(lines, tmp_path / "out", READING).form == "qwen"


def test_another_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text('[{"question": 1}]')
    with pytest.raises(DataError, match=r"table\.json: not of the expected form: rows with conversations"):
        prepare_dialogues(path, tmp_path / "out", READING)
    with pytest.raises(DataError, match=r"none\.json: No such file"):
        prepare_dialogues(tmp_path / "none.json", tmp_path / "out", READING)
    assert [found.name for found in tmp_path.iterdir()] == ["table.json"]


BAD = [
    row("qwen", 100, "gone.png", "Which one?", "red"),
    row("qwen", 101, "1.png", "Where?", "<box>(1,2),(3000,4)</box>"),
    row("qwen", 102, "1.png", "Where?", "<ref>it</ref><box>(5,5),(5,9)</box>"),
    row("qwen", 103, "1.png", "Long " * 300, "no"),
]


def test_bad_samples_end_it_with_their_rows_and_leave_nothing(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", extra=BAD)
    with pytest.raises(DataError) as caught:
        prepare_dialogues(data, tmp_path / "runs" / "data", READING)
    said = str(caught.value)
    assert "4 samples have problems" in said
    for start in (
        "row r100: missing image",
        "row r101: tags that can't be read",
        "row r102: box: ",
        "row r103: length",
    ):
        assert f"\n  {start}" in said
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_bad_samples_are_left_out_and_counted_when_asked(tmp_path: Path) -> None:
    data = write_data(tmp_path, extra=BAD)
    account = prepare_dialogues(data, tmp_path / "out", READING, leave_out_bad=True)
    assert account.train + account.held_out == 40
    assert account.left_out == {"missing image": 1, "tags that can't be read": 1, "box": 1, "length": 1}
    listed = [json.loads(line) for line in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()]
    assert {damage["key"] for damage in listed} == {"r100", "r101", "r102", "r103"}
    assert "left out, length: 1" in account.summary()


def test_boxes_that_seem_to_be_in_pixels_are_asked_about(tmp_path: Path) -> None:
    boxes = [
        row("qwen", 200 + i, "1.png", "Where?", f"<ref>it</ref><box>(1,2),({90 + i},200)</box>") for i in range(25)
    ]
    data = write_data(tmp_path, extra=boxes)
    with pytest.raises(DataError, match=r"are they in \[0, 1000\)"):
        prepare_dialogues(data, tmp_path / "out", READING)
    account = prepare_dialogues(data, tmp_path / "out", READING, leave_out_bad=True)
    assert account.train + account.held_out == 65, "each by itself may be right"
    assert "are they in [0, 1000)" in account.summary()


def test_turns_that_do_not_fit_are_told(tmp_path: Path) -> None:
    long = row("qwen", 300, "1.png", "Which one?", "red")
    long["conversations"] += [{"from": "human", "value": "And? " * 200}, {"from": "gpt", "value": "no"}]
    account = prepare_dialogues(write_data(tmp_path, extra=[long]), tmp_path / "out", READING)
    assert account.notes == ["dialogues that lose their last turns, being longer than 256 tokens: 1"]


def test_held_out_samples_share_no_picture_with_the_others() -> None:
    groups = {f"id {i}": f"picture {i // 3}" for i in range(3000)}
    held_out = choose_held_out(groups)
    assert 0.7 * HELD_OUT_SHARE < len(held_out) / len(groups) < 1.3 * HELD_OUT_SHARE
    rest = {group for sample_id, group in groups.items() if sample_id not in held_out}
    assert not rest & {groups[sample_id] for sample_id in held_out}
    more = choose_held_out(groups | {"id x": "picture x"})
    assert more - {"id x"} == held_out, "more data leave the rest where it was"


@pytest.mark.parametrize("count", [2, 3, 20])
@pytest.mark.parametrize("pictures", [1, 2])
def test_some_are_held_out_and_some_are_not(count: int, pictures: int) -> None:
    for start in range(50):
        groups = {f"id {i}": f"{start} {i % pictures}" for i in range(count)}
        assert 0 < len(choose_held_out(groups)) < count


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: "/".join(path.parts[1:]))
def test_a_written_recipe_reads_as_itself(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    (tmp_path / "written.toml").write_text(recipe_to_toml(recipe))
    assert load_recipe(tmp_path / "written.toml") == recipe


def prepared(tmp_path: Path, model: Path = SHIPPED, **settings: Any) -> tuple[Recipe, Account]:
    data = write_data(tmp_path / "data")
    path, account = prepare(model, data, tmp_path / "runs" / "mine", **settings)
    return load_recipe(path), account


def test_defaults_suit_the_data(tmp_path: Path) -> None:
    recipe, account = prepared(tmp_path)
    assert recipe.trains == ("language",)
    assert recipe.lora is not None
    assert (recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout) == (64, 16, 0.05)
    assert recipe.data.packing == "isolated"
    lengths = [READING.render(s) for s in read_split(tmp_path / "runs" / "mine" / "data" / "train")]
    longest = max(len(rendered.input_ids) for rendered in lengths if rendered)
    assert longest <= recipe.data.row_length < 5 * longest
    assert recipe.held_out is not None
    assert recipe.held_out.every * 10 <= recipe.steps
    full, _ = prepared(tmp_path, method="full")
    assert (full.lora, full.trains) == (None, ("adapter", "language"))
    assert full.optim.peak_lr == 1e-5 < recipe.optim.peak_lr
    assert account.train + account.held_out == 40


def test_what_was_given_wins_and_is_checked(tmp_path: Path) -> None:
    recipe, _ = prepared(tmp_path, epochs=2.0, overrides=("lora.r=8", 'trains=["vision", "adapter"]'))
    assert recipe.lora is not None
    assert (recipe.lora.r, recipe.trains) == (8, ("vision", "adapter"))
    assert recipe.steps < 20
    with pytest.raises(RecipeError, match="did you mean 'r'"):
        prepared(tmp_path, overrides=("lora.rr=8",))


def test_int4_takes_adapters_only(tmp_path: Path) -> None:
    model = load_any(SHIPPED)
    to_int4(model)
    save_int4(model, json.loads((SHIPPED / "config.json").read_text()), tmp_path / "int4", Tokenizer.tiny())
    for method in ("full", "nf4"):
        with pytest.raises(UsageError, match=f"has Int4 matrices; leave --{method} out"):
            prepared(tmp_path, tmp_path / "int4", method=method)
    assert prepared(tmp_path, tmp_path / "int4")[0].lora is not None


def finetune(data: Path, out: Path, *flags: str, model: Path = SHIPPED) -> list[str]:
    values = ["steps=20", "held_out.every=10", "save_every=10", "grad_accumulation=1"]
    values += ["optim.peak_lr=5e-3", "optim.min_lr=5e-4"]
    sets = [flag for value in values for flag in ("--set", value)]
    return ["finetune", "--model", str(model), "--data", str(data), "--out", str(out), *sets, *flags]


def held_out_losses(out: Path) -> dict[int, float]:
    lines = map(json.loads, (out / "held_out.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def test_a_task_of_ones_own_from_data_to_a_merged_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Adapters learn what the shipped model can't know; with them or merged it says so."""
    data, out = write_data(tmp_path / "data"), tmp_path / "runs" / "mine"
    assert main(finetune(data, out)) == 0
    shown = capsys.readouterr().out
    assert "samples to train on" in shown
    assert [line.split()[:2] for line in shown.splitlines() if "language.blocks" in line] == [
        ["language.blocks", "LoRA"]
    ]
    assert f"adapter: {out / 'adapter'}" in shown
    losses = held_out_losses(out)
    assert sorted(losses) == [0, 10, 20]
    assert min(losses[10], losses[20]) < losses[0] / 5
    assert not (out / "best").exists()
    assert sorted(p.name for p in out.parent.iterdir()) == ["mine", "run.json"]

    sample = next(iter(read_split(out / "data" / "held_out")))
    name = "".join(s.text for s in sample.turns[1].content if isinstance(s, Text))
    (tmp_path / "asked.png").write_bytes(sample.images[0])
    ask = ["--ask", "Which one?", "--image", str(tmp_path / "asked.png")]
    assert main(["chat", "--model", str(SHIPPED), *ask]) == 0
    assert name not in capsys.readouterr().out
    assert main(["chat", "--model", str(SHIPPED), "--adapter", str(out / "adapter"), *ask]) == 0
    assert name in capsys.readouterr().out

    assert main(["merge", str(out / "adapter"), "--out", str(tmp_path / "merged")]) == 0
    assert "the same first choice at 100.0% of the places" in capsys.readouterr().out
    assert main(["chat", "--model", str(tmp_path / "merged"), *ask]) == 0
    assert name in capsys.readouterr().out


def test_the_recipe_alone_trains_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "runs" / "mine"
    short = ("--set", "steps=2")
    assert main(finetune(data, out, *short, "--dry-run")) == 0
    assert "adapters of rank 64 on 16 matrices" in capsys.readouterr().out
    assert main(["train", str(out / "finetune.toml"), "--out", str(out.parent)]) == 0
    assert f"adapter: {out / 'adapter'}" in capsys.readouterr().out
    weights = (out / "adapter" / "adapter_model.safetensors").read_bytes()
    assert main(finetune(data, out, *short)) == 0, "finished already"
    assert (out / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    assert main(finetune(data, out, "--set", "steps=3")) == 3
    assert "holds a run with another" in capsys.readouterr().err


def test_all_weights_may_train(tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "runs" / "mine"
    assert main(finetune(data, out, "--full", "--set", "steps=2")) == 0
    model, before = qvl.load(out / "checkpoint").model, qvl.load(SHIPPED).model
    changed = {
        name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before.get_parameter(name))
    }
    assert changed == {"adapter", "language"}


def test_killed_adapters_go_on_to_the_bit(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", count=12)
    whole, killed = tmp_path / "whole" / "mine", tmp_path / "killed" / "mine"
    flags = ("--set", "steps=8", "--set", "save_every=2", "--set", "held_out.every=3", "--set", "optim.peak_lr=1e-3")
    assert main(finetune(data, whole, *flags)) == 0
    with subprocess.Popen([sys.executable, "-m", "qvl", *finetune(data, killed, *flags)]) as process:
        deadline = time.monotonic() + 200
        while not list(killed.glob("state/step-*4/.metadata")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (killed / "adapter").exists()
    assert main(finetune(data, killed, *flags)) == 0
    weights = [folder / "adapter" / "adapter_model.safetensors" for folder in (whole, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert held_out_losses(whole) == held_out_losses(killed)


def test_the_lowest_loss_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, _ = prepared(tmp_path, overrides=("steps=7", "held_out.every=2"))
    losses = iter([5.0, 3.0, 4.0, 2.0, 2.5])
    monkeypatch.setattr(best, "held_out_loss", lambda *args: next(losses))
    model, saved = torch.nn.Linear(1, 1), []
    step = 0

    def keep() -> KeepBest:
        return KeepBest(tmp_path, recipe, [], Tokenizer.tiny(), "cpu", lambda model: saved.append(step))

    kept = keep()
    for step in range(8):
        if step == 5:
            kept = keep()  # as after a kill
        kept.after_step(step, model)  # type: ignore[arg-type]
    assert held_out_losses(tmp_path) == {0: 5.0, 2: 3.0, 4: 4.0, 6: 2.0, 7: 2.5}
    assert saved == [2, 6]
    assert kept.best == (6, 2.0)
    assert model.training
