"""Which tokens carry loss, for every task: the worked examples of the paper's appendix B, spelled out."""

import json
from pathlib import Path

import pytest

from qvl.text import prompts, published
from qvl.text.markup import Box, Content, Image, Quad, Ref, Text
from qvl.text.render import DIALOGUE, Rendered, RoleTurn, render, render_prompt, supervised_text
from qvl.text.special_tokens import ALL_TOKENS, IGNORE_INDEX
from qvl.text.tokenizer import Tokenizer

TINY = Tokenizer.tiny()
PLACES = 4  # image places in these tests
FLOWERS = (Text("the beautiful flowers for design."),)
BEES = (
    Text("Beautiful shot of "),
    Ref("bees"),
    Box(661, 612, 833, 812),
    Box(120, 555, 265, 770),
    Text("."),
)
MANAGED = (Ref("It is managed"), Quad(568, 121, 625, 131, 624, 182, 567, 172))
NO_LICENSE = (Text("does not have a license."),)
GLOVES = (Text("Yellow cross country ski racing gloves"),)

# task, prefix, answer; then what must be read without loss behind the image, and with loss
TASKS: list[tuple[str, Content, Content, str, str]] = [
    (
        "caption",
        prompts.caption_prefix("en"),
        FLOWERS,
        "Generate the caption in English:",
        " the beautiful flowers for design.<|endoftext|>",
    ),
    (
        "caption",
        prompts.caption_prefix("zh"),
        (Text("漂亮的花"),),
        "Generate the caption in Chinese:",
        " 漂亮的花<|endoftext|>",
    ),
    (
        "vqa",
        prompts.vqa_prefix("Does the bandage have a license?"),
        NO_LICENSE,
        "Does the bandage have a license? Answer:",
        " does not have a license.<|endoftext|>",
    ),
    (
        "grounded_caption",
        prompts.grounded_caption_prefix("en"),
        BEES,
        "Generate the caption in English with grounding:",
        " Beautiful shot of <ref>bees</ref><box>(661,612),(833,812)</box><box>(120,555),(265,770)</box>.<|endoftext|>",
    ),
    (
        "referring",
        prompts.referring_prefix("the ear on a giraffe"),
        (Box(176, 106, 232, 160),),
        "<ref>the ear on a giraffe</ref>",
        "<box>(176,106),(232,160)</box><|endoftext|>",
    ),
    (
        "region_caption",
        prompts.region_prefix(Box(360, 542, 476, 705)),
        GLOVES,
        "<ref>This</ref><box>(360,542),(476,705)</box> is",
        " Yellow cross country ski racing gloves<|endoftext|>",
    ),
    (
        "ocr",
        prompts.ocr_prefix(),
        MANAGED,
        "OCR with grounding:",
        " <ref>It is managed</ref><quad>(568,121),(625,131),(624,182),(567,172)</quad><|endoftext|>",
    ),
]


def rendered(turns: list[RoleTurn], task: str, max_length: int | None = None) -> Rendered:
    result = render(turns, task, TINY, PLACES, max_length)
    assert result is not None
    assert len(result.input_ids) == len(result.labels)
    assert all(label in (IGNORE_INDEX, i) for i, label in zip(result.input_ids, result.labels, strict=True))
    return result


@pytest.mark.parametrize(("task", "prefix", "answer", "without_loss", "with_loss"), TASKS)
def test_loss_of_a_pretraining_task(
    task: str, prefix: Content, answer: Content, without_loss: str, with_loss: str
) -> None:
    sample = rendered([("user", prefix), ("assistant", answer)], task)
    start, *places, end = sample.input_ids[: PLACES + 2]
    assert (start, end) == (TINY.special.img_start, TINY.special.img_end)
    assert places == [TINY.special.img_pad] * PLACES
    first = next(i for i, label in enumerate(sample.labels) if label != IGNORE_INDEX)
    assert TINY.decode(sample.input_ids[PLACES + 2 : first]) == without_loss
    assert supervised_text(sample, TINY) == with_loss
    assert IGNORE_INDEX not in sample.labels[first:], "loss from the answer's start to its end, without gaps"


def test_text_alone_carries_loss_throughout() -> None:
    sample = rendered([("assistant", (Text("Once upon a time"),))], "text")
    assert supervised_text(sample, TINY) == "Once upon a time<|endoftext|>"
    assert sample.labels == sample.input_ids


@pytest.mark.parametrize("case", TASKS)
def test_the_prompt_is_what_stands_before_the_answer(case: tuple[str, Content, Content, str, str]) -> None:
    task, prefix, answer, *_ = case
    sample = rendered([("user", prefix), ("assistant", answer)], task)
    prompt = render_prompt([("user", prefix)], task, TINY, PLACES)
    assert sample.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    assert sample.labels[len(prompt.input_ids)] != IGNORE_INDEX


DIALOG: list[RoleTurn] = [
    ("user", (Image(0), Text("What is this?"))),
    ("assistant", (Text("A "), Ref("dog"), Box(1, 2, 3, 4))),
    ("user", (Image(1), Text("And this?"))),
    ("assistant", (Text("A cat."),)),
]


def test_loss_of_a_dialogue() -> None:
    sample = rendered(DIALOG, DIALOGUE)
    boundary = "<|im_start|><|im_end|>\n"  # of a system or user turn
    assert supervised_text(sample, TINY) == (
        f"{boundary}{boundary}<|im_start|>A <ref>dog</ref><box>(1,2),(3,4)</box><|im_end|>\n"
        f"{boundary}<|im_start|>A cat.<|im_end|>\n"
    )


def test_text_of_a_dialogue() -> None:
    sample = rendered(DIALOG, DIALOGUE)
    special = TINY.special
    shown = [i for i in sample.input_ids if i not in (special.img_start, special.img_pad, special.img_end)]
    assert TINY.decode(shown) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nPicture 1: \nWhat is this?<|im_end|>\n"
        "<|im_start|>assistant\nA <ref>dog</ref><box>(1,2),(3,4)</box><|im_end|>\n"
        "<|im_start|>user\nPicture 2: \nAnd this?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n"
    )
    assert sample.image_indices == (0, 1)
    assert sample.dropped_turns == 0


def test_a_system_turn_replaces_the_default() -> None:
    sample = rendered([("system", (Text("Be brief."),)), *DIALOG[2:]], DIALOGUE)
    assert TINY.decode(sample.input_ids).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")


def test_the_prompt_of_a_dialogue_opens_the_answer() -> None:
    sample, prompt = rendered(DIALOG, DIALOGUE), render_prompt(DIALOG, DIALOGUE, TINY, PLACES)
    assert TINY.decode(prompt.input_ids[-12:]).endswith("<|im_start|>assistant\n")
    assert sample.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    assert prompt.image_indices == (0, 1)


def test_text_that_spells_tags_stays_text() -> None:
    spelled = "".join(ALL_TOKENS)
    special_ids = set(TINY.special.as_dict.values())
    sample = rendered([("user", (Text(spelled),)), ("assistant", (Ref(spelled), Text(spelled)))], DIALOGUE)
    empty = rendered([("user", ()), ("assistant", (Ref(""),))], DIALOGUE)
    assert [i for i in sample.input_ids if i in special_ids] == [i for i in empty.input_ids if i in special_ids]


def test_neighbouring_texts_are_encoded_as_one() -> None:
    pieces = rendered([("assistant", (Text("Hel"), Text("lo wor"), Text("ld")))], "text")
    assert pieces == rendered([("assistant", (Text("Hello world"),))], "text")


def test_an_image_within_an_answer_carries_no_loss() -> None:
    sample = rendered([DIALOG[0], ("assistant", (Text("Like "), Image(1)))], DIALOGUE)
    image_ids = {TINY.special.img_start, TINY.special.img_pad, TINY.special.img_end}
    assert not image_ids & set(sample.labels)
    assert sample.image_indices == (0, 1)


def test_a_long_dialogue_loses_whole_turns_from_its_end() -> None:
    whole, first = rendered(DIALOG, DIALOGUE), rendered(DIALOG[:2], DIALOGUE)
    for length in (len(whole.input_ids) - 1, len(first.input_ids)):
        cut = rendered(DIALOG, DIALOGUE, length)
        assert (cut.input_ids, cut.labels, cut.image_indices) == (first.input_ids, first.labels, (0,))
        assert cut.dropped_turns == 2
    assert rendered(DIALOG, DIALOGUE, len(whole.input_ids)) == whole
    assert render(DIALOG, DIALOGUE, TINY, PLACES, len(first.input_ids) - 1) is None


def test_a_dialogue_ends_with_an_answer_to_the_user() -> None:
    assert rendered([*DIALOG, ("user", (Text("Bye"),))], DIALOGUE).dropped_turns == 1
    assert render([("assistant", (Text("Hello"),))], DIALOGUE, TINY, PLACES) is None


def test_a_pretraining_sample_is_never_cut() -> None:
    turns: list[RoleTurn] = [("user", prompts.caption_prefix()), ("assistant", FLOWERS)]
    length = len(rendered(turns, "caption").input_ids)
    assert rendered(turns, "caption", length).input_ids
    assert render(turns, "caption", TINY, PLACES, length - 1) is None


def test_dialogues_agree_with_the_published_fine_tuning() -> None:
    """Same ids and labels as finetune.py for its cases without images or typed chat tokens."""
    tokenizer = Tokenizer.published()
    path = Path(__file__).parents[1] / "data" / "chatml" / "finetune_preprocess.json"
    checked = 0
    for case in json.loads(path.read_text())["cases"]:
        for conversation in case["conversations"]:
            values = "".join(message["value"] for message in conversation)
            roles = [message["from"] for message in conversation]
            if roles[::2] != ["user"] * (len(roles) // 2) or set(roles[1::2]) != {"assistant"} or "<" in values:
                continue
            turns: list[RoleTurn] = [(m["from"], (Text(m["value"]),)) for m in conversation]
            if "system_message" in case:
                turns.insert(0, ("system", (Text(case["system_message"]),)))
            ours = render(turns, DIALOGUE, tokenizer, PLACES)
            system = case.get("system_message", prompts.DEFAULT_SYSTEM)
            assert ours is not None
            theirs = published.preprocess(tokenizer, [conversation], len(ours.input_ids), system)
            assert ours.input_ids == theirs.input_ids[0]
            assert ours.labels == theirs.labels[0]
            checked += 1
    assert checked >= 8


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(prompts.TextError, match="'fr'"):
        prompts.caption_prefix("fr")
