"""Are synthetic OCR samples drawn in fonts that have every labelled character? A table of the families, and an answer.

Read from the fonts' own files, with nothing of qvl.data.synth: the character must be in a Unicode character map of the
font that the sample says it was drawn in, its glyph must have an outline, and FreeType must draw it otherwise than a
missing character.

    scripts/fonts.sh fonts && qvl data synth --fast --count 10000 --fonts fonts --out runs/synth
    python scripts/check_synth.py runs/synth fonts
"""

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from fontTools.pens.boundsPen import BoundsPen
from fontTools.ttLib import TTFont
from PIL import ImageFont

from qvl.data.sample import read_split
from qvl.text.markup import Ref

FontKey = tuple[str, int]  # file name, face
NO_CHARACTER = "\U0010fffe"  # never assigned: what a font draws for a missing character
DRAWN = 40  # pixels


def main() -> int:
    """0 when every labelled character is there, 1 when not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="what `qvl data synth` wrote")
    parser.add_argument("fonts", type=Path, nargs="+", help="the folders of fonts that it drew from")
    args = parser.parse_args()
    files: dict[str, list[Path]] = defaultdict(list)
    for folder in args.fonts:
        for path in folder.rglob("*"):
            files[path.name].append(path)
    samples, labels, characters, families = count_characters(args.split)
    missing = {
        key: wrong
        for key, used in characters.items()
        for path in files[key[0]]  # fonts of one name: each must have it
        if (wrong := faults(path, key[1], set(used)))
    }
    print(table(families, characters))
    total = sum(used.total() for used in characters.values())
    pairs = sum(len(used) for used in characters.values())
    gone = sum(characters[key][c] for key, wrong in missing.items() for c in wrong)
    print(
        f"{samples:,} samples, {labels:,} labels, {total:,} labelled characters ({pairs:,} different ones of a font): "
        f"{gone:,} missing from their font"
    )
    for (name, face), wrong in missing.items():
        shown = ", ".join(f"{c} ({why})" for c, why in list(wrong.items())[:12])
        print(f"  {name} face {face} lacks {len(wrong)}: {shown}")
    if unknown := sorted({name for name, _ in characters if not files[name]}):
        print(f"not found in {', '.join(map(str, args.fonts))}: {', '.join(unknown)}")
    return int(bool(missing or unknown))


def count_characters(split: Path) -> tuple[int, int, dict[FontKey, Counter[str]], dict[str, dict[str, Any]]]:
    """Of a split: samples, labels, the labelled characters of each font, and the labels and fonts of each family."""
    samples = labels = 0
    characters: dict[FontKey, Counter[str]] = defaultdict(Counter)
    families: dict[str, dict[str, Any]] = {}
    for sample in read_split(split):
        samples += 1
        texts = [segment.text for segment in sample.turns[1].content if isinstance(segment, Ref)]
        labels += len(texts)
        for font in sample.provenance["fonts"]:
            key = (font["file"], font["face"])
            family = families.setdefault(font["family"], {"labels": 0, "fonts": set()})
            family["labels"] += font["labels"]
            family["fonts"].add(key)
            for text in texts[: font["labels"]]:
                characters[key].update(text.replace(" ", "").replace("\n", ""))
            del texts[: font["labels"]]
        if texts:
            raise SystemExit(f"{sample.id}: {len(texts)} labels of no font")
    return samples, labels, characters, families


def faults(path: Path, face: int, wanted: set[str]) -> dict[str, str]:
    """The characters that a face does not have, and how that shows: by fontTools and by FreeType."""
    drawing = ImageFont.truetype(str(path), DRAWN, index=face)
    with TTFont(path, fontNumber=face, lazy=True) as font:
        names = {code: name for part in font["cmap"].tables if part.isUnicode() for code, name in part.cmap.items()}
        found = {}
        for character in sorted(wanted):
            name = names.get(ord(character))
            if name is None:
                found[character] = "not in the character map"
            elif not has_outline(font, name):
                found[character] = "no outline"
            elif drawn(drawing, character) == drawn(drawing, NO_CHARACTER):
                found[character] = "drawn as a missing character"
    return found


def has_outline(font: TTFont, name: str) -> bool:
    """Whether a glyph leaves any ink."""
    glyphs = font.getGlyphSet()
    pen = BoundsPen(glyphs)
    glyphs[name].draw(pen)
    return pen.bounds is not None


def drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    """(width, height) and pixels of a character."""
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def table(families: dict[str, dict[str, Any]], characters: dict[FontKey, Counter[str]]) -> str:
    """One row per family: its fonts, labels and labelled characters, and how many of these differ."""
    rows = ["| family | fonts | labels | characters | different |", "|---|---|---|---|---|"]
    for name, family in sorted(families.items()):
        used: Counter[str] = Counter()
        for key in family["fonts"]:
            used.update(characters[key])
        rows.append(f"| {name} | {len(family['fonts'])} | {family['labels']:,} | {used.total():,} | {len(used):,} |")
    return "\n".join([*rows, f"\n{len(families)} families."])


if __name__ == "__main__":
    sys.exit(main())
