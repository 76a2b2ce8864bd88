"""Shuffled reading in bounded memory: everything once per epoch, windows, random entry."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from qvl.data import pools
from qvl.data.pools import Pool, find_parts, fingerprint, share
from qvl.data.sample import Sample, Turn, write_shard
from qvl.errors import DataError
from qvl.text.markup import Text


def write_texts(folder: Path, shards: int, each: int, tasks: tuple[str, ...] = ("text",)) -> None:
    for shard in range(shards):
        samples = [
            Sample(f"{shard}-{i}", tasks[i % len(tasks)], "en", (), (Turn("assistant", (Text("x"),)),), {})
            for i in range(each)
        ]
        write_shard(samples, folder / f"{shard:03}.parquet")


def test_an_epoch_has_every_sample_once_in_windows_of_neighbouring_parts(tmp_path: Path) -> None:
    write_texts(tmp_path, shards=3, each=600)  # row groups of 256, 256 and 88
    pool = Pool(find_parts([tmp_path], ["text"])["text"], window_size=520, seed=(0,))
    epochs = [[pool.sample(n).id for n in range(e * 1800, (e + 1) * 1800)] for e in range(2)]
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == 1800
    first = [place for place, sample_id in enumerate(epochs[0]) if sample_id.startswith("0-")]
    assert max(np.diff(first)) > 100  # not in order of shards: parts of others lie between
    assert [pool.sample(n).id for n in (1799, 3, 1801, 600)] == [
        epochs[0][1799],
        epochs[0][3],
        epochs[1][1],
        epochs[0][600],
    ]


def test_memory_holds_one_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(tmp_path, shards=4, each=512)
    read = []
    monkeypatch.setattr(pools, "_read", lambda part, real=pools._read: read.append(part) or real(part))
    pool = Pool(find_parts([tmp_path], ["text"])["text"], window_size=512, seed=(0,))
    held = []
    for number in range(2048):
        pool.sample(number)
        held.append(len(pool._table))
    assert max(held) == 512
    assert len(read) == 8  # each row group once


def test_mixed_row_groups_give_each_task_its_rows(tmp_path: Path) -> None:
    write_texts(tmp_path, shards=1, each=300, tasks=("text", "vqa", "ocr"))
    parts = find_parts([tmp_path], ["text", "ocr"])
    assert set(parts) == {"text", "ocr"}
    pool = Pool(parts["ocr"], 1000, (0,))
    assert {pool.sample(n).id for n in range(len(pool))} == {f"0-{i}" for i in range(2, 300, 3)}


@pytest.mark.parametrize(("shards", "each"), [(2, 300), (40, 7)])
def test_streams_share_every_sample(tmp_path: Path, shards: int, each: int) -> None:
    write_texts(tmp_path, shards, each)
    seen: list[str] = []
    for stream in range(4):
        parts = share(find_parts([tmp_path], ["text"])["text"], stream, 4)
        pool = Pool(parts, 100, (0,))
        assert abs(len(pool) - shards * each / 4) <= shards * each / 40
        seen += [pool.sample(n).id for n in range(len(pool))]
    assert len(seen) == len(set(seen)) == shards * each


def test_a_file_that_is_no_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"0\.parquet: not a readable shard"):
        find_parts([tmp_path], ["text"])


def test_streams_share_the_rare_task_of_mixed_shards_evenly(tmp_path: Path) -> None:
    """Nine tasks in turn in one shard, and small shards of one of them."""
    tasks = ("text", "vqa", "caption", "ocr", "dialogue", "grounding", "referring", "region_caption", "other")
    write_texts(tmp_path / "a", shards=1, each=1024, tasks=tasks)
    write_texts(tmp_path / "b", shards=20, each=3)
    found = find_parts([tmp_path / "a", tmp_path / "b"], tasks)
    for task in tasks:
        shares = [share(found[task], stream, 64) for stream in range(64)]
        sizes = [sum(len(part.rows) for part in parts) for parts in shares]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == sum(i % 9 == tasks.index(task) for i in range(1024)) + (60 if task == "text" else 0)


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    write_texts(tmp_path, shards=1, each=5)
    [path] = tmp_path.iterdir()
    table = pq.read_table(path)
    pq.write_table(table.select(["language", *(n for n in table.column_names if n != "language")]), path)
    assert len(find_parts([tmp_path], ["text"])["text"][0].rows) == 5
    pq.write_table(table.drop_columns(["task"]), path)
    with pytest.raises(DataError, match=r"000\.parquet: not a shard of samples: no column task"):
        find_parts([tmp_path], ["text"])


def test_more_streams_than_samples_are_refused(tmp_path: Path) -> None:
    write_texts(tmp_path, shards=1, each=5)
    with pytest.raises(DataError, match="5 samples of a task can't be shared by 6 streams"):
        share(find_parts([tmp_path], ["text"])["text"], 5, 6)


def test_a_fingerprint_changes_with_the_shards_and_not_with_their_place(tmp_path: Path) -> None:
    prints = []
    for root, shards, each in (("one", 2, 5), ("two", 2, 5), ("three", 3, 5), ("four", 2, 6)):
        write_texts(tmp_path / root / "train", shards, each)
        prints.append(fingerprint(find_parts([tmp_path / root / "train"], ["text"])))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
