"""Small files of every benchmark in its own format, as its users have them, with answers and the scores worked out by
hand: right ones, wrong ones and such as can't be read."""

import base64
import csv
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from qvl.evaluate.metrics.mme import COGNITION, PERCEPTION


@dataclass(frozen=True)
class Case:
    """answers in the order of the benchmark's questions; score: of those, by hand."""

    answers: tuple[str, ...]
    score: float
    unparsed: int


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (sum(map(ord, path.name)) % 256, 90, 160)
    Image.new("RGB", size, colour).save(path)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_all(root: Path) -> None:
    """Data of every benchmark of the table but the tiny world."""
    for write in (captions, coco_questions, other_questions, choices, referring, mme, touchstone, exams):
        write(root)


def captions(root: Path) -> None:
    # No two captions share a word: one said again is wholly like itself and not at all like the others.
    told = {1: ["a red bus waits here", "some people board their coach"]}
    told |= {
        2: ["two dogs run over grass", "puppies play in fields"],
        3: ["the man rides white horses", "every cowboy has spurs"],
    }
    images = [{"id": i, "file_name": f"{i}.jpg", "open_images_id": f"x{i}", "domain": "in-domain"} for i in told]
    annotations = [
        {"id": 10 * i + n, "image_id": i, "caption": c} for i, said in told.items() for n, c in enumerate(said)
    ]
    write_json(root / "nocaps/nocaps_val_4500_captions.json", {"images": images, "annotations": annotations})
    karpathy = []
    for i, said in told.items():
        picture(root / f"nocaps/images/{i}.jpg")
        for split in ("train", "test"):
            name, number = f"{split}{i}.jpg", i if split == "test" else 100 + i
            picture(root / "flickr30k/flickr30k-images" / name)
            sentences = [
                {"raw": text, "tokens": text.split(), "imgid": number, "sentid": n} for n, text in enumerate(said)
            ]
            karpathy.append(
                {"imgid": number, "filename": name, "split": split, "sentences": sentences, "sentids": [0, 1]}
            )
    write_json(root / "flickr30k/dataset_flickr30k.json", {"images": karpathy, "dataset": "flickr30k"})


def _vqa_files(root: Path, questions: str, annotations: str | None, subset: str, number: int) -> None:
    asked = [
        {"question_id": 100 * number + i, "image_id": 10 * number + i, "question": f"What is thing {i}?"}
        for i in range(4)
    ]
    header = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "data_subtype": subset}
    write_json(root / questions, {**header, "questions": asked})
    folder = "test2015" if subset.startswith("test") else subset
    for question in asked:
        picture(root / f"coco/{folder}/COCO_{folder}_{question['image_id']:012d}.jpg")
    if annotations is not None:
        given = []
        for i, question in enumerate(asked):
            people = ["dog"] * 10 if i < 2 else ["cat", "cat", *["bird"] * 8]
            answers = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(people, start=1)]
            kind = "other" if i < 3 else "yes/no"
            given.append(
                {
                    "question_id": question["question_id"],
                    "image_id": question["image_id"],
                    "question_type": "what is",
                    "answer_type": kind,
                    "multiple_choice_answer": "dog" if i < 2 else "bird",
                    "answers": answers,
                }
            )
        write_json(root / annotations, {**header, "annotations": given})


def coco_questions(root: Path) -> None:
    _vqa_files(
        root,
        "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        "vqav2/v2_mscoco_val2014_annotations.json",
        "val2014",
        1,
    )
    _vqa_files(root, "vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json", None, "test-dev2015", 2)
    for split, number in (("val", 3), ("train", 4)):
        questions = f"okvqa/OpenEnded_mscoco_{split}2014_questions.json"
        _vqa_files(root, questions, f"okvqa/mscoco_{split}2014_annotations.json", f"{split}2014", number)


def other_questions(root: Path) -> None:
    for split in ("train", "val", "test"):
        rows = []
        for i in range(3):
            name = f"VizWiz_{split}_{i:08d}.jpg"
            picture(root / "vizwiz" / split / name)
            row: dict[str, Any] = {"image": name, "question": f"What can {i}?"}
            if split != "test":
                row["answers"] = [{"answer": "soup", "answer_confidence": "yes"}] * 10
                row |= {"answer_type": "other", "answerable": 1}
            rows.append(row)
        write_json(root / f"vizwiz/Annotations/{split}.json", rows)
    for split in ("train", "val"):
        data = []
        for i in range(3):
            image_id = f"{split}{i:013x}"
            picture(root / f"textvqa/train_images/{image_id}.jpg")
            row = {"question": f"which brand {i}?", "question_id": 34600 + i, "image_id": image_id, "set_name": split}
            data.append({**row, "answers": ["kodak"] * 10, "image_width": 40, "image_height": 30})
        write_json(root / f"textvqa/TextVQA_0.5.1_{split}.json", {"dataset_type": split, "data": data})
    for split in ("val", "test"):
        data = []
        for i in range(3):
            image = f"documents/{split}{i}_81.png"
            picture(root / "docvqa" / image)
            row = {
                "questionId": 49150 + i,
                "question": f"What is number {i}?",
                "docId": i,
                "image": image,
                "data_split": split,
            }
            data.append({**row, "answers": ["abcd", "abcdefgh"]} if split == "val" else row)
        write_json(root / f"docvqa/{split}_v1.0.json", {"dataset_name": "docvqa", "dataset_split": split, "data": data})
    gqa = {}
    for i in range(3):
        picture(root / f"gqa/images/n{i}.jpg")
        gqa[f"2{i}"] = {
            "question": f"Is it {i}?",
            "imageId": f"n{i}",
            "answer": "table",
            "isBalanced": True,
            "types": {},
        }
    write_json(root / "gqa/testdev_balanced_questions.json", gqa)
    for kind, count in (("human", 2), ("augmented", 3)):
        charts = []
        for i in range(count):
            picture(root / f"chartqa/test/png/{kind}{i}.png")
            charts.append({"imgname": f"{kind}{i}.png", "query": f"How much {i}?", "label": "100"})
        write_json(root / f"chartqa/test/test_{kind}.json", charts)
    for name in ("0", "7"):
        questions = {
            f"What is {name}?": {
                "abcLabel": False,
                "answerTexts": ["ears", "nose", "mouth", "face"],
                "correctAnswer": 1,
                "questionId": f"{name}.png-0",
            },
            f"Which letter is {name}?": {
                "abcLabel": True,
                "answerTexts": ["A", "B", "C", "D"],
                "correctAnswer": 2,
                "questionId": f"{name}.png-1",
            },
        }
        write_json(root / f"ai2d/questions/{name}.png.json", {"imageName": f"{name}.png", "questions": questions})
        picture(root / f"ai2d/images/{name}.png")
        picture(root / f"ai2d/abc_images/{name}.png")
    (root / "ai2d/ai2d_test_ids.csv").write_text("7\n", encoding="utf-8")
    books = {}
    for key, split in (("0001", 1), ("0002", 3)):
        picture(root / f"ocrvqa/images/{key}.jpg")
        books[key] = {
            "imageURL": f"http://books.example/{key}.jpg",
            "questions": ["Who wrote this?", "What is the title?", "Is it a comic?"],
            "answers": ["Sandra Boynton", "Calendar 2016", "No"],
            "split": split,
            "genre": "Calendars",
        }
    write_json(root / "ocrvqa/dataset.json", books)


def choices(root: Path) -> None:
    problems = {}
    for i in range(4):
        key, has_picture = str(10 + i), i < 3
        problems[key] = {
            "question": "Which is it?",
            "choices": ["yes", "no", "both"][: 3 - i % 2],
            "answer": i % 2,
            "hint": "" if i else "It is late.",
            "image": "image.png" if has_picture else None,
            "split": "test",
            "task": "closed choice",
        }
        if has_picture:
            picture(root / f"scienceqa/images/test/{key}/image.png")
    problems["99"] = {**problems["10"], "split": "train"}
    write_json(root / "scienceqa/problems.json", problems)
    questions = []
    for i, kind in enumerate((1, 5, 5, 10, 12)):
        row = {f"choice_{c}": f"option {c}" for c in "abcd"}
        row |= {"question_id": str(100 + i), "question_type_id": kind, "question": "How many?", "answer": "ABCD"[i % 4]}
        row |= {"data_type": "image" if kind < 10 else "video", "data_id": f"14544{i}_259"}
        questions.append(row)
        if kind < 10:
            picture(root / "seed-bench/SEED-Bench-image" / f"{row['data_id']}.png")
            row["data_id"] += ".png"
        else:
            for frame in range(4):
                picture(root / f"seed-bench/video_imgs_4/{row['question_id']}_{frame}.jpg")
    write_json(
        root / "seed-bench/SEED-Bench.json", {"question_type": {"Scene Understanding": 1}, "questions": questions}
    )


def referring(root: Path) -> None:
    splits = {"refcoco": ("val", "testA", "testB"), "refcoco+": ("val", "testA", "testB"), "refcocog": ("val", "test")}
    for name, names in splits.items():
        images, annotations, refs = [], [], []
        for i, split in enumerate(("train", *names)):
            image = f"COCO_train2014_{i:012d}.jpg"
            picture(root / "coco/train2014" / image, (100, 50))
            images.append({"id": i, "file_name": image, "width": 100, "height": 50})
            annotations.append({"id": 50 + i, "image_id": i, "bbox": [10.0, 5.0, 40.0, 20.0], "category_id": 1})
            sentences = [
                {"sent_id": 3 * i + n, "sent": f"thing {n}", "raw": f"Thing {n}", "tokens": []} for n in range(3)
            ]
            ref = {"ref_id": i, "ann_id": 50 + i, "image_id": i, "split": split, "sentences": sentences}
            refs.append({**ref, "file_name": image, "category_id": 1, "sent_ids": [s["sent_id"] for s in sentences]})
        write_json(root / name / "instances.json", {"images": images, "annotations": annotations, "categories": []})
        (root / name / f"refs({'umd' if name == 'refcocog' else 'unc'}).p").write_bytes(pickle.dumps(refs, protocol=0))
    examples = []
    for i in range(2):
        picture(root / f"grit/images/coco/{i}.jpg", (100, 50))
        row = {"example_id": f"ref{i}", "image_id": f"coco/{i}.jpg", "task_name": "refexp", "task_query": f"thing {i}"}
        examples.append({**row, "task_bbox": None, "output_options": None})
    write_json(root / "grit/samples/test/refexp.json", examples)


def mme(root: Path) -> None:
    (root / "mme/Your_Results").mkdir(parents=True)
    for subtask in (*PERCEPTION, *COGNITION):
        lines = []
        for i in range(2):
            folder = root / "mme/images" / subtask / ("images" if subtask == "celebrity" else "")
            picture(folder / f"{i}.jpg")
            lines += [f"{i}.jpg\tIs it {i}? Please answer yes or no.\t{truth}" for truth in ("Yes", "No")]
        (root / f"mme/Your_Results/{subtask}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def touchstone(root: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "green").save(buffer, "JPEG")
    image = base64.b64encode(buffer.getvalue()).decode()
    (root / "touchstone").mkdir(parents=True)
    for name in ("touchstone_20230831.tsv", "touchstone_20230831_cn.tsv"):
        with (root / "touchstone" / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(
                ["index", "question", "human_annotation", "gpt4_ha_answer", "category", "task_name", "image"]
            )
            for i in range(2):
                kind = ("Basic Descriptive Ability", "Visual Storytelling Ability")[i]
                writer.writerow(
                    [i, f'Describe "{i}"', f"line one\nline {i}", f"reference {i}", kind, "describe", image]
                )


def exams(root: Path) -> None:
    def rows(count: int, answer: str) -> list[list[str]]:
        return [[f"Question {i}?", "007", "b", "c", "d", answer] for i in range(count)]

    for folder, subjects in (
        ("mmlu", ("anatomy", "astronomy")),
        ("cmmlu", ("arts", "law")),
        ("ceval", ("law", "logic")),
    ):
        for subject, count in zip(subjects, (1, 3), strict=True):
            test = "val" if folder == "ceval" else "test"
            names = {"dev": f"{subject}_dev.csv", test: f"{subject}_{test}.csv"} if folder != "cmmlu" else {}
            names = names or {"dev": f"{subject}.csv", "test": f"{subject}.csv"}
            for part, name in names.items():
                (root / folder / part).mkdir(parents=True, exist_ok=True)
                cells = rows(5, "B") if part == "dev" else rows(count, "A")
                with (root / folder / part / name).open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    if folder == "cmmlu":
                        writer.writerow(["", "Question", "A", "B", "C", "D", "Answer"])
                    elif folder == "ceval":
                        writer.writerow(["id", "question", "A", "B", "C", "D", "answer"])
                    writer.writerows(cells if folder == "mmlu" else [[i, *row] for i, row in enumerate(cells)])


RIGHT_BOX = "(100,100),(499,499)"  # of 100 x 50 pixels: 10 to 50 and 5 to 25, near enough
VQA = Case(("dog", "Cat.", "", "a bird"), 50.0, 1)  # right, wrong, nothing, right but for its article
BOXES = Case((f"{RIGHT_BOX}</box>", "(500,500),(900,900)", "over there"), 100 / 3, 1)
_YES_NO = ("Yes", "No", "yes, it is", "I think no")  # both right; one right, one that is neither
EXAM = ("A", "A", "B", "")  # the one question of the first subject is right, one of three of the second
# like one of two references: 10 (1 + 0) / 2 of 10, times 100; other words; nothing
CAPTIONS = Case(("A red bus waits here.", "seven cats sleep below", ""), 500 / 3, 1)
CASES = {
    "nocaps": CAPTIONS,
    "flickr30k": CAPTIONS,
    "vqav2": VQA,
    "okvqa": VQA,
    "vizwiz": Case(("Soup", "can of soup", ""), 100 / 3, 1),
    "textvqa": Case(("Kodak.", "canon", "<box>"), 100 / 3, 1),
    # one letter of four is another: 0.75; one of five is too much: 0.8
    "docvqa": Case(("abcx", "abcde", "zzzz"), 100 * (0.75 + 0.8 + 0) / 3, 0),
    "gqa": Case(("left side of the table", "the table.", "chair"), 200 / 3, 0),
    # people's questions: 50 %, generated ones: 1 of 3; 105.26 is right since 5 % are of the answer
    "chartqa": Case(("105.26", "95.238", "100", "", "many"), 100 * (1 / 2 + 1 / 3) / 2, 1),
    "ai2d": Case((" Nose ", "A"), 50.0, 0),
    "ocrvqa": Case(("sandra boynton", "calendar", ""), 100 / 3, 1),
    "scienceqa": Case(("A", "A", "none of them"), 100 / 3, 1),
    "seed-bench-image": Case(("A", "B", "A"), 200 / 3, 0),
    "seed-bench-video": Case(("D", "B"), 50.0, 0),
    **dict.fromkeys(("refcoco-val", "refcoco-testA", "refcoco-testB", "refcoco+-val", "refcoco+-testA"), BOXES),
    **dict.fromkeys(("refcoco+-testB", "refcocog-val", "refcocog-test"), BOXES),
    # of each subtask 3 of 4 questions and 1 of 2 pictures: 75 + 50
    "mme-perception": Case(_YES_NO * len(PERCEPTION), 125.0 * len(PERCEPTION), len(PERCEPTION)),
    "mme-cognition": Case(_YES_NO * len(COGNITION), 125.0 * len(COGNITION), len(COGNITION)),
    "mmlu": Case(EXAM, 50.0, 1),  # over questions
    "cmmlu": Case(EXAM, 100 * (1 + 1 / 3) / 2, 1),  # over subjects
    "ceval": Case(EXAM, 100 * (1 + 1 / 3) / 2, 1),
}
