"""The caption and VQA scorers beside the original ones, in one run: CIDEr on 5,000 pictures, the VQA score on 214,354
questions. For the peers: java, `pip install pycocoevalcap`, and `pip install --no-deps salesforce-lavis`, whose package
holds the original VQA scorer.

    .venv/bin/python benchmarks/metrics.py > benchmarks/metrics.txt
"""

import contextlib
import importlib.util
import io
import platform
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from qvl.evaluate.metrics.cider import cider
from qvl.evaluate.metrics.ptb import all_words
from qvl.evaluate.metrics.vqa import normalise_prediction, percent, vqa_score

PICTURES, CAPTIONS = 5_000, 5
QUESTIONS, PEOPLE = 214_354, 10
VOCABULARY = 9_000
ROUNDS = 5
KINDS = "a the red two man dog street sits on in of with and white small people near table train".split()


def captions(seed: int) -> tuple[list[str], list[list[str]]]:
    """Predictions and references whose words come as often as in people's captions (Zipf's law)."""
    rng = random.Random(seed)
    names = KINDS + [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in "nrstvx"] * (VOCABULARY // 180)
    names = [name + ("" if i < 200 else chr(97 + i % 26) + chr(97 + i // 26 % 26)) for i, name in enumerate(names)]
    weights = [1 / (rank + 1) for rank in range(len(names))]

    def one() -> str:
        words = [*rng.choices(names, weights, k=rng.randint(7, 13)), rng.choice(names[200:])]
        if rng.random() < 0.1:  # such as need the tokenizer's rules
            words[3] += rng.choice(["'s", " (left)", "!", " 3.5"])
        return " ".join(words).capitalize() + rng.choice([".", "", " ."])

    references = [[one() for _ in range(CAPTIONS)] for _ in range(PICTURES)]
    return [rng.choice([group[0], one()]) for group in references], references


def vqa_questions(seed: int) -> tuple[list[str], list[list[dict[str, Any]]]]:
    rng = random.Random(seed)
    pool = [
        "yes",
        "no",
        "2",
        "white",
        "a dog",
        "tennis racket",
        "on the left",
        "Don't know",
        "it's blue",
        "3.5",
        "1,000",
    ]
    pool += [f"{a} {b}" for a in KINDS for b in KINDS]
    weights = [1 / (rank + 1) for rank in range(len(pool))]
    said, answers = [], []
    for _ in range(QUESTIONS):
        right = rng.choices(pool, weights)[0]
        given = [right if rng.random() < 0.7 else rng.choices(pool, weights)[0] for _ in range(PEOPLE)]
        answers.append(
            [{"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(given, 1)]
        )
        said.append(right if rng.random() < 0.6 else rng.choices(pool, weights)[0])
    return said, answers


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def our_cider(predictions: list[str], references: list[list[str]]) -> float:
    said = all_words(predictions)
    flat = iter(all_words([caption for group in references for caption in group]))
    wanted = [[next(flat) for _ in group] for group in references]
    scores = cider(said, wanted)
    return sum(scores) / len(scores)


def peer_cider(predictions: list[str], references: list[list[str]]) -> tuple[float, float]:
    """(seconds of one of java's starts, the score)."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def tokenised(captions: dict[int, list[dict[str, str]]]) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return PTBTokenizer().tokenize(captions)

    start, _ = timed(lambda: tokenised({0: [{"caption": "a dog"}]}))
    said = tokenised({i: [{"caption": text}] for i, text in enumerate(predictions)})
    wanted = tokenised({i: [{"caption": text} for text in group] for i, group in enumerate(references)})
    score, _ = Cider().compute_score(wanted, said)
    return start, float(score)


def peer_vqa(said: list[str], answers: list[list[dict[str, Any]]]) -> float:
    """The score, by the original scorer's file alone: its package would load much else."""
    package = importlib.util.find_spec("lavis")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("the original VQA scorer is missing: pip install --no-deps salesforce-lavis")
    path = Path(package.submodule_search_locations[0]) / "common" / "vqa_tools" / "vqa_eval.py"
    spec = importlib.util.spec_from_file_location("original_vqa_eval", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kinds = {"question_type": "what", "answer_type": "other"}
    truths = {i: {"answers": given, **kinds} for i, given in enumerate(answers)}
    truth = SimpleNamespace(qa=truths, getQuesIds=lambda: list(truths))
    evaluator = module.VQAEval(truth, SimpleNamespace(qa={i: {"answer": text} for i, text in enumerate(said)}))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    return float(evaluator.accuracy["overall"])


def main() -> None:
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}")
    print(f"Medians of {ROUNDS} rounds in turn.\n")
    predictions, references = captions(seed=0)
    ours, peers = [], []
    for _ in range(ROUNDS):
        seconds, score = timed(lambda: our_cider(predictions, references))
        ours.append(seconds)
        whole, (start, peer_score) = timed(lambda: peer_cider(predictions, references))
        peers.append(whole - 3 * start)  # two files are tokenised, and one more to time a start
    mine, peer = median(ours), median(peers)
    print(f"CIDEr of {PICTURES:,} pictures with {CAPTIONS} captions each, tokenisation included: {mine:.2f} s")
    print(f"  pycocoevalcap {peer:.2f} s besides java's starts ({start:.2f} s each): {peer / mine:.1f} times")
    print(f"  scores {score:.9f} and {peer_score:.9f}")
    said, answers = vqa_questions(seed=0)
    ours = []
    for _ in range(ROUNDS):
        normalise_prediction.cache_clear()
        seconds, scores = timed(lambda: [vqa_score(text, given) for text, given in zip(said, answers, strict=True)])
        ours.append(seconds)
    peer, overall = timed(lambda: peer_vqa(said, answers))  # once: it takes minutes, and changes the answers in place
    print(f"\nVQA score of {QUESTIONS:,} questions with {PEOPLE} answers each: {median(ours):.2f} s")
    print(f"  the original {peer:.1f} s (once): {peer / median(ours):.0f} times")
    print(f"  scores {percent(scores)} and {overall}")


if __name__ == "__main__":
    main()
