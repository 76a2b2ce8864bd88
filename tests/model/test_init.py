"""A fresh model starts where it is said to look."""

import torch

from qvl.model.config import PRESETS
from qvl.model.qwen_vl import QwenVL
from qvl.model.rope import rotary_tables, rotate

TOKENS = 12


def attention_of_biases(model: QwenVL, head: int) -> torch.Tensor:
    """(T, T): where a head of the first language layer looks when contents say nothing."""
    config = model.config.language
    size, dim = config.head_size, config.hidden_size
    cos, sin = rotary_tables(torch.arange(TOKENS)[None], size, config.rotary_base, 1.0)
    bias = model.language.blocks[0].c_attn.bias.detach()
    q, k = (rotate(part[head * size :][:size].expand(1, 1, TOKENS, size), cos, sin) for part in bias.split(dim)[:2])
    scores = (q @ k.transpose(-1, -2))[0, 0] / size**0.5
    return scores.masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -torch.inf).softmax(-1)


def test_the_first_heads_look_at_the_tokens_before() -> None:
    model = QwenVL(PRESETS["tiny"])
    model.initialize(0)
    for head in (0, 1):
        looks = attention_of_biases(model, head)
        for token in range(head + 1, TOKENS):
            assert looks[token].argmax() == token - head - 1
            assert looks[token].max() > 0.8
    torch.testing.assert_close(attention_of_biases(model, 2)[5, :6], torch.full((6,), 1 / 6))


def test_the_same_seed_gives_the_same_model() -> None:
    models = [QwenVL(PRESETS["tiny"]) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.initialize(seed)
    first, again, other = (model.language.blocks[1].w1.weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
