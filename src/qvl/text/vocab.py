"""Train a small vocabulary in Qwen's format: byte-level BPE over Qwen's own split of the text.

Source: byte-pair encoding (Sennrich et al. 2016) on bytes. Deterministic: of the most frequent pairs the
one whose bytes come first wins, so that the same texts give the same file everywhere.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import regex

from qvl.errors import TextError
from qvl.text.tokenizer import SPLIT_PATTERN, Ranks, clean_text, write_ranks

Pair = tuple[bytes, bytes]
Piece = tuple[bytes, ...]


def train_vocabulary(texts: Iterable[str], num_ranks: int) -> Ranks:
    """The 256 bytes and up to num_ranks - 256 merges, fewer when no pair is left that occurs twice."""
    if num_ranks < 256:
        raise TextError(f"a vocabulary has at least the 256 bytes, asked for {num_ranks}")
    pieces = _count_pieces(texts)
    words: list[list[bytes]] = [[bytes([b]) for b in piece] for piece in pieces]
    weights = list(pieces.values())
    counts: Counter[Pair] = Counter()
    places: dict[Pair, set[int]] = {}  # pair -> indices of the pieces that hold it
    for index, word in enumerate(words):
        _add_pairs(word, weights[index], index, counts, places)
    ranks: Ranks = {bytes([b]): b for b in range(256)}
    while len(ranks) < num_ranks and counts:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < 2:
            break
        ranks.setdefault(best[0] + best[1], len(ranks))
        for index in sorted(places[best]):
            _add_pairs(words[index], -weights[index], index, counts, places)
            words[index] = _merge(words[index], best)
            _add_pairs(words[index], weights[index], index, counts, places)
        del counts[best]
    return ranks


def write_vocabulary(ranks: Ranks, path: Path) -> None:
    """Write ranks as a qwen.tiktoken-format file."""
    write_ranks(ranks, path)


def _count_pieces(texts: Iterable[str]) -> Counter[bytes]:
    pattern = regex.compile(SPLIT_PATTERN)
    pieces: Counter[bytes] = Counter()
    for text in texts:
        normal = clean_text(unicodedata.normalize("NFC", text))
        pieces.update(match.group().encode() for match in pattern.finditer(normal))
    return Counter(dict(sorted(pieces.items())))


def _add_pairs(word: list[bytes], weight: int, index: int, counts: Counter[Pair], places: dict[Pair, set[int]]) -> None:
    """Count a piece's pairs in (weight > 0) or out again (weight < 0)."""
    for pair in pairwise(word):
        counts[pair] += weight
        if weight > 0:
            places.setdefault(pair, set()).add(index)
        elif counts[pair] <= 0:
            del counts[pair]


def _merge(word: list[bytes], pair: Pair) -> list[bytes]:
    out: list[bytes] = []
    place = 0
    while place < len(word):
        if tuple(word[place : place + 2]) == pair:
            out.append(pair[0] + pair[1])
            place += 2
        else:
            out.append(word[place])
            place += 1
    return out
