"""Phrases whose box is asked for: RefCOCO, RefCOCO+, RefCOCOg, and GRIT's refexp (General Robust Image Task)."""

from collections.abc import Sequence
from pathlib import Path

from qvl import images
from qvl.data.sources.common import of_form, read_json, rows_of
from qvl.data.sources.grounding import read_plain_pickle
from qvl.evaluate.rows import Row, at, by_id, text_of


def read_refcoco(files: Sequence[Path], images_dir: Path, split: str) -> list[Row]:
    """refs(unc).p or refs(umd).p, then instances.json: every sentence of a split with its object's box, in pixels."""
    refs_path, instances_path = files
    instances = read_json(instances_path)
    form = "images (id, file_name, width, height), annotations (id, bbox)"
    if not isinstance(instances, dict):
        raise of_form(instances_path, form)
    objects = by_id(instances_path, rows_of(instances_path, instances.get("annotations"), form), "id")
    pictures = by_id(instances_path, rows_of(instances_path, instances.get("images"), form), "id")
    rows = []
    for number, ref in enumerate(rows_of(refs_path, read_plain_pickle(refs_path), "a list of refs")):
        with at(refs_path, f"ref {number}"):
            if ref["split"] != split:
                continue
            sentences, key = ref["sentences"], ref["ref_id"]
            if ref["ann_id"] not in objects or ref["image_id"] not in pictures:
                raise ValueError(f"object {ref['ann_id']} or picture {ref['image_id']} is not in {instances_path.name}")
        with at(instances_path, f"object {ref['ann_id']}"):
            x, y, width, height = map(float, objects[ref["ann_id"]]["bbox"])
            picture = pictures[ref["image_id"]]
            truth = {"box": [x, y, x + width, y + height], "width": picture["width"], "height": picture["height"]}
            image = images_dir / text_of(picture, "file_name")
        for sentence in sentences:
            with at(refs_path, f"ref {number}"):
                fields = {"phrase": text_of(sentence, "sent")}
                rows.append(Row(f"{key}-{sentence['sent_id']}", (image,), fields, truth))
    return rows


def read_grit_refexp(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """samples/test/refexp.json: example_id, image_id (the picture's path), task_query. The boxes are the server's."""
    [path] = files
    form = "a list of example_id, image_id, task_query"
    rows = []
    for key, row in by_id(path, rows_of(path, read_json(path), form), "example_id").items():
        with at(path, f"example {key}"):
            image, fields = images_dir / text_of(row, "image_id"), {"phrase": text_of(row, "task_query")}
        width, height = images.probe(image) if image.is_file() else (0, 0)
        rows.append(Row(str(key), (image,), fields, {"width": width, "height": height}))
    return rows
