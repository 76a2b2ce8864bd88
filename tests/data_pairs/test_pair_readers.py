"""Pairs out of every format that users hold, and damage as data, not as exceptions."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest_pairs import jpeg, pair, tar_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvl.data.damage import Damage
from qvl.data.pairs import readers
from qvl.data.pairs.archive import Member, read_members
from qvl.data.pairs.readers import find_units, read_unit
from qvl.data.pairs.unit import RawPair
from qvl.errors import UsageError

IMAGE = jpeg()
WHOLE = tar_of({**pair("000", image=IMAGE), **pair("001", image=IMAGE), **pair("002", image=IMAGE)})


def read_all(*inputs: Path, root: Path | None = None) -> list[RawPair | Damage]:
    return [item for unit in find_units(inputs) for item in read_unit(unit, root)]


def keys(items: list[RawPair | Damage]) -> list[str]:
    return [item.key for item in items if isinstance(item, RawPair)]


def kinds(items: list[RawPair | Damage]) -> list[str]:
    return [item.kind for item in items if isinstance(item, Damage)]


def test_img2dataset_tars_with_their_log_beside(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    path = make_tar("00000", pair("000000000", similarity=0.31), pair("000000001"))
    pq.write_table(pa.table({"key": ["000000000"], "status": ["success"]}), path.with_suffix(".parquet"))
    path.with_name("00000_stats.json").write_text("{}")
    first, second = read_all(path.parent)
    assert isinstance(first, RawPair)
    assert (first.key, first.fields["similarity"], first.fields["txt"]) == (
        "000000000",
        0.31,
        "a red kite over a field",
    )
    assert isinstance(second, RawPair)


@pytest.mark.parametrize("image", [IMAGE, {"bytes": IMAGE, "path": None}])
def test_parquet_with_bytes(tmp_path: Path, image: object) -> None:
    name = "jpg" if isinstance(image, bytes) else "image"
    pq.write_table(pa.Table.from_pylist([{name: image, "caption": "x"}] * 3), tmp_path / "a.parquet", row_group_size=2)
    items = read_all(tmp_path)
    assert keys(items) == ["0.0", "0.1", "1.0"]
    assert all(isinstance(item, RawPair) and item.image == IMAGE for item in items)


def test_big_parquet_is_read_in_parts_that_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "ROWS_PER_UNIT", 5)
    rows = [{"jpg": IMAGE, "key": str(i)} for i in range(17)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    assert len(find_units([tmp_path])) == 3
    assert keys(read_all(tmp_path)) == [str(i) for i in range(17)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.text(alphabet="ab中\n", max_size=9), min_size=1, max_size=30), st.integers(7, 60), st.booleans())
def test_lines_are_read_once_wherever_a_part_ends(tmp_path: Path, texts: list[str], size: int, newline: bool) -> None:
    lines = [
        json.dumps({"image": "x.jpg", "text": text, "key": str(i)}, ensure_ascii=False) for i, text in enumerate(texts)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n" * newline, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BYTES_PER_UNIT", size)
        assert keys(read_all(path)) == [str(i) for i in range(len(texts))]


def test_paths_begin_beside_the_file_or_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "lists" / "pairs.jsonl"
    path.parent.mkdir()
    path.write_text('{"image": "a/b.jpg", "caption": "x"}\n')
    [beside] = read_all(path)
    [asked] = read_all(path, root=tmp_path / "photos")
    assert isinstance(beside, RawPair)
    assert isinstance(asked, RawPair)
    assert (beside.image, asked.image) == (tmp_path / "lists/a/b.jpg", tmp_path / "photos/a/b.jpg")


def test_coco_captions_are_one_pair_per_image(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 9, "file_name": "COCO_9.jpg"}, {"id": 4, "file_name": "COCO_4.jpg"}],
        "annotations": [
            {"image_id": 9, "id": 1, "caption": "A dog."},
            {"image_id": 4, "id": 2, "caption": "Two cats."},
            {"image_id": 9, "id": 3, "caption": "A brown dog runs."},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    items = read_all(tmp_path / "captions.json", root=tmp_path / "train2017")
    assert [(i.key, i.fields["caption"], i.image) for i in items if isinstance(i, RawPair)] == [
        ("9", ["A dog.", "A brown dog runs."], tmp_path / "train2017/COCO_9.jpg"),
        ("4", ["Two cats."], tmp_path / "train2017/COCO_4.jpg"),
    ]


def test_img2dataset_files_with_their_log_beside(tmp_path: Path) -> None:
    for name, data in pair("00000/000000000").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    pq.write_table(pa.table({"key": ["000000000"], "status": ["success"]}), tmp_path / "00000.parquet")
    pq.write_table(pa.table({"key": ["000010000"], "status": ["failed"]}), tmp_path / "00001.parquet")  # no folder
    for shard in ("00000", "00001"):
        (tmp_path / f"{shard}_stats.json").write_text("{}")
    [only] = read_all(tmp_path)
    assert isinstance(only, RawPair)
    assert (only.key, only.fields["txt"]) == ("00000/000000000.jpg", "a red kite over a field")


def test_a_folder_of_images_with_captions_beside(tmp_path: Path) -> None:
    for name, text in (("a/one.jpg", "one"), ("two.JPG", None)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(IMAGE)
        if text:
            (tmp_path / name).with_suffix(".txt").write_text(text)
    one, two = read_all(tmp_path)
    assert isinstance(one, RawPair)
    assert (one.key, one.fields) == ("a/one.jpg", {"txt": "one"})
    assert isinstance(two, RawPair)
    assert two.fields == {}


@pytest.mark.parametrize("name", ["x.jsonl", "x.tar", "x.parquet"])
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert [(i.kind, i.rows) for i in read_all(tmp_path) if isinstance(i, Damage)] == [("empty file", 0)]


def test_what_is_no_archive_or_table_is_named(tmp_path: Path) -> None:
    for name in ("x.tar", "x2.parquet", "x3.tar.gz"):
        (tmp_path / name).write_bytes(b"no archive at all, only words" * 50)
    (tmp_path / "y.jsonl").write_text('{"image": "a.jpg"}\n{half\n[1]\n"x"\n\n{"text": "no image"}\n')
    assert kinds(read_all(tmp_path)) == ["file can't be read"] * 3 + ["line is not JSON"] * 3 + ["no image"]
    (tmp_path / "z.json").write_text('{"images": []}')
    assert kinds(read_all(tmp_path / "z.json")) == ["file can't be read"]


def test_a_broken_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    rows = [{"jpg": bytes([i]) * 4000, "key": str(i)} for i in range(6)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    at = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content[at : at + 20] = b"\xff" * 20
    path.write_bytes(content)
    items = read_all(path)
    assert keys(items) == ["0", "1", "4", "5"]
    assert [(i.kind, i.rows) for i in items if isinstance(i, Damage)] == [("row group can't be read", 2)]


def test_nothing_to_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        find_units([tmp_path / "nowhere"])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"no \.tar, \.parquet"):
        find_units([tmp_path])
    for name in ("a", "b"):
        (tmp_path / name / "same").mkdir(parents=True)
        (tmp_path / name / "same" / "0.tar").write_bytes(WHOLE)
    with pytest.raises(UsageError, match=r"same/0\.tar: two inputs have this name"):
        find_units([tmp_path / "a" / "same", tmp_path / "b" / "same"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.integers(1, len(WHOLE) - 1))
def test_a_cut_tar_gives_what_came_before_and_says_so(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.tar"
    path.write_bytes(WHOLE[:cut])
    items = list(read_members(path))
    whole = [m.data for m in members(WHOLE)]
    found = [m.data for m in items if isinstance(m, Member)]
    assert found == whole[: len(found)]
    damages = [m for m in items if isinstance(m, Damage)]
    if cut < 9 * 1024:
        assert len(damages) == 1


def test_a_broken_header_costs_its_member_alone(tmp_path: Path) -> None:
    at = WHOLE.index(b"001.jpg")
    path = tmp_path / "broken.tar"
    path.write_bytes(WHOLE[: at + 100] + b"\xff\xff\xff\xff" + WHOLE[at + 104 :])
    items = list(read_members(path))
    names = [m.name for m in items if isinstance(m, Member)]
    assert names == [m.name for m in members(WHOLE) if m.name != "001.jpg"]
    assert [m.kind for m in items if isinstance(m, Damage)] == ["broken archive member"]


def test_concatenated_tars_are_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "two.tar"
    path.write_bytes(WHOLE + tar_of(pair("003", image=IMAGE)))
    items = list(read_members(path))
    assert len(items) == 12
    assert all(isinstance(item, Member) for item in items)


def members(archive: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return [Member(m.name, opened.extractfile(m).read()) for m in opened]  # type: ignore[union-attr]
