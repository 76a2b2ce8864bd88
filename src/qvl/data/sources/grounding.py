"""Phrases and their boxes: GRIT, Visual Genome's regions, RefCOCO, RefCOCO+ and RefCOCOg."""

import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qvl.data.damage import Damage
from qvl.data.pairs.readers import find_units, read_unit
from qvl.data.sources.common import (
    Annotation,
    Annotations,
    Exchange,
    Frame,
    Statistics,
    of_form,
    other_split,
    read_json,
    rows_of,
)
from qvl.data.sources.grit import Corners, Phrase, parse_phrases, select_phrases, selection_counts
from qvl.data.sources.vqa import vg_images
from qvl.errors import DataError
from qvl.text.markup import Content, Ref, Segment, Text
from qvl.text.prompts import grounded_caption_prefix, grounding_prefix, referring_prefix, region_prefix


def read_grit(files: Sequence[Path], images_dir: Path) -> Annotations:
    """GRIT after img2dataset (tars, or Parquet and JSON lines with image paths): captions whose phrases have boxes.

    Each pair gives its caption with boxes, and every phrase that the selection kept as a question: noun phrases
    for the task grounding, longer expressions for referring.
    """
    for unit in find_units(files):
        for pair in read_unit(unit, images_dir):
            if isinstance(pair, Damage):
                yield pair
                continue
            key = f"{unit.name}#{pair.key}"
            try:
                yield from _grit_pair(key, pair.image, pair.fields)
            except DataError as error:
                yield Damage("annotation does not fit", key, str(error))


def _grit_pair(key: str, image: Path | bytes, fields: dict[str, Any]) -> Annotations:
    found = parse_phrases(fields)
    kept = select_phrases(found)
    yield Statistics(selection_counts(found, kept))
    if not kept:
        yield Damage("no phrase with a box", key)
        return
    caption = fields["caption"]
    nouns = {(p.start, p.end) for p in parse_phrases(fields, ["noun_chunks"])}
    yield Annotation(key, "grounded_caption", image, _grounded_caption(caption, kept))
    for phrase in kept:
        text = caption[phrase.start : phrase.end]
        noun = (phrase.start, phrase.end) in nouns
        prefix = grounding_prefix(text) if noun else referring_prefix(text)
        task = "grounding" if noun else "referring"
        yield Annotation(f"{key}[{phrase.start}:{phrase.end}]", task, image, _phrase_boxes(prefix, phrase.boxes))


def _grounded_caption(caption: str, phrases: Sequence[Phrase]) -> Callable[[Frame], Exchange]:
    def exchange(frame: Frame) -> Exchange:
        segments: list[Segment] = []
        place = 0
        for phrase in phrases:
            if phrase.start > place:
                segments.append(Text(caption[place : phrase.start]))
            segments += [Ref(caption[phrase.start : phrase.end]), *_boxes(phrase.boxes, frame)]
            place = phrase.end
        if place < len(caption):
            segments.append(Text(caption[place:]))
        return grounded_caption_prefix("en"), tuple(segments)

    return exchange


def _phrase_boxes(prefix: Content, boxes: tuple[Corners, ...]) -> Callable[[Frame], Exchange]:
    return lambda frame: (prefix, _boxes(boxes, frame))


def _boxes(boxes: tuple[Corners, ...], frame: Frame) -> Content:
    width, height = frame.width, frame.height
    return tuple(frame.box((x1 * width, y1 * height, x2 * width, y2 * height)) for x1, y1, x2, y2 in boxes)


def read_visual_genome(files: Sequence[Path], images_dir: Path) -> Annotations:
    """region_descriptions.json; each region is found by its phrase, and described from its box."""
    [path] = files
    find = vg_images(images_dir)
    form = "a list of id and regions (region_id, image_id, phrase, x, y, width, height)"
    for entry in rows_of(path, read_json(path), form):
        regions = [_vg_region(entry, region) for region in entry.get("regions", ())]
        yield from (region for region in regions if isinstance(region, Damage))
        sound = [region for region in regions if not isinstance(region, Damage)]
        for key, image_id, phrase, corners in sound:
            yield Annotation(key, "referring", find(image_id), _found(phrase, corners))
        for key, image_id, phrase, corners in sound:
            yield Annotation(f"{key}-text", "region_caption", find(image_id), _described(phrase, corners))


Region = tuple[str, Any, str, Corners]


def _vg_region(entry: dict[str, Any], region: dict[str, Any]) -> Region | Damage:
    key = str(region.get("region_id", region.get("id")))  # old dumps call it id
    phrase = region.get("phrase")
    if not isinstance(phrase, str) or not phrase.strip():
        return Damage("empty phrase", key)
    try:
        x, y, width, height = (float(region[name]) for name in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError) as error:
        return Damage("annotation does not fit", key, f"x, y, width, height are needed: {error!r}")
    return key, region.get("image_id", entry.get("id")), phrase.strip(), (x, y, x + width, y + height)


def _found(phrase: str, corners: Corners) -> Callable[[Frame], Exchange]:
    return lambda frame: (referring_prefix(phrase), (frame.box(corners),))


def _described(phrase: str, corners: Corners) -> Callable[[Frame], Exchange]:
    return lambda frame: (region_prefix(frame.box(corners)), (Text(phrase),))


def read_refcoco(files: Sequence[Path], images_dir: Path) -> Annotations:
    """refs(unc).p or refs(umd).p, then instances.json: every sentence of the train split, with its object's box, but
    for pictures that another split has too."""
    refs_path, instances_path = files
    instances = read_json(instances_path)
    try:
        boxes = {a["id"]: a["bbox"] for a in instances["annotations"]}
        names = {image["id"]: image["file_name"] for image in instances["images"]}
        refs = [(r, str(r["ref_id"]), r["sentences"]) for r in read_plain_pickle(refs_path)]
    except (KeyError, TypeError) as error:
        raise of_form(
            refs_path, "refs of ref_id, ann_id, image_id, split, sentences; instances of images, annotations"
        ) from error
    held_out = {ref.get("image_id") for ref, _, _ in refs if ref.get("split") != "train"}
    for ref, key, sentences in refs:
        if ref.get("ann_id") not in boxes or ref.get("image_id") not in names:
            yield Damage(
                "annotation does not fit", key, "its image or object is not in instances.json", rows=len(sentences)
            )
            continue
        # file_name of a ref carries the object's number; the image's own name is in instances.json
        image = images_dir / names[ref["image_id"]]
        if ref.get("split") != "train":
            yield other_split(key, ref.get("split"), image, len(sentences))
            continue
        if ref["image_id"] in held_out:  # Google's split of RefCOCOg is one of objects, not of pictures
            yield Damage("its picture is of another split too", key, str(image), rows=len(sentences))
            continue
        x, y, width, height = boxes[ref["ann_id"]]
        for sentence in sentences:
            text = str(sentence.get("sent", "")).strip()
            sent_key = f"{key}-{sentence.get('sent_id')}"
            if text:
                yield Annotation(sent_key, "referring", image, _found(text, (x, y, x + width, y + height)))
            else:
                yield Damage("empty phrase", sent_key)


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, texts and numbers; anything that would call something is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """A pickle of plain values, written by Python 2 or 3. DataError for a damaged one and for one with code in it."""
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give the data set's own refs file") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a pickle of plain values ({error}); code in pickles is never run") from error
