"""From a data set's own file to the string that the model reads: the formats of appendix B.1, with its own examples.

Every picture has 1000 x 1000 pixels, so that its coordinates are those of the paper.
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from qvl.data.ocr.page import Page
from qvl.data.ocr.samples import ocr_sample
from qvl.data.pairs.run import clean_pairs
from qvl.data.sample import Sample, read_split
from qvl.data.sources.convert import convert
from qvl.data.synth.build import SynthConfig, page_sample
from qvl.data.synth.page import SynthPage
from qvl.text.render import render, supervised_text
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.text.tokenizer import Tokenizer

TINY = Tokenizer.tiny()
PLACES = 4
END = "<|endoftext|>"
PICTURE = PILImage.new("RGB", (1000, 1000), (90, 120, 40))


def as_read(sample: Sample) -> tuple[str, str, str]:
    """(task, what is read without loss behind the picture, what is learnt) of a sample with one exchange."""
    rendered = render([(turn.role, turn.content) for turn in sample.turns], sample.task, TINY, PLACES)
    assert rendered is not None
    before = [i for i, label in zip(rendered.input_ids, rendered.labels, strict=True) if label == IGNORE_INDEX]
    span = [TINY.special.img_start, *[TINY.special.img_pad] * PLACES, TINY.special.img_end]
    if sample.images:
        assert before[: len(span)] == span
        before = before[len(span) :]
    assert rendered.input_ids[-1] == rendered.labels[-1] == TINY.special.endoftext
    return sample.task, TINY.decode(before), supervised_text(rendered, TINY)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("0.png", "VG_100K/1.jpg", "COCO_train2014_000000000009.jpg", "pairs/0.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PICTURE.save(tmp_path / name)
    return tmp_path


def converted(dataset: str, folder: Path, **files: Any) -> list[tuple[str, str, str]]:
    """Of a data set's files by name (with __ for the dot), converted in the paper's form: one exchange each."""
    paths = []
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        paths.append(path)
    convert(dataset, paths, folder / dataset, images_dir=folder, exchanges=1)
    return [as_read(sample) for sample in read_split(folder / dataset)]


def test_caption(photos: Path) -> None:
    for language, word, text in (
        ("en", "English", "the beautiful flowers for design."),
        ("zh", "Chinese", "用于设计的漂亮花朵。"),
    ):
        (photos / "pairs" / "0.txt").write_text(text, encoding="utf-8")
        clean_pairs([photos / "pairs"], photos / language, "in_house", workers=1)
        [sample] = read_split(photos / language)
        assert as_read(sample) == ("caption", f"Generate the caption in {word}:", f" {text}{END}")


def test_vqa_and_ocr_vqa(photos: Path) -> None:
    question = "Does the bandage have a different color than the wrist band?"
    asked = {"data_subtype": "train2014", "questions": [{"question_id": 1, "image_id": 9, "question": question}]}
    answers = {"annotations": [{"question_id": 1, "multiple_choice_answer": "No."}]}
    assert converted("vqav2", photos, q__json=asked, a__json=answers) == [("vqa", f"{question} Answer:", f" No.{END}")]
    title = "What is the title of this book?"
    book = {"imageURL": "a.png", "questions": [title], "answers": ["Asi Se Dice!"], "split": 1}
    assert converted("ocrvqa", photos, d__json={"0": book}) == [("vqa", f"{title} Answer:", f" Asi Se Dice!{END}")]


def test_grounded_caption_and_grounding(photos: Path) -> None:
    caption = "Beautiful shot of bees gathering nectars from an apricot flower"
    boxes = [(0.6611, 0.6121, 0.8331, 0.8121), (0.1201, 0.5551, 0.2651, 0.7701)]
    flower = (caption.index("an apricot"), len(caption), 0.2241, 0.0131, 0.3991, 0.3131, 0.8)
    row = {"image_path": "0.png", "caption": caption, "noun_chunks": [(18, 22, *box, 0.9) for box in boxes] + [flower]}
    bees = "<box>(120,555),(265,770)</box><box>(661,612),(833,812)</box>"  # ours from left to right
    apricot = "<box>(224,13),(399,313)</box>"
    flower_text = f"<ref>an apricot flower</ref>{apricot}"
    assert converted("grit", photos, g__jsonl=row) == [
        (
            "grounded_caption",
            "Generate the caption in English with grounding:",
            f" Beautiful shot of <ref>bees</ref>{bees} gathering nectars from {flower_text}{END}",
        ),
        ("grounding", "<ref>bees</ref>", f"{bees}{END}"),
        ("grounding", "<ref>an apricot flower</ref>", f"{apricot}{END}"),
    ]


def test_referring_of_regions_and_their_description(photos: Path) -> None:
    ear = {"phrase": "the ear on a giraffe", "x": 176, "y": 106, "width": 56, "height": 54}
    gloves = {"phrase": "Yellow cross country ski racing gloves", "x": 360, "y": 542, "width": 116, "height": 163}
    regions = [{"region_id": i, "image_id": 1, **region} for i, region in enumerate((ear, gloves))]
    assert converted("vg", photos, r__json=[{"id": 1, "regions": regions}]) == [
        ("referring", "<ref>the ear on a giraffe</ref>", f"<box>(176,106),(232,160)</box>{END}"),
        (
            "referring",
            "<ref>Yellow cross country ski racing gloves</ref>",
            f"<box>(360,542),(476,705)</box>{END}",
        ),
        ("region_caption", "<ref>This</ref><box>(176,106),(232,160)</box> is", f" the ear on a giraffe{END}"),
        (
            "region_caption",
            "<ref>This</ref><box>(360,542),(476,705)</box> is",
            f" Yellow cross country ski racing gloves{END}",
        ),
    ]


@pytest.mark.parametrize("refs_name", ["refs(unc)__p", "refs(umd)__p"])  # RefCOCO and RefCOCO+, RefCOCOg
def test_referring_of_objects(photos: Path, refs_name: str) -> None:
    sentences = [{"sent_id": 0, "sent": "the ear on a giraffe", "raw": "The ear on a giraffe."}]
    refs = [
        {"ref_id": i, "ann_id": 5, "image_id": 9 + i, "split": split, "sentences": sentences}
        for i, split in enumerate(("train", "val", "test"))
    ]
    instances = {
        "images": [{"id": 9 + i, "file_name": f"COCO_train2014_{9 + i:012d}.jpg"} for i in range(3)],
        "annotations": [{"id": 5, "image_id": 9, "bbox": [176.0, 106.0, 56.0, 54.0]}],
    }
    assert converted("refcoco", photos, **{refs_name: pickle.dumps(refs)}, i__json=instances) == [
        ("referring", "<ref>the ear on a giraffe</ref>", f"<box>(176,106),(232,160)</box>{END}")
    ]


def test_ocr_of_documents_and_drawn_text() -> None:
    corners = ((568.0, 121.0), (625.0, 131.0), (624.0, 182.0), (567.0, 172.0))
    wanted = (
        "ocr",
        "OCR with grounding:",
        f" <ref>It is managed</ref><quad>(568,121),(625,131),(624,182),(567,172)</quad>{END}",
    )
    page = Page(PICTURE, (), "a.pdf", 0)
    assert as_read(ocr_sample(PICTURE, [("It is managed", corners)], page)) == wanted
    buffer = io.BytesIO()
    PICTURE.save(buffer, "JPEG")
    drawn = SynthPage(buffer.getvalue(), PICTURE.size, (("It is managed", np.array(corners)),), ())
    assert as_read(page_sample(drawn, SynthConfig(1), 0)) == wanted


def test_pure_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Once upon a time.")
    convert("text", [tmp_path / "a.txt"], tmp_path / "out")
    [sample] = read_split(tmp_path / "out")
    assert as_read(sample) == ("text", "", f"Once upon a time.{END}")
