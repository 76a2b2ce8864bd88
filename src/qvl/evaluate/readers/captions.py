"""Captions: Nocaps (COCO's format) and Flickr30K (Karpathy's)."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from qvl.data.sources.common import of_form, read_json, rows_of
from qvl.errors import DataError
from qvl.evaluate.rows import Row, at, by_id, text_of, texts_of


def read_coco_captions(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """images of id, file_name; annotations of image_id, caption: several of each picture."""
    [path] = files
    form = "images (id, file_name), annotations (image_id, caption)"
    content = read_json(path)
    if not isinstance(content, dict):
        raise of_form(path, form)
    images = by_id(path, rows_of(path, content.get("images"), form), "id")
    captions: dict[int, list[str]] = defaultdict(list)
    for number, annotation in enumerate(rows_of(path, content.get("annotations"), form)):
        with at(path, f"annotation {number}"):
            if annotation["image_id"] not in images:
                raise DataError(f"{path}: annotation {number}: no picture has the id {annotation['image_id']!r}")
            captions[annotation["image_id"]].append(text_of(annotation, "caption"))
    rows = []
    for key, image in images.items():
        with at(path, f"image {key}"):
            if not captions[key]:
                raise DataError(f"{path}: image {key}: has no caption")
            rows.append(Row(str(key), (images_dir / text_of(image, "file_name"),), {}, captions[key]))
    return rows


def read_karpathy(files: Sequence[Path], images_dir: Path, split: str) -> list[Row]:
    """dataset_flickr30k.json: images of filename, imgid, sentences (raw), split. Exemplars say the first caption."""
    [path] = files
    content = read_json(path)
    rows = []
    form = "images (imgid, filename, split, sentences)"
    for number, image in enumerate(rows_of(path, content.get("images") if isinstance(content, dict) else None, form)):
        with at(path, f"image {number}"):
            if image["split"] != split:
                continue
            said = texts_of({"sentences": [sentence["raw"] for sentence in image["sentences"]]}, "sentences")
            picture = images_dir / text_of(image, "filename")
            rows.append(Row(str(image["imgid"]), (picture,), {}, said, answer=said[0]))
    return rows
