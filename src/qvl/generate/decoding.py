"""Reading with a cache: many tokens of prompts, then one token at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qvl.model.cache import KVCache
from qvl.model.language import LanguageBlock
from qvl.model.qwen_vl import QwenVL


def prefill(model: QwenVL, embeddings: Sequence[Tensor], cache: KVCache, start: int = 0) -> Tensor:
    """Read the next tokens of some rows, (T, D) each, which hold equally many so far; start: the first row.

    The logits of what follows each, (B, V). Shorter rows are padded on the right, where no token looks.
    """
    counts = [len(row) for row in embeddings]
    stop, tokens = start + len(counts), max(counts)
    rows = torch.nn.utils.rnn.pad_sequence(list(embeddings), batch_first=True)
    hidden = model.read(rows, cache=cache.window(start, stop, tokens))
    for row, count in enumerate(counts):
        cache.lengths[start + row] += count
    last = torch.tensor(counts, device=hidden.device) - 1
    return model.language.head(hidden[torch.arange(len(counts), device=hidden.device), last])


def decode(model: QwenVL, token_ids: Sequence[int], cache: KVCache) -> Tensor:
    """Read one more token of each of the first rows; the logits of what follows, (B, V)."""
    embedding = model.language.embedding
    ids = torch.tensor(token_ids, device=cache.keys.device)[:, None]
    hidden = model.read(embedding(ids), cache=cache.window(0, len(token_ids), 1))
    for row in range(len(token_ids)):
        cache.lengths[row] += 1
    return model.language.head(hidden[:, -1])


def new_cache(model: QwenVL, rows: int, capacity: int) -> KVCache:
    """For what the model computes with, here and now (autocast counts)."""
    weight = model.language.embedding.weight
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    config, block = model.config.language, model.language.blocks[0]
    assert isinstance(block, LanguageBlock)
    num_heads = block.c_attn.out_features // (3 * config.head_size)
    return KVCache(config, rows, capacity, dtype, weight.device, num_heads)
