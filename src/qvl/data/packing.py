"""Samples -> rows of fixed length. Source: paper section 3.2 (interleaved sequences of 2048 tokens)."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], num_rows: int, row_length: int) -> tuple[list[list[int]], list[int]]:
    """Place samples into at most num_rows rows, longest first, each where it leaves the least room.

    Returns (rows of indices into lengths, indices that found no place). Every length must be at most
    row_length (the renderer has cut or refused longer samples).
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    room: list[int] = []
    rows: list[list[int]] = []
    left_over: list[int] = []
    for i in order:
        fits = [r for r in range(len(rows)) if room[r] >= lengths[i]]
        if fits:
            row = min(fits, key=lambda r: (room[r], r))
        elif len(rows) < num_rows and lengths[i] <= row_length:
            rows.append([])
            room.append(row_length)
            row = len(rows) - 1
        else:
            left_over.append(i)
            continue
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows, sorted(left_over)
