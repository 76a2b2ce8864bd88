"""Qwen's byte-level BPE: the safe reading, and the published one where every tag counts.

Source: tokenization_qwen.py of the published checkpoints. `encode` is for text from anywhere: it never
gives a special id, whatever the text spells. `encode_published` is for the published string format, in
which `<img>path</img>` becomes the path's bytes as raw ids padded to 256 places.
"""

import base64
import binascii
import codecs
import hashlib
import importlib.util
import json
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

import tiktoken

from qvl.errors import MissingDependencyError, TextError
from qvl.files import replacing
from qvl.text.special_tokens import (
    ALL_TOKENS,
    IMG_END,
    IMG_START,
    MARKUP_TOKENS,
    PUBLISHED_NUM_RANKS,
    SpecialTokens,
)

# How text falls into pieces before any merge; digits stand alone. Source: tokenization_qwen.py.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY_NAME = "qwen.tiktoken"
PUBLISHED_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
PUBLISHED_VOCAB_ROWS = 151936  # "vocab_size" in the published config.json: rows of the embedding
IMAGE_SPAN = 256  # places between <img> and </img> in the published format

Ranks = dict[bytes, int]


class Tokenizer:
    """Text <-> ids over one vocabulary of byte-pair ranks; special tokens follow the ranks."""

    def __init__(self, ranks: Ranks) -> None:
        _check_ranks(ranks)
        self.ranks = ranks
        self.special = SpecialTokens(len(ranks))
        self._names = {i: token for token, i in self.special.as_dict.items()}
        self._markup_ids = frozenset(self.special.id_of(token) for token in MARKUP_TOKENS)
        self._bpe = tiktoken.Encoding(
            "qwen", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=self.special.as_dict
        )

    @classmethod
    def published(cls, path: Path | None = None) -> "Tokenizer":
        """The real vocabulary, checksum verified: from `path`, else from the installed dashscope package."""
        return _published(Path(path) if path is not None else _dashscope_vocabulary())

    @classmethod
    def tiny(cls) -> "Tokenizer":
        """The small vocabulary that ships with qvl, for models that train on a laptop."""
        return _tiny()

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Any vocabulary in qwen.tiktoken's format, LF or CRLF."""
        return cls(parse_ranks(_read(Path(path)), str(path)))

    @classmethod
    def from_dir(cls, directory: Path) -> "Tokenizer":
        """A checkpoint folder's own qwen.tiktoken; without one, the published vocabulary if config.json asks for it."""
        directory = Path(directory)
        path = directory / VOCABULARY_NAME
        if path.exists():
            return cls.from_file(path)
        if _config_vocab_size(directory / "config.json") == PUBLISHED_VOCAB_ROWS:
            return cls.published()
        raise TextError(
            f"{directory}: no {VOCABULARY_NAME} here; copy it from the checkpoint that these weights came from"
        )

    @property
    def vocab_size(self) -> int:
        """Ranks plus special tokens (the embedding may have more rows)."""
        return self.special.vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of plain text (NFC). Never a special id; an unpaired surrogate becomes U+FFFD."""
        return self._bpe.encode_ordinary(unicodedata.normalize("NFC", text))

    def encode_published(self, text: str, allowed: Collection[str] = ALL_TOKENS) -> list[int]:
        """The published tokenizer's ids: tags in `allowed` become special ids, images become padded paths.

        TextError for an `<img>` without its end, a tag within the path, or a path beyond 256 bytes.
        """
        normal = unicodedata.normalize("NFC", text)
        ids = self._bpe.encode(normal, allowed_special=set(allowed), disallowed_special=())
        return self._map_image_spans(ids, self._padded_path)

    def decode(
        self,
        ids: Iterable[int],
        skip_special_tokens: bool = False,
        errors: str = "replace",
        keep_markup: bool = False,
    ) -> str:
        """Text of ids, images as `<img>path</img>`. Bytes that are no UTF-8 go as `errors` says.

        Skipping drops every id behind the ranks (keep_markup spares ref, box and quad tags) but leaves an
        image's path. TextError for a broken image span or an id outside the vocabulary.
        """
        spelled = self._map_image_spans(list(ids), self._spelled_path)
        if skip_special_tokens:
            spelled = [i for i in spelled if i < len(self.ranks) or (keep_markup and i in self._markup_ids)]
        outside = next((i for i in spelled if not 0 <= i < self.vocab_size), None)
        if outside is not None:
            raise TextError(f"id {outside} is outside the vocabulary of {self.vocab_size}")
        return self._bpe.decode(spelled, errors=errors)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id stands for; a special id gives its tag. TextError outside the vocabulary."""
        if token_id in self._names:
            return self._names[token_id].encode()
        if not 0 <= token_id < self.vocab_size:
            raise TextError(f"id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._bpe.decode_single_token_bytes(token_id)

    def special_name(self, token_id: int) -> str | None:
        """The tag of a special id, None for any other id."""
        return self._names.get(token_id)

    def save(self, directory: Path) -> Path:
        """Write qwen.tiktoken into a folder, atomically."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / VOCABULARY_NAME
        write_ranks(self.ranks, path)
        return path

    def _map_image_spans(self, ids: list[int], convert: Callable[[list[int]], list[int]]) -> list[int]:
        """Replace what stands between each <img> and the next </img>."""
        out: list[int] = []
        place = 0
        while (start := _index(ids, self.special.img_start, place)) is not None:
            end = _index(ids, self.special.img_end, start)
            if end is None:
                raise TextError(f"unclosed {IMG_START}: every image tag needs its {IMG_END}")
            out += [*ids[place : start + 1], *convert(ids[start + 1 : end]), ids[end]]
            place = end + 1
        return out + ids[place:]

    def _padded_path(self, inner: list[int]) -> list[int]:
        for i in inner:
            if i in self._names:
                raise TextError(f"tag {self._names[i]} inside {IMG_START}..{IMG_END}: only a path may stand there")
        path = b"".join(self._bpe.decode_tokens_bytes(inner))
        if len(path) > IMAGE_SPAN:
            raise TextError(f"image path of {len(path)} bytes: {IMG_START}..{IMG_END} holds at most {IMAGE_SPAN}")
        return [*path, *[self.special.img_pad] * (IMAGE_SPAN - len(path))]

    def _spelled_path(self, inner: list[int]) -> list[int]:
        length = _index(inner, self.special.img_pad, 0)
        if length is None:
            raise TextError("image span without padding: its path can't be told from what follows")
        try:
            path = bytes(inner[:length]).decode("utf-8")
        except ValueError as error:  # an id beyond 255, or bytes that are no UTF-8
            raise TextError(f"image span holds no UTF-8 path: {error}") from error
        if tag := next((token for token in ALL_TOKENS if token in path), None):
            raise TextError(f"image path {path!r} spells the special token {tag}")
        return self._bpe.encode_ordinary(path)


class StreamDecoder:
    """Ids -> text as they come; holds back the bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = False) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that is certain after this id; often empty within a character."""
        if self._skip and token_id >= len(self._tokenizer.ranks):
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character."""
        return self._utf8.decode(b"", final=True)


def clean_text(text: str) -> str:
    """NFC, with U+FFFD for unpaired surrogates: what decode(encode(text)) gives back."""
    normal = unicodedata.normalize("NFC", text)
    return normal.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parse_ranks(data: bytes, source: str) -> Ranks:
    """The lines "base64 rank" of a vocabulary file. TextError names the first bad line."""
    ranks: Ranks = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise TextError(f"{source}, line {number}: not 'base64 rank'; download the vocabulary again") from error
    try:
        _check_ranks(ranks)
    except TextError as error:
        raise TextError(f"{source}: {error}") from error
    return ranks


def write_ranks(ranks: Ranks, path: Path) -> None:
    """Write a vocabulary file atomically, in order of rank."""
    lines = [b"%s %d\n" % (base64.b64encode(t), r) for t, r in sorted(ranks.items(), key=lambda item: item[1])]
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(lines))


def _check_ranks(ranks: Ranks) -> None:
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise TextError("the ranks of a vocabulary must be 0, 1, 2, ... without gaps")
    missing = [i for i in range(256) if bytes([i]) not in ranks]
    if missing:
        raise TextError(f"a vocabulary needs every single byte; {len(missing)} of 256 are missing")


def _index(ids: Sequence[int], wanted: int, start: int) -> int | None:
    try:
        return ids.index(wanted, start)
    except ValueError:
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"{path}: can't read the vocabulary ({error.strerror})") from error


def _config_vocab_size(path: Path) -> int | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("vocab_size") if isinstance(config, dict) else None


def _dashscope_vocabulary() -> Path:
    """Where the dashscope package keeps the vocabulary, found without importing the package."""
    spec = importlib.util.find_spec("dashscope")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "resources" / VOCABULARY_NAME
        if path.exists():
            return path
    raise MissingDependencyError(
        f"the published vocabulary is not here: pip install 'qvl[vocab]' (the package dashscope carries it), "
        f"or give the path of a {VOCABULARY_NAME}"
    )


@lru_cache(maxsize=2)
def _published(path: Path) -> Tokenizer:
    data = _read(path).replace(b"\r\n", b"\n")
    digest = hashlib.sha256(data).hexdigest()
    if digest != PUBLISHED_SHA256:
        raise TextError(
            f"{path}: not the published vocabulary of {PUBLISHED_NUM_RANKS} ranks "
            f"(sha256 {digest[:12]}, expected {PUBLISHED_SHA256[:12]}); download it again or pip install dashscope"
        )
    return Tokenizer(parse_ranks(data, str(path)))


@lru_cache(maxsize=1)
def _tiny() -> Tokenizer:
    data = resources.files("qvl").joinpath("assets", "tiny.tiktoken").read_bytes()
    return Tokenizer(parse_ranks(data, "tiny.tiktoken"))
