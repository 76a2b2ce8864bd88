"""A scene -> pixels, and what lies under each patch of it."""

import math
import random
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from qvl import images
from qvl.data.world.scene import SIDE, Background, BoxPixels, Scene, Thing, Word, fonts_for, ink_box, load_font
from qvl.data.world.words import BAR, COLOURS, GLYPHS, KINDS, RGB

COORDINATES = ("x1", "y1", "x2", "y2")
COORDINATE_BINS = 28  # a box's corner is named by one of these along each axis
GLYPH_PLACES = 5  # the longest drawn word
DENSE_CHANNELS = {  # name -> number of classes; class 0 of all but the coordinates is "nothing here"
    "kind": len(KINDS) + 2,
    "colour": len(COLOURS) + 1,
    "glyph": len(GLYPHS) + 1,
    "glyph_place": GLYPH_PLACES + 1,  # first, second, ... of its word
    **dict.fromkeys(COORDINATES, COORDINATE_BINS),
}
NO_LABEL = -1  # of the coordinates where there is no box
_BOX = len(DENSE_CHANNELS) - len(COORDINATES)  # the first coordinate's channel
_KIND_CLASS = {name: i + 1 for i, name in enumerate([*KINDS, BAR])}
_COLOUR_CLASS = {name: i + 1 for i, name in enumerate(COLOURS)}
_GLYPH_CLASS = {glyph: i + 1 for i, glyph in enumerate(GLYPHS)}


def draw_scene(scene: Scene) -> Image.Image:
    """The picture, RGB, SIDE x SIDE pixels."""
    rng = random.Random(scene.background.seed)
    picture = _paint_background(scene.background)
    draw = ImageDraw.Draw(picture)
    for thing in (*scene.things, *scene.bars):
        colour = tuple(min(255, max(0, v + rng.randint(-18, 18))) for v in RGB[thing.colour])
        _draw_thing(draw, thing, colour)
    ink = _ink(picture)
    for bar in scene.bars:
        font = load_font(_digit_font(), 13)
        x = (bar.box[0] + bar.box[2]) / 2
        draw.text((x, bar.box[1] - 2), str(bar.value), font=font, fill=ink, anchor="mb")
    for word in scene.words:
        _draw_word(picture, word)
    return picture


def dense_labels(scene: Scene, grid: int) -> np.ndarray:
    """(grid, grid, len(DENSE_CHANNELS)) int16: the class under each patch's centre, by channel."""
    labels = np.zeros((grid, grid, len(DENSE_CHANNELS)), dtype=np.int16)
    labels[..., _BOX:] = NO_LABEL
    for thing in (*scene.things, *scene.bars):
        rows, columns = _patches(thing.box, grid)
        labels[rows, columns, 0] = _KIND_CLASS[thing.kind]
        labels[rows, columns, 1] = _COLOUR_CLASS[thing.colour]
        labels[rows, columns, _BOX:] = _bins(thing.box)
    for word in scene.words:
        rows, columns = _patches(word.box, grid)
        labels[rows, columns, _BOX:] = _bins(word.box)
        for place, (glyph, box) in enumerate(_glyph_boxes(word)):
            rows, columns = _patches(box, grid)
            labels[rows, columns, 2:4] = _GLYPH_CLASS[glyph], place + 1
    return labels


def class_words() -> Iterator[tuple[str, int, str]]:
    """(channel, class, text) for every word that the world has for a class, as it stands inside a sentence."""
    for channel, classes, table in (("kind", _KIND_CLASS, KINDS), ("colour", _COLOUR_CLASS, COLOURS)):
        for key, name in table.items():
            yield channel, classes[key], " " + name.en
            yield channel, classes[key], name.zh
    for glyph, label in _GLYPH_CLASS.items():
        yield "glyph", label, glyph


def _patches(box: BoxPixels, grid: int) -> tuple[slice, slice]:
    """Rows and columns of the patches whose centre lies in the box, at least one each way."""
    patch = SIDE / grid

    def span(low: float, high: float) -> slice:
        first, last = math.ceil(low / patch - 0.5), math.floor(high / patch - 0.5)
        if last < first:
            first = last = min(grid - 1, max(0, int((low + high) / 2 / patch)))
        return slice(max(0, first), min(grid, last + 1))

    return span(box[1], box[3]), span(box[0], box[2])


def _bins(box: BoxPixels) -> list[int]:
    return [min(COORDINATE_BINS - 1, max(0, int(v * COORDINATE_BINS / SIDE))) for v in box]


def _glyph_boxes(word: Word) -> list[tuple[str, BoxPixels]]:
    """Each glyph's box after the tilt."""
    font = load_font(word.font, word.font_size)
    left, top = ink_box(word.text, word.font, word.font_size)[:2]
    result = []
    for i, glyph in enumerate(word.text):
        before = font.getlength(word.text[:i])
        x0, y0, x1, y1 = ink_box(glyph, word.font, word.font_size)
        dx, dy = word.origin[0] - left + before, word.origin[1] - top
        corners = [word.at(x + dx, y + dy) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        xs, ys = zip(*corners, strict=True)
        result.append((glyph, (min(xs), min(ys), max(xs), max(ys))))
    return result


def _paint_background(background: Background) -> Image.Image:
    first, second = (np.array(colour, dtype=np.float32) for colour in background.colours)
    if background.style == "flat":
        return Image.new("RGB", (SIDE, SIDE), background.colours[0])
    if background.style == "gradient":
        t = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None, None]
        rows = np.broadcast_to(first * (1 - t) + second * t, (SIDE, SIDE, 3))
        return Image.fromarray(rows.astype(np.uint8))
    ground = _photo_crop(background) if background.style == "photo" else _texture(background.seed)
    # Toned towards one colour, so that everything drawn on top stays visible.
    return Image.fromarray(np.clip(first + 0.25 * (ground - ground.mean((0, 1))), 0, 255).astype(np.uint8))


def _texture(seed: int) -> np.ndarray:
    """Smooth coloured noise, (SIDE, SIDE, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)


@lru_cache(maxsize=64)
def _photo(path: str) -> Image.Image:
    """A photograph, its shorter side at four times ours."""
    photo = images.load(path)
    scale = 4 * SIDE / min(photo.size)
    return photo.resize((round(photo.width * scale), round(photo.height * scale)))


def _photo_crop(background: Background) -> np.ndarray:
    photo, rng = _photo(background.photo), random.Random(background.seed)
    side = rng.randint(SIDE, min(photo.size))
    x, y = rng.randint(0, photo.width - side), rng.randint(0, photo.height - side)
    crop = photo.crop((x, y, x + side, y + side)).resize((SIDE, SIDE))
    return np.asarray(crop.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float32)


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, colour: tuple[int, ...]) -> None:
    x, y, x2, y2 = thing.box[0], thing.box[1], thing.box[2] - 1, thing.box[3] - 1
    cx, cy, s = (x + x2) / 2, (y + y2) / 2, x2 - x
    match thing.kind:
        case "circle":
            draw.ellipse((x, y, x2, y2), fill=colour)
        case "square" | "bar":
            draw.rectangle((x, y, x2, y2), fill=colour)
        case "triangle":
            draw.polygon([(cx, y), (x2, y2), (x, y2)], fill=colour)
        case "star":
            draw.polygon(_star(cx, cy, s / 2), fill=colour)
        case "heart":
            draw.ellipse((x, y, cx + 1, cy + s * 0.05), fill=colour)
            draw.ellipse((cx - 1, y, x2, cy + s * 0.05), fill=colour)
            draw.polygon([(x + s * 0.04, cy - s * 0.12), (x2 - s * 0.04, cy - s * 0.12), (cx, y2)], fill=colour)
        case "diamond":
            draw.polygon([(cx, y), (x2, cy), (cx, y2), (x, cy)], fill=colour)
        case "cross":
            draw.rectangle((cx - s / 6, y, cx + s / 6, y2), fill=colour)
            draw.rectangle((x, cy - s / 6, x2, cy + s / 6), fill=colour)
        case "ring":
            draw.ellipse((x, y, x2, y2), outline=colour, width=max(4, round(s / 5)))
        case "house":
            draw.polygon([(cx, y), (x2, cy), (x, cy)], fill=colour)
            draw.rectangle((x + s * 0.15, cy, x2 - s * 0.15, y2), fill=colour)
            draw.rectangle((cx - s * 0.1, cy + s * 0.18, cx + s * 0.1, y2), fill=(70, 45, 30))
        case "tree":
            draw.rectangle((cx - s * 0.08, y + s * 0.6, cx + s * 0.08, y2), fill=(110, 75, 40))
            draw.polygon([(cx, y), (x2, y + s * 0.45), (x, y + s * 0.45)], fill=colour)
            draw.polygon([(cx, y + s * 0.25), (x2, y + s * 0.75), (x, y + s * 0.75)], fill=colour)


def _star(cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    """Five points, scaled so that the star's box is the circle's."""
    radii = [1 if i % 2 == 0 else 0.42 for i in range(10)]
    points = [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]
    xs, ys = zip(*points, strict=True)
    return [
        (
            cx + radius * (2 * (x - min(xs)) / (max(xs) - min(xs)) - 1),
            cy + radius * (2 * (y - min(ys)) / (max(ys) - min(ys)) - 1),
        )
        for x, y in points
    ]


def _draw_word(picture: Image.Image, word: Word) -> None:
    """Ink on the picture at the word's origin; a tilted word is drawn on a mask that is turned."""
    font = load_font(word.font, word.font_size)
    left, top = ink_box(word.text, word.font, word.font_size)[:2]
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).text((word.origin[0] - left, word.origin[1] - top), word.text, font=font, fill=255)
    if word.tilt:
        mask = mask.rotate(word.tilt, Image.Resampling.BICUBIC, center=word.centre)
    picture.paste(_ink(picture), (0, 0, *picture.size), mask)


def _ink(picture: Image.Image) -> tuple[int, int, int]:
    """Black on a light ground, white on a dark one."""
    red, green, blue = np.asarray(picture).mean((0, 1))
    return (15, 15, 15) if red * 0.3 + green * 0.59 + blue * 0.11 > 110 else (250, 250, 250)


@lru_cache(maxsize=1)
def _digit_font() -> str:
    return fonts_for("en")[0]
