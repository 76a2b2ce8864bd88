"""Generation against the published outputs, against recomputation, and batched against one by one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qvl import images
from qvl.checkpoint import load_model
from qvl.generate.beam import beam_search
from qvl.generate.engine import Engine
from qvl.generate.request import Request
from qvl.generate.sampling import SamplingConfig
from qvl.model.qwen_vl import QwenVL

FOLDER = Path("tests/data/model-tiny")
CASES = json.loads((FOLDER / "generate" / "inputs.json").read_text(encoding="utf-8"))
GREEDY = CASES["greedy"]
BATCH = CASES["batch_left_pad"]


@pytest.fixture(scope="module")
def model() -> QwenVL:
    return load_model(FOLDER)


def generate(model: QwenVL, prompts: Sequence[list[int]], pixels: Tensor | None, **settings: Any) -> list[list[int]]:
    """Every prompt at once; a prompt with images takes the next of pixels."""
    left = list(pixels) if pixels is not None else []
    start = model.config.image_start_id
    requests = [Request(prompt, [left.pop(0) for token in prompt if token == start], **settings) for prompt in prompts]
    return Engine(model, max_rows=len(requests)).run(requests)


def pixels_of(case: dict) -> Tensor:
    return torch.stack([images.preprocess(FOLDER / "images" / name, 448) for name in case["images"]])


def unpadded_batch() -> list[list[int]]:
    rows = zip(BATCH["input_ids"], BATCH["attention_mask"], strict=True)
    return [[i for i, real in zip(ids, mask, strict=True) if real] for ids, mask in rows]


def until(ids: Sequence[int], stop: int) -> list[int]:
    return list(ids[: ids.index(stop)]) if stop in ids else list(ids)


def greedy(model: QwenVL, prompt: list[int], pixels: Tensor | None, count: int) -> list[int]:
    """Without a cache: everything is read again for every token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]), pixels)[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", ["greedy", "eos_stop", "repetition_penalty"])
def test_tokens_equal_the_published_codes(model: QwenVL, name: str) -> None:
    case = CASES[name]
    stop = case["eos_token_id"]
    tokens = generate(
        model,
        GREEDY["input_ids"],
        pixels_of(GREEDY),
        max_new_tokens=32,
        stop_ids={stop},
        sampling=SamplingConfig(repetition_penalty=case.get("repetition_penalty", 1.0)),
    )
    assert tokens == [until(case["new_tokens"], stop)]


def test_a_stop_word_ends_the_answer_as_in_the_published_code(model: QwenVL) -> None:
    """The published code goes on to say its end-of-text once more after the stop word; we end right there."""
    case = CASES["stop_words_1"]
    [[stop]] = case["stop_words_ids"]
    tokens = generate(model, GREEDY["input_ids"], pixels_of(GREEDY), max_new_tokens=32, stop_ids={stop})
    assert [*tokens[0], stop, case["eos_token_id"]] == case["new_tokens"]


def test_beam_search_equals_the_published_codes(model: QwenVL) -> None:
    case = CASES["beam"]
    tokens = beam_search(
        model,
        GREEDY["input_ids"][0],
        pixels_of(GREEDY),
        num_beams=case["num_beams"],
        max_new_tokens=case["max_new_tokens"],
        stop_ids={case["eos_token_id"]},
    )
    assert tokens == case["new_tokens"]


def test_one_beam_is_greedy(model: QwenVL) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 30, "stop_ids": {165}}
    prompt, pixels = GREEDY["input_ids"][0], pixels_of(GREEDY)
    assert [beam_search(model, prompt, pixels, num_beams=1, **settings)] == generate(
        model, [prompt], pixels, **settings
    )


def test_beam_search_prefers_the_likelier_answer_that_ends(model: QwenVL) -> None:
    """Ended answers compete by their log-probability: each beam's answer is at least as likely as greedy's."""
    prompt, pixels, stop = GREEDY["input_ids"][0], pixels_of(GREEDY), 124
    beam = beam_search(model, prompt, pixels, num_beams=4, max_new_tokens=6, stop_ids={stop})
    [first] = generate(model, [prompt], pixels, max_new_tokens=6, stop_ids={stop})
    assert log_probability(model, prompt, pixels, [*beam, stop][:6]) >= log_probability(
        model, prompt, pixels, [*first, stop][:6]
    )


def log_probability(model: QwenVL, prompt: list[int], pixels: Tensor, answer: list[int]) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer]), pixels)[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())


@pytest.mark.parametrize("name", ["batch_left_pad", "batch_left_pad_eos"])
def test_left_padded_batch_equals_the_published_codes(model: QwenVL, name: str) -> None:
    stop = CASES[name]["eos_token_id"]
    tokens = generate(model, unpadded_batch(), pixels_of(BATCH), max_new_tokens=32, stop_ids={stop})
    assert tokens == [until(row, stop) for row in CASES[name]["new_tokens"]]


def test_cached_generation_equals_recomputation(model: QwenVL) -> None:
    prompt = GREEDY["input_ids"][0]
    [cached] = generate(model, [prompt], pixels_of(GREEDY), max_new_tokens=12, stop_ids=set())
    assert cached == greedy(model, prompt, pixels_of(GREEDY), 12)


def test_a_batch_equals_one_by_one(model: QwenVL) -> None:
    """Of different lengths, with an image in some rows, ending at different steps."""
    prompts = [[7, 8, 9], GREEDY["input_ids"][0], [200, 3, 44, 5, 6, 17, 80], [5]]
    pixels = pixels_of(GREEDY)
    settings: dict[str, Any] = {"max_new_tokens": 16, "stop_ids": {124, 75, 152}}
    alone = [generate(model, [p], pixels if 313 in p else None, **settings)[0] for p in prompts]
    assert len({len(answer) for answer in alone}) > 1, "rows should end at different steps"
    assert generate(model, prompts, pixels, **settings) == alone


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(1.0, 20, 0.9, 1.3)], ids=["greedy", "sampled"])
def test_stream_gives_what_generate_gives(model: QwenVL, sampling: SamplingConfig) -> None:
    prompt, pixels = GREEDY["input_ids"][0], pixels_of(GREEDY)
    settings: dict[str, Any] = {"max_new_tokens": 10, "stop_ids": {311}, "sampling": sampling, "seed": 3}
    whole = generate(model, [prompt], pixels, **settings)
    steps = Engine(model, max_rows=1).stream(Request(prompt, list(pixels), **settings))
    assert [[step.token_id for step in steps if step.token_id is not None]] == whole


def test_nothing_is_generated_when_the_first_token_stops(model: QwenVL) -> None:
    first = GREEDY["new_tokens"][0]
    assert generate(model, GREEDY["input_ids"], pixels_of(GREEDY), max_new_tokens=5, stop_ids={first}) == [[]]


def test_the_first_tokens_never_end_the_answer(model: QwenVL) -> None:
    """As the published scripts ask for captions of at least so many tokens: until then the next best token is taken."""
    prompt, pixels = GREEDY["input_ids"], pixels_of(GREEDY)
    free = generate(model, prompt, pixels, max_new_tokens=8, stop_ids=set())[0]
    stops = {free[0], free[3]}
    assert generate(model, prompt, pixels, max_new_tokens=8, stop_ids=stops)[0] == []
    [held] = generate(model, prompt, pixels, max_new_tokens=8, min_new_tokens=4, stop_ids=stops)
    assert len(held) >= 4
    assert not stops & set(held)
