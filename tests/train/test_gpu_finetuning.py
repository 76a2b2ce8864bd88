"""The benchmark that waits for a GPU, at a small size on the CPU: what it trains, counts, does where memory ends."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qvl.model.config import PRESETS, QwenVLConfig
from qvl.text.special_tokens import IGNORE_INDEX

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_finetuning.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_finetuning", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def small() -> QwenVLConfig:
    tiny = PRESETS["tiny"]
    return replace(tiny, vision=replace(tiny.vision, layers=2), language=replace(tiny.language, num_layers=2))


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ["chat", "base", "Int4", "NF4"])
def test_lora_goes_to_the_published_matrices(bench: Any, small: QwenVLConfig, kind: str) -> None:
    model = bench.adapted_model(small, kind, "cpu")
    matrices = {f"language.blocks.{i}.{name}" for i in range(2) for name in ("c_attn", "attn_c_proj", "w1", "w2")}
    low_rank = {f"{name}.lora_{side}.default.weight" for name in matrices for side in "AB"}
    whole = {"language.embedding.weight", "language.head.weight"} if kind == "base" else set()
    assert trained(model) == low_rank | whole
    kinds = {parameter.dtype: parameter.requires_grad for parameter in model.parameters()}
    assert kinds == {torch.float32: True, torch.bfloat16: False} | ({torch.uint8: False} if kind == "NF4" else {})
    quantized = {type(block.mlp_c_proj).__name__ for block in model.language.blocks}
    assert quantized == {{"Int4": "GPTQLinear", "NF4": "Linear4bit"}.get(kind, "Linear")}


def test_a_step_of_lora_moves_what_trains_and_nothing_else(bench: Any, small: QwenVLConfig) -> None:
    torch.manual_seed(0)
    model = bench.adapted_model(small, "chat", "cpu")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    recipe = bench.CASES[2].load()
    bench.measure(model, [optimizer], bench.random_batch(small, 1, 40, 1), recipe, "cpu", 1)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trained(model)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_rows_hold_their_pictures_and_supervise_the_rest(bench: Any, small: QwenVLConfig) -> None:
    batch = bench.random_batch(small, 2, 100, 3)
    span = small.vision.num_queries + 2
    assert batch.input_ids.eq(small.image_start_id).sum(1).tolist() == [3, 3]
    assert batch.labels.eq(IGNORE_INDEX).sum(1).tolist() == [3 * span, 3 * span]
    assert not batch.isolates  # else attention would take a mask, which these rows don't need
    work = bench.work_of(batch)
    assert work.images == len(batch.pixels) == 6
    assert work.documents == [100, 100]
    assert work.supervised == 2 * (100 - 3 * span)  # a picture comes first: no token is lost to the shift


def test_operations_of_lora(bench: Any) -> None:
    """Through frozen matrices the backward pass costs what the forward pass does; a head that trains as much again."""
    config = PRESETS["qwen-vl"]
    work = bench.work_of(bench.random_batch(config, 1, 512, 1))
    forward = bench.forward_operations(config, work)
    chat, base = (bench.lora_operations(config, work, embeddings) for embeddings in (False, True))
    assert (chat.vision, chat.adapter) == (forward.vision, forward.adapter)
    assert 2 * forward.language < chat.language < 2.05 * forward.language
    assert (chat.head, base.head) == (2 * forward.head, 3 * forward.head)


def test_depth_follows_from_two_shallow_models(bench: Any) -> None:
    peaks = (10 + 2 * 3, 10 + 4 * 3)
    assert bench.largest_depth(2, peaks, 10 + 7 * 3, 32) == 7
    assert bench.largest_depth(2, peaks, 10 + 7 * 3 - 0.5, 32) == 6
    assert bench.largest_depth(2, peaks, 1000, 32) == 32
    assert bench.largest_depth(2, peaks, 9, 32) < 1


def test_where_memory_ends_there_is_one_layer_less(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_case(case: Any, preset: Any, layers: int, *_: object) -> Any:
        if layers > room:
            raise torch.OutOfMemoryError("no memory")
        return bench.Measured(1.0, 10**9)

    monkeypatch.setattr(bench, "run_case", run_case)
    room = 3
    assert bench.run_deepest(bench.CASES[0], PRESETS["tiny"], None, "cpu", 1)[0] == 3
    room = 0
    assert bench.run_deepest(bench.CASES[0], PRESETS["tiny"], None, "cpu", 1) == (0, None)


def test_every_line_of_the_report(
    bench: Any, small: QwenVLConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "CASES", bench.CASES[:-1])  # compiling takes a minute
    bench.print_lora(small, [40], "cpu", 1, 1e12)
    bench.print_stages(small, 80, "cpu", 1, 1e12)
    lines = capsys.readouterr().out.splitlines()
    starts = ("chat ", "base ", "Int4 ", "NF4 ", "stage 1 ", "stage 2 ", "stage 3 ", "language model  ")
    for start in starts:
        [line] = [line for line in lines if line.startswith(start)]
        assert math.isfinite(float(line.split()[-1].rstrip("%"))), line


def test_without_a_gpu_it_says_so(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU here"):
        bench.main([])
