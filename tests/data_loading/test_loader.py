"""The stream of batches: packed without loss, mixed by weight, shared among ranks, and the same after a restart."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from qvl import images
from qvl.data.loader import Batch, Loader, lost
from qvl.data.sample import Sample, Turn, read_split, write_shard
from qvl.data.world.tasks import make_sample
from qvl.errors import DataError, UsageError
from qvl.text.markup import Box, Image, Ref, Text
from qvl.text.render import render
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.tiny()
EPOCH = {"vqa": 12, "caption": 12, "dialogue": 12}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    samples = [make_sample(1, "train", i, task, "en") for task in EPOCH for i in range(EPOCH[task])]
    write_shard(samples, folder / "0.parquet")
    return folder


def loader(split: Path, mixture: dict[str, float], **changed: object) -> Loader:
    settings: dict[str, object] = {
        "batch_rows": 3,
        "row_length": 256,
        "packing": "isolated",
        "loss_by": "token",
        "image_size": 56,
        "num_image_tokens": 4,
        "seed": 0,
    }
    return Loader([split], TOKENIZER, mixture, **{**settings, **changed})  # type: ignore[arg-type]


def batches(source: Loader, count: int) -> Iterator[Batch]:
    return (batch for batch, _ in islice(iter(source), count))


def task_of(sample_id: str) -> str:
    return sample_id.split("-")[3]


def test_documents_in_a_row_are_the_rendered_samples_of_one_task(split: Path) -> None:
    samples = {sample.id: sample for sample in read_split(split)}
    for batch in batches(loader(split, {"vqa": 1.0, "dialogue": 1.0}), 4):
        sample_ids, pictures, lengths = iter(batch.sample_ids), [], []
        for row in range(len(batch.input_ids)):
            tasks = set()
            for number in range(int(batch.document_ids[row].max()) + 1):
                places = batch.document_ids[row] == number
                sample = samples[next(sample_ids)]
                tasks.add(sample.task)
                turns = [(turn.role, turn.content) for turn in sample.turns]
                rendered = render(turns, sample.task, TOKENIZER, 4)
                assert rendered is not None
                assert batch.input_ids[row][places].tolist() == rendered.input_ids
                assert batch.labels[row][places].tolist() == [IGNORE_INDEX, *rendered.labels[1:]]
                lengths.append(len(rendered.input_ids))
                pictures += [images.training_pixels(sample.images[k], 56) for k in rendered.image_indices]
            assert len(tasks) == 1
        assert next(sample_ids, None) is None
        assert batch.document_lengths == lengths
        assert torch.equal(batch.pixels, torch.stack(pictures))
        assert (batch.labels[batch.document_ids < 0] == IGNORE_INDEX).all()


def test_interleaved_rows_are_one_document(split: Path) -> None:
    isolated, interleaved = (
        next(batches(loader(split, {"vqa": 1.0}, packing=packing), 1)) for packing in ("isolated", "interleaved")
    )
    assert torch.equal(isolated.input_ids, interleaved.input_ids)
    assert torch.equal(isolated.labels, interleaved.labels)
    assert isolated.document_ids.max() > 0
    assert (isolated.isolates, interleaved.isolates) == (True, False)
    assert torch.equal(interleaved.document_ids, isolated.document_ids.clamp(max=0))
    assert interleaved.document_lengths == (interleaved.document_ids == 0).sum(1).tolist()


def test_tasks_come_by_weight_and_no_sample_twice_before_all_have_come(split: Path) -> None:
    source = loader(split, {"vqa": 3.0, "caption": 1.0}, packing="none", batch_rows=8)
    drawn = [sample_id for batch in batches(source, 64) for sample_id in batch.sample_ids]
    tasks = Counter(map(task_of, drawn))
    assert 0.68 < tasks["vqa"] / len(drawn) < 0.82
    times = Counter(drawn)
    for task in tasks:
        counts = [count for sample_id, count in times.items() if task_of(sample_id) == task]
        assert len(counts) == EPOCH[task]
        assert max(counts) - min(counts) <= 1 + (task == "vqa")  # the draw before 256 rows may stop within an epoch


def test_packed_rows_lose_nothing(split: Path) -> None:
    """After a stretch of planning: what was drawn is what was read and the rows that wait."""
    source = loader(split, {"vqa": 1.0}, batch_rows=8)
    pool = loader(split, {"vqa": 1.0}, batch_rows=8).streams[0].pools["vqa"]  # the source's own is busy planning
    seen: Counter[str] = Counter()
    ends = 0
    for batch, state in islice(iter(source), 100):
        seen.update(batch.sample_ids)
        stream = state["0"]
        if stream["batches_read"] == 0:
            ends += 1
            held = Counter(pool.sample(number).id for row in stream["waiting"] for _, number in row)
            assert seen + held == Counter(pool.sample(number).id for number in range(stream["position"]))
    assert ends == 12
    assert held


@pytest.mark.parametrize("packing", ["isolated", "none"])
@pytest.mark.parametrize("stop", [1, 22, 40])  # 22 batches of 3 rows are a stretch
def test_a_restart_from_the_state_gives_the_same_batches(split: Path, packing: str, stop: int) -> None:
    mixture = {"vqa": 1.0, "caption": 1.0}
    whole = list(islice(iter(loader(split, mixture, packing=packing)), stop + 4))
    again = loader(split, mixture, packing=packing)
    again.resume(json.loads(json.dumps(whole[stop - 1][1])))
    for (expected, state), (got, state_again) in zip(whole[stop:], iter(again), strict=False):
        assert expected.sample_ids == got.sample_ids
        assert torch.equal(expected.input_ids, got.input_ids)
        assert state == state_again


def text_sample(name: str, words: int) -> Sample:
    return Sample(name, "text", "en", (), (Turn("assistant", (Text("word " * words),)),), {})


def test_rows_of_2048_stay_98_percent_full_from_stretch_to_stretch(tmp_path: Path) -> None:
    """Four or five samples fill a row, so that what the other rows left over fills one badly."""
    random = np.random.default_rng(0)
    words = 264 + 11 * random.integers(1, 40, 1000)
    write_shard([text_sample(f"{k}", n) for k, n in enumerate(words)], tmp_path / "0.parquet")
    [source] = loader(tmp_path, {"text": 1.0}, row_length=2048).streams
    stretch = source.plan(source.state, [])
    for _ in range(2):
        stretch = source.plan(stretch.after, stretch.waiting)
        filled = [sum(drawn.length for drawn in row) for batch in stretch.batches for row in batch]
        assert sum(filled) / (2048 * len(filled)) >= 0.98


def test_many_waiting_rows_still_come_in_whole_batches(tmp_path: Path) -> None:
    """Most samples fill more than half a row, so that more rows wait than a stretch reads."""
    random = np.random.default_rng(0)
    words = np.where(random.random(1000) < 0.9, random.integers(1030, 1200, 1000), random.integers(300, 900, 1000))
    write_shard([text_sample(f"{k}", n) for k, n in enumerate(words)], tmp_path / "0.parquet")
    [source] = loader(tmp_path, {"text": 1.0}, row_length=2048, batch_rows=72).streams
    stretch = source.plan(source.state, [])
    for _ in range(16):
        stretch = source.plan(stretch.after, stretch.waiting)
        assert {len(batch) for batch in stretch.batches} == {72}


@pytest.mark.parametrize("shards", [1, 44])  # streams share samples, streams share shards
def test_a_step_holds_the_same_samples_on_any_number_of_ranks(tmp_path: Path, shards: int) -> None:
    streams, batch_rows, steps_per_epoch = 4, 3, 22  # an epoch is a stretch of planning
    count = streams * batch_rows * steps_per_epoch
    each = count // shards
    for shard in range(shards):
        samples = [text_sample(f"{shard * each + i}", 1) for i in range(each)]
        write_shard(samples, tmp_path / f"{shard:02}.parquet")

    def steps(ranks: int, state: dict[str, object] | None, number: int) -> tuple[list[set[str]], dict[str, object]]:
        """Samples of each step over all ranks, and their states together."""
        held: list[set[str]] = [set() for _ in range(number)]
        states: dict[str, object] = {}
        for rank in range(ranks):
            source = loader(tmp_path, {"text": 1.0}, packing="none", streams=streams, rank=rank, ranks=ranks)
            if state:
                source.resume(state)
            per_step = streams // ranks
            read = list(islice(iter(source), number * per_step))
            for place, (batch, _) in enumerate(read):
                held[place // per_step].update(batch.sample_ids)
            states.update(read[-1][1])
        return held, states

    one, _ = steps(1, None, steps_per_epoch)
    assert [len(step) for step in one] == [streams * batch_rows] * steps_per_epoch
    assert len(set.union(*one)) == count
    four, after = steps(4, None, 10)
    two, _ = steps(2, after, steps_per_epoch - 10)
    assert four + two == one


def test_ranks_that_do_not_divide_the_streams_are_refused(split: Path) -> None:
    with pytest.raises(UsageError, match="3 ranks can't share 4 streams"):
        loader(split, {"vqa": 1.0}, streams=4, ranks=3)


def test_square_root_weighs_each_piece_of_an_answer(tmp_path: Path) -> None:
    """The phrase, its box and the end of text weigh the square roots of their lengths."""
    turns = (Turn("user", (Text("Find it."),)), Turn("assistant", (Ref("a"), Box(1, 2, 3, 4))))
    write_shard([Sample("one", "text", "en", (), turns, {})], tmp_path / "0.parquet")
    batch = next(batches(loader(tmp_path, {"text": 1.0}, packing="none", loss_by="square_root"), 1))
    assert batch.loss_weights is not None
    phrase, box = 3, 11  # <ref> a </ref>, <box> ( 1 , 2 ),( 3 , 4 ) </box>
    expected = torch.tensor([phrase**-0.5] * phrase + [box**-0.5] * box + [1.0])
    torch.testing.assert_close(batch.loss_weights[0][batch.labels[0] != IGNORE_INDEX], expected)


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    write_shard([text_sample("long", 500), text_sample("short", 1)], tmp_path / "0.parquet")
    batch, state = next(iter(loader(tmp_path, {"text": 1.0}, row_length=64, packing="none", batch_rows=64)))
    assert set(batch.sample_ids) == {"short"}
    assert lost(state) in {(63, 0), (64, 0)}
    _, state = next(iter(loader(tmp_path, {"text": 1.0}, row_length=64, packing="none", batch_rows=1)))
    assert lost(state)[0] >= 63, "also before the stretch is read to its end"


def test_a_task_without_samples_that_fit_is_an_error(split: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sample of task 'ocr'"):
        loader(split, {"vqa": 1.0, "ocr": 1.0})
    write_shard([text_sample("long", 500)], tmp_path / "0.parquet")
    with pytest.raises(DataError, match="no sample of task 'text' fits a row of 64"):
        next(batches(loader(tmp_path, {"text": 1.0}, row_length=64), 1))


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    turns = (Turn("user", (Image(1), Text("What? Answer:"))), Turn("assistant", (Text("A"),)))
    write_shard([Sample("bad", "vqa", "en", (b"one",), turns, {})], tmp_path / "0.parquet")
    with pytest.raises(DataError, match="sample 'bad': shows image 1 of 1; `qvl data lint`"):
        next(batches(loader(tmp_path, {"vqa": 1.0}), 1))


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    turns = (Turn("user", (Image(0), Text("What? Answer:"))), Turn("assistant", (Text("A"),)))
    write_shard([Sample("bad", "vqa", "en", (b"no picture",), turns, {})], tmp_path / "0.parquet")
    with pytest.raises(DataError, match=r"sample 'bad': image of 10 bytes: .*qvl data lint"):
        next(batches(loader(tmp_path, {"vqa": 1.0}), 1))
