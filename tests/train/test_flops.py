"""Operations against torch's own counter, on small models with every part trained or frozen.

Two conventions differ: FlopCounterMode counts causal attention in full, and padding like any other token. So the tests
give it rows without padding, and take from ours the half of attention that it has twice.
"""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qvl.errors import UsageError
from qvl.model.config import PRESETS, LanguageConfig, QwenVLConfig, VisionConfig
from qvl.model.qwen_vl import QwenVL
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.train.devices import DEVICES, device_named, device_reported
from qvl.train.flops import StepWork, forward_operations, mfu, recomputed_operations, step_operations
from qvl.train.optim import freeze

PARTS = ("vision", "adapter", "language")
SMALL = QwenVLConfig(
    VisionConfig(
        image_size=56,
        width=48,
        layers=2,
        heads=4,
        mlp_ratio=4.0,
        output_dim=64,
        num_queries=4,
        position_rows=16,
        adapter_head_size=16,
    ),
    LanguageConfig(vocab_size=256, hidden_size=64, num_layers=3, num_heads=4, intermediate_size=192),
    image_start_id=250,
)
ROWS, TOKENS, SUPERVISED = 3, 24, 9
WORK = StepWork(images=2, documents=(TOKENS,) * ROWS, supervised=ROWS * SUPERVISED)


def counted(config: QwenVLConfig, trains: tuple[str, ...], pictures: int = 2) -> tuple[int, int]:
    """(forward, backward) of WORK by torch's counter; pictures at the start of the first rows."""
    torch.manual_seed(0)
    model = QwenVL(config)
    model.initialize(0)
    freeze(model, trains)
    ids = torch.randint(0, 200, (ROWS, TOKENS))
    end = config.vision.num_queries + 1
    ids[:pictures, 0], ids[:pictures, end] = config.image_start_id, config.image_end_id
    pixels = torch.randn(pictures, 3, config.vision.image_size, config.vision.image_size)
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, -SUPERVISED:] = ids[:, -SUPERVISED:]
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels' backward counts what they compute again
        with FlopCounterMode(display=False) as forward:
            loss, _ = model.loss(ids, labels, pixels)
        with FlopCounterMode(display=False) as backward:
            if loss.requires_grad:
                loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def other_half(config: QwenVLConfig, gradients: int) -> int:
    """Of causal attention, with its gradients."""
    pairs = ROWS * TOKENS**2 // 2
    return config.language.num_layers * 4 * pairs * config.language.hidden_size * (1 + gradients)


@pytest.mark.parametrize(
    "trains",
    [tuple(p for p, on in zip(PARTS, flags, strict=True) if on) for flags in product((0, 1), repeat=3)],
    ids=str,
)
def test_operations_are_torch_s(trains: tuple[str, ...]) -> None:
    forward, backward = counted(SMALL, trains)
    assert forward_operations(SMALL, WORK).total + other_half(SMALL, 0) == forward
    expected = step_operations(SMALL, trains, WORK).total + other_half(SMALL, 2 if trains else 0)
    assert expected == forward + backward


def test_an_adapter_of_the_vits_width_has_no_first_projection() -> None:
    config = replace(SMALL, vision=replace(SMALL.vision, width=64))
    assert forward_operations(config, WORK).total + other_half(config, 0) == counted(config, ())[0]


@pytest.mark.parametrize("trains", [("language",), ("vision", "adapter")], ids=str)
def test_text_alone_costs_the_vision_parts_nothing(trains: tuple[str, ...]) -> None:
    """A frozen language model passes gradients on nevertheless: ranks go the same way whatever their samples show."""
    work = replace(WORK, images=0)
    forward, backward = counted(SMALL, trains, pictures=0)
    ours = step_operations(SMALL, trains, work)
    assert ours.vision == ours.adapter == 0
    assert ours.total + other_half(SMALL, 2) == forward + backward


def test_blocks_that_run_again_cost_a_forward_pass_of_theirs() -> None:
    """All but the ends: the stem, the adapter, the head, and a frozen ViT."""
    forward = forward_operations(SMALL, WORK)
    stem = 2 * 2 * 16 * 588 * 48
    assert recomputed_operations(SMALL, PARTS, WORK) == forward.vision - stem + forward.language
    assert recomputed_operations(SMALL, ("adapter", "language"), WORK) == forward.language


def test_isolated_documents_save_attention_alone() -> None:
    whole = forward_operations(SMALL, StepWork(0, (24,), 5))
    parts = forward_operations(SMALL, StepWork(0, (10, 14), 5))
    saved = 4 * SMALL.language.num_layers * SMALL.language.hidden_size * 10 * 14
    assert whole.total - parts.total == saved


def test_the_published_model_costs_six_operations_per_weight_and_token() -> None:
    """The rule of thumb, for the blocks: 6.5B weights; attention over 2048 tokens adds 4 %."""
    config = PRESETS["qwen-vl"]
    work = StepWork(0, (2048,), 2048)
    ours = step_operations(config, ("language",), work)
    block = 4 * 4096**2 + 3 * 4096 * 11008
    assert ours.language == pytest.approx(6 * 32 * block * 2048, rel=0.05)
    assert ours.head == 6 * 4096 * 151936 * 2048


def test_mfu_is_the_share_of_the_peak() -> None:
    assert mfu(8 * 4e15, seconds=2.0, gpus=8, peak=1e15) == 2.0
    assert mfu(1e15, seconds=4.0, gpus=1, peak=DEVICES["h100"].peak_flops) == pytest.approx(0.2527, rel=1e-3)


def test_devices_by_our_name_and_by_the_driver_s() -> None:
    assert device_named("H100") is device_reported("NVIDIA H100 80GB HBM3") is DEVICES["h100"]
    assert device_reported("NVIDIA GeForce RTX 4090") is DEVICES["rtx4090"]
    assert device_reported("NVIDIA GeForce RTX 4090 Laptop GPU") is None
    with pytest.raises(UsageError, match="did you mean 'a100-80g'"):
        device_named("a100-80")
    with pytest.raises(UsageError, match="known: b200, "):
        device_named("tpu")
