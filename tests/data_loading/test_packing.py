from hypothesis import given
from hypothesis import strategies as st

from qvl.data.packing import pack


@given(
    st.lists(st.integers(1, 64), max_size=60),
    st.integers(1, 8),
)
def test_every_sample_is_in_exactly_one_row_or_left_over(lengths: list[int], num_rows: int) -> None:
    rows, left_over = pack(lengths, num_rows, 64)
    placed = [i for row in rows for i in row]
    assert sorted(placed + left_over) == list(range(len(lengths)))
    assert len(rows) <= num_rows
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)


def test_many_short_samples_fill_the_rows() -> None:
    lengths = [20 + (i * 7) % 31 for i in range(200)]
    rows, _ = pack(lengths, 16, 256)
    filled = sum(lengths[i] for row in rows for i in row)
    assert filled / (16 * 256) >= 0.98
