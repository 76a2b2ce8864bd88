"""A scene -> samples of the seven tasks and dialogues, and the same scene told in words only."""

import io
import random
from pathlib import Path
from typing import Any

from qvl.data.sample import Sample, Turn
from qvl.data.world import phrases
from qvl.data.world.draw import draw_scene
from qvl.data.world.scene import SIDE, BoxPixels, Scene, Thing, make_scene
from qvl.data.world.words import COLOURS, KINDS
from qvl.text import prompts
from qvl.text.markup import Box, Content, Image, Quad, Ref, Segment, Text, box_from_pixels, quad_from_pixels
from qvl.text.render import with_leading_space

# Shares of the samples that a world writes; a recipe's mixture weighs them anew.
TASK_SHARES = {
    "caption": 0.12,
    "vqa": 0.15,
    "grounding": 0.05,
    "referring": 0.22,
    "grounded_caption": 0.04,
    "region_caption": 0.05,
    "ocr": 0.13,
    "text": 0.17,
    "dialogue": 0.07,
}
# How often each family of questions is asked: open ones more than those that guessing gets right.
QUESTION_WEIGHTS = {
    "colour": 1.0,
    "kind": 1.0,
    "place": 0.7,
    "relation": 1.0,
    "read": 1.5,
    "chart": 0.8,
    "count": 0.5,
    "size": 0.3,
}
_SCENE_OF_TASK = {  # task -> kinds of scene and their weights
    "caption": {"things": 0.6, "words": 0.25, "chart": 0.05, "sign": 0.1},
    "vqa": {"things": 0.6, "words": 0.2, "chart": 0.12, "sign": 0.08},
    "grounding": {"things": 1.0},
    "referring": {"things": 0.8, "sign": 0.1, "words": 0.1},
    "grounded_caption": {"things": 0.7, "sign": 0.15, "words": 0.15},
    "region_caption": {"things": 0.7, "sign": 0.15, "words": 0.15},
    "ocr": {"words": 0.85, "sign": 0.15},
    "text": {"things": 0.75, "sign": 0.25},
    "dialogue": {"things": 0.7, "words": 0.15, "sign": 0.15},
}
# What is asked about a scene told in words, and how often; with boxes or without any.
_TEXT_TASKS = {"vqa": 0.8, "caption": 0.2}
_TEXT_TASKS_WITH_BOXES = {"referring": 0.5, "grounding": 0.1, "region_caption": 0.25, "grounded_caption": 0.15}
_TEXT_WITH_BOXES = 0.1
_TEXT_ROUNDS = 8
# Exchanges about one picture in training: an encoded picture serves several questions for little more.
MAX_ROUNDS = {"vqa": 5, "referring": 4, "grounding": 2, "region_caption": 4}
_CROWDED_TASKS = ("referring", "region_caption", "ocr")  # more to point at and to read in one picture
JPEG_QUALITY = 95


def make_sample(
    seed: int,
    split: str,
    index: int,
    task: str,
    language: str,
    photos: tuple[Path, ...] = (),
    several: bool = False,
) -> Sample:
    """The index-th sample of a split: a pure function of its arguments (and the installed fonts).

    several: up to MAX_ROUNDS different exchanges about the picture, else one; and some pictures hold more.
    """
    key = f"{seed}/{split}/{task}/{language}/{index}"
    rng = random.Random(key)
    crowded = several and task in _CROWDED_TASKS and rng.random() < 0.5
    scenes = [_scene_for(rng, task, language, photos, crowded)]
    if task == "dialogue" and rng.random() < 0.5:
        scenes.append(_scene_for(rng, task, language, photos))
    turns = _TURNS[task](rng, scenes)
    if several and task in MAX_ROUNDS:
        turns += _more_rounds(rng, scenes, task, turns)
    pictures: tuple[bytes, ...] = () if task == "text" else tuple(_encode(scene) for scene in scenes)
    if task == "dialogue" and not any(isinstance(s, Image) for turn in turns for s in turn.content):
        pictures = ()
    provenance: dict[str, Any] = {"source": "world", "row": key, "settings": {"side": SIDE}}
    photo = [Path(s.background.photo).name for s in scenes if s.background.photo]
    if photo and pictures:
        provenance["photographs"] = photo
    return Sample(f"world-{key.replace('/', '-')}", task, language, pictures, tuple(turns), provenance)


def _more_rounds(rng: random.Random, scenes: list[Scene], task: str, first: list[Turn]) -> list[Turn]:
    """Further exchanges of the same task on the same picture, none asked twice."""
    told = [segment for segment in first[0].content if isinstance(segment, Image)]
    asked = {first[0].content}
    turns: list[Turn] = []
    for _ in range(MAX_ROUNDS[task] - 1):
        user, assistant = _TURNS[task](rng, scenes)
        if user.content not in asked:
            asked.add(user.content)
            turns += _pair(tuple(s for s in user.content if s not in told), assistant.content)
    return turns


def _scene_for(rng: random.Random, task: str, language: str, photos: tuple[Path, ...], crowded: bool = False) -> Scene:
    kinds = _SCENE_OF_TASK[task]
    while True:
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        scene = make_scene(rng, language, kind, photos, crowded=crowded)
        if scene.things or scene.words or scene.bars:
            if task == "vqa" and not phrases.questions(scene):
                continue
            return scene


def _encode(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    draw_scene(scene).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def box_of(pixels: BoxPixels) -> Box:
    """Pixels of the world -> [0, 1000)."""
    return box_from_pixels(pixels, SIDE, SIDE)


def _pair(prefix: Content, answer: Content) -> list[Turn]:
    return [Turn("user", prefix), Turn("assistant", answer)]


def _caption(rng: random.Random, scenes: list[Scene]) -> list[Turn]:
    scene = scenes[0]
    return _pair(prompts.caption_prefix(scene.language), (Text(phrases.caption(scene)),))


def pick_question(rng: random.Random, scene: Scene) -> phrases.Question:
    """A question by the weights of its family, each family once."""
    found = phrases.questions(scene)
    families = sorted({family for family, _, _ in found})
    family = rng.choices(families, [QUESTION_WEIGHTS[f] for f in families])[0]
    return rng.choice([q for q in found if q[0] == family])


def _vqa(rng: random.Random, scenes: list[Scene]) -> list[Turn]:
    _, question, answer = pick_question(rng, scenes[0])
    return _pair(prompts.vqa_prefix(question), (Text(answer),))


def _targets(scene: Scene) -> list[tuple[str, Box]]:
    """What can be pointed at: every thing (its name is unique in the scene) and every word."""
    things = [(phrases.short_name(t, scene.language), box_of(t.box)) for t in scene.things]
    words = [(phrases.word_phrase([w], scene.language), box_of(w.box)) for w in scene.words]
    return things + words


def _referring(rng: random.Random, scenes: list[Scene]) -> list[Turn]:
    name, box = rng.choice(_targets(scenes[0]))
    return _pair(prompts.referring_prefix(name), (box,))


def _grounding(rng: random.Random, scenes: list[Scene]) -> list[Turn]:
    """A colour or kind that one or several things share; its boxes from left to right."""
    scene = scenes[0]
    thing = rng.choice(scene.things)
    if rng.random() < 0.5:
        name = COLOURS[thing.colour].in_language(scene.language)
        owners = [t for t in scene.things if t.colour == thing.colour]
    else:
        name = KINDS[thing.kind].in_language(scene.language)
        owners = [t for t in scene.things if t.kind == thing.kind]
    boxes = tuple(box_of(t.box) for t in phrases.reading_order(owners))
    return _pair(prompts.grounding_prefix(name), boxes)


def grounded_caption(scene: Scene) -> Content:
    """The caption, each phrase followed by its boxes."""
    segments: list[Segment] = []
    for part in phrases.caption_parts(scene):
        if isinstance(part, str):
            segments.append(Text(part))
        elif isinstance(part, Thing):
            segments += [Ref(phrases.phrase(part, scene.language)), box_of(part.box)]
        else:
            segments.append(Ref(phrases.word_phrase(part, scene.language)))
            segments += [box_of(word.box) for word in part]
    return tuple(segments)


def _grounded_caption(rng: random.Random, scenes: list[Scene]) -> list[Turn]:
    return _pair(prompts.grounded_caption_prefix(scenes[0].language), grounded_caption(scenes[0]))


def _region_caption(rng: random.Random, scenes: list[Scene]) -> list[Turn]:
    scene = scenes[0]
    things = [(phrases.phrase(t, scene.language), box_of(t.box)) for t in scene.things]
    words = [(phrases.word_phrase([w], scene.language), box_of(w.box)) for w in scene.words]
    name, box = rng.choice(things + words)
    return _pair(prompts.region_prefix(box), (Text(name),))


def _ocr(rng: random.Random, scenes: list[Scene]) -> list[Turn]:
    segments: list[Segment] = []
    for word in scenes[0].words:
        quad: Quad = quad_from_pixels(word.quad, SIDE, SIDE)
        segments += [Ref(word.text), quad]
    return _pair(prompts.ocr_prefix(), tuple(segments))


def describe(scene: Scene, boxes: bool) -> Content:
    """The scene in words, in place of its picture; things in random-free reading order."""
    segments: list[Segment] = []
    comma, stop = ("，", "。") if scene.language == "zh" else (", ", ".")
    for i, (name, box) in enumerate(_described(scene)):
        if i:
            segments.append(Text(comma))
        segments += [Ref(name), box] if boxes else [Text(name)]
    segments.append(Text(stop))
    return tuple(segments)


def _described(scene: Scene) -> list[tuple[str, Box]]:
    things = [
        (f"{phrases.full_name(t, scene.language)} {phrases.place(t.centre, scene.language)}", box_of(t.box))
        for t in phrases.reading_order(scene.things)
    ]
    return things + [(phrases.word_phrase([w], scene.language), box_of(w.box)) for w in scene.words]


def _text(rng: random.Random, scenes: list[Scene]) -> list[Turn]:
    """Tasks on the scene told in words: what a language model can learn before it sees."""
    boxes = rng.random() < _TEXT_WITH_BOXES
    shares = _TEXT_TASKS_WITH_BOXES if boxes else _TEXT_TASKS
    tasks = rng.choices(list(shares), list(shares.values()), k=_TEXT_ROUNDS)
    scene = scenes[0]
    while scene.bars or not scene.things:
        scene = _scene_for(rng, "text", scene.language, ())
    turns: list[Turn] = []
    asked: set[Content] = set()
    for task in tasks:
        user, assistant = _TURNS[task](rng, [scene])
        if user.content in asked:
            continue
        asked.add(user.content)
        question = tuple(segment for segment in user.content if not isinstance(segment, Image))
        answer = with_leading_space(assistant.content) if task in prompts.LEADING_SPACE else assistant.content
        turns += _pair(question, answer)
    return [Turn("user", (*describe(scene, boxes), Text("\n"), *turns[0].content)), *turns[1:]]


_HELLO = {
    "en": (
        ("Hello!", "Hello! Show me a picture and ask me about it."),
        ("Who are you?", "I am a tiny Qwen-VL."),
    ),
    "zh": (("你好！", "你好！请给我一张图片，问我问题吧。"), ("你是谁？", "我是一个小小的 Qwen-VL。")),
}


def _dialogue(rng: random.Random, scenes: list[Scene]) -> list[Turn]:
    """One or two pictures, one to three rounds; a few dialogues have no picture at all."""
    language = scenes[0].language
    if rng.random() < 0.08:
        hello, reply = rng.choice(_HELLO[language])
        return _pair((Text(hello),), (Text(reply),))
    rounds = [_dialogue_round(rng, scenes) for _ in range(rng.randint(1, 3))]
    pictures = tuple(Image(i) for i in range(len(scenes)))
    turns: list[Turn] = []
    for i, (question, answer) in enumerate(rounds):
        turns += _pair((*pictures, *question) if i == 0 else question, answer)
    return turns


def _dialogue_round(rng: random.Random, scenes: list[Scene]) -> tuple[Content, Content]:
    language, zh = scenes[0].language, scenes[0].language == "zh"
    number = rng.randrange(len(scenes))
    scene = scenes[number]
    which = "" if len(scenes) == 1 else (f"图{number + 1}中，" if zh else f"In picture {number + 1}: ")
    kind = rng.choices(("describe", "point", "ask", "read"), (0.25, 0.25, 0.35, 0.15))[0]
    if kind == "point" and scene.things:
        thing = rng.choice(scene.things)
        name = phrases.short_name(thing, language)
        question = f"{which}框出{name}。" if zh else f"{which}Find the {name}."
        return (Text(question),), (Ref(name), box_of(thing.box))
    if kind == "read" and scene.words:
        question = f"{which}读出图中的文字。" if zh else f"{which}Read the text."
        return (Text(question),), (Text((" ").join(word.text for word in scene.words)),)
    if kind == "ask" and phrases.questions(scene):
        _, question, answer = pick_question(rng, scene)
        return (Text(which + question),), (Text(answer),)
    question = f"{which}描述这张图片。" if zh else f"{which}Describe the picture."
    return (Text(question),), (Text(phrases.caption(scene)),)


_TURNS = {
    "caption": _caption,
    "vqa": _vqa,
    "grounding": _grounding,
    "referring": _referring,
    "grounded_caption": _grounded_caption,
    "region_caption": _region_caption,
    "ocr": _ocr,
    "text": _text,
    "dialogue": _dialogue,
}
