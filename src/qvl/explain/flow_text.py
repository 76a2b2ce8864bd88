"""The way of a picture and a question through the model, for a terminal."""

from collections.abc import Iterator

from qvl.explain.columns import aligned, quantity
from qvl.explain.flow import PLACES, AnswerFlow, Look
from qvl.explain.flow_words import FLOW_WORDS
from qvl.explain.loss_text import shown
from qvl.explain.shapes import STEPS, Flow

COST_HEADS = ("parameters", "operations")


def flow_text(flow: AnswerFlow, language: str) -> str:
    """Shapes, cost, and a row for each token of the answer."""
    words = FLOW_WORDS[language]
    heads = [words[place] for place in PLACES]
    said = [[shown(look.text), *(f"{share:.0%}" for share in look.shares), words_text(look)] for look in flow.looks]
    return "\n".join(
        [
            words["shapes"],
            *aligned(shape_rows(flow, words)),
            "",
            words["cost"],
            *aligned(list(cost_rows(flow, words))),
            cost_note(flow, words),
            "",
            f"{flow.question}  {words['says']}: {flow.answer}",
            *aligned([[words["token"], *heads, words["words"]], *said]),
        ]
    )


def flows(flow: AnswerFlow) -> list[Flow]:
    """This model's, and the 9.6B's where that is another."""
    return [flow.own] if flow.published is None else [flow.own, flow.published]


def shape_rows(flow: AnswerFlow, words: dict[str, str]) -> list[list[str]]:
    """A head, then each step with its shape in each model, and what it is."""
    rows = [[step, *(" x ".join(map(str, one.shapes[step])) for one in flows(flow)), words[step]] for step in STEPS]
    return [[words["step"], *_models(flow, words), words["what"]], *rows]


def cost_rows(flow: AnswerFlow, words: dict[str, str]) -> Iterator[list[str]]:
    """A head, the parts, the sum: parameters and operations of each model."""
    both = flows(flow)
    yield [words["part"], *(f"{words[key]}, {name}" for name in _models(flow, words) for key in COST_HEADS)]
    for number, part in enumerate(flow.own.parts):
        row = [words["adapter_part" if part.name == "adapter" else part.name]]
        for one in both:
            this = one.parts[number]
            whole = sum(other.operations for other in one.parts)
            row += [quantity(this.parameters), f"{quantity(this.operations)} ({this.operations / whole:.0%})"]
        yield row
    sums = [(sum(p.parameters for p in one.parts), sum(p.operations for p in one.parts)) for one in both]
    yield [words["all"], *(quantity(number) for pair in sums for number in pair)]


def cost_note(flow: AnswerFlow, words: dict[str, str]) -> str:
    """What was counted."""
    tokens = [one.shapes["language.head"][1] for one in flows(flow)]
    return words["cost_note" if len(tokens) == 2 else "cost_note_one"].format(*tokens)


def words_text(look: Look) -> str:
    """The places of text that it attended to most."""
    return "  ".join(f"{shown(text)} {share:.0%}" for text, share in look.words)


def _models(flow: AnswerFlow, words: dict[str, str]) -> list[str]:
    return [words["own"], words["published"]][: len(flows(flow))]
