"""The published string format against outputs of the published code."""

import json
from pathlib import Path
from typing import Any

import pytest

from qvl.errors import TextError
from qvl.text import published
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[1] / "data"


def golden(name: str) -> Any:
    return json.loads((DATA / name).read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.published()


def check(call: Any, expected: dict[str, Any]) -> None:
    """The same output, or TextError where the published code fails."""
    if "out" in expected:
        assert call() == expected["out"]
    else:
        with pytest.raises(TextError):
            call()


@pytest.mark.parametrize("case", golden("tokenizer/list_format.json")["from_list"])
def test_from_list_format(case: dict[str, Any]) -> None:
    check(lambda: published.from_list_format(case["list"]), case["text_hfmain"])


@pytest.mark.parametrize("case", golden("tokenizer/list_format.json")["to_list"])
def test_to_list_format_and_boxes(case: dict[str, Any]) -> None:
    check(lambda: published.to_list_format(case["text"]), case["to_list"])
    check(
        lambda: [{**box, "box": list(box["box"])} for box in published.boxes_with_refs(case["text"])],
        case["boxes"],
    )


@pytest.mark.parametrize("case", golden("tokenizer/list_format.json")["latest_picture"])
def test_latest_picture(case: dict[str, Any]) -> None:
    check(lambda: published.latest_picture(case["response"], case["history"] or ()), case["out"])


def test_a_second_box_loses_its_phrase_as_published() -> None:
    boxes = published.boxes_with_refs("<ref>bees</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>")
    assert boxes == [{"box": (1, 2, 3, 4), "ref": "bees"}, {"box": (5, 6, 7, 8)}]


@pytest.mark.parametrize("case", golden("chatml/make_context.json"))
def test_make_context(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    settings = dict(case["args"])
    chat_format = settings.pop("chat_format", "chatml")
    if chat_format == "raw":  # no dialogue at all: what `encode_published` gives
        assert (settings["query"], tokenizer.encode_published(settings["query"])) == (
            case["raw_text"],
            case["context_tokens"],
        )
    elif chat_format == "chatml" and "error" not in case:
        assert published.make_context(tokenizer, **settings) == (case["raw_text"], case["context_tokens"])
    elif chat_format == "chatml":
        with pytest.raises(TextError):
            published.make_context(tokenizer, **settings)


@pytest.mark.parametrize("case", golden("chatml/decode_tokens.json")["cases"], ids=lambda case: case["note"])
def test_decode_tokens(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    raw_text, context = published.make_context(tokenizer, case["query"], case["history"] or (), case["system"])
    answer = published.decode_tokens(tokenizer, [*context, *case["generated"]], raw_text, len(context))
    assert answer == case["out"]


@pytest.mark.parametrize("case", golden("chatml/finetune_preprocess.json")["cases"], ids=lambda case: case["note"])
def test_finetune_preprocess(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    system = {"system": case["system_message"]} if "system_message" in case else {}
    if "error" in case:
        with pytest.raises(TextError):
            published.preprocess(tokenizer, case["conversations"], case["max_len"], **system)
        return
    batch = published.preprocess(tokenizer, case["conversations"], case["max_len"], **system)
    assert batch.input_ids == case["result"]["input_ids"]
    assert batch.labels == case["result"]["labels"]
    assert batch.attention_mask == case["result"]["attention_mask"]


def test_errors_name_the_role_and_the_tag(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match="'human'"):
        published.preprocess(tokenizer, [[{"from": "human", "value": "x"}]], 32)
    with pytest.raises(TextError, match="<ref>"):
        published.to_list_format("<ref>open")


def test_padding_carries_no_loss(tokenizer: Tokenizer) -> None:
    batch = published.preprocess(tokenizer, [[{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]], 64)
    padded = [label for label, kept in zip(batch.labels[0], batch.attention_mask[0], strict=True) if not kept]
    assert padded
    assert set(padded) == {IGNORE_INDEX}
