"""Pictures of evaluation sets leave, whatever another data set calls them; rows of other splits say which they are."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from qvl.cli import main
from qvl.data.sample import read_split
from qvl.data.sources.convert import LEFT_OUT_NAME, OTHER_SPLITS_NAME, convert
from qvl.errors import UsageError

TRAIN, HELD = "COCO_train2014_000000000001.jpg", "COCO_train2014_000000000002.jpg"


def photograph(path: Path, seed: int, size: tuple[int, int] = (320, 240), quality: int = 92) -> None:
    """Large soft shapes, as photographs have; the same for the same seed at any size."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(noise).resize(size, PILImage.Resampling.BICUBIC).save(path, quality=quality)


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def refcoco(folder: Path) -> list[Path]:
    """One ref for training, one for the test; both pictures are of COCO's train2014."""
    sentence = {"sent_id": 0, "sent": "the lady"}
    refs = [
        {"ref_id": i, "ann_id": i, "image_id": i, "split": split, "sentences": [sentence]}
        for i, split in ((1, "train"), (2, "testA"))
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    images = [{"id": i, "file_name": name} for i, name in ((1, TRAIN), (2, HELD))]
    annotations = [{"id": i, "image_id": i, "bbox": [50, 25, 100, 50]} for i in (1, 2)]
    instances = {"images": images, "annotations": annotations}
    return [folder / "refs(unc).p", written(folder / "instances.json", instances)]


def test_visual_genome_loses_the_test_pictures_of_refcoco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, genome = tmp_path / "train2014", tmp_path / "vg" / "VG_100K"
    for name, seed in ((TRAIN, 1), (HELD, 2)):
        photograph(coco / name, seed)
    photograph(genome / "61.jpg", 2, (500, 375), 70)  # the held-out picture under another name, size and quality
    photograph(genome / "62.jpg", 3)
    region = {"phrase": "a horse", "x": 20, "y": 10, "width": 100, "height": 50}
    regions = [
        {"id": i, "regions": [{**region, "region_id": 10 * i + k, "image_id": i} for k in (1, 2)]} for i in (61, 62)
    ]
    files = [str(path) for path in refcoco(tmp_path)]
    assert main(["data", "convert", "refcoco", *files, "--images", str(coco), "--out", str(tmp_path / "ref")]) == 0
    assert "not compared with evaluation pictures" in capsys.readouterr().out
    held_out = tmp_path / "ref" / OTHER_SPLITS_NAME
    assert held_out.read_text().splitlines() == [str(coco / HELD)]

    out = tmp_path / "out"
    command = ["data", "convert", "vg", str(written(tmp_path / "r.json", regions)), "--images", str(tmp_path / "vg")]
    assert main([*command, "--out", str(out), "--against", str(held_out)]) == 0
    printed = capsys.readouterr().out
    assert "compared with 1 evaluation pictures" in printed
    assert "left out, close to an evaluation picture: 4" in printed  # two regions, found and described
    left_out = [json.loads(line) for line in (out / LEFT_OUT_NAME).read_text().splitlines()]
    assert [row["key"] for row in left_out] == ["611", "612", "611-text", "612-text"]
    assert all(row["detail"].startswith(f"{coco / HELD}, ") for row in left_out)
    assert {row for sample in read_split(out) for row in sample.provenance["rows"]} == {
        "621",
        "622",
        "621-text",
        "622-text",
    }

    shards = tmp_path / "shards"  # evaluation pictures may be in shards as well
    assert main([*command, "--out", str(shards)]) == 0
    report = convert("vg", [tmp_path / "r.json"], tmp_path / "none", images_dir=tmp_path / "vg", against=[shards])
    assert (report.samples, report.left_out.total()) == (0, 8)


def test_a_dialogue_that_shows_an_evaluation_picture_beside_another_leaves(tmp_path: Path) -> None:
    for seed in (1, 2):
        photograph(tmp_path / f"{seed}.jpg", seed)
    photograph(tmp_path / "held" / "secret.png", 2, (200, 150))
    spoken = [{"role": "user", "content": "<image><image>Compare."}, {"role": "assistant", "content": "Both."}]
    alone = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A wall."}]
    rows = [{"messages": spoken, "images": ["1.jpg", "2.jpg"]}, {"messages": alone, "images": ["1.jpg"]}]
    path = written(tmp_path / "m.json", rows)
    report = convert("messages", [path], tmp_path / "out", images_dir=tmp_path, against=[tmp_path / "held"])
    assert [sample.provenance["row"] for sample in read_split(tmp_path / "out")] == ["m.json#1"]
    assert dict(report.left_out) == {"close to an evaluation picture": 1}


def test_evaluation_pictures_that_are_not_there_are_named(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    path = written(tmp_path / "m.json", [{"messages": talk}])
    for content in ("", "gone.jpg\n"):
        (tmp_path / "list.txt").write_text(content)
        with pytest.raises(UsageError, match=r"list\.txt: no picture that can be read"):
            convert("messages", [path], tmp_path / "out", against=[tmp_path / "list.txt"])
    photograph(tmp_path / "1.jpg", 1)
    (tmp_path / "list.txt").write_text("gone.jpg\n1.jpg\n")
    report = convert("messages", [path], tmp_path / "out", against=[tmp_path / "list.txt"])
    assert "not compared, 1 unreadable evaluation pictures" in report.summary()
    assert "gone.jpg" in report.summary()


VQA = {"question": "What?", "answer": "this", "answers": ["this"]}
DOC = {**VQA, "questionId": 1}
OTHER_SPLITS: list[tuple[str, dict[str, Any], str]] = [
    ("gqa", {"val_balanced_questions.json": {"1": {**VQA, "imageId": "7"}}}, "7.jpg"),
    ("gqa", {"testdev_all_questions.json": {"1": {**VQA, "imageId": "7"}}}, "7.jpg"),
    ("chartqa", {"test_human.json": [{"imgname": "7.png", "query": "What?", "label": "1"}]}, "7.png"),
    ("dvqa", {"qa.json": [{**VQA, "image": "bar_val_hard_7.png", "question_id": 1}]}, "bar_val_hard_7.png"),
    ("ocrvqa", {"d.json": {"7": {"imageURL": "a/b.gif", "questions": ["a"], "answers": ["b"], "split": 3}}}, "7.gif"),
    (
        "docvqa",
        {"v.json": {"data": [{**VQA, "questionId": 1, "image": "documents/7.png", "data_split": "val"}]}},
        "documents/7.png",
    ),
    (
        "docvqa",
        {"i.json": {"data": [{**VQA, "questionId": 1, "image_local_name": "7.jpeg", "data_split": "test"}]}},
        "7.jpeg",
    ),
    ("textvqa", {"t.json": {"data": [{**VQA, "question_id": 1, "image_id": "7", "set_name": "val"}]}}, "7.jpg"),
    (
        "vqav2",
        {
            "q.json": {"data_subtype": "val2014", "questions": [{"question_id": 1, "image_id": 7, "question": "a"}]},
            "a.json": {"annotations": [{"question_id": 1, "multiple_choice_answer": "b"}]},
        },
        "COCO_val2014_000000000007.jpg",
    ),
]


@pytest.mark.parametrize(("dataset", "contents", "picture"), OTHER_SPLITS)
def test_a_row_of_another_split_is_never_learnt_and_names_its_picture(
    tmp_path: Path, dataset: str, contents: dict[str, Any], picture: str
) -> None:
    photograph(tmp_path / "photos" / picture, 1)
    files = [written(tmp_path / name, content) for name, content in contents.items()]
    report = convert(dataset, files, tmp_path / "out", images_dir=tmp_path / "photos")
    assert (report.samples, dict(report.left_out)) == (0, {"not of the train split": 1})
    assert (tmp_path / "out" / OTHER_SPLITS_NAME).read_text() == f"{tmp_path / 'photos' / picture}\n"
