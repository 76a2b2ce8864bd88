"""Int4 by calibration: closer to the whole model than rounding, from Python and by the command."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import qvl
from qvl.checkpoint import load_model
from qvl.cli import main
from qvl.data.sample import LANGUAGES, write_shard
from qvl.data.world.tasks import make_sample
from qvl.errors import UsageError
from qvl.quantize.calibrate import CalibrationSample, LayerError, calibrate, quantize_with
from qvl.quantize.gptq import GPTQLinear, dequantize, quantize
from qvl.quantize.layout import to_int4
from qvl.text.tokenizer import Tokenizer

SHIPPED = Path("src/qvl/assets/tiny")
ORDER = ("qweight", "qzeros", "scales", "g_idx")


def matrix(state: dict[str, Tensor]) -> Tensor:
    return dequantize([state[name] for name in ORDER], torch.float32)


def test_columns_that_have_nothing_to_do_with_each_other_are_rounded() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 320)
    state, error = quantize_with(weight, torch.eye(320) * 3)
    assert torch.equal(matrix(state), matrix(quantize(weight)))
    assert error.error == pytest.approx(error.rounded)


def test_columns_that_go_together_make_up_for_each_other() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256)
    x = torch.randn(2000, 16) @ torch.randn(16, 256) + 0.1 * torch.randn(2000, 256)
    x[:, 7] = 0  # a channel that never speaks
    state, error = quantize_with(weight, x.t() @ x)
    wanted = x @ weight.t()
    chosen, nearest = (
        float((x @ one.t() - wanted).norm() / wanted.norm()) for one in (matrix(state), matrix(quantize(weight)))
    )
    assert chosen < 0.5 * nearest
    assert error.error == pytest.approx(chosen, rel=0.05)
    assert error.rounded == pytest.approx(nearest, rel=0.05)


def test_the_model_keeps_to_what_it_said(checkpoint_dir: Path) -> None:
    torch.manual_seed(0)
    samples = [CalibrationSample(torch.randint(0, 800, (1, 64)), None) for _ in range(8)]
    ids = torch.cat([sample.input_ids for sample in samples])
    whole, nearest, chosen = (load_model(checkpoint_dir) for _ in range(3))
    to_int4(nearest)
    told: list[LayerError] = []
    calibrate(chosen, samples, told.append)
    layers = [name for name, module in chosen.named_modules() if isinstance(module, GPTQLinear)]
    assert sorted(layers) == sorted(error.name for error in told)
    assert all(name.startswith("language.blocks.") for name in layers)
    assert len(layers) == 5 * len(whole.language.blocks)
    with torch.inference_mode():
        wanted = whole(ids)
        far, near = (float((model(ids) - wanted).norm()) for model in (nearest, chosen))
    assert near < 0.9 * far
    with pytest.raises(UsageError, match="no samples"):
        calibrate(load_model(checkpoint_dir), [])


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    pairs = [(task, language) for task in ("vqa", "referring", "caption") for language in LANGUAGES]
    for shard in range(2):
        samples = [make_sample(1, "test", shard * 100 + i, *pair) for i, pair in enumerate(pairs * 4)]
        write_shard(samples, folder / f"{shard}.parquet")
    return folder


def test_the_command_writes_a_folder_and_says_what_it_costs(
    split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "int4"
    given = ["--data", str(split), "--samples", "24", "--report", str(split), "--limit", "40"]
    assert main(["quantize", str(SHIPPED), str(out), *given]) == 0
    said = capsys.readouterr().out
    assert "language.blocks.3.mlp_c_proj: error" in said
    table = (out / "quantisation.md").read_text()
    assert table in said
    rows = {row.split("|")[1].strip(): row.split("|") for row in table.splitlines() if row.startswith("| ")}
    loss, change = float(rows["bfloat16"][3]), float(rows["calibrated"][4].strip(" %"))
    assert loss > 0
    assert abs(change) < 3
    assert rows["calibrated"][5].strip().endswith("%")
    assert json.loads((out / "config.json").read_text())["quantization_config"]["bits"] == 4
    assert "# int4" in (out / "README.md").read_text()
    vl = qvl.load(out)
    question = [
        {"type": "image_url", "image_url": "examples/picture.png"},
        {"type": "text", "text": "Find the yellow house."},
    ]
    assert vl.chat([{"role": "user", "content": question}]).boxes
    assert main(["quantize", str(out), str(tmp_path / "again"), "--data", str(split), "--samples", "2"]) == 2
    assert "quantised already" in capsys.readouterr().err
    assert main(["quantize", str(SHIPPED), str(tmp_path / "more"), "--data", str(split), "--samples", "999"]) == 2
    assert "48 samples, 999 are asked for" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()
    assert Tokenizer.from_dir(out).vocab_size
