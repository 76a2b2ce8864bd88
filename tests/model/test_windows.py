"""Window attention in the ViT: the same as attention over the whole picture where only a window's patches are seen."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qvl.checkpoint.config_json import config_from_json, config_to_json
from qvl.model.config import PRESETS, VisionConfig
from qvl.model.vision import VisionBlock, VisionEncoder, join_windows, resize_positions, split_windows

TINY = PRESETS["tiny"].vision  # 8 x 8 patches, six blocks
WINDOW = 4


def encoder(attention_window: int) -> VisionEncoder:
    vision = VisionEncoder(replace(TINY, attention_window=attention_window))
    vision.initialize(torch.Generator().manual_seed(3))
    return vision.eval()


def pictures() -> Tensor:
    return torch.randn(2, 3, TINY.image_size, TINY.image_size, generator=torch.Generator().manual_seed(4))


def masked_block(block: VisionBlock, x: Tensor, mask: Tensor) -> Tensor:
    """The block's formula with a mask (P, P) over all patches."""
    n, patches, width = x.shape
    qkv = block.in_proj(block.ln_1(x)).view(n, patches, block.heads, 3, -1)
    q, k, v = qkv.permute(3, 0, 2, 1, 4)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(n, patches, width)
    x = x + block.out_proj(attended)
    return x + block.c_proj(F.gelu(block.c_fc(block.ln_2(x))))


def same_window(grid: int, window: int) -> Tensor:
    places = torch.arange(grid**2)
    number = places // grid // window * grid + places % grid // window
    return number[:, None] == number


def test_windows_are_global_attention_under_a_mask() -> None:
    vision = encoder(WINDOW)
    with torch.no_grad():
        x = vision.ln_pre(vision.embed_patches(pictures()) + resize_positions(vision.positional_embedding, TINY.grid))
        everywhere = torch.ones(TINY.grid**2, TINY.grid**2, dtype=torch.bool)
        windows = same_window(TINY.grid, WINDOW)
        for number, block in enumerate(vision.blocks, 1):
            x = masked_block(block, x, everywhere if number == 4 else windows)
        torch.testing.assert_close(vision(pictures()), x)


def test_one_window_over_the_whole_picture_is_global_attention() -> None:
    with torch.no_grad():
        torch.testing.assert_close(encoder(TINY.grid)(pictures()), encoder(0)(pictures()))


def test_windows_come_apart_and_together() -> None:
    x = torch.arange(2 * 36 * 3).view(2, 36, 3)
    windows = split_windows(x, 2)
    assert windows.shape == (18, 4, 3)
    assert windows[0, :, 0].tolist() == [x[0, place, 0] for place in (0, 1, 6, 7)]
    assert torch.equal(join_windows(windows, 36), x)


def test_no_picture_has_no_windows() -> None:
    """What a batch of text runs."""
    assert encoder(WINDOW)(pictures()[:0]).shape == (0, TINY.grid**2, TINY.width)


def test_windows_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="attention_window = 3 must divide the 8 patches"):
        replace(TINY, attention_window=3)
    with pytest.raises(ValueError, match="attention_window = -1 must be 0 or a positive integer"):
        replace(TINY, attention_window=-1)
    with pytest.raises(ValueError, match="6 patches along a side can't be shared out among windows of 4"):
        encoder(WINDOW)(pictures()[:, :, :84, :84])


def test_the_window_is_written_only_where_there_is_one() -> None:
    config = replace(PRESETS["tiny"], vision=replace(TINY, attention_window=WINDOW))
    written = config_to_json(config)
    assert written["visual"]["attention_window"] == WINDOW
    assert config_from_json(written, "config.json") == config
    assert "attention_window" not in config_to_json(PRESETS["qwen-vl"])["visual"]
    assert VisionConfig().attention_window == 0
