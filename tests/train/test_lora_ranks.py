"""Fine-tuning on several ranks, real processes that talk over gloo: it learns what one process learns."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from lora_recipes import KINDS
from safetensors.torch import load_file

import qvl
from qvl.cli import main
from qvl.errors import RecipeError, UsageError
from qvl.text.tokenizer import Tokenizer
from qvl.train.finetune import prepare
from qvl.train.parallel import check_replicable
from qvl.train.recipe import ParallelConfig, Recipe, load_recipe, recipe_to_toml
from qvl.train.stage import build_loader, model_config
from qvl.train.trainer import run_recipe

SHIPPED = Path(qvl.__file__).parent / "assets" / "tiny"
WORKER = Path(__file__).with_name("recipe_worker.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def outs(run_dir: Path, recipes: dict[str, Recipe], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with every kind, trained by one process and by two ranks."""
    folder = tmp_path_factory.mktemp("lora_ranks")
    for kind, recipe in recipes.items():
        (folder / f"{kind}.toml").write_text(recipe_to_toml(recipe))
    paths = [folder / f"{kind}.toml" for kind in recipes]
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "world").symlink_to(run_dir / "world")
    for path in paths:
        run_recipe(path, out=folder / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*command, str(WORKER), str(folder / "two"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "one", folder / "two"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_losses(one: Path, two: Path, steps: int) -> None:
    expected, found = (lines_of(folder / "log.jsonl") for folder in (one, two))
    assert [line["step"] for line in found] == list(range(steps))
    for line, other in zip(expected, found, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-4), line["step"]
        assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-2)
        for key in ("samples", "images", "tokens"):
            assert other[key] == line[key]
    expected, found = (lines_of(folder / "held_out.jsonl") for folder in (one, two))
    assert [line["step"] for line in expected] == [line["step"] for line in found]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], abs=1e-4)


def assert_same_weights(one: Path, two: Path) -> None:
    expected, found = load_file(one), load_file(two)
    assert expected.keys() == found.keys()
    assert max(float((found[name] - tensor).abs().max()) for name, tensor in expected.items()) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_learn_what_one_process_learns(kind: str, outs: tuple[Path, Path]) -> None:
    one, two = (out / kind for out in outs)
    assert_same_losses(one, two, 10)
    if kind == "full":
        assert_same_weights(one / "checkpoint" / "model.safetensors", two / "checkpoint" / "model.safetensors")
        return
    assert_same_weights(*(folder / "adapter" / "adapter_model.safetensors" for folder in (one, two)))
    for name in ("adapter_config.json", "base.json"):
        assert (one / "adapter" / name).read_bytes() == (two / "adapter" / name).read_bytes()


def test_one_rank_has_text_while_the_other_has_pictures(recipes: dict[str, Recipe], run_dir: Path) -> None:
    """What the test above is about, since the adapters of the ViT must have gradients on both."""
    tokenizer = Tokenizer.tiny()
    loader = build_loader(recipes["plain"], run_dir, model_config(recipes["plain"], tokenizer), tokenizer)
    shown = [len(batch.pixels) > 0 for batch, _ in islice(loader, 40)]
    assert {(True, False), (False, True)} & set(zip(shown[::2], shown[1::2], strict=True))


def write_data(folder: Path) -> Path:
    rows = [
        {
            "id": str(i),
            "conversations": [{"from": "human", "value": f"{i} + {i}?"}, {"from": "gpt", "value": str(2 * i)}],
        }
        for i in range(40)
    ]
    folder.mkdir()
    (folder / "own.json").write_text(json.dumps(rows))
    return folder / "own.json"


def finetune(data: Path, out: Path, *flags: str) -> list[str]:
    values = ["steps=16", "held_out.every=4", "save_every=4", "lora.dropout=0.0", "precision=float32"]
    sets = [flag for value in values for flag in ("--set", value)]
    return ["finetune", "--model", str(SHIPPED), "--data", str(data), "--out", str(out), *sets, *flags]


def test_a_finetuning_begun_on_two_ranks_ends_on_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data")
    one, moved = (tmp_path / name / "mine" for name in ("one", "moved"))
    assert main(finetune(data, one, "--set", "data.streams=2")) == 0
    command = [sys.executable, "-m", "qvl", *finetune(data, moved, "--ranks", "2")]
    with subprocess.Popen(command, env=ENVIRONMENT) as job:
        deadline = time.monotonic() + 120
        while not (moved / "state" / "step-00000004" / ".metadata").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
    assert not (moved / "adapter").exists()
    assert main(finetune(data, moved, "--ranks", "3")) == UsageError.exit_code
    assert "began with 2 streams of samples" in capsys.readouterr().err
    assert main(finetune(data, moved)) == 0
    assert_same_losses(one, moved, 16)
    assert_same_weights(*(folder / "adapter" / "adapter_model.safetensors" for folder in (one, moved)))


@pytest.mark.parametrize(("ranks", "streams", "accumulation"), [(1, 1, 4), (2, 2, 2), (3, 3, 2), (8, 8, 1)])
def test_streams_and_rows_follow_from_ranks(ranks: int, streams: int, accumulation: int, tmp_path: Path) -> None:
    path, _ = prepare(SHIPPED, write_data(tmp_path / "data"), tmp_path / "runs" / "mine", ranks=ranks)
    recipe = load_recipe(path)
    assert (recipe.data.streams, recipe.grad_accumulation) == (streams, accumulation)


def test_what_adapters_do_not_do_on_ranks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in ({"shard": "parameters"}, {"tensor": 2}):
        with pytest.raises(RecipeError, match="each rank holds the whole base"):
            check_replicable(ParallelConfig(**given))  # type: ignore[arg-type]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(finetune(tmp_path / "own.json", tmp_path / "runs" / "mine")) == UsageError.exit_code
    assert f"-m qvl train {tmp_path / 'runs' / 'mine' / 'finetune.toml'} --out" in capsys.readouterr().err
