"""Pictures that look alike, by a perceptual hash of 64 bits: the signs of low frequencies.

Scaling, recompression and small changes of light leave it within a few bits. Flat pictures have no such signs and are
never compared.
"""

from functools import lru_cache

import numpy as np
from PIL import Image as PILImage

from qvl.errors import UsageError

DISTANCE = 6  # bits in which pictures that are alike may differ
BANDS = 4  # of 16 bits each: hashes that differ in at most 7 bits differ in at most one bit of some band
MAX_DISTANCE = 2 * BANDS - 1
HASH_SIDE, PICTURE_SIDE = 8, 32
FLAT = 2.0  # standard deviation of the grey values below which a picture shows nothing


def picture_hash(picture: PILImage.Image) -> int | None:
    """64 bits, or None for a flat picture."""
    small = picture.convert("L").resize((PICTURE_SIDE, PICTURE_SIDE), PILImage.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float64)
    if grey.std() < FLAT:
        return None
    waves = _low_waves()
    low = (waves @ grey @ waves.T).ravel()
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@lru_cache(maxsize=1)
def _low_waves() -> np.ndarray:
    """(8, 32): the cosines of the lowest frequencies but the mean."""
    frequency, place = np.arange(1, HASH_SIDE + 1)[:, None], np.arange(PICTURE_SIDE)[None]
    waves: np.ndarray = np.cos(np.pi * frequency * (2 * place + 1) / (2 * PICTURE_SIDE))
    return waves


class HashIndex:
    """Hashes by their bands: finds one within `distance` bits among those added, exactly."""

    def __init__(self, distance: int) -> None:
        if not 0 <= distance <= MAX_DISTANCE:
            raise UsageError(f"distance {distance}: 0 to {MAX_DISTANCE} bits")
        self.distance = distance
        self.bands: list[dict[int, list[tuple[int, str]]]] = [{} for _ in range(BANDS)]

    def add(self, value: int, name: str) -> None:
        """Remember a hash."""
        for band, part in zip(self.bands, _parts(value), strict=True):
            band.setdefault(part, []).append((value, name))

    def find(self, value: int) -> tuple[str, int] | None:
        """(name, bits that differ) of the nearest hash within the distance."""
        best: tuple[int, str] | None = None
        for band, part in zip(self.bands, _parts(value), strict=True):
            for probe in (part, *(part ^ 1 << bit for bit in range(16))):
                for other, name in band.get(probe, ()):
                    bits = (value ^ other).bit_count()
                    if bits <= self.distance and (best is None or bits < best[0]):
                        best = (bits, name)
        return (best[1], best[0]) if best else None


def _parts(value: int) -> list[int]:
    """A hash's bands."""
    return [(value >> shift) & 0xFFFF for shift in range(0, 16 * BANDS, 16)]
