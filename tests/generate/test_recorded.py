"""Decoding with fixed shapes gives what decoding gives; without a GPU: the operations, not their recording."""

from pathlib import Path

import pytest
import torch

from qvl.checkpoint import load_model
from qvl.generate import recorded
from qvl.generate.decoding import decode, new_cache, prefill
from qvl.generate.recorded import RecordedDecoder


@pytest.mark.parametrize("lengths", [[40], [40, 40], [7, 60, 31]], ids=["one", "alike", "mixed"])
@torch.inference_mode()
def test_tokens_across_the_borders_of_an_extent(
    lengths: list[int], checkpoint_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "EXTENT_STEP", 16)
    model = load_model(checkpoint_dir)
    torch.manual_seed(0)
    prompts = [model.embed(torch.randint(0, 800, (1, length)))[0] for length in lengths]
    caches = [new_cache(model, len(lengths), 100) for _ in range(2)]
    for cache in caches:
        for row, prompt in enumerate(prompts):
            prefill(model, [prompt], cache, row)
        cache.alphas = [3.0 if len(lengths) == 3 else 1.0] * len(lengths)
        cache.keys[:, :, :, 90:] = 7.0  # what nobody may look at
        cache.values[:, :, :, 90:] = -50.0
    fixed = RecordedDecoder(model, caches[1])
    for step in range(20):
        tokens = [(step * 37 + row) % 800 for row in range(len(lengths))]
        wanted, found = decode(model, tokens, caches[0]), fixed(tokens)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert caches[0].lengths == caches[1].lengths
    assert 1 < len(fixed._recordings) < 4, "one for each extent, not for each token"
    if len(lengths) > 1:  # rows that are scaled differently are read, too
        for cache in caches:
            cache.alphas[0] = 7.0
        tokens = list(range(len(lengths)))
        torch.testing.assert_close(fixed(tokens), decode(model, tokens, caches[0]), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_full_cache_is_no_wider_than_it_is(checkpoint_dir: Path) -> None:
    model = load_model(checkpoint_dir)
    cache = new_cache(model, 1, 20)
    prefill(model, [model.embed(torch.randint(0, 800, (1, 18)))[0]], cache)
    fixed = RecordedDecoder(model, cache)
    assert fixed([5]).shape == fixed([6]).shape == (1, model.config.language.vocab_size)
