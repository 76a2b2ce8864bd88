"""Pictures in and out: read with limits, to pixel_values, and boxes drawn on them.

Source: image_transform of the published visual.py (RGB, bicubic to a square, CLIP's mean and deviation).
"""

import base64
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont, UnidentifiedImageError
from torch import Tensor

from qvl.errors import ImageError
from qvl.text.markup import Box, Content, Quad, Ref, box_to_pixels, quad_to_pixels

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_PIXELS = 100_000_000  # a larger picture is refused from its header, before anything is decoded
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")
LABEL_FONTS = ("wqy-zenhei.ttc", "wqy-microhei.ttc", "NotoSansCJK-Regular.ttc", "DejaVuSans.ttf")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of files that are taken for images
ImageSource = str | Path | bytes | PILImage.Image
# Pillow warns of odd metadata and large pictures; limits are ours. Once and for all: what `warnings` does for a block
# of code it does to all threads, and pictures are decoded in several.
warnings.filterwarnings("ignore", module=r"PIL\.")


def load(source: ImageSource) -> PILImage.Image:
    """A path, encoded bytes or a PIL image -> RGB, as the published code reads it.

    No EXIF rotation, alpha dropped, the first frame of an animation. Raises ImageError that names the
    source: missing, empty, no image, cut short, corrupt, or more than MAX_PIXELS.
    """
    with _reading(source) as (picture, name):
        _check_size(picture, name)
        return picture.convert("RGB")


def data_uri_bytes(uri: str) -> bytes:
    """What a base64 data URI holds. ImageError for another kind of URI or broken base64."""
    head, comma, data = uri.partition(",")
    if not (head[:5].lower() == "data:" and head.lower().endswith(";base64") and comma):
        raise ImageError("the address of a picture: expected data:image/...;base64,...", "not an image")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ImageError("the data URI of a picture holds broken base64", "not an image") from error


def probe(source: ImageSource) -> tuple[int, int]:
    """(width, height) of an image that can be read to its end; ImageError as of `load`.

    A JPEG is decoded at an eighth of its size, which reads all of its data in less than half the time.
    """
    with _reading(source) as (picture, name):
        _check_size(picture, name)
        size = picture.size
        picture.draft("RGB", (1, 1))
        picture.load()
        return size


@contextmanager
def _reading(source: ImageSource) -> Iterator[tuple[PILImage.Image, str]]:
    """The image, not decoded yet, and its name; what goes wrong in the block is an ImageError."""
    name = _name(source)
    try:
        if isinstance(source, PILImage.Image):
            yield source, name
            return
        with PILImage.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            yield picture, name
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such image file", "missing image") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: empty or not an image that can be read", "not an image") from error
    except PILImage.DecompressionBombError as error:
        message = f"{name}: more than the {MAX_PIXELS:,} pixels that are read; make it smaller"
        raise ImageError(message, "image too large") from error
    except (OSError, SyntaxError, ValueError, TypeError, OverflowError) as error:  # the last two of TIFF headers
        raise ImageError(f"{name}: broken or cut-short image ({error})") from error


def preprocess(source: ImageSource, size: int) -> Tensor:
    """An image -> pixel_values of one image, (3, size, size) float32. The aspect ratio is not kept."""
    resized = load(source).resize((size, size), PILImage.Resampling.BICUBIC)
    return normalize(_channels_first(resized)[None])[0]


def training_pixels(source: ImageSource, size: int) -> Tensor:
    """An image -> (3, size, size) uint8, for `normalize`: what `preprocess` reads, two to four times as fast.

    A JPEG at least twice as large is decoded at a half, a quarter or an eighth of its size (0.7 of 255 levels off in
    the mean, 8 at most on photograph-like pictures); the resizing is torch's (1 level off in one value of 300), which
    starts no threads for a single picture. ImageError as of `load`.
    """
    with _reading(source) as (picture, name):
        _check_size(picture, name)
        picture.draft("RGB", (size, size))
        pixels = _channels_first(picture.convert("RGB"))
    if pixels.shape[1:] == (size, size):
        return pixels
    return F.interpolate(pixels[None], (size, size), mode="bicubic", antialias=True)[0]


def _channels_first(picture: PILImage.Image) -> Tensor:
    """RGB -> (3, H, W) uint8, a view of its pixels row by row."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def normalize(pixels: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> pixel_values (N, 3, S, S) float32 on the same device: CLIP's mean and deviation."""
    mean, deviation = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (MEAN, STD))
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255).sub_(mean).div_(deviation)


def draw_boxes(picture: PILImage.Image, content: Content) -> PILImage.Image:
    """A copy with every box and quad of content drawn, each phrase in its own colour with its text."""
    canvas = picture.convert("RGB").copy()
    draw = ImageDraw.Draw(canvas)
    line = max(1, round(min(canvas.size) / 150))
    phrase, number, labelled = "", -1, True
    for segment in content:
        if isinstance(segment, Ref):
            phrase, number, labelled = segment.text, number + 1, False
            continue
        if not isinstance(segment, Box | Quad):
            continue
        colour = COLOURS[max(number, 0) % len(COLOURS)]
        if isinstance(segment, Box):
            x1, y1, x2, y2 = box_to_pixels(segment, *canvas.size)
            corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        else:
            corners = quad_to_pixels(segment, *canvas.size)
        draw.line([*corners, corners[0]], fill=colour, width=line, joint="curve")
        if phrase and not labelled:
            _draw_label(draw, phrase, corners[0], colour, canvas.size)
            labelled = True
    return canvas


def _draw_label(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], colour: str, size: tuple[int, int]
) -> None:
    font = _label_font(max(10, round(min(size) / 28)))
    _, _, width, height = draw.textbbox((0, 0), text, font=font)
    x = min(max(corner[0], 0), max(0, size[0] - width - 4))
    y = corner[1] - height - 4 if corner[1] > height + 4 else corner[1] + 2
    draw.rectangle((x, y, x + width + 4, y + height + 3), fill=colour)
    draw.text((x + 2, y + 1), text, fill="white", font=font)


@lru_cache(maxsize=16)
def _label_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font with Chinese glyphs if one is installed, else any, else Pillow's own."""
    for name in LABEL_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _check_size(picture: PILImage.Image, name: str) -> None:
    width, height = picture.size
    if min(width, height) < 1:
        raise ImageError(f"{name}: an image of {width}x{height} pixels holds nothing")
    if width * height > MAX_PIXELS:
        message = f"{name}: {width}x{height} pixels, at most {MAX_PIXELS:,} are read; make it smaller"
        raise ImageError(message, "image too large")


def _name(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes"
    return "image" if isinstance(source, PILImage.Image) else str(source)
