"""Words to draw: from the user's texts, or without any from the vocabulary."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import regex

from qvl.data.language import is_cjk
from qvl.errors import UsageError
from qvl.text.tokenizer import Tokenizer

LANGUAGES = ("en", "zh", "mixed")
_HAN_RUN = regex.compile(r"[，。、；：？！“”（）《》]*\p{Han}[\p{Han}，。、；：？！“”（）《》]*")
# Whole words: none that goes on with a letter that is not ASCII, unless Chinese, which has no spaces, begins there.
_WORD = regex.compile(r"(?V1)(?<![[\p{L}\p{M}]--\p{Han}])[\x21-\x7e]++(?![[\p{L}\p{M}]--\p{Han}])")
_APOSTROPHES = str.maketrans("‘’", "''")


class Corpus:
    """English words and Chinese runs, drawn in the order of a text where there is one."""

    def __init__(self, english: Sequence[str], chinese: Sequence[str], connected: bool) -> None:
        self.words = {"en": english, "zh": chinese}
        self.connected = connected

    def take(self, rng: random.Random, language: str, count: int) -> list[str]:
        """`count` words from a random place on: connected text stays connected. mixed: mostly Chinese."""
        if language == "mixed":
            chinese, english = self.take(rng, "zh", count), self.take(rng, "en", count)
            return [english[i] if rng.random() < 0.3 else chinese[i] for i in range(count)]
        pool = self.words[language]
        if not self.connected:
            return rng.choices(pool, k=count)
        start = rng.randrange(len(pool))
        return [pool[(start + i) % len(pool)] for i in range(count)]


def read_corpus(paths: Sequence[Path]) -> Corpus:
    """UTF-8 texts. UsageError for a file that can't be read."""
    english: list[str] = []
    chinese: list[str] = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not a readable UTF-8 text ({error})") from error
        words = _WORD.findall(text.translate(_APOSTROPHES))
        english += [word for word in words if any(map(str.isalnum, word))]
        chinese += [piece for run in _HAN_RUN.findall(text) for piece in _pieces(run)]
    return Corpus(english, chinese, connected=True)


def vocabulary_corpus(tokenizer: Tokenizer) -> Corpus:
    """Words of the vocabulary: English ones that a space begins, and Chinese tokens."""
    texts = [tokenizer.token_bytes(i).decode("utf-8", "ignore") for i in range(tokenizer.special.endoftext)]
    english = [t[1:] for t in texts if re.fullmatch(r" [A-Za-z]{2,}", t)]
    chinese = [t for t in texts if t and all(is_cjk(c) and c.isalpha() for c in t)]
    return Corpus(english, chinese, connected=False)


def _pieces(run: str) -> list[str]:
    """A Chinese run behind each of its marks, and at most eight characters at once."""
    parts = regex.findall(r"[^，。、；：？！]*[，。、；：？！]?", run)
    return [part[i : i + 8] for part in parts for i in range(0, len(part), 8)]
