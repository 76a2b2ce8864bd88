"""Questions with short answers: VQAv2, OKVQA, VizWiz, TextVQA, GQA, DocVQA, ChartQA, AI2D, OCR-VQA."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from qvl.data.sources.common import of_form, read_json, rows_of
from qvl.data.sources.vqa import most_given
from qvl.errors import DataError
from qvl.evaluate.rows import Row, answered, at, by_id, text_of, texts_of

OCRVQA_TEST = 3


def read_vqa(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """VQAv2 and OKVQA: the questions file, then the annotations file unless the answers are the server's."""
    form = "data_subtype, questions (question_id, image_id, question)"
    content = read_json(files[0])
    if not isinstance(content, dict):
        raise of_form(files[0], form)
    questions = by_id(files[0], rows_of(files[0], content.get("questions"), form), "question_id")
    with at(files[0], "the file"):
        subset = content["data_subtype"]
        # the questions of test-dev2015 are about pictures of test2015
        subset = "test2015" if subset.startswith("test") else subset
    if len(files) == 1:
        pairs: list[tuple[Any, Any, Any]] = [(key, question, None) for key, question in questions.items()]
    else:
        annotated = read_json(files[1])
        given = rows_of(files[1], annotated.get("annotations") if isinstance(annotated, dict) else None, "annotations")
        pairs = answered(questions, files[0], by_id(files[1], given, "question_id"), files[1])
    rows = []
    for key, question, annotation in pairs:
        with at(files[0], f"question {key}"):
            image = images_dir / f"COCO_{subset}_{question['image_id']:012d}.jpg"
            fields = {"question": text_of(question, "question")}
        if annotation is None:
            rows.append(Row(str(key), (image,), fields, None))
            continue
        with at(files[1], f"question {key}"):
            answers, group = human_answers(annotation["answers"]), str(annotation.get("answer_type", ""))
            said = annotation.get("multiple_choice_answer") or most_given([a["answer"] for a in annotation["answers"]])
        rows.append(Row(str(key), (image,), fields, answers, group, answer=str(said)))
    return rows


def human_answers(answers: Any) -> list[Any]:
    """People's answers as `vqa_score` wants them kept: their texts where each has an id of its own, else whole."""
    if not isinstance(answers, list) or not answers:
        raise ValueError(f"answers is {answers!r}, not a list of answers")
    texts = [text_of(answer, "answer") for answer in answers]
    return texts if len({answer.get("answer_id") for answer in answers}) == len(answers) else answers


def read_vizwiz(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """A list of image, question, answers (without ids: their places stand for them), answer_type."""
    [path] = files
    rows = []
    for number, row in enumerate(rows_of(path, read_json(path), "a list of image, question, answers")):
        with at(path, f"row {number}"):
            image = text_of(row, "image")
            texts = None if "answers" not in row else [text_of(answer, "answer") for answer in row["answers"]]
            fields = {"question": text_of(row, "question")}
        said = most_given(texts) or ""
        rows.append(Row(image, (images_dir / image,), fields, texts, str(row.get("answer_type", "")), answer=said))
    return rows


def read_textvqa(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """TextVQA_0.5.1_val.json: data of question_id, image_id, question, answers (ten)."""
    rows = []
    for key, row, place in _data(files[0], "question_id"):
        with at(files[0], place):
            answers = texts_of(row, "answers")
            fields = {"question": text_of(row, "question")}
            image = images_dir / f"{text_of(row, 'image_id')}.jpg"
        rows.append(Row(str(key), (image,), fields, answers, answer=most_given(answers)))
    return rows


def read_docvqa(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """val_v1.0.json, test_v1.0.json (without answers): data of questionId, question, image, answers."""
    rows = []
    for key, row, place in _data(files[0], "questionId"):
        with at(files[0], place):
            answers = texts_of(row, "answers") if "answers" in row else None
            fields = {"question": text_of(row, "question")}
            image = images_dir / text_of(row, "image")
        rows.append(Row(str(key), (image,), fields, answers))
    return rows


def _data(path: Path, id_name: str) -> list[tuple[Any, Mapping[str, Any], str]]:
    content = read_json(path)
    found = by_id(path, rows_of(path, content.get("data") if isinstance(content, dict) else None, "data"), id_name)
    return [(key, row, f"question {key}") for key, row in found.items()]


def read_gqa(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """testdev_balanced_questions.json: id -> imageId, question, answer."""
    [path] = files
    content = read_json(path)
    if not isinstance(content, dict):
        raise of_form(path, "question id -> imageId, question, answer")
    rows = []
    for key, row in content.items():
        with at(path, f"question {key}"):
            image = images_dir / f"{text_of(row, 'imageId')}.jpg"
            rows.append(Row(key, (image,), {"question": text_of(row, "question")}, [text_of(row, "answer")]))
    return rows


def read_chartqa(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """test_human.json and test_augmented.json: lists of imgname, query, label."""
    rows = []
    for path in files:
        kind = path.stem.rpartition("_")[2]
        for number, row in enumerate(rows_of(path, read_json(path), "a list of imgname, query, label")):
            with at(path, f"row {number}"):
                label = row["label"]
                answers = texts_of(row, "label") if isinstance(label, list) else [text_of(row, "label")]
                image = images_dir / text_of(row, "imgname")
                rows.append(Row(f"{kind}-{number}", (image,), {"question": text_of(row, "query")}, answers, kind))
    return rows


def read_ai2d(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """The folder of questions (0.png.json, ...), then ai2d_test_ids.csv, which names the diagrams that are asked about.

    Questions about letters have pictures of their own, with the letters drawn in: abc_images, beside images.
    """
    asked, test_ids = files
    with test_ids.open(newline="", encoding="utf-8") as file:
        wanted = {row[0].strip() for row in csv.reader(file) if row}
    rows = []
    for name in sorted(wanted, key=lambda name: (len(name), name)):
        path = asked / f"{name}.png.json"
        if not path.is_file():
            raise DataError(f"{test_ids}: names {name}, but {path} is not there")
        content = read_json(path)
        with at(path, "the file"):
            image, questions = text_of(content, "imageName"), content["questions"].items()
        for question, row in questions:
            with at(path, f"question {question!r}"):
                folder = images_dir.with_name("abc_images") if row["abcLabel"] else images_dir
                answer = row["answerTexts"][row["correctAnswer"]]
                rows.append(Row(text_of(row, "questionId"), (folder / image,), {"question": question}, [answer]))
    return rows


def read_ocrvqa(files: Sequence[Path], images_dir: Path) -> list[Row]:
    """dataset.json: key -> imageURL, questions, answers, split (3 is the test)."""
    [path] = files
    content = read_json(path)
    if not isinstance(content, dict):
        raise of_form(path, "key -> imageURL, questions, answers, split")
    rows = []
    for key, book in content.items():
        with at(path, f"book {key}"):
            if book["split"] != OCRVQA_TEST:
                continue
            image = images_dir / f"{key}{PurePosixPath(text_of(book, 'imageURL')).suffix}"
            questions, answers = texts_of(book, "questions"), texts_of(book, "answers")
            if len(questions) != len(answers):
                raise ValueError(f"{len(questions)} questions and {len(answers)} answers")
            for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
                rows.append(Row(f"{key}-{number}", (image,), {"question": question}, [answer]))
    return rows
