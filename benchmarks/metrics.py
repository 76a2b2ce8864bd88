"""The caption and VQA scorers beside the original ones, in one run: CIDEr on 5,000 pictures, the VQA score on 214,354
questions. Needs `pip install pycocoevalcap` and java for the peers, and the peer's vqa_eval.py by path.

    .venv/bin/python benchmarks/metrics.py > benchmarks/metrics.txt
"""

import contextlib
import io
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from qvl.evaluate.metrics.cider import cider
from qvl.evaluate.metrics.ptb import all_words
from qvl.evaluate.metrics.vqa import normalise_prediction, percent, vqa_score

PICTURES, CAPTIONS = 5_000, 5
QUESTIONS, PEOPLE = 214_354, 10
ORIGINAL_VQA_S = 103.0  # the published scorer on as many questions, measured once on such a core
VOCABULARY = 9_000
KINDS = "a the red two man dog street sits on in of with and white small people near table train".split()


def captions(seed: int) -> tuple[list[str], list[list[str]]]:
    """Predictions and references whose words come as often as in people's captions (Zipf's law)."""
    rng = random.Random(seed)
    names = KINDS + [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in "nrstvx"] * (VOCABULARY // 180)
    names = [name + ("" if i < 200 else chr(97 + i % 26) + chr(97 + i // 26 % 26)) for i, name in enumerate(names)]
    weights = [1 / (rank + 1) for rank in range(len(names))]

    def one() -> str:
        return " ".join(rng.choices(names, weights, k=rng.randint(8, 14))).capitalize() + rng.choice([".", "", " ."])

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
    """(seconds of java's start alone, the score)."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def tokenised(captions: dict[int, list[dict[str, str]]]) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return PTBTokenizer().tokenize(captions)

    start, _ = timed(lambda: tokenised({0: [{"caption": "a dog"}]}))
    said = tokenised({i: [{"caption": text}] for i, text in enumerate(predictions)})
    wanted = tokenised({i: [{"caption": text} for text in group] for i, group in enumerate(references)})
    score, _ = Cider().compute_score(wanted, said)
    return 2 * start, float(score)


def main() -> None:
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}\n")
    predictions, references = captions(seed=0)
    ours, score = timed(lambda: our_cider(predictions, references))
    print(f"CIDEr of {PICTURES:,} pictures with {CAPTIONS} captions each, tokenisation included: {ours:.2f} s")
    try:
        whole, (start, peer_score) = timed(lambda: peer_cider(predictions, references))
    except (ImportError, OSError) as error:
        print(f"  the original scorer is not here ({error})", file=sys.stderr)
    else:
        peer = whole - 1.5 * start  # the start alone was timed too: three starts in all
        print(f"  pycocoevalcap {peer:.2f} s besides java's starts ({start / 2:.2f} s each): {peer / ours:.1f} times")
        print(f"  scores {score:.9f} and {peer_score:.9f}")
    said, answers = vqa_questions(seed=0)
    normalise_prediction.cache_clear()
    ours, scores = timed(lambda: [vqa_score(text, given) for text, given in zip(said, answers, strict=True)])
    print(f"\nVQA score of {QUESTIONS:,} questions with {PEOPLE} answers each: {ours:.2f} s ({percent(scores)} %)")
    print(f"  the original scorer about {ORIGINAL_VQA_S:.0f} s: {ORIGINAL_VQA_S / ours:.0f} times")


if __name__ == "__main__":
    main()
