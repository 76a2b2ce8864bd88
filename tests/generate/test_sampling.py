from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvl.errors import UsageError
from qvl.generate.sampling import SamplingConfig, filter_logits, penalise_seen, sample, seen_tokens

GOLDEN = load_file(Path("tests/data/model-tiny/sampling_filter/golden.safetensors"))
CASES = {
    "top_p_0.3": SamplingConfig(1.0, top_p=0.3),
    "top_p_0.8": SamplingConfig(1.0, top_p=0.8),
    "top_k_10": SamplingConfig(1.0, top_k=10),
    "temp_0.7_top_k_20_top_p_0.5": SamplingConfig(0.7, top_k=20, top_p=0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_tokens_stay_as_in_the_published_code(name: str) -> None:
    kept = filter_logits(GOLDEN["logits"], CASES[name]) > -torch.inf
    assert torch.equal(kept, GOLDEN[name].bool())


def test_probabilities_of_all_filters_together() -> None:
    name = "temp_0.7_top_k_20_top_p_0.5"
    probabilities = filter_logits(GOLDEN["logits"], CASES[name]).softmax(-1)
    torch.testing.assert_close(probabilities, GOLDEN[f"{name}_probs"], atol=1e-6, rtol=0)


def test_top_p_always_leaves_the_likeliest() -> None:
    kept = filter_logits(GOLDEN["logits"], SamplingConfig(1.0, top_p=1e-6)) > -torch.inf
    assert torch.equal(kept.sum(-1), torch.ones(len(kept), dtype=torch.long))
    assert torch.equal(kept.int().argmax(-1), GOLDEN["logits"].argmax(-1))


def test_draws_follow_the_generator_and_stay_within_the_filter() -> None:
    config = SamplingConfig(1.0, top_k=3)
    rows = GOLDEN["logits"][:1].expand(200, -1)
    first = sample(rows, config, torch.Generator().manual_seed(5))
    assert torch.equal(first, sample(rows, config, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, sample(rows, config, torch.Generator().manual_seed(6)))
    assert set(first.tolist()) == set(rows[0].topk(3).indices.tolist())


def test_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.5, -3.0]])
    penalised = penalise_seen(logits, seen_tokens([[0, 1, 1]], 4), 2.0)
    assert penalised.tolist() == [[1.0, -4.0, 1.5, -3.0]]


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"repetition_penalty": 0.0}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingConfig(**wrong)
