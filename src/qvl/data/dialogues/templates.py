"""Dialogues about places, from boxes alone: no language model, nothing that could be wrong."""

import random

from qvl.data.dialogues.scene import Scene
from qvl.data.sample import Turn
from qvl.text.markup import Content, Image, Ref, Text

ROUNDS = 4
FIND = {
    "en": ("Where is {}?", "Find {} in the picture.", "Draw a box around {}.", "Can you point out {}?"),
    "zh": ("{}在哪里？", "在图中找到{}。", "框出{}的位置。", "请指出{}。"),
}
NAME = {
    "en": ("What is in this part of the picture?", "What do you see here?", "Describe this region."),
    "zh": ("图中这个位置是什么？", "这里有什么？", "描述这个区域。"),
}
REGION = {"en": "this region", "zh": "这个区域"}


def localisation_dialogue(scene: Scene, seed: int) -> tuple[Turn, ...]:
    """Up to ROUNDS questions after places and things, of which each thing is asked for once. () without things."""
    rng = random.Random(f"{seed}/{scene.key}")
    turns: list[Turn] = []
    for thing in rng.sample(scene.things, min(ROUNDS, len(scene.things))):
        found: Content = (Ref(thing.phrase), *thing.boxes)
        if len(thing.boxes) > 1 or rng.random() < 0.6:
            before, _, after = rng.choice(FIND[scene.language]).partition("{}")
            asked: Content = (Text(before + thing.phrase + after),)
            answer = found
        else:
            asked = (Text(rng.choice(NAME[scene.language]) + " "), Ref(REGION[scene.language]), *thing.boxes)
            answer = (Text(thing.phrase),)
        turns += [Turn("user", asked if turns else (Image(0), *asked)), Turn("assistant", answer)]
    return tuple(turns)


def together(dialogues: list[tuple[str, tuple[Turn, ...]]], rng: random.Random) -> tuple[Turn, ...]:
    """Dialogues about single pictures -> one about all of them: the pictures come first, their questions after, in
    any order between pictures, each naming its picture ("In Picture 2: ...") as the renderer numbers them."""
    pools = [[(turns[i], turns[i + 1]) for i in range(0, len(turns), 2)] for _, turns in dialogues]
    order = [picture for picture, pool in enumerate(pools) for _ in pool]
    rng.shuffle(order)
    merged: list[Turn] = []
    for picture in order:
        asked, answer = pools[picture].pop(0)
        words = tuple(segment for segment in asked.content if not isinstance(segment, Image))
        lead = {"en": f"In Picture {picture + 1}: ", "zh": f"图{picture + 1}中，"}[dialogues[picture][0]]
        shown = tuple(Image(i) for i in range(len(dialogues))) if not merged else ()
        merged += [Turn("user", (*shown, Text(lead), *words)), answer]
    return tuple(merged)
