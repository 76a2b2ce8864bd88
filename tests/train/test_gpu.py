"""On a GPU: it learns and says what the CPU does. Left out where there is none."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lora_recipes import KINDS
from PIL import Image, ImageDraw
from torch import Tensor

import qvl
from qvl.checkpoint import load_model
from qvl.model.loss import chunked_loss, next_token_loss
from qvl.train.recipe import Recipe, load_recipe, recipe_to_toml
from qvl.train.trainer import run_recipe

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
SHIPPED = Path(qvl.__file__).parent / "assets" / "tiny"


def losses_of(recipe: Recipe, out: Path, run_dir: Path, device: str, *values: str) -> list[float]:
    """Train a recipe into OUT, with other values; the losses of its steps."""
    out.mkdir(exist_ok=True)
    if not (out / "world").exists():
        (out / "world").symlink_to(run_dir / "world")
    path = out / "recipe.toml"
    path.write_text(recipe_to_toml(recipe))
    path.write_text(recipe_to_toml(load_recipe(path, list(values))))
    stage = run_recipe(path, out=out, device=device)
    return [json.loads(line)["loss"] for line in (stage / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_the_cpu_learns(kind: str, recipes: dict[str, Recipe], run_dir: Path, tmp_path: Path) -> None:
    expected, found = (losses_of(recipes[kind], tmp_path / device, run_dir, device) for device in ("cpu", DEVICE))
    assert len(found) == 10
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it
@pytest.mark.parametrize("value", ["checkpoint_activations=true", "compile=true"])
def test_bf16_is_near(value: str, recipes: dict[str, Recipe], run_dir: Path, tmp_path: Path) -> None:
    expected = losses_of(recipes["full"], tmp_path / "cpu", run_dir, "cpu")
    values = ("precision=bf16", f"parallel.{value}")
    assert losses_of(recipes["full"], tmp_path / "gpu", run_dir, DEVICE, *values) == pytest.approx(expected, rel=2e-2)


def test_it_goes_on_from_a_state(recipes: dict[str, Recipe], run_dir: Path, tmp_path: Path) -> None:
    expected = losses_of(recipes["full"], tmp_path / "whole", run_dir, DEVICE)
    (state,) = (tmp_path / "whole" / "full" / "state").glob("step-*8")
    stage = tmp_path / "again" / "full"
    for name in ("recipe.json", "shards.txt", "held_out.jsonl"):
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_bytes((tmp_path / "whole" / "full" / name).read_bytes())
    (stage / "state").mkdir()
    state.rename(stage / "state" / state.name)
    (tmp_path / "whole" / "full" / "log.jsonl").rename(stage / "log.jsonl")
    assert losses_of(recipes["full"], tmp_path / "again", run_dir, DEVICE) == pytest.approx(expected, abs=1e-3)


def test_it_says_what_the_cpu_says() -> None:
    picture = Image.new("RGB", (448, 448), "white")
    ImageDraw.Draw(picture).ellipse((120, 160, 280, 320), fill="red")
    said = []
    for device in ("cpu", DEVICE):
        chat = qvl.load(SHIPPED, device=device).conversation()
        asked = (("What is in the picture?", [picture]), ("Find the red ball.", []))
        said.append(["".join(chat.ask(question, pictures)) for question, pictures in asked])
    assert said[0] == said[1]


def test_logits_in_bf16_are_near() -> None:
    ids = torch.arange(64, device=DEVICE)[None]
    with torch.inference_mode():
        whole, half = (load_model(SHIPPED, dtype, DEVICE)(ids) for dtype in (torch.float32, torch.bfloat16))
    assert float((whole - half.float()).norm() / whole.norm()) < 2e-2


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 3e-2)])
def test_the_loss_in_chunks_is_the_whole_one(bf16: bool, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, 64, generator=generator) for rows in (300, 9000))
    targets = torch.randint(9000, (300,), generator=generator)
    expected = differentiated(lambda h, w: next_token_loss(h @ w.t(), targets)[0], hidden, weight)
    hidden, weight, targets = hidden.to(DEVICE), weight.to(DEVICE), targets.to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
        found = differentiated(lambda h, w: chunked_loss(h, w, targets, None, 128), hidden, weight)
    for tensor, other in zip(expected, found, strict=True):
        assert float((other.cpu() - tensor).norm() / tensor.norm()) < tolerance


def differentiated(loss: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """The loss and its two gradients."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    total = loss(hidden, weight)
    return (total.detach(), *torch.autograd.grad(total, (hidden, weight)))
