"""Are synthetic OCR samples drawn in fonts that have every labelled character? A table of the families, and an answer.

Read from the fonts' own files, with nothing of qvl.data.synth: the character must be in a Unicode character map of the
font that the sample says it was drawn in, its glyph must not be the one for missing characters, must have an outline,
and must not look like the one for missing characters when FreeType draws it.

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
        if (wrong := Font(path, key[1]).lacks(set(used)))
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


class Font:
    """One face of a font file, by fontTools and by FreeType."""

    def __init__(self, path: Path, face: int) -> None:
        self.font = TTFont(path, fontNumber=face, lazy=True)
        self.glyphs = self.font.getGlyphSet()
        self.names: dict[int, str] = {}
        for part in self.font["cmap"].tables:
            if part.isUnicode():
                self.names.update(part.cmap)
        self.drawing = ImageFont.truetype(str(path), DRAWN, index=face)
        self.box = self.draw(NO_CHARACTER)

    def draw(self, character: str) -> bytes:
        """The pixels of a character, with their width and height."""
        mask = self.drawing.getmask(character)
        return repr(mask.size).encode() + bytes(mask)

    def lacks(self, wanted: set[str]) -> dict[str, str]:
        """The characters that the face does not have, and how that shows."""
        found = ((character, self.fault(character)) for character in sorted(wanted))
        return {character: why for character, why in found if why}

    def fault(self, character: str) -> str | None:
        """What is wrong with a character's glyph."""
        name = self.names.get(ord(character))
        if name is None:
            return "not in the character map"
        if self.font.getGlyphID(name) == 0:
            return "mapped to the glyph for missing characters"
        pen = BoundsPen(self.glyphs)
        self.glyphs[name].draw(pen)
        if pen.bounds is None:
            return "no outline"
        return "drawn as a missing character" if self.draw(character) == self.box else None


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
