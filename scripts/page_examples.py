"""Draws the web page's example pictures: scenes of the tiny world that the shipped weights read right.

python scripts/page_examples.py src/qvl/serve/page/examples
"""

import sys
from pathlib import Path

from PIL import Image as PILImage

from qvl.data.world.draw import draw_scene
from qvl.data.world.scene import Background, Scene, Thing, Word, ink_box

SIDE = 336  # pixels: three times the world's, so that a page shows them smooth
FONT = "DejaVuSans-Bold.ttf"


def scenes() -> dict[str, Scene]:
    """File name -> what the picture holds."""
    night = ((62, 66, 92), (36, 40, 60))
    return {
        "house": scene(((170, 205, 225), (120, 170, 120)), Thing("house", "red", "large", (40, 48, 88, 96))),
        "shapes": scene(
            night,
            Thing("star", "yellow", "large", (16, 16, 64, 64)),
            Thing("heart", "red", "large", (56, 64, 96, 104)),
        ),
        "sign": scene(((40, 62, 80), (24, 40, 58)), word("BOOK", 24, (24, 24), -4), word("SHOP", 22, (24, 66), 0)),
        "ring": scene(((225, 214, 196), (205, 186, 160)), Thing("ring", "blue", "large", (48, 32, 96, 80))),
    }


def scene(ground: tuple[tuple[int, int, int], tuple[int, int, int]], *content: Thing | Word) -> Scene:
    """Things and words on a gradient."""
    things = tuple(part for part in content if isinstance(part, Thing))
    words = tuple(part for part in content if isinstance(part, Word))
    return Scene("en", Background("gradient", ground, 0), things, words)


def word(text: str, size: int, origin: tuple[float, float], tilt: float) -> Word:
    """A word whose ink begins at `origin`."""
    left, top, right, bottom = ink_box(text, FONT, size)
    return Word(text, FONT, size, origin, right - left, bottom - top, tilt)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, drawn in scenes().items():
        picture = draw_scene(drawn).resize((SIDE, SIDE), PILImage.Resampling.BICUBIC)
        picture.save(folder / f"{name}.webp", lossless=True)
