"""Requests that come and go at any time get what each would get alone."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qvl.checkpoint import load_model
from qvl.errors import TextError, UsageError
from qvl.generate.engine import Engine, _common
from qvl.generate.request import Request, Step
from qvl.generate.sampling import SamplingConfig
from qvl.model.qwen_vl import QwenVL

SHIPPED = Path("src/qvl/assets/tiny")
STOPS = (1008, 17, 300)


@pytest.fixture(scope="module")
def model() -> QwenVL:
    return load_model(SHIPPED)


def picture(seed: int) -> Tensor:
    return torch.randn(3, 112, 112, generator=torch.Generator().manual_seed(seed))


def prompt(model: QwenVL, rng: random.Random, images: int, system: list[int]) -> tuple[list[int], list[Tensor]]:
    """Random text with images in it, behind a prefix that others have too."""
    start, queries = model.config.image_start_id, model.config.vision.num_queries
    ids, shown = list(system), []
    for _ in range(images):
        ids += [start, *[start + 2] * queries, start + 1]
        shown.append(picture(rng.randrange(3)))
    ids += [rng.randrange(900) for _ in range(rng.randrange(1, 60))]
    return ids, shown


def requests(model: QwenVL, count: int, **settings: Any) -> list[Request]:
    rng = random.Random(5)
    system = [rng.randrange(900) for _ in range(40)]
    made = []
    for _ in range(count):
        ids, shown = prompt(model, rng, rng.randrange(3), system if rng.random() < 0.6 else [])
        made.append(Request(ids, shown, rng.randrange(1, 30), stop_ids=STOPS, **settings))
    return made


def alone(model: QwenVL, request: Request) -> list[int]:
    return Engine(model, max_rows=1, max_tokens=512).run([request])[0]


def test_200_mixed_prompts_equal_one_by_one(model: QwenVL) -> None:
    asked = requests(model, 200)
    expected = [alone(model, request) for request in asked]
    assert len({len(answer) for answer in expected}) > 10
    engine = Engine(model, max_rows=12, max_tokens=512)
    assert engine.run(asked) == expected
    assert engine.shared_tokens > 1000, "the same beginning is read once"
    assert engine.features.misses == 3, "there are three different pictures"


def test_requests_that_arrive_and_leave_at_any_time(model: QwenVL) -> None:
    asked = requests(model, 60)
    rng = random.Random(1)
    engine = Engine(model, max_rows=5, max_tokens=512)
    answers: dict[int, list[int]] = {}
    sent: dict[int, Request] = {}
    cancelled: set[int] = set()
    left = list(asked)
    while left or engine.has_work:
        for _ in range(min(len(left), rng.randrange(3))):
            request = left.pop()
            sent[engine.add(request)] = request
        if sent and rng.random() < 0.1:
            cancelled.add(gone := rng.choice(list(sent)))
            engine.cancel(gone)
        for step in engine.step():
            assert step.request_id not in cancelled
            if step.token_id is not None:
                answers.setdefault(step.request_id, []).append(step.token_id)
    assert 0 < len(cancelled) < 30
    for one, request in sent.items():
        if one not in cancelled:
            assert answers.get(one, []) == alone(model, request)


def test_long_prompts_are_read_in_pieces(model: QwenVL, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests(model, 20)
    expected = [alone(model, request) for request in asked]
    monkeypatch.setattr("qvl.generate.engine.MAX_READ", 24)
    assert Engine(model, max_rows=6, max_tokens=512).run(asked) == expected


def test_rows_beyond_the_trained_length_keep_their_own_scaling(model: QwenVL) -> None:
    """A long prompt beside short ones: each has the rotary base of its own length."""
    rng = random.Random(2)
    asked = [Request([rng.randrange(900) for _ in range(count)], (), 6) for count in (2100, 30, 2040, 700)]
    expected = [Engine(model, max_rows=1, max_tokens=2200).run([request])[0] for request in asked]
    assert Engine(model, max_rows=4, max_tokens=2200).run(asked) == expected


def test_a_seed_draws_the_same_whoever_else_is_there(model: QwenVL) -> None:
    hot = SamplingConfig(1.0, 50, 0.95, 1.1)
    asked = requests(model, 8, sampling=hot, seed=7)
    expected = [alone(model, request) for request in asked]
    assert Engine(model, max_rows=8, max_tokens=512).run(asked) == expected
    other = [alone(model, request) for request in requests(model, 8, sampling=hot, seed=8)]
    assert other != expected


def test_log_probabilities_are_the_models(model: QwenVL) -> None:
    request = Request([5, 6, 7, 8], (), 5, top_logprobs=3, sampling=SamplingConfig(1.0, repetition_penalty=2.0), seed=1)
    steps = list(Engine(model, max_rows=2, max_tokens=64).stream(request))
    ids = [step.token_id for step in steps]
    assert None not in ids
    with torch.inference_mode():
        expected = model(torch.tensor([[5, 6, 7, 8, *ids]]))[0, 3:-1].log_softmax(-1)  # type: ignore[list-item]
    for step, row in zip(steps, expected, strict=True):
        assert step.logprob == pytest.approx(float(row[step.token_id]), abs=1e-4)
        assert [one for one, _ in step.top] == row.topk(3).indices.tolist()
        assert [value for _, value in step.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
    assert [step.finish for step in steps] == [None] * 4 + ["length"]


def test_leaving_a_stream_early_frees_its_row(model: QwenVL) -> None:
    engine = Engine(model, max_rows=1, max_tokens=128)
    steps = engine.stream(Request([1, 2, 3], (), 50))
    assert isinstance(next(steps), Step)
    assert engine.num_running == 1
    steps.close()  # type: ignore[attr-defined]
    assert (engine.num_running, engine.has_work) == (0, False)


def test_pictures_of_one_content_but_another_shape_are_not_confused() -> None:
    from qvl.generate.features import content_hash

    values = torch.arange(24.0)
    assert content_hash(values.view(3, 2, 4)) != content_hash(values.view(3, 4, 2))
    assert content_hash(values) != content_hash(values.int())
    assert content_hash(values) == content_hash(values.clone())


@pytest.mark.parametrize(
    ("request_of", "error", "message"),
    [
        (lambda: Request([]), UsageError, "without tokens"),
        (lambda: Request([1], (), 0), UsageError, "max_new_tokens = 0"),
        (lambda: Request([1], (), 1, top_logprobs=21), UsageError, "top_logprobs = 21"),
        (lambda: Request([1] * 100, (), 29), UsageError, "a prompt of 100 tokens and max_new_tokens = 29"),
        (lambda: Request([5000], (), 1), TextError, "reach from 5000"),
        (lambda: Request([-1], (), 1), TextError, "reach from -1"),
        (lambda: Request([1], (picture(0),), 1), TextError, "0 image spans, but there are 1 images"),
        (lambda: Request([1014, 1016, 1015], (picture(0),), 1), TextError, "an image span"),
        (
            lambda: Request([1014, *[1016] * 16, 1015], (picture(0)[:, :56],), 1),
            UsageError,
            r"an image of shape \(3, 56, 112\)",
        ),
    ],
)
def test_what_can_not_be_answered_is_refused_before_it_runs(
    model: QwenVL, request_of: Any, error: type[Exception], message: str
) -> None:
    engine = Engine(model, max_rows=1, max_tokens=128)
    with pytest.raises(error, match=message):
        engine.add(request_of())
    assert not engine.has_work


def test_common_beginnings() -> None:
    rng = random.Random(0)
    for _ in range(300):
        one = [rng.randrange(3) for _ in range(rng.randrange(9))]
        other = [rng.randrange(3) for _ in range(rng.randrange(9))]
        pairs = zip(one, other, strict=False)
        expected = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
        assert _common(one, other) == expected


def test_nobody_is_overtaken_for_ever(model: QwenVL) -> None:
    """Prompts that share beginnings of several lengths keep coming, each answered by a token or two."""
    rng = random.Random(0)
    texts = [[rng.randrange(800) for _ in range(120)] for _ in range(3)]
    engine = Engine(model, max_rows=6)
    ended: dict[int, int] = {}

    def ask(number: int) -> None:
        shared = texts[number % 3][: 40 + 35 * (number % 2)] if number % 5 else []
        engine.add(Request([*shared, *[rng.randrange(800) for _ in range(5)]], [], 1 + number % 2))

    for number in range(24):
        ask(number)
    for number in range(24, 300):
        while len(ended) + 24 <= number:
            for step in engine.step():
                if step.finish is not None:
                    ended[step.request_id] = len(ended)
        ask(number)
    while engine.has_work:
        for step in engine.step():
            if step.finish is not None:
                ended[step.request_id] = len(ended)
    late = [place - (request_id - 1) for request_id, place in ended.items()]
    assert len(ended) == 300
    assert max(late) < 24, "answered after so many that came later"
