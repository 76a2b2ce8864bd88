"""One synthetic picture: a ground, blocks of text bent and slanted onto it, light, noise and blur; and its quads."""

import io
import random
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from qvl import images
from qvl.data.synth.corpus import Corpus
from qvl.data.synth.fonts import Face, FontSet, has_all
from qvl.data.synth.layout import Block, Rect, Word, set_block, union
from qvl.data.synth.warp import Bend, Homography, Points, corners_of, jittered, rect_to_quad

LEVELS = ("word", "line", "block")
MAX_COLUMNS = 3
HIDDEN, HIDDEN_SHARE = 50, 0.02  # grey levels between letters and ground, and the share of ink that may have fewer
GREY = (0.299, 0.587, 0.114)  # what each channel adds to a grey value
OUTLINE = 0.06  # of a line's height
Label = tuple[str, Points]  # text, its quad in pixels


@dataclass(frozen=True)
class PageSettings:
    """What a picture may look like; defaults follow SynthDoG's sizes."""

    short_side: tuple[int, int] = (720, 1024)
    aspect: tuple[float, float] = (1.0, 2.0)
    text_size: tuple[float, float] = (0.028, 0.075)  # of the short side
    level: str = "line"
    language: str = "en"  # en, zh, mixed


def fast(settings: PageSettings) -> PageSettings:
    """The same at the model's own 448 x 448 pixels, with larger text."""
    return replace(settings, short_side=(448, 448), aspect=(1.0, 1.0), text_size=(0.04, 0.1))


@dataclass(frozen=True)
class SynthPage:
    """An RGB picture, JPEG-encoded, and the quads of its text in reading order.

    faces: of each block its font, and how many of the labels, in their order, are drawn in it.
    """

    encoded: bytes
    size: tuple[int, int]
    labels: tuple[Label, ...]
    faces: tuple[tuple[Face, int], ...]


def make_page(
    rng: random.Random, settings: PageSettings, corpus: Corpus, fonts: FontSet, photos: tuple[Path, ...]
) -> SynthPage:
    """A picture as a pure function of its arguments."""
    noise = np.random.default_rng(rng.getrandbits(64))
    width, height = _size(rng, settings)
    ground = _ground(rng, noise, width, height, photos)
    labels: list[Label] = []
    faces: list[tuple[Face, int]] = []
    for cell in _cells(rng, width, height):
        made = _block(rng, settings, corpus, fonts, cell, min(width, height))
        if made is None:
            continue
        block, face = made
        ground, placed = _place(rng, ground, block, cell, settings.level)
        labels += placed
        faces.append((face, len(placed)))
    buffer = io.BytesIO()
    _effects(rng, noise, ground).save(buffer, "JPEG", quality=rng.randint(50, 95))
    return SynthPage(buffer.getvalue(), (width, height), tuple(labels), tuple(faces))


def _size(rng: random.Random, settings: PageSettings) -> tuple[int, int]:
    short = rng.randint(*settings.short_side)
    long = round(short * rng.uniform(*settings.aspect))
    return (long, short) if rng.random() < 0.5 else (short, long)


def _ground(
    rng: random.Random, noise: np.random.Generator, width: int, height: int, photos: tuple[Path, ...]
) -> Image.Image:
    """A crop of a photograph, or a texture: a gradient with grain at some scale."""
    if photos and rng.random() < 0.6:
        return _crop(rng, images.load(rng.choice(photos)), width, height)
    ends = [np.array([rng.randint(40, 255) for _ in range(3)], dtype=np.float32) for _ in range(2)]
    along = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    base = ends[0] * (1 - along) + ends[1] * along
    scale = rng.choice((1, 2, 4, 16, 64))
    grain = noise.normal(0, rng.uniform(2, 14), (height // scale + 1, width // scale + 1)).astype(np.float32)
    spread = Image.fromarray(grain).resize((width, height), Image.Resampling.BILINEAR)
    return Image.fromarray((base + np.asarray(spread)[..., None]).clip(0, 255).astype(np.uint8))


def _crop(rng: random.Random, picture: Image.Image, width: int, height: int) -> Image.Image:
    scale = max(width / picture.width, height / picture.height) * rng.uniform(1.0, 1.5)
    w, h = width / scale, height / scale
    x, y = rng.uniform(0, picture.width - w), rng.uniform(0, picture.height - h)
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))


def _cells(rng: random.Random, width: int, height: int) -> list[Rect]:
    """Rectangles for blocks in reading order: columns, each cut into one to three parts, with gaps between."""
    columns = rng.randint(1, MAX_COLUMNS if width >= height else MAX_COLUMNS - 1)
    cells: list[Rect] = []
    for column in range(columns):
        parts = rng.randint(1, 3)
        left, right = width * column / columns, width * (column + 1) / columns
        for part in range(parts):
            top, bottom = height * part / parts, height * (part + 1) / parts
            gap = 0.03 * min(width, height)
            if rng.random() < 0.85:
                cells.append((left + gap, top + gap, right - gap, bottom - gap))
    return cells or [(0.03 * width, 0.03 * height, 0.97 * width, 0.97 * height)]


def _block(
    rng: random.Random, settings: PageSettings, corpus: Corpus, fonts: FontSet, cell: Rect, short_side: int
) -> tuple[Block, Face] | None:
    """A block for a cell, somewhat smaller than it, and its font; None when no word fits."""
    size = max(12, round(short_side * rng.uniform(*settings.text_size)))
    language = settings.language
    face = fonts.choose(rng, "zh" if language in ("zh", "mixed") else "en")
    width, height = int(cell[2] - cell[0]), int(cell[3] - cell[1])
    vertical = language == "zh" and rng.random() < 0.2
    words = corpus.take(rng, language, rng.randint(3, 60))
    words = [w for w in words if has_all(face, w)]  # or a box would be drawn, and labelled as text
    height = min(height, round(size * rng.uniform(2, 14)) + size) if not vertical else height
    block = set_block(words, face, size, width, height, rng, vertical)
    return (block, face) if block.lines else None


def _place(
    rng: random.Random, ground: Image.Image, block: Block, cell: Rect, level: str
) -> tuple[Image.Image, list[Label]]:
    """Draw the block into its cell, bent and slanted a little, in a colour that shows."""
    mask = block.mask
    height, width = mask.shape
    line_height = max(word.rect[3] - word.rect[1] for line in block.lines for word in line)
    bend = None
    if not block.vertical and rng.random() < 0.3:
        bend = Bend(rng.uniform(0.2, 0.6) * line_height, rng.uniform(1.0, 2.5) * width, rng.uniform(0, 2 * np.pi))
        mask = bend.mask(np.pad(mask, ((room := round(line_height), room), (0, 0))))
    else:
        room = 0
    origin = np.array([cell[0], cell[1] + rng.uniform(0, max(0.0, cell[3] - cell[1] - height))])
    flat = corners_of(width, height)
    amount = 0.04 * min(width, height) if rng.random() < 0.7 else 0.0
    target = np.clip(jittered(flat + origin, amount, rng), 1, np.array(ground.size) - 1.0)
    homography = Homography.between(flat, target)
    shifted = Homography(homography.matrix @ np.array([[1, 0, 0], [0, 1, -room], [0, 0, 1.0]]))
    warped = shifted.image(Image.fromarray(mask), ground.size)
    colour = _colour(rng, ground, target)
    _outline(ground, warped, colour, round(line_height * OUTLINE))
    if rng.random() < 0.15:  # a soft shadow under the letters
        shade = warped.filter(ImageFilter.GaussianBlur(line_height * 0.06)).point(lambda v: v // 2)
        offset = round(line_height * 0.06) + 1
        ground.paste(_opposite(colour), (offset, offset), shade)
    ground.paste(colour, (0, 0), warped)
    labels = [(text, rect_to_quad(rect, bend, homography)) for text, rect in _units(block, level)]
    inside = [(text, quad) for text, quad in labels if _inside(quad, ground.size)]
    return ground, inside


def _units(block: Block, level: str) -> list[tuple[str, Rect]]:
    if level == "word":
        return [(word.text, word.rect) for line in block.lines for word in line]
    lines = [(_joined(line), union([w.rect for w in line])) for line in block.lines]
    if level == "line":
        return lines
    return [("\n".join(text for text, _ in lines), union([rect for _, rect in lines]))]


def _joined(line: tuple[Word, ...]) -> str:
    """Words of a line as text: a space wherever an ASCII word stands on either side."""
    text = line[0].text
    for before, word in pairwise(line):
        text += (" " if before.text.isascii() or word.text.isascii() else "") + word.text
    return text


def _inside(quad: Points, size: tuple[int, int]) -> bool:
    """Whether the whole quad lies on the picture: text that is cut is drawn, but not labelled."""
    return bool((quad >= -0.5).all() and (quad <= np.array(size) + 0.5).all())


def _colour(rng: random.Random, ground: Image.Image, target: Points) -> tuple[int, int, int]:
    """Dark on light or light on dark, with some hue, against what lies under the block."""
    (x0, y0), (x1, y1) = target.min(0), target.max(0)
    under = np.asarray(ground.crop((int(x0), int(y0), int(x1) + 1, int(y1) + 1)).resize((16, 16)).convert("L"))
    low, high = (0, 70) if under.mean() > 127 else (190, 255)
    return (rng.randint(low, high), rng.randint(low, high), rng.randint(low, high))


def _outline(ground: Image.Image, letters: Image.Image, colour: tuple[int, int, int], width: int) -> None:
    """Letters of which some would not show, as those half on dark and half on light, get an edge of another colour."""
    if (box := letters.getbbox()) is None:
        return
    inked = letters.crop(box)
    under = np.asarray(ground.crop(box).convert("L"), dtype=np.int16)[np.asarray(inked) > 127]
    if (np.abs(under - np.dot(colour, GREY)) < HIDDEN).sum() <= HIDDEN_SHARE * under.size:
        return
    around = (max(0, box[0] - width), max(0, box[1] - width), box[2] + width, box[3] + width)
    edge = letters.crop(around).filter(ImageFilter.MaxFilter(2 * width + 1))
    ground.paste(_opposite(colour), around[:2], edge)


def _opposite(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    return (255 - colour[0], 255 - colour[1], 255 - colour[2])


def _effects(rng: random.Random, noise: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Uneven light, contrast and brightness, blur or motion, grain."""
    width, height = picture.size
    if rng.random() < 0.3:
        radius = rng.uniform(0.3, 1.2)
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    elif rng.random() < 0.15:
        picture = picture.filter(_motion(rng))
    values = np.asarray(picture, dtype=np.float32)
    if rng.random() < 0.4:
        corners = np.array([[rng.uniform(0.55, 1.1) for _ in range(2)] for _ in range(2)], dtype=np.float32)
        light = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
        values = values * np.asarray(light)[..., None]
    if rng.random() < 0.5:
        values = (values - 127) * rng.uniform(0.75, 1.15) + 127 + rng.uniform(-18, 18)
    if rng.random() < 0.5:
        grain = noise.normal(0, rng.uniform(1, 9), (height, width, 1)).astype(np.float32)
        values = values + grain
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _motion(rng: random.Random) -> ImageFilter.Kernel:
    """Five pixels along a row, a column or a diagonal."""
    kernel = np.zeros((5, 5))
    direction = rng.randrange(3)
    for i in range(5):
        kernel[(2, i, i)[direction], (i, 2, i)[direction]] = 1
    return ImageFilter.Kernel((5, 5), kernel.ravel().tolist())
