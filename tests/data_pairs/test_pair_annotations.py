"""Captions apart from their pictures: each row with its own picture, and no other."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest_pairs import jpeg

from qvl.data.damage import Damage
from qvl.data.pairs import readers
from qvl.data.pairs.annotations import SBU_ADDRESSES, SBU_CAPTIONS
from qvl.data.pairs.readers import find_units, read_unit
from qvl.data.pairs.run import clean_pairs
from qvl.data.pairs.unit import RawPair
from qvl.data.sample import read_split
from qvl.errors import UsageError
from qvl.text.markup import to_string

FLICKR = "http://static.flickr.com"


def read_all(path: Path, root: Path) -> tuple[list[tuple[str, Any, str]], list[tuple[str, str]]]:
    """(key, captions, picture below the root) of the pairs; (kind, key) of what could not be read."""
    items = [item for unit in find_units([path]) for item in read_unit(unit, root)]
    pairs = [
        (item.key, item.fields["caption"], str(Path(str(item.image)).relative_to(root)))
        for item in items
        if isinstance(item, RawPair)
    ]
    return pairs, [(item.kind, item.key) for item in items if isinstance(item, Damage)]


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg())
    return folder


def karpathy(name: str, split: str, *captions: str, **fields: Any) -> dict[str, Any]:
    sentences = [{"tokens": text.split(), "raw": text, "imgid": 0, "sentid": i} for i, text in enumerate(captions)]
    return {"sentids": [0], "imgid": 0, "sentences": sentences, "split": split, "filename": name, **fields}


def test_flickr30k_of_the_train_split_with_the_longest_caption(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "flickr30k-images", "1000092795.jpg", "3.jpg")
    content = {
        "images": [
            karpathy("1000092795.jpg", "train", "Two men.", "Two men in green shirts standing in a yard.", "Men."),
            karpathy("3.jpg", "test", "Nobody must learn this."),
            karpathy("4.jpg", "val", "Nor this."),
            karpathy("5.jpg", "train", "A picture that is lost."),
        ],
        "dataset": "flickr30k",
    }
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(content))
    funnel = clean_pairs(
        [tmp_path / "dataset_flickr30k.json"], tmp_path / "out", "flickr30k", image_root=photos, workers=1
    )
    [sample] = read_split(tmp_path / "out")
    assert to_string(sample.turns[1].content) == "Two men in green shirts standing in a yard."
    assert sample.provenance["row"] == "dataset_flickr30k.json#1000092795.jpg"
    assert (funnel.seen, funnel.kept, dict(funnel.damages)) == (4, 1, {"not of the train split": 2, "missing image": 1})


def test_karpathys_coco_has_its_pictures_in_two_folders(tmp_path: Path) -> None:
    entry = karpathy("COCO_train2014_9.jpg", "train", "A dog.", filepath="train2014", cocoid=9)
    spare = karpathy("COCO_val2014_4.jpg", "restval", "A cat.", filepath="val2014", cocoid=4)
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": [entry, spare], "dataset": "coco"}))
    assert read_all(path, tmp_path) == (
        [("train2014/COCO_train2014_9.jpg", ["A dog."], "train2014/COCO_train2014_9.jpg")],
        [("not of the train split", "val2014/COCO_val2014_4.jpg")],
    )


@pytest.mark.parametrize(
    ("file_name", "address", "kept"),
    [
        ("000000397133.jpg", "http://images.cocodataset.org/val2017/000000397133.jpg", False),
        ("000000391895.jpg", "http://images.cocodataset.org/train2017/000000391895.jpg", True),
        ("COCO_val2014_000000391895.jpg", None, False),
        ("COCO_train2014_000000057870.jpg", None, True),
        ("valley/contest.jpg", None, True),
    ],
)
def test_coco_captions_of_another_split_are_not_read(
    tmp_path: Path, file_name: str, address: str | None, kept: bool
) -> None:
    content = {
        "images": [{"id": 1, "file_name": file_name, "coco_url": address}],
        "annotations": [{"image_id": 1, "caption": "A dog."}, {"image_id": 2, "caption": "Of no picture."}],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    pairs, damages = read_all(tmp_path / "captions.json", tmp_path)
    assert (len(pairs), len(damages)) == ((1, 1) if kept else (0, 2))
    assert damages[-1] == ("captions of a picture that is not listed", "2")


CC3M = ["a red kite\thttp://a.org/1.jpg", "a dog , running\thttps://b.org/x?id=2", "no address", "three cats\thttp://c"]
CC12M = ["\t".join(reversed(line.split("\t"))) for line in CC3M]


@pytest.mark.parametrize("header", ["", "caption\turl\n"])
@pytest.mark.parametrize("lines", [CC3M, CC12M])
def test_cc3m_and_cc12m_find_the_picture_of_the_rows_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Sequence[str], header: str
) -> None:
    monkeypatch.setattr(readers, "ROWS_PER_UNIT", 2)  # rows 2 and 3 are another unit
    photos = pictures(tmp_path / "photos", "part0/000000000.jpg", "3.png")
    path = tmp_path / "cc.tsv"
    path.write_text(header + "\n".join(lines) + "\n")
    assert len(find_units([path])) == 2
    pairs, damages = read_all(path, photos)
    assert pairs == [("0", "a red kite", "part0/000000000.jpg"), ("3", "three cats", "3.png")]
    assert damages == [("missing image", "1"), ("row is not a caption and an address", "2")]


def test_a_tab_in_a_caption_of_cc12m_stays(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", "0.jpg")
    (tmp_path / "cc12m.tsv").write_bytes(b"http://a.org/1\tone\ttwo\r\nhttp://a.org/2\tcaf\xe9\n")
    pairs, damages = read_all(tmp_path / "cc12m.tsv", photos)
    assert pairs == [("0", "one\ttwo", "0.jpg")]
    assert damages == [("caption is not UTF-8", "1")]


def sbu_files(folder: Path, as_json: bool) -> Path:
    addresses = [f"{FLICKR}/2723/4385058960_b0f291553e.jpg", f"{FLICKR}/1/b_b.jpg", f"{FLICKR}/2/c_c.jpg"]
    captions = ["A wooden chair in the living room", "the river", "lost at sea"]
    if as_json:
        content = {"image_urls": addresses, "user_ids": ["a"] * 3, "captions": captions}
        path = folder / "sbu-captions-all.json"
        path.write_text(json.dumps(content))
        return path
    (folder / SBU_ADDRESSES).write_text("\n".join(addresses) + "\n")
    (folder / SBU_CAPTIONS).write_text("\n".join(captions) + "\n")
    return folder / SBU_ADDRESSES


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("size", [1, 2, 10])
def test_sbu_in_both_forms_by_number_or_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool, size: int
) -> None:
    monkeypatch.setattr(readers, "ROWS_PER_UNIT", size)
    photos = pictures(tmp_path / "photos", "4385058960_b0f291553e.jpg", "000001.jpg")
    pairs, damages = read_all(sbu_files(tmp_path, as_json), photos)
    assert pairs == [
        ("0", "A wooden chair in the living room", "4385058960_b0f291553e.jpg"),
        ("1", "the river", "000001.jpg"),
    ]
    assert damages == [("missing image", "2")]


def test_a_caption_of_sbu_that_is_not_utf_8_is_named_so(tmp_path: Path) -> None:
    path = sbu_files(tmp_path, as_json=False)
    (tmp_path / SBU_CAPTIONS).write_bytes(b"caf\xe9\nthe river\nlost at sea\n")
    pairs, damages = read_all(path, pictures(tmp_path / "photos", "0.jpg", "1.jpg", "2.jpg"))
    assert len(pairs) == 2
    assert damages == [("caption is not UTF-8", "0")]


def test_a_row_never_takes_the_picture_of_another_download(tmp_path: Path) -> None:
    (tmp_path / "cc.tsv").write_text(CC3M[0] + "\n")
    photos = pictures(tmp_path / "photos", "training/0.jpg", "validation/00.jpg")
    with pytest.raises(UsageError, match="two pictures of row 0"):
        read_all(tmp_path / "cc.tsv", photos)
    with pytest.raises(UsageError, match="no pictures here"):
        read_all(tmp_path / "cc.tsv", pictures(tmp_path / "none"))
    (tmp_path / "Validation_GCC-1.1.0-Validation.tsv").write_text(CC3M[0] + "\n")
    with pytest.raises(UsageError, match="not of the train split"):
        read_all(tmp_path / "Validation_GCC-1.1.0-Validation.tsv", photos)


def test_img2datasets_metadata_say_whose_picture_it_is(tmp_path: Path) -> None:
    """Shards of 5,000: the first picture of the second, row 5,000, is called 000010000."""
    (tmp_path / "cc.tsv").write_text("\n".join((CC3M[0], CC3M[1])) + "\n")
    photos = pictures(tmp_path / "photos", "000000000.jpg", "000000001.jpg")
    for number in (0, 1):
        (photos / f"00000000{number}.json").write_text(json.dumps({"url": "http://a.org/1.jpg"}))
    pairs, damages = read_all(tmp_path / "cc.tsv", photos)
    assert pairs == [("0", "a red kite", "000000000.jpg")]
    assert damages == [("picture of another row", "1")]


def test_tables_that_are_not_whole_are_named(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", "0.jpg", "1.jpg", "2.jpg")
    (tmp_path / "empty.tsv").write_text("")
    assert read_all(tmp_path / "empty.tsv", photos) == ([], [("empty file", "empty.tsv")])
    for content in (
        "{half",
        "[" * 200_000,
        '{"images": []}',
        '{"image_urls": ["a"], "captions": []}',
        '{"images": [{"sentences": 3}]}',
    ):
        (tmp_path / "a.json").write_text(content)
        assert read_all(tmp_path / "a.json", photos) == ([], [("file can't be read", "a.json")])
    path = sbu_files(tmp_path, as_json=False)
    (tmp_path / SBU_CAPTIONS).write_text("only one\n")
    with pytest.raises(UsageError, match=r"1 lines, SBU_captioned_photo_dataset_urls\.txt has 3"):
        find_units([path])
    (tmp_path / SBU_CAPTIONS).unlink()
    with pytest.raises(UsageError, match="belongs beside"):
        find_units([path])
