"""The published tokenizer's own outputs: same ids, same text, an error where it fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from qvl.errors import TextError
from qvl.text.published import VISION_TOKENS
from qvl.text.tokenizer import PUBLISHED_SHA256, SPLIT_PATTERN, Tokenizer

DATA = Path(__file__).parents[1] / "data" / "tokenizer"


def golden(name: str) -> Any:
    return json.loads((DATA / name).read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.published()


def ids_or_error(tokenizer: Tokenizer, text: str, **settings: Any) -> list[int] | str:
    try:
        return tokenizer.encode_published(text, **settings)
    except TextError:
        return "error"


def test_special_tokens_and_split_pattern(tokenizer: Tokenizer) -> None:
    expected = golden("special_tokens.json")
    assert tokenizer.special.as_dict == expected["special_tokens"]
    assert tokenizer.vocab_size == expected["n_vocab"]
    assert expected["pat_str"] == SPLIT_PATTERN
    assert golden("vocab_file.json")["sha256_lf"] == PUBLISHED_SHA256


def test_encode(tokenizer: Tokenizer) -> None:
    cases = golden("encode.json")
    wrong = [c["text"] for c in cases if ids_or_error(tokenizer, c["text"]) != c.get("ids", "error")]
    assert not wrong
    assert len(cases) == 364


@pytest.mark.parametrize(("key", "allowed"), [("image_st", VISION_TOKENS), ("none", ())])
def test_encode_with_few_tags_allowed(tokenizer: Tokenizer, key: str, allowed: tuple[str, ...]) -> None:
    for case in golden("encode_allowed_special.json"):
        expected = case[key] if isinstance(case[key], list) else "error"
        assert ids_or_error(tokenizer, case["text"], allowed=allowed) == expected, case["text"]


def test_safe_encode_is_the_published_one_with_no_tag_allowed(tokenizer: Tokenizer) -> None:
    for case in golden("encode_allowed_special.json"):
        assert tokenizer.encode(case["text"]) == case["none"], case["text"]


def test_token_bytes(tokenizer: Tokenizer) -> None:
    for case in golden("tokenize.json"):
        if "tokens" not in case:
            continue
        ids = tokenizer.encode_published(case["text"])
        for token_id, token in zip(ids, case["tokens"], strict=True):
            expected = token.encode() if isinstance(token, str) else bytes.fromhex(token["hex"])
            assert tokenizer.token_bytes(token_id) == expected, case["text"]


DECODINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "skip": {"skip_special_tokens": True},
    "ignore": {"errors": "ignore"},
    "skip_keep_image_special_hfmain": {"skip_special_tokens": True, "keep_markup": True},
}


@pytest.mark.parametrize("key", DECODINGS)
def test_decode(tokenizer: Tokenizer, key: str) -> None:
    for case in golden("decode.json"):
        if "out" in case[key]:
            assert tokenizer.decode(case["ids"], **DECODINGS[key]) == case[key]["out"], case["note"]
        else:
            with pytest.raises(TextError):
                tokenizer.decode(case["ids"], **DECODINGS[key])


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_of_a_padded_batch(tokenizer: Tokenizer, side: str) -> None:
    batch = golden("batch_padding.json")[side]
    for text, ids, mask in zip(batch["texts"], batch["input_ids"], batch["attention_mask"], strict=True):
        assert tokenizer.encode_published(text) == [i for i, kept in zip(ids, mask, strict=True) if kept]
