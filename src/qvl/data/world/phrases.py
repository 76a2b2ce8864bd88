"""A scene in words: names of things, captions, questions with their answers, in both languages."""

from collections import Counter
from collections.abc import Sequence

from qvl.data.world.scene import SIDE, Point, Scene, Thing, Word
from qvl.data.world.words import (
    COLOURS,
    KINDS,
    PLACES,
    RELATIONS,
    SIZES,
    ZH_NUMBERS,
    join_list,
    with_article,
)

Question = tuple[str, str, str]  # family, question, answer


def short_name(thing: Thing, language: str) -> str:
    """red circle / 红色圆形."""
    joint = "" if language == "zh" else " "
    return COLOURS[thing.colour].in_language(language) + joint + KINDS[thing.kind].in_language(language)


def full_name(thing: Thing, language: str) -> str:
    """small red circle / 小红色圆形."""
    joint = "" if language == "zh" else " "
    return SIZES[thing.size].in_language(language) + joint + short_name(thing, language)


def place(centre: Point, language: str) -> str:
    """Where in the picture, by thirds."""
    column, row = (min(2, int(3 * v / SIDE)) for v in centre)
    return PLACES[row, column].in_language(language)


def relation(a: Thing, b: Thing, language: str) -> str:
    """How a stands to b, along the axis that separates them more."""
    dx, dy = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
    key = ("left" if dx < 0 else "right") if abs(dx) >= abs(dy) else ("above" if dy < 0 else "below")
    return RELATIONS[key].in_language(language)


def word_phrase(words: Sequence[Word], language: str) -> str:
    """the word "STOP" / 文字“出口”."""
    if language == "zh":
        return "文字" + "和".join(f"“{w.text}”" for w in words)
    return f"the word{'s' if len(words) > 1 else ''} " + " and ".join(f'"{w.text}"' for w in words)


def bar_list(scene: Scene) -> str:
    """a bar chart with a red bar and a blue bar / 有红色和蓝色柱子的柱状图."""
    names = [COLOURS[bar.colour].in_language(scene.language) for bar in scene.bars]
    if scene.language == "zh":
        return f"有{join_list(names, 'zh')}柱子的柱状图"
    return "a bar chart in " + join_list(names, "en")


def reading_order(things: Sequence[Thing]) -> list[Thing]:
    """From left to right."""
    return sorted(things, key=lambda thing: (thing.centre[0], thing.centre[1]))


def caption_parts(scene: Scene) -> list[str | Thing | tuple[Word, ...]]:
    """A caption as plain strings and the phrases that own boxes, in order."""
    language, zh = scene.language, scene.language == "zh"
    if scene.bars:
        return [bar_list(scene)]
    things = reading_order(scene.things)
    if scene.words and not things:
        return [scene.words]
    if scene.words:
        parts = _listed(things, language)
        return [*parts, "和" if zh else " and ", scene.words]
    if len(things) == 1:
        where = place(things[0].centre, language)
        if zh:
            return [f"{where}有一个", things[0]]
        return [things[0], f" at the {where}" if " " in where else f" {_at(where)}"]
    if len(things) == 2:
        a, b = things
        if zh:
            return ["一个", a, "在一个", b, f"的{relation(a, b, language)}"]
        return [a, f" {relation(a, b, language)} ", b]
    return _listed(things, language)


def _at(where: str) -> str:
    return {"centre": "in the centre", "left": "on the left", "right": "on the right"}.get(where, f"at the {where}")


def _listed(things: Sequence[Thing], language: str) -> list[str | Thing | tuple[Word, ...]]:
    zh = language == "zh"
    parts: list[str | Thing | tuple[Word, ...]] = []
    for i, thing in enumerate(things):
        if i:
            last = i == len(things) - 1
            parts.append(("和" if last else "、") if zh else (" and " if last else ", "))
        if zh:
            parts.append("一个")
        parts.append(thing)
    return parts


def caption(scene: Scene) -> str:
    """The caption as plain text."""
    pieces = []
    for part in caption_parts(scene):
        if isinstance(part, str):
            pieces.append(part)
        elif isinstance(part, Thing):
            pieces.append(phrase(part, scene.language))
        else:
            pieces.append(word_phrase(part, scene.language))
    return "".join(pieces)


def phrase(thing: Thing, language: str) -> str:
    """a small red circle / 小红色圆形: a thing as it stands in a caption."""
    name = full_name(thing, language)
    return name if language == "zh" else with_article(name)


def questions(scene: Scene) -> list[Question]:
    """Every question that this scene answers in one way only."""
    zh = scene.language == "zh"
    found: list[Question] = []
    if scene.things:
        found += _about_each_thing(scene) + _about_pairs(scene)
        if not scene.words:
            count = len(scene.things)
            found.append(
                ("count", "有几个物体？", f"{ZH_NUMBERS[count]}个")
                if zh
                else ("count", "How many objects are there?", str(count))
            )
    if len(scene.words) == 1:
        question = "图中写着什么字？" if zh else "What does the text say?"
        found.append(("read", question, scene.words[0].text))
    if len(scene.words) == 2:
        for word, en, chinese in zip(scene.words, ("top", "bottom"), ("上面", "下面"), strict=True):
            question = f"{chinese}写着什么字？" if zh else f"What does the {en} line say?"
            found.append(("read", question, word.text))
    if scene.bars:
        found += _about_bars(scene)
    return found


def _about_each_thing(scene: Scene) -> list[Question]:
    language, zh = scene.language, scene.language == "zh"
    kinds = Counter(thing.kind for thing in scene.things)
    colours = Counter(thing.colour for thing in scene.things)
    found: list[Question] = []
    for thing in scene.things:
        kind, colour = KINDS[thing.kind].in_language(language), COLOURS[thing.colour].in_language(language)
        if kinds[thing.kind] == 1:
            found.append(("colour", f"{kind}是什么颜色？" if zh else f"What colour is the {kind}?", colour))
            where = place(thing.centre, language)
            found.append(("place", f"{kind}在哪里？" if zh else f"Where is the {kind}?", where))
            size = SIZES[thing.size].in_language(language)
            found.append(("size", f"{kind}是大还是小？" if zh else f"Is the {kind} large or small?", size))
        if colours[thing.colour] == 1:
            found.append(("kind", f"{colour}的是什么？" if zh else f"What is the {colour} object?", kind))
    return found


def _about_pairs(scene: Scene) -> list[Question]:
    """What lies beside a thing, in scenes of two."""
    if len(scene.things) != 2:
        return []
    language, zh = scene.language, scene.language == "zh"
    found: list[Question] = []
    for a, b in (scene.things, scene.things[::-1]):
        name, where = short_name(b, language), relation(a, b, language)
        question = f"{name}的{where}是什么？" if zh else f"What is {where} the {name}?"
        found.append(("relation", question, short_name(a, language)))
    return found


def _about_bars(scene: Scene) -> list[Question]:
    language, zh = scene.language, scene.language == "zh"
    tallest = COLOURS[max(scene.bars, key=lambda bar: bar.value).colour].in_language(language)
    found: list[Question] = [
        ("chart", "最高的柱子是什么颜色？" if zh else "What colour is the tallest bar?", tallest),
        ("chart", "有几根柱子？", f"{ZH_NUMBERS[len(scene.bars)]}根")
        if zh
        else ("chart", "How many bars are there?", str(len(scene.bars))),
    ]
    for bar in scene.bars:
        colour = COLOURS[bar.colour].in_language(language)
        question = f"{colour}柱子的数值是多少？" if zh else f"What is the value of the {colour} bar?"
        found.append(("chart", question, str(bar.value)))
    return found
