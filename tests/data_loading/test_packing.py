import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl.data.packing import deal, pack

PICTURE = 258


@given(st.lists(st.integers(1, 64), max_size=120), st.data())
def test_every_sample_is_in_exactly_one_row(lengths: list[int], data: st.DataObject) -> None:
    started = pack(lengths[: data.draw(st.integers(0, len(lengths)))], 64)[-2:]
    rows = pack(lengths, 64, started)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)
    for before, after in zip(started, rows, strict=False):
        assert after[: len(before)] == before


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_what_fits_one_row_is_one_row(lengths: list[int]) -> None:
    assert len(pack(lengths, sum(lengths))) == 1


def realistic(count: int) -> dict[str, list[int]]:
    """Lengths by task in the proportions of Table 3: a picture's places, the prefix, words, boxes of 23 tokens; OCR as
    `qvl data synth` makes it, 302 to 1016 tokens in the published vocabulary."""
    random = np.random.default_rng(0)

    def words(mean: float, size: int) -> np.ndarray:
        return np.clip(random.lognormal(np.log(mean), 0.5, size), 2, 300).astype(int)

    shares = {
        "caption": 19.7,
        "vqa": 3.6,
        "grounding": 3.5,
        "referring": 8.7,
        "grounded": 8.7,
        "ocr": 24.8,
        "text": 7.8,
    }
    sizes = {task: int(count * share / sum(shares.values())) for task, share in shares.items()}
    return {
        "caption": (PICTURE + 7 + words(20, sizes["caption"])).tolist(),
        "vqa": (PICTURE + random.integers(1, 9, sizes["vqa"]) * 16 + words(4, sizes["vqa"])).tolist(),
        "grounding": (PICTURE + 9 + random.integers(1, 5, sizes["grounding"]) * 30).tolist(),
        "referring": (PICTURE + 4 + words(6, sizes["referring"]) + 23).tolist(),
        "grounded": (
            PICTURE + 10 + words(20, sizes["grounded"]) + random.integers(1, 5, sizes["grounded"]) * 25
        ).tolist(),
        "ocr": (PICTURE + 7 + random.integers(1, 20, sizes["ocr"]) * 39).tolist(),
        "text": np.clip(random.lognormal(6, 1, sizes["text"]), 20, 2048).astype(int).tolist(),
    }


def test_rows_of_2048_are_98_percent_full_on_a_realistic_mixture() -> None:
    tokens = rows = 0
    for lengths in realistic(4000).values():
        tokens += sum(lengths)
        rows += len(pack(lengths, 2048))
    assert tokens / (rows * 2048) >= 0.98


def test_what_is_too_long_is_an_error() -> None:
    with pytest.raises(ValueError, match="65 tokens does not fit a row of 64"):
        pack([3, 65], 64)
    with pytest.raises(ValueError, match="a started row holds 80 tokens"):
        pack([40, 40], 64, [[0, 1]])


@given(st.lists(st.integers(0, 8), min_size=1, max_size=15), st.integers(1, 8))
def test_batches_are_dealt_evenly(weights: list[int], batch_size: int) -> None:
    rows = weights * batch_size
    batches = deal(rows, batch_size)
    assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
    assert {len(batch) for batch in batches} == {batch_size}
    sums = [sum(rows[row] for row in batch) for batch in batches]
    assert max(sums) - min(sums) <= max(rows)


def test_a_remainder_can_not_be_dealt() -> None:
    with pytest.raises(ValueError, match="5 rows"):
        deal([1] * 5, 2)
