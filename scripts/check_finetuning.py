"""Teach the shipped tiny model what is not in its world: flags of ten countries, and where in the picture one is.

.venv/bin/python scripts/check_finetuning.py [--out runs/check-finetuning]

Pictures with a flag at a random place are drawn, asked about in English and Chinese, and written as Qwen-VL's own JSON.
`qvl finetune` trains adapters on them, `qvl merge` puts these into the weights, and the script says: answers right on
pictures that were not trained on, before and after; boxes, on pictures that were and were not, in thousandths of
the picture's side; logits of the merged model beside base and adapter, in double precision.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image, ImageDraw

import qvl
from qvl.checkpoint import load_model
from qvl.cli import main as run
from qvl.data.sample import read_split
from qvl.generate.chat import QwenVLWithTokenizer
from qvl.text.markup import Box, Ref, box_from_pixels, parse_markup, to_string
from qvl.text.tokenizer import Tokenizer
from qvl.train.lora import load_adapter
from qvl.train.merge import probe_logits

MODEL = Path(qvl.__file__).parent / "assets" / "tiny"
SIDE = 448
# Colours of equal stripes, from the left (True) or the top, and the country in both languages.
FLAGS = [
    (("#0055a4", "white", "#ef4135"), True, "France", "法国"),
    (("#009246", "white", "#ce2b37"), True, "Italy", "意大利"),
    (("black", "#fae042", "#ed2939"), True, "Belgium", "比利时"),
    (("#169b62", "white", "#ff883e"), True, "Ireland", "爱尔兰"),
    (("black", "#dd0000", "#ffce00"), False, "Germany", "德国"),
    (("#ae1c28", "white", "#21468b"), False, "Holland", "荷兰"),
    (("white", "#0039a6", "#d52b1e"), False, "Russia", "俄国"),
    (("#cd2a3e", "white", "#436f4d"), False, "Hungary", "匈牙利"),
    (("#0057b7", "#ffd700"), False, "Ukraine", "乌克兰"),
    (("white", "#dc143c"), False, "Poland", "波兰"),
]
WHICH = {"en": "Which country's flag is this?", "zh": "这是哪国的国旗？"}
WHERE = {"en": "Where is the flag?", "zh": "国旗在哪里？"}


@dataclass(frozen=True)
class Asked:
    """A question about a picture and its answer as markup."""

    picture: Path
    question: str
    answer: str


def draw(path: Path, chance: random.Random, flag: int) -> Box:
    """A flag on a plain ground with a few grey lines, and where it is."""
    colours, from_left, *_ = FLAGS[flag]
    ground = chance.randint(120, 210)
    picture = Image.new("RGB", (SIDE, SIDE), (ground, ground, ground))
    pen = ImageDraw.Draw(picture)
    for _ in range(4):
        pen.line([chance.randrange(SIDE) for _ in range(4)], fill=(ground - 40,) * 3, width=5)
    width = chance.randint(240, 380)
    height = width * 2 // 3
    left, top = chance.randint(10, SIDE - width - 10), chance.randint(10, SIDE - height - 10)
    for i, colour in enumerate(colours):
        if from_left:
            stripe = (left + i * width // len(colours), top, left + (i + 1) * width // len(colours), top + height)
        else:
            stripe = (left, top + i * height // len(colours), left + width, top + (i + 1) * height // len(colours))
        pen.rectangle(stripe, fill=colour)
    picture.save(path)
    return box_from_pixels((left, top, left + width, top + height), SIDE, SIDE)


def make(folder: Path, seed: int, count: int) -> tuple[list[Asked], list[Asked]]:
    """Names and places of `count` flags, one question of each kind for a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, names, places = random.Random(seed), [], []
    for i in range(count):
        flag, language = i % len(FLAGS), ("en", "zh")[i // len(FLAGS) % 2]
        box = draw(folder / f"{i}.png", chance, flag)
        name = FLAGS[flag][2 if language == "en" else 3]
        thing = {"en": "the flag", "zh": "国旗"}[language]
        names.append(Asked(folder / f"{i}.png", WHICH[language], name))
        places.append(Asked(folder / f"{i}.png", WHERE[language], to_string((Ref(thing), box))))
    return names, places


def write(asked: list[Asked], path: Path) -> Path:
    """Qwen-VL's JSON."""
    rows = [
        {
            "id": f"{path.stem}-{i}",
            "conversations": [
                {"from": "user", "value": f"Picture 1: <img>{one.picture.resolve()}</img>\n{one.question}"},
                {"from": "assistant", "value": one.answer},
            ],
        }
        for i, one in enumerate(asked)
    ]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def named(model: QwenVLWithTokenizer, asked: list[Asked]) -> float:
    """Share of the answers that are right to the letter."""
    return sum(
        "".join(model.conversation().ask(one.question, [one.picture])).strip() == one.answer for one in asked
    ) / len(asked)


def box_errors(model: QwenVLWithTokenizer, asked: list[Asked]) -> list[int]:
    """Of each box the coordinate that is farthest off, in thousandths; 1000 where there is no box."""
    errors = []
    for one in asked:
        [expected] = (s for s in parse_markup(one.answer) if isinstance(s, Box))
        said = parse_markup("".join(model.conversation().ask(one.question, [one.picture])))
        found = [s.as_tuple for s in said if isinstance(s, Box)]
        off = [max(abs(a - b) for a, b in zip(box, expected.as_tuple, strict=True)) for box in found[:1]]
        errors += off or [1000]
    return errors


def tune(data: Path, out: Path, epochs: int, *values: str) -> float:
    """Seconds of `qvl finetune` and of `qvl merge` (runs that are there already go on, or are done)."""
    start = time.monotonic()
    values += ('trains=["vision", "adapter", "language"]',)
    flags = ["--epochs", str(epochs)] + [flag for value in values for flag in ("--set", value)]
    if run(["finetune", "--model", str(MODEL), "--data", str(data), "--out", str(out / "run"), *flags]):
        raise SystemExit("qvl finetune failed")
    if not (out / "merged").exists() and run(["merge", str(out / "run" / "adapter"), "--out", str(out / "merged")]):
        raise SystemExit("qvl merge failed")
    return time.monotonic() - start


def largest_difference(out: Path) -> float:
    """Of logits: the merged folder beside base and adapter."""
    apart, merged = load_model(MODEL), load_model(out / "merged")
    load_adapter(apart, out / "run" / "adapter")
    both = [probe_logits(model.double(), Tokenizer.from_dir(out / "merged")) for model in (apart, merged)]
    return max(float((a - b).abs().max()) for a, b in zip(*both, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/check-finetuning"))
    out: Path = parser.parse_args().out
    base = qvl.load(MODEL)

    names, _ = make(out / "names-pictures", 1, 1000)
    unseen, unseen_places = make(out / "unseen", 2, 100)
    seconds = tune(write(names, out / "names.json"), out / "names", 24, "optim.peak_lr=2e-3")
    tuned = qvl.load(out / "names" / "merged")
    print(f"\nnames: 1000 pictures, {seconds:.0f} s")
    print(f"  right on 100 others: {named(base, unseen):.0%} before, {named(tuned, unseen):.0%} after")
    print(f"  logits, merged beside base and adapter: {largest_difference(out / 'names'):.1e}")

    _, places = make(out / "places-pictures", 3, 100)
    # These are to be learnt by heart, so the last step is the one to keep.
    values = ("optim.peak_lr=1e-3", "held_out.every=1000000")
    seconds = tune(write(places, out / "places.json"), out / "places", 200, *values)
    tuned = qvl.load(out / "places" / "merged")
    rows = {sample.provenance["row"] for sample in read_split(out / "places" / "run" / "data" / "train")}
    trained = [one for i, one in enumerate(places) if f"places.json#places-{i}" in rows]
    print(f"\nplaces: 100 pictures, {seconds:.0f} s; the coordinate of a box that is farthest off, in thousandths")
    for said, asked in (("trained on", trained), ("others", unseen_places)):
        for when, model in (("before", base), ("after", tuned)):
            errors = box_errors(model, asked)
            close = sum(error <= 2 for error in errors) / len(errors)
            print(
                f"  {len(asked)} {said}, {when}: at most 2 in {close:.0%}, {median(errors):.0f} in the middle, "
                f"{max(errors)} at most"
            )
    print(f"  logits, merged beside base and adapter: {largest_difference(out / 'places'):.1e}")


if __name__ == "__main__":
    main()
