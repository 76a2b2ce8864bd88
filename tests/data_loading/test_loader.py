"""The stream of batches: packed without loss, mixed by weight, and the same after a restart."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from qvl.data.loader import Batch, Loader, LoaderState
from qvl.data.sample import Sample, Turn, write_shard
from qvl.data.world.tasks import make_sample
from qvl.errors import DataError
from qvl.text.markup import Box, Ref, Text
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.tiny()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    samples = [make_sample(1, "train", i, task, "en") for task in ("vqa", "caption", "dialogue") for i in range(12)]
    write_shard(samples, folder / "0.parquet")
    return folder


def loader(split: Path, mixture: dict[str, float], **changed: object) -> Loader:
    settings: dict[str, object] = {
        "batch_rows": 3,
        "row_length": 256,
        "packing": True,
        "loss_by": "token",
        "image_size": 56,
        "num_image_tokens": 4,
        "seed": 0,
    }
    return Loader([split], TOKENIZER, mixture, **{**settings, **changed})  # type: ignore[arg-type]


def batches(source: Loader, count: int) -> Iterator[Batch]:
    return (batch for batch, _ in islice(iter(source), count))


def test_documents_in_a_row_are_the_rendered_samples(split: Path) -> None:
    source = loader(split, {"vqa": 1.0, "dialogue": 1.0})
    by_id = {s.id: r for s, r in zip(source.samples, source.rendered, strict=True)}
    for batch in batches(source, 4):
        documents = []
        for row in range(len(batch.input_ids)):
            for number in range(int(batch.document_ids[row].max()) + 1):
                places = batch.document_ids[row] == number
                documents.append((batch.input_ids[row][places], batch.labels[row][places]))
        assert len(documents) == len(batch.sample_ids)
        for (ids, labels), sample_id in zip(documents, batch.sample_ids, strict=True):
            rendered = by_id[sample_id]
            assert ids.tolist() == rendered.input_ids
            assert labels.tolist() == [IGNORE_INDEX, *rendered.labels[1:]]
        spans = int((batch.input_ids == TOKENIZER.special.img_start).sum())
        assert batch.pixel_values is not None
        assert batch.pixel_values.shape == (spans, 3, 56, 56)
        assert (batch.labels[batch.document_ids < 0] == IGNORE_INDEX).all()


def test_tasks_come_by_weight_and_no_sample_twice_before_all_have_come(split: Path) -> None:
    source = loader(split, {"vqa": 3.0, "caption": 1.0}, packing=False, batch_rows=8)
    drawn = [sample_id for batch in batches(source, 50) for sample_id in batch.sample_ids]
    tasks = Counter(sample_id.split("-")[3] for sample_id in drawn)
    assert 0.68 < tasks["vqa"] / len(drawn) < 0.82
    questions = [i for i in drawn if "-vqa-" in i]
    assert len(set(questions[:12])) == 12
    assert set(Counter(questions[:24]).values()) == {2}


def test_a_restart_from_the_state_gives_the_same_batches(split: Path) -> None:
    mixture = {"vqa": 1.0, "caption": 1.0}
    whole = list(islice(iter(loader(split, mixture)), 6))
    again = loader(split, mixture)
    again.state = LoaderState.from_dict(whole[2][1].as_dict())
    for (expected, _), got in zip(whole[3:], batches(again, 3), strict=True):
        assert expected.sample_ids == got.sample_ids
        assert torch.equal(expected.input_ids, got.input_ids)


def test_square_root_weighs_each_piece_of_an_answer(tmp_path: Path) -> None:
    """The phrase, its box and the end of text weigh the square roots of their lengths."""
    turns = (Turn("user", (Text("Find it."),)), Turn("assistant", (Ref("a"), Box(1, 2, 3, 4))))
    write_shard([Sample("one", "text", "en", (), turns, {})], tmp_path / "0.parquet")
    batch = next(batches(loader(tmp_path, {"text": 1.0}, packing=False, loss_by="square_root"), 1))
    assert batch.loss_weights is not None
    phrase, box = 3, 11  # <ref> a </ref>, <box> ( 1 , 2 ),( 3 , 4 ) </box>
    expected = torch.tensor([phrase**-0.5] * phrase + [box**-0.5] * box + [1.0])
    torch.testing.assert_close(batch.loss_weights[0][batch.labels[0] != IGNORE_INDEX], expected)


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    long = Sample("long", "text", "en", (), (Turn("assistant", (Text("word " * 500),)),), {})
    short = Sample("short", "text", "en", (), (Turn("assistant", (Text("word"),)),), {})
    write_shard([long, short], tmp_path / "0.parquet")
    source = loader(tmp_path, {"text": 1.0}, row_length=64)
    assert source.dropped == ["long"]
    assert set(next(batches(source, 1)).sample_ids) == {"short"}


def test_a_task_without_samples_is_an_error(split: Path) -> None:
    with pytest.raises(DataError, match="no usable sample of task 'ocr'"):
        loader(split, {"vqa": 1.0, "ocr": 1.0})
