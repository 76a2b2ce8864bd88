"""Questions about images: VQAv2, OKVQA, GQA, VGQA, DVQA, OCR-VQA, DocVQA, TextVQA, ChartQA, AI2D.

Each reader takes the data set's own files as published and gives one annotation per question, of its train split
alone. Where people gave several answers, the one that most gave is learnt.
"""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from qvl.data.damage import Damage
from qvl.data.sources.common import Annotation, Annotations, fixed, of_form, other_split, read_json, rows_of
from qvl.data.splits import names_other_split
from qvl.errors import DataError
from qvl.text.markup import Text
from qvl.text.prompts import vqa_prefix


def read_vqa(files: Sequence[Path], images_dir: Path) -> Annotations:
    """VQAv2 and OKVQA: the questions file, then the annotations file; images COCO_train2014_000000000009.jpg."""
    questions_path, annotations_path = files
    questions, annotations = read_json(questions_path), read_json(annotations_path)
    try:
        subset = questions["data_subtype"]
        answers = {a["question_id"]: a for a in annotations["annotations"]}
        asked = [
            (str(q["question_id"]), q["question_id"], q["image_id"], q["question"]) for q in questions["questions"]
        ]
    except (KeyError, TypeError) as error:
        form = "data_subtype, questions (question_id, image_id, question); annotations (question_id, answers)"
        raise of_form(questions_path, form) from error
    for key, question_id, image_id, question in asked:
        image = images_dir / f"COCO_{subset}_{image_id:012d}.jpg"
        if not subset.startswith("train"):
            yield other_split(key, subset, image)
        elif question_id not in answers:
            yield Damage("question without answer", key)
        else:
            yield _annotation(key, image, question, _agreed(answers[question_id]))


def _agreed(annotation: dict[str, Any]) -> Any:
    chosen = annotation.get("multiple_choice_answer")
    return chosen if chosen is not None else most_given([a.get("answer") for a in annotation.get("answers", ())])


def read_gqa(files: Sequence[Path], images_dir: Path) -> Annotations:
    """GQA's train_balanced_questions.json, or LAVIS's list of image, question, answer, question_id."""
    [path] = files
    content = read_json(path)
    form = "question id -> imageId, question, answer; or a list of image, question, answer"
    if isinstance(content, dict):
        questions = rows_of(path, list(content.values()), form)
        rows = [(key, f"{q.get('imageId')}.jpg", q) for key, q in zip(content, questions, strict=True)]
    else:
        rows = [(str(q.get("question_id")), str(q.get("image")), q) for q in rows_of(path, content, form)]
    for key, image, row in rows:
        if names_other_split(path.name):
            yield other_split(key, path.name, images_dir / image)
        else:
            yield _annotation(key, images_dir / image, row.get("question"), row.get("answer"))


def read_vgqa(files: Sequence[Path], images_dir: Path) -> Annotations:
    """Visual Genome's question_answers.json; images in VG_100K and VG_100K_2."""
    [path] = files
    find = vg_images(images_dir)
    for row in rows_of(path, read_json(path), "a list of id and qas (qa_id, image_id, question, answer)"):
        for qa in row.get("qas", ()):
            image_id = qa.get("image_id", row.get("id"))
            answer = qa.get("answer")
            answer = answer.removesuffix(".") if isinstance(answer, str) else answer  # "Two.": the others have no stop
            yield _annotation(str(qa.get("qa_id")), find(image_id), qa.get("question"), answer)


def vg_images(images_dir: Path) -> Callable[[Any], Path]:
    """image id -> its file, in whichever of Visual Genome's two folders it lies."""
    second = images_dir / "VG_100K_2"
    there = {path.name for path in second.glob("*.jpg")}

    def find(image_id: Any) -> Path:
        name = f"{image_id}.jpg"
        return (second if name in there else images_dir / "VG_100K") / name

    return find


def read_dvqa(files: Sequence[Path], images_dir: Path) -> Annotations:
    """DVQA's train_qa.json."""
    [path] = files
    for row in rows_of(path, read_json(path), "a list of image, question, answer, question_id"):
        key, image = str(row.get("question_id")), str(row.get("image"))
        if "train" not in image:
            yield other_split(key, image, images_dir / image)
        else:
            yield _annotation(key, images_dir / image, row.get("question"), row.get("answer"))


def read_ocrvqa(files: Sequence[Path], images_dir: Path) -> Annotations:
    """OCR-VQA's dataset.json: key -> imageURL, questions, answers, split (1 is train)."""
    [path] = files
    content = read_json(path)
    books = rows_of(
        path,
        list(content.values()) if isinstance(content, dict) else None,
        "key -> imageURL, questions, answers, split",
    )
    for key, row in zip(content, books, strict=True):
        image = images_dir / f"{key}{PurePosixPath(str(row.get('imageURL'))).suffix}"
        questions, answers = row.get("questions", ()), row.get("answers", ())
        if row.get("split") != 1:
            yield other_split(key, f"split {row.get('split')}", image, len(questions))
        elif len(questions) != len(answers):
            yield Damage("questions and answers differ in number", key, rows=len(questions))
        else:
            for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
                yield _annotation(f"{key}-{number}", image, question, answer)


def read_docvqa(files: Sequence[Path], images_dir: Path) -> Annotations:
    """DocVQA's and InfographicVQA's train files: data of questionId, question, image, answers, data_split."""
    [path] = files
    for row in _data(path):
        key, split = str(row.get("questionId")), row.get("data_split", "train")
        image = images_dir / str(row.get("image") or row.get("image_local_name"))
        if split != "train":
            yield other_split(key, split, image)
        else:
            yield _annotation(key, image, row.get("question"), most_given(row.get("answers")))


def read_textvqa(files: Sequence[Path], images_dir: Path) -> Annotations:
    """TextVQA_0.5.1_train.json: data of question_id, question, image_id, answers (ten), set_name."""
    [path] = files
    for row in _data(path):
        key, split = str(row.get("question_id")), row.get("set_name", "train")
        image = images_dir / f"{row.get('image_id')}.jpg"
        if split != "train":
            yield other_split(key, split, image)
        else:
            yield _annotation(key, image, row.get("question"), most_given(row.get("answers")))


def read_chartqa(files: Sequence[Path], images_dir: Path) -> Annotations:
    """ChartQA's train_human.json and train_augmented.json: lists of imgname, query, label."""
    for path in files:
        for number, row in enumerate(rows_of(path, read_json(path), "a list of imgname, query, label")):
            key, image, label = f"{path.stem}-{number}", images_dir / str(row.get("imgname")), row.get("label")
            answer = most_given(label) if isinstance(label, list) else label
            if names_other_split(path.name):
                yield other_split(key, path.name, image)
            else:
                yield _annotation(key, image, row.get("query"), answer)


def read_ai2d(files: Sequence[Path], images_dir: Path) -> Annotations:
    """AI2D's folder of questions (0.png.json, ...), then ai2d_test_ids.csv, whose diagrams are left out."""
    folder, test_ids = files
    with test_ids.open(newline="", encoding="utf-8") as file:
        held_out = {row[0].strip() for row in csv.reader(file) if row}
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give AI2D's folder of questions")
    for path in sorted(folder.glob("*.json"), key=lambda p: (len(p.name), p.name)):
        content = read_json(path)
        try:
            name, questions = content["imageName"], content["questions"].items()
        except (KeyError, TypeError, AttributeError) as error:
            raise of_form(path, "imageName, questions: question -> answerTexts, correctAnswer, questionId") from error
        if name.split(".")[0] in held_out:
            yield other_split(name, "named in the test ids", images_dir / name, len(questions))
            continue
        for question, row in questions:
            if row.get("abcLabel"):  # letters drawn over the diagram's words, which the files don't have
                yield Damage("question about letters that the picture does not show", str(row.get("questionId")))
                continue
            options, right = row.get("answerTexts", ()), row.get("correctAnswer")
            answer = options[right] if isinstance(right, int) and 0 <= right < len(options) else None
            yield _annotation(
                str(row.get("questionId")), images_dir / name, question, None if answer == "{}" else answer
            )


def most_given(answers: Any) -> Any:
    """The answer that most people gave, the first of equals; what is no list of answers stays for the check."""
    texts = [a for a in answers if isinstance(a, str) and a.strip()] if isinstance(answers, list) else []
    return Counter(texts).most_common(1)[0][0] if texts else None


def _annotation(key: str, image: Path, question: Any, answer: Any) -> Annotation | Damage:
    if not isinstance(question, str) or not question.strip():
        return Damage("no question", key, repr(question)[:80])
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = f"{answer:g}"
    if not isinstance(answer, str) or not answer.strip():
        return Damage("no answer", key, repr(answer)[:80])
    return Annotation(key, "vqa", image, fixed(vqa_prefix(question.strip()), (Text(answer.strip()),)))


def _data(path: Path) -> list[dict[str, Any]]:
    content = read_json(path)
    return rows_of(path, content.get("data") if isinstance(content, dict) else None, "data: a list of questions")
