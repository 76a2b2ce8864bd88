"""Installed font families, what they are for, and which characters each really has."""

import random
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fontTools.ttLib import TTCollection, TTFont, TTLibError
from PIL import ImageFont

from qvl.errors import MissingDependencyError, UsageError

FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/Library/Fonts")
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
LATIN = frozenset(map(ord, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:;!?'()-"))
CHINESE = frozenset(map(ord, "的一是了我不在人有他这中大来上个国到说们为子和你地出道也时年，。"))
INK_SIZE = 24  # pixels: large enough for a hair line to leave ink
NO_CHARACTER = "\U0010fffe"  # no font has it
BROKEN = (TTLibError, OSError, LookupError, AssertionError, ValueError, TypeError, AttributeError, struct.error)
LATIN_NAME = 1033  # Windows' language id of English


@dataclass(frozen=True)
class Face:
    """One face of a font file."""

    path: str
    index: int
    family: str

    def load(self, size: int) -> ImageFont.FreeTypeFont:
        """The face at a size in pixels."""
        return _loaded(self.path, self.index, size)

    @property
    def characters(self) -> frozenset[int]:
        """Code points that its character map has a glyph for."""
        return _character_map(self.path, self.index)


@dataclass(frozen=True)
class FontSet:
    """Faces by family: for English, and for Chinese and mixed text, as a Chinese family has Latin glyphs too."""

    latin: dict[str, tuple[Face, ...]]
    chinese: dict[str, tuple[Face, ...]]

    def choose(self, rng: random.Random, language: str) -> Face:
        """A family first, so that one with many faces is not drawn more often, then one of its faces."""
        families = self.chinese if language == "zh" else self.latin
        return rng.choice(families[rng.choice(sorted(families))])


@lru_cache(maxsize=4)
def find_fonts(folders: tuple[str, ...] = FOLDERS) -> FontSet:
    """All families under the folders that have the letters, or the common Chinese characters.

    Symbol fonts and broken files are passed over. MissingDependencyError when a language has none.
    """
    latin: dict[str, list[Face]] = defaultdict(list)
    chinese: dict[str, list[Face]] = defaultdict(list)
    for folder in folders:
        for path in sorted(p for p in Path(folder).expanduser().rglob("*") if p.suffix.lower() in SUFFIXES):
            for face in _faces(path):
                if face.characters >= CHINESE:
                    chinese[face.family].append(face)
                elif face.characters >= LATIN:
                    latin[face.family].append(face)
    if not latin or not chinese:
        missing = "Latin" if not latin else "Chinese"
        raise MissingDependencyError(
            f"no {missing} font in {', '.join(folders)}: run scripts/fonts.sh, or install fonts-dejavu-core and "
            "fonts-wqy-zenhei"
        )
    return FontSet(*({name: tuple(faces) for name, faces in sorted(kind.items())} for kind in (latin, chinese)))


def families_table(fonts: FontSet) -> str:
    """One line per family: for which language, how many faces, how many characters."""
    rows = [
        (language, name, faces)
        for language, kind in (("en", fonts.latin), ("zh", fonts.chinese))
        for name, faces in kind.items()
    ]
    lines = [
        f"{language}  {name}: {len(faces)} faces, {max(len(f.characters) for f in faces):,} characters"
        for language, name, faces in rows
    ]
    return "\n".join([*lines, f"{len(fonts.latin)} Latin and {len(fonts.chinese)} Chinese families"])


def has_all(face: Face, text: Iterable[str]) -> bool:
    """Whether the face has a glyph for every character but spaces; one without ink, or that looks like the sign of a
    missing character, as some fonts map, is none."""
    return all(ord(c) in face.characters and _is_drawn(face, c) for c in text if not c.isspace())


def _faces(path: Path) -> Sequence[Face]:
    """Faces of a file; empty for one that is no font, or whose tables of names and characters are broken."""
    try:
        faces = _named(path)
        return faces if all(face.characters for face in faces) else ()
    except BROKEN:
        return ()


def _named(path: Path) -> Sequence[Face]:
    if path.suffix.lower() in (".ttc", ".otc"):
        with TTCollection(path, lazy=True) as collection:
            return [_face(path, index, font) for index, font in enumerate(collection.fonts)]
    with TTFont(path, lazy=True) as font:
        return [_face(path, 0, font)]


def _face(path: Path, index: int, font: TTFont) -> Face:
    names = font["name"]
    family = names.getName(16, 3, 1, LATIN_NAME) or names.getName(1, 3, 1, LATIN_NAME) or names.getDebugName(1)
    return Face(str(path), index, str(family))


@lru_cache(maxsize=512)
def _character_map(path: str, index: int) -> frozenset[int]:
    with TTFont(path, fontNumber=index, lazy=True) as font:
        return frozenset(font.getBestCmap() or {})


@lru_cache(maxsize=1 << 17)
def _is_drawn(face: Face, character: str) -> bool:
    ink = _ink(face, character)
    return any(ink) and ink != _missing(face)


@lru_cache(maxsize=512)
def _missing(face: Face) -> bytes:
    return _ink(face, NO_CHARACTER)


def _ink(face: Face, character: str) -> bytes:
    """What the character looks like: rows of pixels."""
    return bytes(face.load(INK_SIZE).getmask(character))


@lru_cache(maxsize=256)
def _loaded(path: str, index: int, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(path, size, index=index)
    except OSError as error:
        raise UsageError(f"{path}: a font that can't be loaded ({error}); remove it") from error
