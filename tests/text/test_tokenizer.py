"""What holds for any text: encode never gives a special id, decode gives the text back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl.errors import MissingDependencyError, TextError
from qvl.text import tokenizer as module
from qvl.text.special_tokens import ALL_TOKENS
from qvl.text.tokenizer import StreamDecoder, Tokenizer, clean_text
from qvl.text.vocab import train_vocabulary, write_vocabulary

TINY = Tokenizer.tiny()
TEXTS = st.lists(st.one_of(st.text(), st.sampled_from(ALL_TOKENS), st.text("<>/|im_startendrefbox"))).map("".join)


@pytest.fixture(scope="module", params=["tiny", "published"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TINY if request.param == "tiny" else Tokenizer.published()


@given(text=TEXTS)
def test_any_text_round_trips_without_special_ids(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= i < len(tokenizer.ranks) for i in ids)
    assert tokenizer.decode(ids) == clean_text(text)


def test_unpaired_surrogates_become_the_replacement_character() -> None:
    assert TINY.decode(TINY.encode("a\ud800b")) == "a\ufffdb"


@given(text=TEXTS)
def test_the_stream_adds_up_to_decode(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    decoder = StreamDecoder(tokenizer)
    pieces = [*(decoder.push(i) for i in ids), decoder.flush()]
    assert "".join(pieces) == tokenizer.decode(ids)
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in clean_text(text)


def test_the_stream_holds_back_half_a_character() -> None:
    decoder = StreamDecoder(TINY)
    assert [decoder.push(byte) for byte in "é".encode()] == ["", "é"]
    assert decoder.push("é".encode()[0]) + decoder.flush() == "\ufffd"


def test_the_stream_shows_or_skips_special_tokens() -> None:
    shown, skipped = StreamDecoder(TINY), StreamDecoder(TINY, skip_special_tokens=True)
    assert shown.push(TINY.special.im_end) == "<|im_end|>"
    assert skipped.push(TINY.special.im_end) == ""


def test_a_saved_vocabulary_reads_back(tmp_path: Path) -> None:
    path = TINY.save(tmp_path / "model")
    again = Tokenizer.from_dir(tmp_path / "model")
    assert again.ranks == TINY.ranks
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert Tokenizer.from_file(path).ranks == TINY.ranks
    assert [p.name for p in path.parent.iterdir()] == ["qwen.tiktoken"], "no temporary file stays"


def test_a_published_folder_needs_no_vocabulary_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 151936}')
    assert Tokenizer.from_dir(tmp_path).vocab_size == 151860


def test_a_folder_without_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"no qwen\.tiktoken here"):
        Tokenizer.from_dir(tmp_path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"not base64!! 0\n", "line 1"),
        (b"YQ== 0\nYg==\n", "line 2"),
        (b"YQ== 0\nYg== 2\n", "without gaps"),
        (b"YQ== 0\n", "255 of 256 are missing"),
    ],
)
def test_a_broken_vocabulary_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "bad.tiktoken"
    path.write_bytes(data)
    with pytest.raises(TextError, match=rf"bad\.tiktoken.*{problem}"):
        Tokenizer.from_file(path)
    with pytest.raises(TextError, match="not the published vocabulary"):
        Tokenizer.published(path)


def test_without_dashscope_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"qvl\[vocab\]"):
        Tokenizer.published()


def test_ids_outside_the_vocabulary_are_named() -> None:
    for bad in (-1, TINY.vocab_size):
        with pytest.raises(TextError, match=str(bad)):
            TINY.decode([65, bad])
        with pytest.raises(TextError, match=str(bad)):
            TINY.token_bytes(bad)


def test_the_tiny_vocabulary_is_small_and_merges_words() -> None:
    assert TINY.vocab_size < 2048
    assert len(TINY.encode("Describe the picture.")) < len("Describe the picture.") / 2


def test_training_merges_the_most_frequent_pair_first_and_stops_in_time() -> None:
    ranks = train_vocabulary(["abab abab", "xy"], 300)
    assert list(ranks)[256:258] == [b"ab", b"abab"]
    assert b"xy" not in ranks, "a pair that occurs once is not worth a token"
    assert sorted(ranks.values()) == list(range(len(ranks)))


def test_training_is_deterministic_and_never_merges_across_pieces(tmp_path: Path) -> None:
    texts = ["红色的圆 and a red circle"] * 3 + ["a blue square 红色的方块"] * 2
    ranks = train_vocabulary(texts, 400)
    assert ranks == train_vocabulary(texts[::-1], 400)
    assert not any(b"a red" in token or b"d c" in token for token in ranks)
    write_vocabulary(ranks, tmp_path / "v.tiktoken")
    assert Tokenizer.from_file(tmp_path / "v.tiktoken").decode(Tokenizer(ranks).encode(texts[0])) == texts[0]
    with pytest.raises(TextError, match="256"):
        train_vocabulary(texts, 255)
