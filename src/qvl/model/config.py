"""Sizes of the three parts, and the presets. Source: config.json of the published checkpoints; paper Table 1."""

import math
from dataclasses import dataclass, fields
from typing import Any


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_positive(config: Any) -> None:
    """Every int field a positive integer (or 0 where that is the default), every float a positive finite number."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type is int:
            least = 0 if field.default == 0 else 1
            wanted = "a positive integer" if least else "0 or a positive integer"
            _require(type(value) is int and value >= least, f"{field.name} = {value!r} must be {wanted}")
        elif field.type is float:
            _require(
                type(value) in (int, float) and 0 < value < math.inf,
                f"{field.name} = {value!r} must be a positive number",
            )


@dataclass(frozen=True)
class VisionConfig:
    """ViT and adapter. position_rows: rows of the ViT's square position table, resized to the patch grid.

    attention_window: patches along a side of the windows within which most blocks attend; 0: all blocks see the whole
    picture, as published.
    """

    image_size: int = 448
    patch_size: int = 14
    width: int = 1664
    layers: int = 48
    heads: int = 16
    mlp_ratio: float = 4.9231
    output_dim: int = 4096
    num_queries: int = 256
    position_rows: int = 256
    adapter_head_size: int = 128
    attention_window: int = 0

    def __post_init__(self) -> None:
        _require_positive(self)
        _require(self.image_size % self.patch_size == 0, "image_size must be a multiple of patch_size")
        _require(
            not self.attention_window or self.grid % self.attention_window == 0,
            f"attention_window = {self.attention_window} must divide the {self.grid} patches along a side",
        )
        _require(self.width % self.heads == 0, "width must be a multiple of heads")
        _require(
            self.output_dim % self.adapter_head_size == 0,
            "output_dim must be a multiple of adapter_head_size",
        )
        for name in ("num_queries", "position_rows"):
            _require(math.isqrt(getattr(self, name)) ** 2 == getattr(self, name), f"{name} must be a square")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class LanguageConfig:
    """The language model. intermediate_size is twice the inner width of the MLP, as published."""

    vocab_size: int = 151936
    hidden_size: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    intermediate_size: int = 22016
    layer_norm_epsilon: float = 1e-6
    rotary_base: float = 10000.0
    seq_length: int = 2048
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    no_bias: bool = True

    def __post_init__(self) -> None:
        _require_positive(self)
        _require(self.hidden_size % self.num_heads == 0, "hidden_size must be a multiple of num_heads")
        _require(self.intermediate_size % 2 == 0, "intermediate_size must be even")
        _require(
            self.head_size % 2 == 0 and self.head_size > 2,
            "hidden_size / num_heads must be even and above 2: rotary positions turn pairs of channels",
        )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class QwenVLConfig:
    """A whole model. image_start_id is `<img>`; `</img>` and `<imgpad>` follow it."""

    vision: VisionConfig = VisionConfig()
    language: LanguageConfig = LanguageConfig()
    image_start_id: int = 151857

    def __post_init__(self) -> None:
        _require(
            self.vision.output_dim == self.language.hidden_size,
            "the adapter's output_dim must equal hidden_size",
        )
        _require(
            type(self.image_start_id) is int and 0 <= self.image_start_id < self.language.vocab_size - 2,
            f"image_start_id = {self.image_start_id!r}: it and the two ids behind it must lie below vocab_size",
        )

    @property
    def image_end_id(self) -> int:
        return self.image_start_id + 1


PRESETS = {
    "qwen-vl": QwenVLConfig(),
    "tiny": QwenVLConfig(
        VisionConfig(
            image_size=112,
            patch_size=14,
            width=192,
            layers=6,
            heads=6,
            mlp_ratio=4.0,
            output_dim=256,
            num_queries=16,
            position_rows=64,
            adapter_head_size=32,
        ),
        LanguageConfig(vocab_size=1024, hidden_size=256, num_layers=4, num_heads=4, intermediate_size=1408),
        image_start_id=1014,
    ),
}
