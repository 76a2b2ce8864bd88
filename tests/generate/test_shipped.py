"""The weights that come with the package: small, whole, and able to answer before anybody trains."""

from importlib import resources
from pathlib import Path

import pytest

import qvl
from qvl.data.world.draw import draw_scene
from qvl.data.world.scene import Background, Scene, Thing
from qvl.data.world.words import COLOURS, KINDS

SHIPPED = Path(str(resources.files("qvl.assets") / "tiny"))
GROUND = Background("flat", ((120, 130, 125), (120, 130, 125)), 0)


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 25e6


@pytest.mark.parametrize("language", ["en", "zh"])
def test_they_name_the_colours_of_things(language: str) -> None:
    """One thing on a grey ground, each of four kinds in each colour; guessing gets an eighth."""
    model = qvl.load(str(SHIPPED))
    right = 0
    for i, (kind, colour) in enumerate([(k, c) for k in list(KINDS)[::3] for c in COLOURS]):
        scene = Scene(
            language, GROUND, things=(Thing(kind, colour, "large", (16 + 8 * (i % 5), 24, 64 + 8 * (i % 5), 72)),)
        )
        name = KINDS[kind].in_language(language)
        question = f"{name}是什么颜色？" if language == "zh" else f"What colour is the {name}?"
        answer = "".join(model.conversation().ask(question, [draw_scene(scene)]))
        right += answer.strip() == COLOURS[colour].in_language(language)
    assert right >= 24, f"{right} of 32"
