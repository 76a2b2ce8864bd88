"""The tiny world: exact boxes, answers that follow from the scene, the same bytes for any number of workers."""

import io
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from qvl.data.lint import lint
from qvl.data.sample import LANGUAGES, TASKS, read_split, shard_paths
from qvl.data.world import phrases
from qvl.data.world.build import WorldConfig, find_photos, write_dense, write_world
from qvl.data.world.draw import COORDINATES, DENSE_CHANNELS, NO_LABEL, dense_labels, draw_scene
from qvl.data.world.scene import SIDE, Background, Scene, Thing, Word, ink_box, make_scene
from qvl.data.world.tasks import MAX_ROUNDS, make_sample
from qvl.data.world.words import COLOURS, EN_WORDS, GLYPHS, KINDS, ZH_WORDS
from qvl.errors import UsageError
from qvl.text.markup import Box, Quad, Ref, Text, to_string
from qvl.text.tokenizer import Tokenizer

GREY = Background("flat", ((128, 128, 128), (128, 128, 128)), 0)


def drawn_box(scene: Scene) -> tuple[int, int, int, int]:
    """The box of everything that differs from the ground, in pixels (right and bottom exclusive)."""
    changed = (np.asarray(draw_scene(scene)).astype(int) - 128).__abs__().sum(-1) > 30
    rows, columns = np.where(changed.any(1))[0], np.where(changed.any(0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_fills_its_box(kind: str) -> None:
    box = (30, 40, 74, 84)
    drawn = drawn_box(Scene("en", GREY, things=(Thing(kind, "white", "large", box),)))
    np.testing.assert_allclose(drawn, box, atol=2)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_words_ink_fills_its_quad(language: str) -> None:
    for seed in range(12):
        scene = make_scene(random.Random(seed), language, "words")
        word = scene.words[0]
        drawn = drawn_box(Scene(language, GREY, words=(word,)))
        np.testing.assert_allclose(drawn, word.box, atol=3.5 if word.tilt else 1.5)


def test_tilting_turns_anticlockwise() -> None:
    x0, y0, x1, y1 = ink_box("HOTEL", "DejaVuSans.ttf", 24)
    word = Word("HOTEL", "DejaVuSans.ttf", 24, (15, 40), x1 - x0, y1 - y0, tilt=9)
    top_left, top_right, *_ = word.quad
    assert top_right[1] < top_left[1]  # the right end goes up
    np.testing.assert_allclose(drawn_box(Scene("en", GREY, words=(word,))), word.box, atol=3.5)


def test_dense_labels_name_what_lies_under_a_patch() -> None:
    scene = Scene("en", GREY, things=(Thing("star", "red", "large", (56, 0, 112, 56)),))
    labels = dense_labels(scene, 8)
    kind, colour, x1 = (list(DENSE_CHANNELS).index(name) for name in ("kind", "colour", "x1"))
    assert labels.shape == (8, 8, len(DENSE_CHANNELS))
    inside = np.zeros((8, 8), dtype=bool)
    inside[:4, 4:] = True
    assert (labels[..., kind][inside] == 1 + list(KINDS).index("star")).all()
    assert (labels[..., colour][inside] == 1 + list(COLOURS).index("red")).all()
    assert (labels[..., x1][inside] == 14).all()
    assert (labels[..., :x1][~inside] == 0).all()
    assert (labels[..., x1][~inside] == NO_LABEL).all()
    word = Word("AB", "DejaVuSans-Bold.ttf", 40, (0, 28), 56, 28, tilt=0)
    glyph, place = (dense_labels(Scene("en", GREY, words=(word,)), 8)[2, :, channel] for channel in (2, 3))
    assert list(place[:2]) == [1, 1]
    assert place[3] == 2  # the second glyph of its word
    assert [glyph[0], glyph[3]] == [1 + GLYPHS.index("A"), 1 + GLYPHS.index("B")]
    for seed in range(50):
        many = dense_labels(make_scene(random.Random(seed), "zh", random_words=True), 8)
        for channel, (name, classes) in enumerate(DENSE_CHANNELS.items()):
            low = NO_LABEL if name in COORDINATES else 0
            assert low <= many[..., channel].min()
            assert many[..., channel].max() < classes


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_samples_pass_the_linter_and_repeat(task: str, language: str) -> None:
    for i in range(15):
        sample = make_sample(3, "train", i, task, language, several=True)
        assert lint(sample) == []
        assert sample == make_sample(3, "train", i, task, language, several=True)
        assert sample.provenance.keys() >= {"source", "row", "settings"}
    assert make_sample(3, "train", 0, task, language) != make_sample(3, "test", 0, task, language)


def test_several_rounds_ask_different_things_about_one_picture() -> None:
    most = Counter[str]()
    for task, limit in MAX_ROUNDS.items():
        for i in range(30):
            sample = make_sample(1, "train", i, task, "en", several=True)
            asked = [to_string(turn.content) for turn in sample.turns if turn.role == "user"]
            assert len(set(asked)) == len(asked) <= limit
            assert len(sample.images) == 1
            most[task] = max(most[task], len(asked))
    assert all(most[task] > 1 for task in MAX_ROUNDS)


def test_answers_follow_from_the_scene() -> None:
    red = Thing("star", "red", "small", (5, 5, 27, 27))
    blue = Thing("heart", "blue", "large", (60, 55, 105, 100))
    scene = Scene("en", GREY, things=(red, blue))
    answers = {question: answer for _, question, answer in phrases.questions(scene)}
    assert answers["What colour is the star?"] == "red"
    assert answers["What is the blue object?"] == "heart"
    assert answers["Where is the star?"] == "top left"
    assert answers["Is the heart large or small?"] == "large"
    assert answers["What is left of the blue heart?"] == "red star"
    assert answers["How many objects are there?"] == "2"
    assert phrases.caption(scene) == "a small red star left of a large blue heart"
    chinese = Scene("zh", GREY, things=(red, blue))
    assert phrases.caption(chinese) == "一个小红色星星在一个大蓝色爱心的左边"


def test_a_question_that_two_things_would_answer_is_not_asked() -> None:
    twins = (Thing("star", "red", "small", (5, 5, 27, 27)), Thing("star", "blue", "small", (60, 60, 82, 82)))
    asked = {question for _, question, _ in phrases.questions(Scene("en", GREY, things=twins))}
    assert "What colour is the star?" not in asked
    assert "What is the red object?" in asked


def test_referring_points_at_the_thing() -> None:
    """The colour inside the box of `red star` is red."""
    for i in range(20):
        sample = make_sample(5, "test", i, "referring", "en")
        phrase = next(s for s in sample.turns[0].content if isinstance(s, Ref)).text
        box = sample.turns[1].content[0]
        assert isinstance(box, Box)
        picture = np.asarray(PILImage.open(io.BytesIO(sample.images[0])).convert("RGB")).astype(int)
        x1, y1, x2, y2 = (round(v * SIDE / 1000) for v in box.as_tuple)
        if phrase.split()[0] == "red":
            middle = picture[(y1 + 2 * y2) // 3 - 2 : (y1 + 2 * y2) // 3 + 2, x1:x2].reshape(-1, 3)
            assert (middle[:, 0] > middle[:, 1] + 80).any()


def test_ocr_answers_hold_each_word_and_its_quad() -> None:
    for i in range(10):
        answer = make_sample(5, "test", i, "ocr", "zh").turns[1].content
        assert [type(s) for s in answer] == [Ref, Quad] * (len(answer) // 2)
        assert all(s.text in ZH_WORDS for s in answer if isinstance(s, Ref))


def test_every_word_can_be_drawn_and_read_by_the_tiny_vocabulary() -> None:
    tokenizer = Tokenizer.tiny()
    assert {c for word in (*EN_WORDS, *ZH_WORDS) for c in word} <= set(GLYPHS)
    assert all(len(tokenizer.encode(word)) <= 2 for word in ZH_WORDS)
    assert all(len(tokenizer.encode(word)) == len(word) for word in EN_WORDS)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    config = WorldConfig(seed=2, train=40, test=12)
    for workers in (1, 2):
        counts = write_world(tmp_path / str(workers), config, workers)
        assert {split: counter.total() for split, counter in counts.items()} == {"train": 40, "test": 12}
    for split in ("train", "test"):
        one, two = (shard_paths(tmp_path / n / split) for n in ("1", "2"))
        assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    ids = [sample.id for split in ("train", "test") for sample in read_split(tmp_path / "1" / split)]
    assert len(set(ids)) == 52
    rounds = {len(s.turns) for s in read_split(tmp_path / "1" / "test") if s.task != "dialogue"}
    assert rounds <= {2, 4, 6, 8, 10}


def test_photographs_become_backgrounds(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    PILImage.fromarray(noise).save(tmp_path / "photo.png")
    photos = find_photos(str(tmp_path))
    used = [make_sample(1, "train", i, "caption", "en", photos).provenance.get("photographs") for i in range(40)]
    assert ["photo.png"] in used
    with pytest.raises(UsageError, match="no photographs"):
        find_photos(str(tmp_path / "empty"))


def test_held_out_tasks_ask_once() -> None:
    for task in MAX_ROUNDS:
        assert len(make_sample(1, "test", 0, task, "en").turns) == 2
    assert isinstance(make_sample(1, "test", 0, "vqa", "en").turns[1].content[0], Text)


def test_no_pictures_for_the_vision_warm_up_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1 picture"):
        write_dense(tmp_path / "dense", seed=1, count=0, grid=8, workers=1)
    assert not (tmp_path / "dense").exists()
