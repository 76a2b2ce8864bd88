"""What a picture holds, before it is drawn: things, words, bars, a background; all from one seed."""

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from qvl.data.world.words import (
    BAR,
    COLOURS,
    EN_GLYPHS,
    EN_WORDS,
    KINDS,
    RGB,
    ZH_GLYPHS,
    ZH_WORDS,
)
from qvl.errors import MissingDependencyError

SIDE = 112  # pixels; every length below is meant at this side
SCENE_KINDS = {"things": 0.55, "words": 0.30, "chart": 0.08, "sign": 0.07}
LATTICE = 8  # things begin and end on multiples of this, so that a tiny model can name their corners exactly
SMALL, LARGE = (24, 32), (40, 48)

FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".fonts")
LATIN_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "LiberationSans-Regular.ttf",
    "LiberationSerif-Bold.ttf",
)
CHINESE_FONTS = ("wqy-zenhei.ttc", "wqy-microhei.ttc")

Point = tuple[float, float]
BoxPixels = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """A shape or object; a chart's bar too, with its value."""

    kind: str
    colour: str
    size: str  # "small" or "large"; "" for a bar
    box: BoxPixels
    value: int = 0

    @property
    def centre(self) -> Point:
        return ((self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2)


@dataclass(frozen=True)
class Word:
    """A drawn word: font file name and size, where its ink begins, and the tilt about its centre."""

    text: str
    font: str
    font_size: int
    origin: Point  # top left of the untilted ink
    width: float
    height: float
    tilt: float  # degrees, anticlockwise

    @property
    def centre(self) -> Point:
        return (self.origin[0] + self.width / 2, self.origin[1] + self.height / 2)

    def at(self, x: float, y: float) -> Point:
        """A point of the untilted picture after the tilt."""
        angle = math.radians(self.tilt)
        cx, cy = self.centre
        dx, dy = x - cx, y - cy
        return (
            cx + dx * math.cos(angle) + dy * math.sin(angle),
            cy - dx * math.sin(angle) + dy * math.cos(angle),
        )

    @property
    def quad(self) -> list[Point]:
        """Four corners in pixels, clockwise from the top left of the text."""
        (x, y), w, h = self.origin, self.width, self.height
        return [self.at(x, y), self.at(x + w, y), self.at(x + w, y + h), self.at(x, y + h)]

    @property
    def box(self) -> BoxPixels:
        xs, ys = zip(*self.quad, strict=True)
        return (min(xs), min(ys), max(xs), max(ys))


@dataclass(frozen=True)
class Background:
    """How the ground is painted: one colour, two in a gradient, a texture, or a photograph's crop."""

    style: str  # "flat", "gradient", "texture", "photo"
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    seed: int
    photo: str = ""  # path of the photograph


@dataclass(frozen=True)
class Scene:
    """One picture."""

    language: str
    background: Background
    things: tuple[Thing, ...] = ()
    words: tuple[Word, ...] = ()
    bars: tuple[Thing, ...] = ()


@lru_cache(maxsize=1)
def installed_fonts() -> dict[str, Path]:
    """The fonts of this list that are installed, by file name."""
    wanted = {*LATIN_FONTS, *CHINESE_FONTS}
    found: dict[str, Path] = {}
    for folder in FONT_FOLDERS:
        for path in sorted(folder.rglob("*.tt[fc]")) if folder.is_dir() else []:
            if path.name in wanted:
                found.setdefault(path.name, path)
    return found


@lru_cache(maxsize=256)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """An installed font at a size in pixels."""
    return ImageFont.truetype(str(installed_fonts()[name]), size)


@lru_cache(maxsize=4096)
def ink_box(text: str, font: str, size: int) -> tuple[int, int, int, int]:
    """Where the ink of a text lies, in pixels from the point at which it is drawn."""
    mask, (left, top) = load_font(font, size).getmask2(text, mode="L")
    x0, y0, x1, y1 = mask.getbbox() or (0, 0, 1, 1)
    return (left + x0, top + y0, left + x1, top + y1)


def fonts_for(language: str) -> list[str]:
    """Installed fonts with the language's glyphs. MissingDependencyError names the packages."""
    names = CHINESE_FONTS if language == "zh" else LATIN_FONTS
    fonts = [name for name in names if name in installed_fonts()]
    if not fonts:
        packages = "fonts-wqy-zenhei" if language == "zh" else "fonts-dejavu-core fonts-liberation2"
        raise MissingDependencyError(f"no font for {language!r}: install the system package {packages}")
    return fonts


def make_scene(
    rng: random.Random,
    language: str,
    kind: str | None = None,
    photos: tuple[Path, ...] = (),
    random_words: bool = False,
    crowded: bool = False,
) -> Scene:
    """Draw a scene's content from rng: of a given kind, or of one chosen by SCENE_KINDS.

    random_words spells words of arbitrary glyphs, else they come from the lists; crowded holds as much as there
    is room for: neither ever in held-out samples.
    """
    kind = kind or rng.choices(list(SCENE_KINDS), list(SCENE_KINDS.values()))[0]
    background = _background(rng, photos, plain=kind == "chart")
    if kind == "things":
        count = 7 if crowded else rng.choice((1, 2, 2, 3))
        return Scene(language, background, things=_things(rng, background, count))
    if kind == "chart":
        return Scene(language, background, bars=_bars(rng, background))
    if kind == "words":
        count = rng.choice((2, 3)) if crowded else rng.choice((1, 1, 1, 2))
        return Scene(language, background, words=_words(rng, language, count, random_words))
    words = _words(rng, language, 1, random_words)
    things = _things(rng, background, 4 if crowded else rng.choice((1, 2)), avoid=[w.box for w in words])
    return Scene(language, background, things=things, words=words)


def _background(rng: random.Random, photos: tuple[Path, ...], plain: bool) -> Background:
    colours = (_colour(rng), _colour(rng))
    if plain:
        return Background("flat", (colours[0], colours[0]), 0)
    style = rng.choices(("flat", "gradient", "texture"), (0.5, 0.25, 0.25))[0]
    seed = rng.randrange(2**31)
    if style == "texture" and photos:
        return Background("photo", colours, seed, str(rng.choice(photos)))
    return Background(style, colours, seed)


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return (rng.randrange(30, 226), rng.randrange(30, 226), rng.randrange(30, 226))


def visible_colours(background: Background) -> list[str]:
    """Colours that stand out from every colour of the ground; a photograph is toned towards its first."""
    grounds = background.colours if background.style == "gradient" else background.colours[:1]
    return [
        name
        for name in COLOURS
        if all(sum(abs(a - b) for a, b in zip(RGB[name], ground, strict=True)) > 130 for ground in grounds)
    ]


def _things(
    rng: random.Random, background: Background, count: int, avoid: list[BoxPixels] | None = None
) -> tuple[Thing, ...]:
    """Up to count things that don't touch each other; fewer where there is no room."""
    taken = list(avoid or [])
    things: list[Thing] = []
    colours = visible_colours(background)
    for _ in range(count):
        size = rng.choice(("small", "large"))
        side = rng.choice(LARGE if size == "large" else SMALL)
        box = _free_place(rng, side, taken)
        if box is None:
            continue
        used = {(thing.kind, thing.colour) for thing in things}
        kind, colour = rng.choice([(k, c) for k in KINDS for c in colours if (k, c) not in used])
        things.append(Thing(kind, colour, size, box))
        taken.append(box)
    return tuple(things)


def _free_place(rng: random.Random, side: int, taken: list[BoxPixels]) -> BoxPixels | None:
    for _ in range(30):
        x, y = (LATTICE * rng.randint(0, (SIDE - side) // LATTICE) for _ in range(2))
        if all(x + side + 2 < a or c + 2 < x or y + side + 2 < b or d + 2 < y for a, b, c, d in taken):
            return (x, y, x + side, y + side)
    return None


def _bars(rng: random.Random, background: Background) -> tuple[Thing, ...]:
    """Columns of different colours and heights on one base line; the value stands above each."""
    colours = rng.sample(visible_colours(background), rng.randint(2, 4))
    width = rng.randint(14, 19)
    gap = (SIDE - 8 - width * len(colours)) / (len(colours) + 1)
    values = rng.sample(range(1, 10), len(colours))
    base, bars = SIDE - 5, []
    for i, (colour, value) in enumerate(zip(colours, values, strict=True)):
        x = 4 + gap + i * (width + gap)
        bars.append(Thing(BAR, colour, "", (x, base - 8 * value - 4, x + width, base), value))
    return tuple(bars)


def _words(rng: random.Random, language: str, count: int, random_words: bool) -> tuple[Word, ...]:
    """One or two words, each on its own line, with a slight tilt now and then."""
    words: list[Word] = []
    band = SIDE / count
    for i in range(count):
        text = _spell(rng, language, random_words)
        font = rng.choice(fonts_for(language))
        tilt = rng.uniform(-9, 9) if rng.random() < 0.3 else 0.0
        size = rng.randint(28, 48) if language == "zh" else rng.randint(24, 40)
        while True:
            x0, y0, x1, y1 = ink_box(text, font, size)
            width, height = x1 - x0, y1 - y0
            reach = height + width * abs(math.sin(math.radians(tilt)))  # height of the tilted word
            if width + 10 <= SIDE and reach + 6 <= band:
                break
            size -= 1
        x = 4 * rng.randint(1, (SIDE - width - 4) // 4)
        margin = (reach - height) / 2 + 2
        y = round(i * band + rng.uniform(margin, band - height - margin))
        words.append(Word(text, font, size, (x, y), width, height, tilt))
    return tuple(words)


def _spell(rng: random.Random, language: str, random_words: bool) -> str:
    if not random_words:
        return rng.choice(ZH_WORDS if language == "zh" else EN_WORDS)
    if language == "zh":
        return "".join(rng.choice(ZH_GLYPHS) for _ in range(rng.randint(1, 3)))
    return "".join(rng.choice(EN_GLYPHS) for _ in range(rng.randint(2, 5)))
