"""Bends and slants for masks, and exactly the same for the quads on them."""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from qvl.data.synth.layout import Rect

Points = np.ndarray  # (N, 2) float64: x, y in pixels
OUTLINE = 65  # points along each side of a rectangle, so that a bent one is followed to a tenth of a pixel


@dataclass(frozen=True)
class Bend:
    """Columns move down by amplitude * sin(2 pi (x / period) + phase): a curved baseline."""

    amplitude: float
    period: float
    phase: float

    def shift(self, x: np.ndarray) -> np.ndarray:
        """Pixels down at each x."""
        moved: np.ndarray = self.amplitude * np.sin(2 * np.pi * x / self.period + self.phase)
        return moved

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) uint8, moved, between pixels linearly. What leaves it is lost: leave room."""
        height, width = mask.shape
        rows = np.arange(height)[:, None] - self.shift(np.arange(width) + 0.5)[None]
        below = np.floor(rows).astype(np.int64)
        part = (rows - below).astype(np.float32)
        columns = np.broadcast_to(np.arange(width), (height, width))
        padded = np.pad(mask, ((1, 2), (0, 0)))
        first = padded[np.clip(below + 1, 0, height + 2), columns]
        second = padded[np.clip(below + 2, 0, height + 2), columns]
        return np.rint(first * (1 - part) + second * part).astype(np.uint8)

    def points(self, points: Points) -> Points:
        """Where points of the flat mask go."""
        return points + np.stack([np.zeros(len(points)), self.shift(points[:, 0])], axis=1)


@dataclass(frozen=True)
class Homography:
    """A perspective map, as the 3 x 3 matrix from flat to warped."""

    matrix: np.ndarray

    @classmethod
    def between(cls, source: Points, target: Points) -> "Homography":
        """The map that takes four points to four others."""
        rows, values = [], []
        for (x, y), (u, v) in zip(source, target, strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            values += [u, v]
        solved = np.linalg.solve(np.array(rows, dtype=np.float64), np.array(values, dtype=np.float64))
        return cls(np.append(solved, 1.0).reshape(3, 3))

    def points(self, points: Points) -> Points:
        """Where points go."""
        mapped = np.column_stack([points, np.ones(len(points))]) @ self.matrix.T
        where: np.ndarray = mapped[:, :2] / mapped[:, 2:]
        return where

    def image(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """The image warped onto a canvas of `size` (width, height)."""
        back = np.linalg.inv(self.matrix)
        back /= back[2, 2]
        return image.transform(size, Image.Transform.PERSPECTIVE, tuple(back.ravel()[:8]), Image.Resampling.BICUBIC)


def corners_of(width: float, height: float) -> Points:
    """The corners of a canvas, clockwise from the top left."""
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)


def jittered(points: Points, amount: float, rng: random.Random) -> Points:
    """Each point moved by up to `amount` pixels each way."""
    return points + np.array([[rng.uniform(-amount, amount) for _ in range(2)] for _ in points])


def rect_to_quad(rect: Rect, bend: Bend | None, homography: Homography) -> Points:
    """A flat rectangle's quad after both maps, clockwise from its top left, around all of the warped rectangle.

    Without a bend the corners map exactly. With one, the chord between the ends of the upper and of the lower side is
    moved outwards until the bent side lies inside, so that the quad holds the ink and hugs it.
    """
    x0, y0, x1, y1 = rect
    top, bottom = _side(x0, x1, y0), _side(x0, x1, y1)
    if bend is not None:
        top, bottom = _chord(bend.points(top), upper=True), _chord(bend.points(bottom), upper=False)
    else:
        top, bottom = top[[0, -1]], bottom[[0, -1]]
    return homography.points(np.array([top[0], top[1], bottom[1], bottom[0]]))


def _side(x0: float, x1: float, y: float) -> Points:
    x = np.linspace(x0, x1, OUTLINE)
    return np.stack([x, np.full(OUTLINE, y)], axis=1)


def _chord(points: Points, upper: bool) -> Points:
    """The straight line from the first to the last point, moved up (or down) past all of them."""
    share = np.linspace(0, 1, len(points))
    line = points[0, 1] + share * (points[-1, 1] - points[0, 1])
    off = points[:, 1] - line
    moved = off.min() if upper else off.max()
    ends = points[[0, -1]].copy()
    ends[:, 1] += moved
    return ends
