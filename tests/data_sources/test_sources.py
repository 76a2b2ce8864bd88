"""Every data set in its true format, as a small file of the same form; what does not fit is counted by kind."""

import base64
import json
import pickle
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from qvl.cli import main
from qvl.data.lint import lint
from qvl.data.sample import Sample, read_split
from qvl.data.sources.convert import DATASETS, ConvertReport, convert
from qvl.errors import DataError, UsageError
from qvl.text.markup import Box, Image, Quad, Ref, Text, to_string


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images of 200 x 100 pixels, whatever is asked for by name."""
    return tmp_path / "photos"


def picture(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (200, 100), (70, 90, 120)).save(path)


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def converted(
    name: str, files: Sequence[Path], photos: Path, out: Path, **options: Any
) -> tuple[ConvertReport, list[Sample]]:
    report = convert(name, files, out, images_dir=photos, **options)
    samples = list(read_split(out)) if report.samples else []
    for sample in samples:
        assert lint(sample) == []
    assert report.samples == len(samples)
    return report, samples


def asked(sample: Sample) -> list[tuple[str, str]]:
    texts = [to_string(turn.content) for turn in sample.turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def vqa_files(folder: Path, subset: str = "train2014") -> list[Path]:
    questions = [
        {"image_id": 9, "question": "Is it raining?", "question_id": 9000},
        {"image_id": 9, "question": "How many dogs?", "question_id": 9001},
        {"image_id": 25, "question": "What colour?", "question_id": 25000},
        {"image_id": 25, "question": "Unanswered?", "question_id": 25001},
    ]
    annotations = [
        {"question_id": 9000, "image_id": 9, "multiple_choice_answer": "no", "answers": [{"answer": "yes"}]},
        {"question_id": 9001, "image_id": 9, "answers": [{"answer": a, "raw_answer": a} for a in ("2", "two", "2")]},
        {"question_id": 25000, "image_id": 25, "multiple_choice_answer": "red", "answers": []},
    ]
    return [
        written(folder, "q.json", {"data_type": "mscoco", "data_subtype": subset, "questions": questions}),
        written(folder, "a.json", {"annotations": annotations}),
    ]


def test_vqav2_and_okvqa(tmp_path: Path, photos: Path) -> None:
    picture(photos, "COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg")
    report, samples = converted("vqav2", vqa_files(tmp_path), photos, tmp_path / "out")
    assert [asked(s) for s in samples] == [
        [("Is it raining? Answer:", "no"), ("How many dogs? Answer:", "2")],
        [("What colour? Answer:", "red")],
    ]
    assert dict(report.left_out) == {"question without answer": 1}
    assert samples[0].provenance["rows"] == ["9000", "9001"]
    _, alone = converted("okvqa", vqa_files(tmp_path), photos, tmp_path / "alone", exchanges=1)
    assert [asked(s)[0][1] for s in alone] == ["no", "2", "red"]
    report, _ = converted("vqav2", vqa_files(tmp_path, "val2014"), photos, tmp_path / "val")
    assert dict(report.left_out) == {"not of the train split": 4}


def single(name: str, files: Sequence[Path], photos: Path, out: Path) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """All questions and answers, and what was left out."""
    report, samples = converted(name, files, photos, out)
    return [pair for sample in samples for pair in asked(sample)], dict(report.left_out)


def test_gqa_in_both_forms(tmp_path: Path, photos: Path) -> None:
    picture(photos, "2405722.jpg")
    row = {"question": "What bird?", "imageId": "2405722", "answer": "parrot", "fullAnswer": "This is a parrot."}
    first = written(tmp_path, "train_balanced_questions.json", {"05515938": row})
    second = written(
        tmp_path,
        "lavis.json",
        [{"image": "2405722.jpg", "question": "What bird?", "answer": "parrot", "question_id": 1}],
    )
    for number, path in enumerate((first, second)):
        assert single("gqa", [path], photos, tmp_path / f"out{number}") == ([("What bird? Answer:", "parrot")], {})


def test_visual_genome_questions_in_both_image_folders(tmp_path: Path, photos: Path) -> None:
    picture(photos, "VG_100K/1.jpg", "VG_100K_2/2.jpg")
    qas = [
        {
            "id": 1,
            "qas": [{"qa_id": 986768, "image_id": 1, "question": "What color is the clock?", "answer": "Green."}],
        },
        {"id": 2, "qas": [{"qa_id": 3, "image_id": 2, "question": "Who?", "answer": "Nobody."}]},
        {"id": 3, "qas": [{"qa_id": 4, "image_id": 3, "question": "Where?", "answer": "There."}]},
    ]
    found = single("vgqa", [written(tmp_path, "qa.json", qas)], photos, tmp_path / "out")
    assert found == ([("What color is the clock? Answer:", "Green"), ("Who? Answer:", "Nobody")], {"missing image": 1})


def test_dvqa(tmp_path: Path, photos: Path) -> None:
    picture(photos, "bar_train_00000000.png")
    rows = [
        {
            "image": "bar_train_00000000.png",
            "question": "How many bars?",
            "answer": "3",
            "question_id": 1,
            "answer_bbox": [],
        },
        {"image": "bar_val_easy_00000000.png", "question": "How many?", "answer": "3", "question_id": 2},
    ]
    found = single("dvqa", [written(tmp_path, "train_qa.json", rows)], photos, tmp_path / "out")
    assert found == ([("How many bars? Answer:", "3")], {"not of the train split": 1})


def test_ocrvqa(tmp_path: Path, photos: Path) -> None:
    picture(photos, "761183272.jpg")
    book = {
        "imageURL": "http://x.com/61Y5cOdHJbL.jpg",
        "questions": ["Who wrote this?", "Year?"],
        "answers": ["Sandra Boynton", ""],
    }
    content = {"761183272": {**book, "split": 1}, "8": {**book, "split": 3}}
    found = single("ocrvqa", [written(tmp_path, "dataset.json", content)], photos, tmp_path / "out")
    assert found == ([("Who wrote this? Answer:", "Sandra Boynton")], {"no answer": 1, "not of the train split": 2})


def test_docvqa_and_textvqa(tmp_path: Path, photos: Path) -> None:
    picture(photos, "documents/pybv0228_81.png", "003a8ae2ef43b901.jpg")
    doc = {"questionId": 49153, "question": "What number?", "image": "documents/pybv0228_81.png", "answers": ["2000"]}
    data = {"dataset_name": "SP-DocVQA", "data": [{**doc, "data_split": "train"}, {**doc, "data_split": "val"}]}
    found = single("docvqa", [written(tmp_path, "train_v1.0.json", data)], photos, tmp_path / "doc")
    assert found == ([("What number? Answer:", "2000")], {"not of the train split": 1})
    row = {"question": "what brand?", "image_id": "003a8ae2ef43b901", "question_id": 34602, "set_name": "train"}
    data = {"data": [{**row, "answers": ["kodak", "dakota", "dakota"]}]}
    found = single("textvqa", [written(tmp_path, "TextVQA.json", data)], photos, tmp_path / "text")
    assert found == ([("what brand? Answer:", "dakota")], {})


def test_chartqa(tmp_path: Path, photos: Path) -> None:
    picture(photos, "417.png")
    human = written(
        tmp_path, "train_human.json", [{"imgname": "417.png", "query": "How much in 2019?", "label": "3.5"}]
    )
    made = written(tmp_path, "train_augmented.json", [{"imgname": "417.png", "query": "And in 2020?", "label": 4}])
    found = single("chartqa", [human, made], photos, tmp_path / "out")
    assert found == ([("How much in 2019? Answer:", "3.5"), ("And in 2020? Answer:", "4")], {})


def test_ai2d(tmp_path: Path, photos: Path) -> None:
    picture(photos, "0.png", "1.png")
    for number in (0, 1):
        questions = {
            "What is A in the diagram?": {
                "abcLabel": True,
                "answerTexts": ["ears", "{}", "mouth"],
                "correctAnswer": 2,
                "questionId": f"{number}.png-0",
            },
            "Which part hears?": {"answerTexts": ["ears"], "correctAnswer": 0, "questionId": f"{number}.png-2"},
            "Which is null?": {"answerTexts": ["{}"], "correctAnswer": 0, "questionId": f"{number}.png-1"},
        }
        written(tmp_path, f"questions/{number}.png.json", {"imageName": f"{number}.png", "questions": questions})
    held_out = written(tmp_path, "ai2d_test_ids.csv", "1\n")
    found = single("ai2d", [tmp_path / "questions", held_out], photos, tmp_path / "out")
    assert found == (
        [("Which part hears? Answer:", "ears")],
        {"question about letters that the picture does not show": 1, "no answer": 1, "not of the train split": 3},
    )
    with pytest.raises(DataError, match="no such folder"):
        single("ai2d", [tmp_path / "quesitons", held_out], photos, tmp_path / "out2")


def test_visual_genome_regions(tmp_path: Path, photos: Path) -> None:
    picture(photos, "VG_100K/61512.jpg")
    regions = [
        {"region_id": 1, "image_id": 61512, "phrase": "A sleek horse", "x": 20, "y": 10, "width": 100, "height": 50},
        {"id": 2, "image_id": 61512, "phrase": "the sky ", "x": -5, "y": -5, "width": 400, "height": 30},
        {"region_id": 3, "image_id": 61512, "phrase": " ", "x": 0, "y": 0, "width": 5, "height": 5},
        {"region_id": 4, "image_id": 61512, "phrase": "outside", "x": 300, "y": 0, "width": 5, "height": 5},
    ]
    report, samples = converted(
        "vg", [written(tmp_path, "r.json", [{"id": 61512, "regions": regions}])], photos, tmp_path / "out"
    )
    assert [s.task for s in samples] == ["referring", "region_caption"]
    assert asked(samples[0]) == [
        ("<ref>A sleek horse</ref>", "<box>(100,100),(600,600)</box>"),
        ("<ref>the sky</ref>", "<box>(0,0),(999,250)</box>"),
    ]
    assert asked(samples[1])[0] == ("<ref>This</ref><box>(100,100),(600,600)</box> is", "A sleek horse")
    assert dict(report.left_out) == {"empty phrase": 1, "box has no area inside the image": 2}
    assert report.statistics == {"boxes cut at the picture's edge": 2}  # the sky's, asked for and described


def refcoco_files(folder: Path, protocol: int) -> list[Path]:
    sentence = {"tokens": ["the", "lady"], "raw": "THE LADY", "sent_id": 0, "sent": "the lady with the blue shirt"}
    ref = {
        "sent_ids": [0],
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "ann_id": 1719310,
        "ref_id": 0,
        "image_id": 581857,
    }
    refs = [{**ref, "split": "train", "sentences": [sentence, {**sentence, "sent_id": 1, "sent": "lady"}]}]
    refs += [
        {**ref, "split": "testA", "image_id": 9, "sentences": [sentence]},
        {**ref, "ann_id": 5, "split": "train", "sentences": [sentence]},
    ]
    folder.mkdir(exist_ok=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=protocol))
    instances = {
        "images": [
            {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "width": 200, "height": 100} for i in (581857, 9)
        ],
        "annotations": [{"id": 1719310, "image_id": 581857, "category_id": 1, "bbox": [50.0, 25.0, 100.0, 50.0]}],
    }
    return [folder / "refs(unc).p", written(folder, "instances.json", instances)]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refcoco(tmp_path: Path, photos: Path, protocol: int) -> None:
    picture(photos, "COCO_train2014_000000581857.jpg")
    report, [sample] = converted("refcoco", refcoco_files(tmp_path, protocol), photos, tmp_path / "out")
    assert asked(sample) == [
        ("<ref>the lady with the blue shirt</ref>", "<box>(250,250),(750,750)</box>"),
        ("<ref>lady</ref>", "<box>(250,250),(750,750)</box>"),
    ]
    assert dict(report.left_out) == {"not of the train split": 1, "annotation does not fit": 1}


def test_a_picture_of_two_splits_of_refcoco_is_not_learnt(tmp_path: Path, photos: Path) -> None:
    """Google's split of RefCOCOg divides the objects, not the pictures."""
    picture(photos, "COCO_train2014_000000581857.jpg")
    files = refcoco_files(tmp_path, 2)
    refs = pickle.loads(files[0].read_bytes())
    refs[1]["image_id"] = 581857
    files[0].write_bytes(pickle.dumps(refs))
    report, _ = converted("refcoco", files, photos, tmp_path / "out")
    assert report.samples == 0
    assert report.left_out["its picture is of another split too"] == 2


class Evil:
    """What an attacker's pickle would call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", "/tmp/qvl-pickle-ran"],)


def test_code_in_a_pickle_is_not_run(tmp_path: Path, photos: Path) -> None:
    files = refcoco_files(tmp_path, 2)
    for content in (pickle.dumps([Evil()]), b"no pickle", b""):
        files[0].write_bytes(content)
        with pytest.raises(DataError, match="not a pickle of plain values"):
            convert("refcoco", files, tmp_path / "out", images_dir=photos)
    assert not Path("/tmp/qvl-pickle-ran").exists()
    assert not (tmp_path / "out").exists()


def test_grit_gives_captions_with_boxes_and_each_phrase(tmp_path: Path, photos: Path) -> None:
    picture(photos, "h.jpg")
    row = {
        "key": "000",
        "image_path": "h.jpg",
        "caption": "a wire hanger with a paper cover",
        "noun_chunks": [[0, 13, 0.02, 0.02, 0.96, 0.98, 0.8], [19, 32, 0.02, 0.3, 0.9, 0.9, 0.7]],
        "ref_exps": [[0, 32, 0.02, 0.02, 0.96, 0.98, 0.8], [19, 32, 0.02, 0.3, 0.9, 0.9, 0.7]],
    }
    rows = [row, {**row, "key": "001", "noun_chunks": []}, {**row, "key": "002", "noun_chunks": [], "ref_exps": []}]
    rows += [{**row, "key": "003", "ref_exps": [[0, 99, 0, 0, 1, 1, 1]]}, {"key": "004", "caption": "no image"}]
    lines = written(tmp_path, "grit.jsonl", "\n".join(map(json.dumps, rows)))
    report, samples = converted("grit", [lines], photos, tmp_path / "out")
    assert [(s.task, *asked(s)) for s in samples] == [
        (
            "grounded_caption",
            (
                "Generate the caption in English with grounding:",
                "<ref>a wire hanger</ref><box>(20,20),(960,980)</box> with <ref>a paper cover</ref><box>(20,300),(900,900)</box>",
            ),
        ),
        (
            "grounding",
            ("<ref>a wire hanger</ref>", "<box>(20,20),(960,980)</box>"),
            ("<ref>a paper cover</ref>", "<box>(20,300),(900,900)</box>"),
        ),
        (
            "grounded_caption",
            (
                "Generate the caption in English with grounding:",
                f"<ref>{row['caption']}</ref><box>(20,20),(960,980)</box>",
            ),
        ),
        ("referring", (f"<ref>{row['caption']}</ref>", "<box>(20,20),(960,980)</box>")),
    ]
    assert dict(report.left_out) == {"no phrase with a box": 1, "annotation does not fit": 1, "no image": 1}
    assert "phrases found: 5" in report.summary()
    assert (report.statistics["captions"], report.statistics["phrases kept"], report.statistics["boxes kept"]) == (
        3,
        3,
        3,
    )


def test_qwens_own_dialogues(tmp_path: Path, photos: Path) -> None:
    picture(photos, "demo.jpeg", "b.png")
    question = {
        "from": "user",
        "value": "Picture 1: <img>demo.jpeg</img>\nPicture 2: <img>b.png</img>\n图中的狗是什么品种？",
    }
    answer = {
        "from": "assistant",
        "value": "<ref>格子衬衫</ref><box>(588,499),(725,789)</box>，<ref>字</ref><quad>(1,2),(9,2),(9,8),(1,8)</quad>",
    }
    rows = [
        {"id": "identity_0", "conversations": [answer, question, answer]},
        {
            "id": "floats",
            "conversations": [
                {"from": "user", "value": "Where?"},
                {"from": "assistant", "value": "<box>(0.1,0.2),(0.3,0.4)</box>"},
            ],
        },
        {
            "id": "pixels",
            "conversations": [
                {"from": "user", "value": "Where?"},
                {"from": "assistant", "value": "<box>(10,20),(1300,400)</box>"},
            ],
        },
        {
            "id": "open",
            "conversations": [{"from": "user", "value": "<img>demo.jpeg"}, {"from": "assistant", "value": "x"}],
        },
        {"id": "twice", "conversations": [question, question, answer]},
        {"id": "gone", "conversations": [{"from": "user", "value": "<img>gone.jpg</img>x"}, answer]},
        {"id": "empty", "conversations": []},
    ]
    report, [sample] = converted("qwen", [written(tmp_path, "c.json", rows)], photos, tmp_path / "out")
    assert sample.turns[0].content == (Image(0), Image(1), Text("图中的狗是什么品种？"))
    assert sample.turns[1].content == (
        Ref("格子衬衫"),
        Box(588, 499, 725, 789),
        Text("，"),
        Ref("字"),
        Quad(1, 2, 9, 2, 9, 8, 1, 8),
    )
    assert (sample.language, len(sample.images), len(sample.turns)) == ("zh", 2, 2)
    assert dict(report.left_out) == {
        "tags that can't be read": 3,
        "user and assistant don't take turns": 1,
        "missing image": 1,
        "no messages": 1,
    }


def test_llava_and_internvl(tmp_path: Path, photos: Path) -> None:
    picture(photos, "a/1.jpg", "a/2.jpg")
    human = {"from": "human", "value": "<image>\nWhere is the shirt?"}
    gpt = {"from": "gpt", "value": "<ref>the shirt</ref><box>[[243, 469, 558, 746], [1, 2, 3, 4]]</box>"}
    rows = [
        {"id": "1", "image": "a/1.jpg", "conversations": [human, gpt]},
        {"id": "2", "image": ["a/1.jpg", "a/2.jpg"], "conversations": [{"from": "human", "value": "Compare."}, gpt]},
        {"id": "3", "image": "a/1.jpg", "conversations": [{"from": "human", "value": "<image><image>x"}, gpt]},
        {"id": "4", "image": ["a/1.jpg", "a/2.jpg"], "conversations": [human, gpt]},
        {
            "id": "5",
            "image": "a/1.jpg",
            "conversations": [human, {"from": "gpt", "value": "<box>[[0.1, 0.2, 0.3, 0.4]]</box>"}],
        },
        {"id": "6", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]},
        {"id": "7", "image": "a/1.jpg", "conversations": [human, gpt, {"from": "human", "value": "And then?"}]},
        {
            "id": "7",
            "image": "a/1.jpg",
            "conversations": [human, {"from": "gpt", "value": "<ref>it</ref><box>[[0,9,1000,99]]</box>"}],
        },
        {"id": "8", "image": "a/1.jpg", "conversations": [human, {"from": "gpt", "value": "the <ref>cat is here"}]},
        {"id": "9", "image": "a/1.jpg", "conversations": [human, {"from": "gpt", "value": "the end</box>"}]},
        {"id": "10", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "\ud83d"}]},
        {"id": "11", "image": "a\0b", "conversations": [human, gpt]},
    ]
    report, samples = converted("llava", [written(tmp_path, "l.json", rows)], photos, tmp_path / "out")
    assert [s.provenance["row"] for s in samples] == [
        "l.json#1",
        "l.json#2",
        "l.json#6",
        "l.json#7",
        "l.json#7 row 7",
    ]
    assert len({s.id for s in samples}) == 5
    assert samples[4].turns[1].content == (Ref("it"), Box(0, 9, 999, 99))
    assert samples[0].turns[0].content == (Image(0), Text("Where is the shirt?"))
    assert samples[0].turns[1].content == (Ref("the shirt"), Box(243, 469, 558, 746), Box(1, 2, 3, 4))
    assert samples[1].turns[0].content == (Image(0), Image(1), Text("Compare."))
    assert dict(report.left_out) == {
        "more <image> marks than images": 1,
        "more images than <image> marks": 1,
        "box is not (x1,y1),(x2,y2) with integers in [0, 1000), x1 <= x2 and y1 <= y2": 1,
        "tag that does not close": 2,
        "text is not Unicode": 1,
        "missing image": 1,
    }


def test_messages_of_sharegpt_and_openai(tmp_path: Path, photos: Path) -> None:
    picture(photos, "1.jpg")
    uri = "data:image/jpeg;base64," + base64.b64encode((photos / "1.jpg").read_bytes()).decode()
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": uri, "detail": "auto"}},
    ]
    fetched = [{"type": "image_url", "image_url": {"url": "https://example.org/1.jpg"}}]
    answer = {"role": "assistant", "content": "A wall."}
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "<image>Who?"},
                answer,
            ],
            "images": ["1.jpg"],
        },
        {"messages": [{"role": "user", "content": parts}, answer]},
        {"messages": [{"role": "user", "content": fetched}, answer]},
        {"messages": [{"role": "tool", "content": "x"}, answer]},
    ]
    path = written(tmp_path, "m.jsonl", "\n".join(map(json.dumps, rows)))
    report, samples = converted("messages", [path], photos, tmp_path / "out")
    assert [turn.role for turn in samples[0].turns] == ["system", "user", "assistant"]
    assert samples[1].turns[0].content == (Text("What is it?"), Image(0))
    assert samples[1].images[0] == (photos / "1.jpg").read_bytes()
    assert dict(report.left_out) == {
        "an image is an address; fetch it first and name the file": 1,
        "a message without role (user, assistant, system) and content": 1,
    }


def swift(question: str, answer: str, objects: Any, images: Sequence[str] = ("1.jpg",)) -> dict[str, Any]:
    spoken = [("system", "You are a helpful assistant."), ("user", question), ("assistant", answer)]
    messages = [{"role": role, "content": content} for role, content in spoken]
    return {"messages": messages, "images": list(images), "objects": objects}


def test_objects_of_ms_swift_become_phrases_and_boxes(tmp_path: Path, photos: Path) -> None:
    picture(photos, "1.jpg")
    PILImage.new("RGB", (1000, 500), (9, 90, 9)).save(photos / "2.png")
    both = {"ref": ["a dog", "a woman"], "bbox": [[20, 10, 100.0, 50], [250, 125, 500, 250]], "image_id": [0, 1]}
    turned = {"ref": ["sheep"], "bbox": [[0.5, 0.6, 0.1, 0.2], [0.0, 0.0, 1.2, 1.0]], "bbox_type": "norm1"}
    find = ("<image>Find the <ref-object> in the image", "<bbox>")
    rows = [
        swift("<image><image>Describe.", "<ref-object><bbox> and <ref-object><bbox>", both, ["1.jpg", "2.png"]),
        swift(find[0], "<bbox><bbox>", turned),
        swift(find[0], "<bbox><bbox>", {"ref": ["sheep"], "bbox": [[20, 10, 100, 50]]}),
        swift(*find, {"ref": ["sheep"], "bbox": [[20, 10, 100, 50]] * 2}),
        swift(*find, {"ref": ["sheep"], "bbox": [[615, 226]]}),
        swift(*find, {"ref": ["sheep"], "bbox": [[300, 10, 400, 50]]}),  # the picture is 200 pixels wide
        swift(*find, {"ref": ["sheep"], "bbox": [[20, 10, 100, 50]], "image_id": [1]}),
        swift(*find, {"ref": ["sheep"], "bbox": [[20, 10, 100, 50]], "bbox_type": "norm1000"}),
        swift(*find, {"ref": ["sheep"], "bbox": [[20, 10, 100, 50]], "image_id": ["first"]}),
        swift(*find, '{"ref": ["sheep"]}'),
        swift(*find, {}),
        swift(*find, {"ref": ["sheep"], "bbox": [[20, 10, 100, 50]]}, ["gone.jpg"]),
    ]
    path = written(tmp_path, "m.jsonl", "\n".join(map(json.dumps, rows)))
    report, samples = converted("messages", [path], photos, tmp_path / "out")
    assert [to_string(turn.content) for sample in samples for turn in sample.turns[1:]] == [
        "Describe.",
        "<ref>a dog</ref><box>(100,100),(500,500)</box> and <ref>a woman</ref><box>(250,250),(500,500)</box>",
        "Find the <ref>sheep</ref> in the image",
        "<box>(100,200),(500,600)</box><box>(0,0),(999,999)</box>",
    ]
    assert report.statistics == {"boxes cut at the picture's edge": 1}
    assert dict(report.left_out) == {
        "more <bbox> marks than `objects` has": 1,
        "more <ref-object> marks than `objects` has": 1,
        "`objects` has more than the <bbox> marks": 1,
        "a bbox in `objects` is not x, y, x, y: points can't be told in Qwen-VL's tags": 1,
        "box has no area inside the image": 1,
        "a bbox in `objects` is on an image that is not there": 1,
        "image_id in `objects` is not a list of whole numbers": 1,
        "bbox_type in `objects` is neither real nor norm1": 1,
        "`objects` is not of the form ref: phrases, bbox: boxes": 1,
        "missing image": 1,
    }


def test_plain_text_is_cut_between_paragraphs_and_loses_nothing(tmp_path: Path, photos: Path) -> None:
    paragraphs = ["word " * 100 + f"{i}" for i in range(9)] + ["长" * 4000]
    path = written(tmp_path, "book.txt", "\n\n".join(paragraphs))
    lines = written(tmp_path, "more.jsonl", '{"text": "A single line."}\n{"text": ""}\n')
    report, samples = converted("text", [path, lines], photos, tmp_path / "out")
    texts = [to_string(s.turns[0].content) for s in samples]
    assert "".join("".join(texts).split()) == "".join("".join(paragraphs).split()) + "Asingleline."
    assert max(map(len, texts)) <= 1500
    assert {s.language for s in samples} == {"en", "zh"}
    assert dict(report.left_out) == {"no text": 1}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder, "README.txt", "Read me.")
    _, samples = converted("text", [tmp_path / f"{x}/README.txt" for x in "ab"], photos, tmp_path / "same")
    assert len({s.id for s in samples}) == len({s.provenance["row"] for s in samples}) == 2


def test_shards_are_not_replaced_by_nothing(tmp_path: Path, photos: Path) -> None:
    convert("text", [written(tmp_path, "good.txt", "Good words.")], tmp_path / "out", images_dir=photos)
    for content, why in (("[]", "no rows"), ('[{"messages": 3}]', "no messages: 1")):
        with pytest.raises(DataError, match=rf"m\.json: no sample of messages comes out of this \({why}"):
            convert("messages", [written(tmp_path, "m.json", content)], tmp_path / "out", overwrite=True)
    assert len(list(read_split(tmp_path / "out"))) == 1


@pytest.mark.parametrize("name", [n for n, d in DATASETS.items() if n not in ("grit", "text", "ai2d")])
def test_files_of_another_form_are_named(name: str, tmp_path: Path, photos: Path) -> None:
    wanted = len(DATASETS[name].files)
    for content in ("{}", "[3]", "no json", '{"questions": 3, "data_subtype": "train2014"}'):
        files = [written(tmp_path, f"{i}.json", content) for i in range(wanted)]
        if name in ("ocrvqa", "gqa") and content == "{}":
            continue  # a data set without questions
        with pytest.raises(DataError, match=r"0\.json|1\.json"):
            convert(name, files, tmp_path / "out", images_dir=photos)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wants(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(photos, "COCO_train2014_000000000009.jpg")
    questions, annotations = map(str, vqa_files(tmp_path))
    command = ["data", "convert", "--images", str(photos), "--out", str(tmp_path / "out")]
    assert main([*command, "vqav3", questions]) == UsageError.exit_code
    assert "known are ai2d" in capsys.readouterr().err
    assert main([*command, "vqav2", questions]) == UsageError.exit_code
    assert "1 files given; it wants questions.json, annotations.json" in capsys.readouterr().err
    assert main([*command, "vqav2", questions, annotations]) == 0
    printed = capsys.readouterr().out
    assert "vqav2: 2 rows in 1 samples, 1 shards (vqa 1)" in printed
    assert "left out, missing image: 1" in printed
    assert main([*command, "vqav2", questions, annotations]) == UsageError.exit_code
    assert "already holds 1 shards" in capsys.readouterr().err
