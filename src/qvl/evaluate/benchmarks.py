"""The benchmarks: of each its files, prompt, decoding, metric and published scores. This table is their only home.

Sources: section 4 and Tables 4 to 7 of arXiv 2308.12966; prompts and decoding of eval_mm in the published code
(evaluate_caption, evaluate_vqa, evaluate_multiple_choice, evaluate_grounding, mme, seed_bench) and of Qwen's eval.
Scores are those of the paper, or of the published README where the paper has none.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from qvl.errors import UsageError
from qvl.evaluate.metrics.choice import SEED_IMAGE_TYPES, SEED_VIDEO_TYPES
from qvl.evaluate.metrics.mme import COGNITION, PERCEPTION
from qvl.evaluate.readers import captions, choices, knowledge, mme, questions, referring, touchstone, world
from qvl.evaluate.rows import Row
from qvl.evaluate.scoring import TASKS

Reader = Callable[[Sequence[Path], Path], list[Row]]


@dataclass(frozen=True)
class Decoding:
    """How an answer is generated: greedily, within these numbers of new tokens."""

    max_new_tokens: int
    min_new_tokens: int = 0


@dataclass(frozen=True)
class Source:
    """Where questions lie in the user's folder, and who gives the files."""

    files: tuple[str, ...]
    images: str
    read: Reader = field(repr=False)
    origin: str
    own: bool = False  # the user's folder itself may be the first of the files: one's own samples


@dataclass(frozen=True)
class Benchmark:
    """One line of the table.

    prompt: `<img></img>` is a picture, `<frames>` all of them with a newline behind each, {name} a field of the
    question; a `<box>` at the end is the answer's first token. published: model -> score.
    """

    name: str
    about: str
    source: Source
    prompt: str
    decoding: Decoding
    metric: str  # a key of qvl.evaluate.scorers.SCORERS
    published: dict[str, float] = field(default_factory=dict)
    language: str = "en"
    exemplars: Source | None = None  # what few-shot prompts are made of
    few_shot: dict[int, float] = field(default_factory=dict)  # shots -> Qwen-VL's score
    as_chat: bool = False  # asked as a dialogue, whatever the model
    numbered: bool = True  # pictures of a dialogue are introduced as `Picture 1: `
    keep_last: int | None = None  # of a longer prompt, these last tokens


VQA_PROMPT = "<img></img>{question} Answer:"
CAPTION_PROMPT = "<img></img>Describe the image in English:"
BOX_PROMPT = "<img></img><ref>{phrase}</ref><box>"
CAPTION, VQA, SHORT_TEXT, BOX = Decoding(30, 8), Decoding(10, 1), Decoding(100), Decoding(28, 10)
CHAT, CHOICE = Decoding(512), Decoding(1)
SAMPLE = Decoding(112)


def _both(base: float, chat: float) -> dict[str, float]:
    return {"Qwen-VL": base, "Qwen-VL-Chat": chat}


def _coco(questions_name: str, *annotations: str, images: str, origin: str) -> Source:
    return Source((questions_name, *annotations), images, questions.read_vqa, origin)


_FLICKR = Source(
    ("flickr30k/dataset_flickr30k.json",),
    "flickr30k/flickr30k-images",
    partial(captions.read_karpathy, split="test"),
    "Karpathy's split of Flickr30K (deepimagesent)",
)
_FLICKR_TRAIN = Source(
    _FLICKR.files, _FLICKR.images, partial(captions.read_karpathy, split="train"), origin=_FLICKR.origin
)
_OKVQA = "okvqa.allenai.org, pictures of COCO 2014"


def _okvqa(split: str) -> Source:
    return _coco(
        f"okvqa/OpenEnded_mscoco_{split}2014_questions.json",
        f"okvqa/mscoco_{split}2014_annotations.json",
        images=f"coco/{split}2014",
        origin=_OKVQA,
    )


def _vizwiz(split: str) -> Source:
    return Source((f"vizwiz/Annotations/{split}.json",), f"vizwiz/{split}", questions.read_vizwiz, "vizwiz.org")


def _textvqa(split: str) -> Source:
    return Source(
        (f"textvqa/TextVQA_0.5.1_{split}.json",), "textvqa/train_images", questions.read_textvqa, "textvqa.org"
    )


def _refcoco(name: str, refs: str, split: str, base: float, chat: float) -> Benchmark:
    source = Source(
        (f"{name}/{refs}", f"{name}/instances.json"),
        "coco/train2014",
        partial(referring.read_refcoco, split=split),
        "the refer toolkit of RefCOCO, pictures of COCO 2014",
    )
    return Benchmark(f"{name}-{split}", f"{split} of {name}", source, BOX_PROMPT, BOX, "iou50", _both(base, chat))


def _seed(kind: str, images: str, kinds: range, base: float, chat: float) -> Benchmark:
    source = Source(
        ("seed-bench/SEED-Bench.json",),
        images,
        partial(choices.read_seed_bench, kinds=kinds),
        "SEED-Bench of AILab-CVC; frames of its videos as ID_0.jpg to ID_3.jpg (docs/evaluation.md)",
    )
    about = f"SEED-Bench, questions about {kind}s"
    prompt = "<frames>Question: {question}\nOptions: {options}\nAnswer:"
    return Benchmark(f"seed-bench-{kind}", about, source, prompt, CHOICE, "choice", _both(base, chat))


def _mme(kind: str, subtasks: Sequence[str], chat: float) -> Benchmark:
    source = Source(
        ("mme/Your_Results",),
        "mme/images",
        partial(mme.read_mme, subtasks=subtasks),
        "MME's eval_tool (Your_Results) and pictures, a folder for each subtask",
    )
    return Benchmark(
        f"mme-{kind}",
        f"MME, {kind}: acc and acc+ of {len(subtasks)} subtasks, {200 * len(subtasks)} at most",
        source,
        "<img></img>\n{question}",
        CHAT,
        "mme",
        {"Qwen-VL-Chat": chat},
        as_chat=True,
        numbered=False,
    )


def _touchstone(language: str, name: str, chat: float) -> Benchmark:
    source = Source((f"touchstone/{name}",), "", touchstone.read_touchstone, "TouchStone of OFA-Sys")
    return Benchmark(
        f"touchstone-{language}",
        "TouchStone: a language model judges the answers beside reference answers",
        source,
        "<img></img>{question}",
        CHAT,
        "touchstone",
        {"Qwen-VL-Chat": chat},
        language,
        as_chat=True,
    )


def _exam(
    name: str, exam: knowledge.Exam, test: str, base: float, metric: str, language: str, keep_last: int | None = None
) -> Benchmark:
    source = Source(
        (f"{name}/dev", f"{name}/{test}"), "", partial(knowledge.read_exam, exam=exam), f"{name}'s CSV files"
    )
    return Benchmark(
        name,
        f"{name}, {test} split, 5-shot: the likeliest letter",
        source,
        "{prompt}",
        CHOICE,
        metric,
        {"Qwen-VL": base},
        language,
        keep_last=keep_last,
    )


def _world(task: str) -> Benchmark:
    read = partial(world.read_samples, task=task)
    source = Source(("world/test",), "", read, "`qvl world --out DIR/world`", own=True)
    return Benchmark(f"world-{task}", f"the tiny world, {task}", source, "", SAMPLE, f"world_{task}", language="both")


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        "nocaps",
        "Nocaps val, zero-shot captions",
        Source(
            ("nocaps/nocaps_val_4500_captions.json",),
            "nocaps/images",
            captions.read_coco_captions,
            "nocaps.org",
        ),
        CAPTION_PROMPT,
        CAPTION,
        "cider",
        _both(121.4, 120.2),
    ),
    Benchmark(
        "flickr30k",
        "Flickr30K, Karpathy's test split, zero-shot captions",
        _FLICKR,
        CAPTION_PROMPT,
        CAPTION,
        "cider",
        _both(85.8, 81.0),
        exemplars=_FLICKR_TRAIN,
    ),
    Benchmark(
        "vqav2",
        "VQAv2 val (the paper's score is of test-dev)",
        _coco(
            "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
            "vqav2/v2_mscoco_val2014_annotations.json",
            images="coco/val2014",
            origin="visualqa.org, pictures of COCO 2014",
        ),
        VQA_PROMPT,
        VQA,
        "vqa",
    ),
    Benchmark(
        "vqav2-testdev",
        "VQAv2 test-dev: the server scores it",
        _coco(
            "vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json",
            images="coco/test2015",
            origin="visualqa.org, pictures of COCO 2015",
        ),
        VQA_PROMPT,
        VQA,
        "submit_vqa",
        _both(79.5, 78.2),
    ),
    Benchmark(
        "okvqa",
        "OKVQA val",
        _okvqa("val"),
        VQA_PROMPT,
        VQA,
        "vqa",
        _both(58.6, 56.6),
        exemplars=_okvqa("train"),
        few_shot={4: 63.6},
    ),
    Benchmark(
        "gqa",
        "GQA testdev, balanced",
        Source(("gqa/testdev_balanced_questions.json",), "gqa/images", questions.read_gqa, "GQA of Stanford"),
        VQA_PROMPT,
        VQA,
        "gqa",
        _both(59.3, 57.5),
    ),
    Benchmark(
        "scienceqa",
        "ScienceQA test, questions with a picture, zero-shot",
        Source(
            ("scienceqa/problems.json",),
            "scienceqa/images/test",
            choices.read_scienceqa,
            "the ScienceQA repository, its problems.json and test pictures",
        ),
        "<img></img>Context: {context}\nQuestion: {question}\nOptions: {options}\nAnswer:",
        CHOICE,
        "choice",
        _both(67.1, 68.2),
    ),
    Benchmark(
        "vizwiz",
        "VizWiz val, zero-shot (the paper's score is of test-dev)",
        _vizwiz("val"),
        VQA_PROMPT,
        VQA,
        "vqa",
        exemplars=_vizwiz("train"),
        few_shot={4: 39.1},
    ),
    Benchmark(
        "vizwiz-test",
        "VizWiz test: the server scores it",
        _vizwiz("test"),
        VQA_PROMPT,
        VQA,
        "submit_vizwiz",
        _both(35.2, 38.9),
    ),
    Benchmark(
        "textvqa",
        "TextVQA val, without text read by others",
        _textvqa("val"),
        VQA_PROMPT,
        VQA,
        "vqa",
        _both(63.8, 61.5),
        exemplars=_textvqa("train"),
    ),
    Benchmark(
        "docvqa",
        "DocVQA val (the paper's score is of test)",
        Source(("docvqa/val_v1.0.json",), "docvqa", questions.read_docvqa, "docvqa.org"),
        VQA_PROMPT,
        SHORT_TEXT,
        "anls",
    ),
    Benchmark(
        "docvqa-test",
        "DocVQA test: the server scores it",
        Source(("docvqa/test_v1.0.json",), "docvqa", questions.read_docvqa, "docvqa.org"),
        VQA_PROMPT,
        SHORT_TEXT,
        "submit_docvqa",
        _both(65.1, 62.6),
    ),
    Benchmark(
        "chartqa",
        "ChartQA test: the mean of people's and generated questions",
        Source(
            ("chartqa/test/test_human.json", "chartqa/test/test_augmented.json"),
            "chartqa/test/png",
            questions.read_chartqa,
            "the ChartQA repository",
        ),
        VQA_PROMPT,
        SHORT_TEXT,
        "relaxed",
        _both(65.7, 66.3),
    ),
    Benchmark(
        "ai2d",
        "AI2D test diagrams",
        Source(
            ("ai2d/questions", "ai2d/ai2d_test_ids.csv"),
            "ai2d/images",
            questions.read_ai2d,
            "ai2d-all of AllenAI, and its list of test diagrams",
        ),
        VQA_PROMPT,
        VQA,
        "exact",
        _both(62.3, 57.7),
    ),
    Benchmark(
        "ocrvqa",
        "OCR-VQA test",
        Source(("ocrvqa/dataset.json",), "ocrvqa/images", questions.read_ocrvqa, "ocr-vqa.github.io"),
        VQA_PROMPT,
        SHORT_TEXT,
        "exact",
        _both(75.7, 70.5),
    ),
    _refcoco("refcoco", "refs(unc).p", "val", 89.36, 88.55),
    _refcoco("refcoco", "refs(unc).p", "testA", 92.26, 92.27),
    _refcoco("refcoco", "refs(unc).p", "testB", 85.34, 84.51),
    _refcoco("refcoco+", "refs(unc).p", "val", 83.12, 82.82),
    _refcoco("refcoco+", "refs(unc).p", "testA", 88.25, 88.59),
    _refcoco("refcoco+", "refs(unc).p", "testB", 77.21, 76.79),
    _refcoco("refcocog", "refs(umd).p", "val", 85.58, 85.96),
    _refcoco("refcocog", "refs(umd).p", "test", 85.48, 86.32),
    Benchmark(
        "grit-refexp",
        "GRIT refexp test: the server scores it",
        Source(
            ("grit/samples/test/refexp.json",),
            "grit/images",
            referring.read_grit_refexp,
            "the GRIT benchmark of AllenAI (grit_official)",
        ),
        BOX_PROMPT,
        BOX,
        "submit_grit",
        {"Qwen-VL": 78.22},
    ),
    _seed("image", "seed-bench/SEED-Bench-image", SEED_IMAGE_TYPES, 62.3, 65.4),
    _seed("video", f"seed-bench/video_imgs_{choices.VIDEO_FRAMES}", SEED_VIDEO_TYPES, 39.1, 37.8),
    _mme("perception", PERCEPTION, 1487.58),
    _mme("cognition", COGNITION, 360.71),
    _touchstone("en", "touchstone_20230831.tsv", 645.2),
    _touchstone("zh", "touchstone_20230831_cn.tsv", 401.2),
    _exam("mmlu", knowledge.MMLU, "test", 50.7, "choice", "en", keep_last=2047),
    _exam("cmmlu", knowledge.CMMLU, "test", 49.5, "choice_by_group", "zh"),
    _exam("ceval", knowledge.CEVAL, "val", 51.1, "choice_by_group", "zh"),
    *map(_world, TASKS),
)
BY_NAME = {benchmark.name: benchmark for benchmark in BENCHMARKS}
FAMILIES = ("refcoco", "refcoco+", "refcocog", "seed-bench", "mme", "touchstone", "world")


def members(family: str) -> list[Benchmark]:
    """The benchmarks of a family, whose name they begin with."""
    return [benchmark for benchmark in BENCHMARKS if benchmark.name.startswith(f"{family}-")]


def chosen(names: Sequence[str]) -> list[Benchmark]:
    """Benchmarks by their names, families' and "all", each once. UsageError for a name that none has."""
    found: dict[str, Benchmark] = {}
    for name in names:
        if name == "all":
            wanted = list(BENCHMARKS)
        elif name in BY_NAME:
            wanted = [BY_NAME[name]]
        elif name in FAMILIES:
            wanted = members(name)
        else:
            known = (*BY_NAME, *FAMILIES, "all")
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            raise UsageError(f"{name}: no such benchmark{hint}")
        found |= {benchmark.name: benchmark for benchmark in wanted}
    return list(found.values())
