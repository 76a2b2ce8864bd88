"""What of a page's text its picture shows.

A page is drawn twice, with its text and without: where the two pictures differ is the ink of text, whatever lies
behind it. Text that is white on white, covered, clipped away, transparent or outside the page makes no
difference, and boxes hug what does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from qvl.data.ocr.page import Atom, Rect

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

INK_CONTRAST = 40  # a pixel is ink when one of its channels differs by more from what lies behind
EDGE = 1.0  # pixels by which a box may stick out of the image before its atom counts as cut
SHOWN = 0.7  # share of a glyph's width and height that must be ink, where its true size is known


@dataclass(frozen=True)
class Seen:
    """The atoms that an image shows whole, with tight ink boxes; how many it does not show, or not whole; and the
    share of the text's ink that lies in no atom's box: what a reader sees and no label says."""

    atoms: tuple[Atom, ...]
    unseen: int
    stray: float


def seen_atoms(atoms: Iterable[Atom], image: Image.Image, bare: Image.Image, exact: bool) -> Seen:
    """What of the atoms the image shows.

    bare is the image without its text. exact: the atoms' ink boxes are those of the glyphs, to a pixel, so that
    one with less ink is partly hidden; else they are the font's.
    """
    mask = ink_mask(np.asarray(image), np.asarray(bare).astype(np.int16))
    kept: dict[tuple[str, Rect], Atom] = {}
    unseen = 0
    for atom in atoms:
        ink = ink_box(mask, atom) if _inside(atom.ink, image.size) else None
        if ink is None or (exact and not _whole(ink, atom.ink)):
            unseen += 1
        else:
            kept.setdefault((atom.text, ink), replace(atom, ink=ink))  # drawn twice: a poor man's bold
    total = int(mask.sum())
    for atom in kept.values():
        x0, y0, x1, y1 = map(int, atom.ink)
        mask[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = False
    return Seen(tuple(kept.values()), unseen, int(mask.sum()) / max(total, 1))


def _inside(box: Rect, size: tuple[int, int]) -> bool:
    return box[0] >= -EDGE and box[1] >= -EDGE and box[2] <= size[0] + EDGE and box[3] <= size[1] + EDGE


def _whole(ink: Rect, glyphs: Rect) -> bool:
    """Two pixels are lost at the edges of faint glyphs."""
    found, whole = (ink[2] - ink[0], ink[3] - ink[1]), (glyphs[2] - glyphs[0], glyphs[3] - glyphs[1])
    return all(f + 2 >= SHOWN * w for f, w in zip(found, whole, strict=True))


def ink_box(mask: Mask, atom: Atom) -> Rect | None:
    """The atom's box shrunk to the ink in it; None when there is none, or a gap in which a letter would fit."""
    height, width = mask.shape
    x0, y0 = max(int(np.floor(atom.ink[0])), 0), max(int(np.floor(atom.ink[1])), 0)
    x1, y1 = min(int(np.ceil(atom.ink[2])), width), min(int(np.ceil(atom.ink[3])), height)
    if x0 >= x1 or y0 >= y1:
        return None
    inside = mask[y0:y1, x0:x1]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return None
    if len(atom.text) > 1:
        flat = atom.angle in (0, 180)
        places, length = (columns, x1 - x0) if flat else (rows, y1 - y0)
        letter = (atom.box[3] - atom.box[1]) if flat else (atom.box[2] - atom.box[0])
        if _widest_gap(places, length) > letter:
            return None
    return (float(x0 + columns[0]), float(y0 + rows[0]), float(x0 + columns[-1] + 1), float(y0 + rows[-1] + 1))


def _widest_gap(places: npt.NDArray[np.intp], length: int) -> int:
    """The longest run without ink among `length` places."""
    return int(np.diff(np.concatenate(([-1], places, [length]))).max()) - 1


def background(pixels: Pixels) -> npt.NDArray[np.int16]:
    """The most frequent colour."""
    flat = pixels.reshape(-1, 3).astype(np.uint32)
    codes, counts = np.unique((flat[:, 0] << 16) | (flat[:, 1] << 8) | flat[:, 2], return_counts=True)
    code = int(codes[counts.argmax()])
    return np.array([code >> 16, (code >> 8) & 255, code & 255], dtype=np.int16)


def ink_mask(pixels: Pixels, ground: npt.NDArray[np.int16]) -> Mask:
    """Where the pixels differ from the background, one colour or a picture, enough to be seen."""
    mask: Mask = (np.abs(pixels.astype(np.int16) - ground) > INK_CONTRAST).any(axis=-1)
    return mask


def overprinted(atoms: Sequence[Atom]) -> int:
    """How many atoms share more than half of their ink box, or of the other's, with another: nobody reads them."""
    boxes = np.array([a.ink for a in atoms]).reshape(-1, 4)
    boxes = boxes[np.argsort(boxes[:, 1], kind="stable")]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    count = 0
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        below = slice(i + 1, np.searchsorted(boxes[:, 1], y1))
        rest = boxes[below]
        width = np.minimum(rest[:, 2], x1) - np.maximum(rest[:, 0], x0)
        height = np.minimum(rest[:, 3], y1) - np.maximum(rest[:, 1], y0)
        shared = np.clip(width, 0, None) * np.clip(height, 0, None)
        count += bool((shared > np.minimum(areas[below], areas[i]) / 2).any())
    return count
