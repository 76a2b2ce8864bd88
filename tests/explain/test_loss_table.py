"""The inspector of the loss: its mean is the trainer's loss, and every line says the truth."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage

import qvl
from qvl import images
from qvl.cli import main
from qvl.data.sample import LANGUAGES, Sample, Turn, write_shard
from qvl.data.world.tasks import make_sample
from qvl.explain.loss import loss_table
from qvl.explain.loss_page import write_loss_page
from qvl.explain.loss_text import table_text
from qvl.explain.words import WORDS
from qvl.generate.loaded import QwenVLWithTokenizer
from qvl.text.markup import Image, Text, parse_markup
from qvl.text.render import render

PICTURE = Path("examples/picture.png")
KINDS = ("caption", "vqa", "referring", "ocr", "dialogue")


@pytest.fixture(scope="module")
def vl() -> QwenVLWithTokenizer:
    return qvl.load("src/qvl/assets/tiny")


def asked(question: str, answer: str, picture: bytes | None = None) -> Sample:
    turns = (Turn("user", (Image(0), Text(question))), Turn("assistant", parse_markup(answer)))
    return Sample("one", "dialogue", "en", (picture or PICTURE.read_bytes(),), turns)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("task", KINDS)
def test_the_mean_is_the_trainer_s_loss(task: str, language: str, vl: QwenVLWithTokenizer) -> None:
    sample = make_sample(3, "test", 5, task, language)
    table = loss_table(vl.model, vl.tokenizer, sample)
    turns = [(turn.role, turn.content) for turn in sample.turns]
    rendered = render(turns, task, vl.tokenizer, vl.model.config.vision.num_queries)
    assert rendered is not None
    pixels = torch.stack([images.preprocess(sample.images[i], 112) for i in rendered.image_indices])
    with torch.no_grad():
        total, count = vl.model.loss(torch.tensor([rendered.input_ids]), torch.tensor([rendered.labels]), pixels)
    assert table.mean == pytest.approx(float(total / count), abs=1e-6)
    assert len(table.supervised) == int(count)
    assert [token.token_id for token in table.tokens] == rendered.input_ids[1:]
    reasons = {token.why for token in table.supervised}
    assert reasons <= ({"turn", "assistant"} if task == "dialogue" else {"answer", "end"})
    assert {token.why for token in table.tokens} <= WORDS[language].keys()
    assert f"{table.mean:.4f}" in table_text(table, language, colours=True)


def test_a_digit_is_off_by_its_place_in_pixels(vl: QwenVLWithTokenizer) -> None:
    """On a picture of 500 x 250 pixels, a hundred of the grid is 50 pixels across and 25 down."""
    with PILImage.open(PICTURE) as opened:
        data = io.BytesIO()
        opened.convert("RGB").resize((500, 250)).save(data, "PNG")
    question = "Find the yellow house."
    [said] = vl.chat([{"role": "user", "content": [
        {"type": "image_url", "image_url": data.getvalue()}, {"type": "text", "text": question}
    ]}]).boxes  # fmt: skip
    x1, y1, x2, y2 = said.grid
    other = (x1 + 100, y1 + 200, x2, y2)
    answer = f"<ref>yellow house</ref><box>({other[0]},{other[1]}),({other[2]},{other[3]})</box>"
    table = loss_table(vl.model, vl.tokenizer, asked(question, answer, data.getvalue()))
    digits = [token for token in table.tokens if token.why == "assistant" and token.text.isdigit()]
    assert digits[0].favourite == str(x1 // 100)
    assert digits[0].off == pytest.approx(50)
    down = digits[len(str(other[0]))]
    assert down.off == pytest.approx(abs(int(down.favourite) - other[1] // 100) * 25)
    assert all(token.off == 0 for token in digits if token.is_favourite)


def test_where_the_model_s_own_words_part_from_the_truth(vl: QwenVLWithTokenizer) -> None:
    true = "<ref>yellow house</ref><box>(285,428),(571,714)</box>"
    same = loss_table(vl.model, vl.tokenizer, asked("Find the yellow house.", true))
    assert same.said == true
    assert WORDS["en"]["same"] in table_text(same, "en", colours=False)
    table = loss_table(vl.model, vl.tokenizer, asked("Find the yellow house.", true.replace("285", "185")))
    assert table.said == true
    assert table.said_tokens[: table.parted] == table.true_tokens[: table.parted]
    assert (table.said_tokens[table.parted], table.true_tokens[table.parted]) == ("2", "1")
    assert next(token.text for token in table.supervised if not token.is_favourite) == "1"


def test_the_page_shows_it_and_nothing_in_it_is_markup(vl: QwenVLWithTokenizer, tmp_path: Path) -> None:
    table = loss_table(vl.model, vl.tokenizer, asked("<script>alert(1)</script>", "<b>bold</b>"))
    write_loss_page(table, tmp_path / "loss.html", "en")
    page = (tmp_path / "loss.html").read_text()
    assert f"mean {table.mean:.4f}" in page
    assert page.count("<tr class=") >= len(table.supervised)
    assert "<script>" not in page
    assert "data:image/jpeg;base64," in page


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard([make_sample(3, "test", i, task, "zh") for i, task in enumerate(KINDS)], tmp_path / "0.parquet")
    page = tmp_path / "page.html"
    given = ["explain", "loss", "--model", "src/qvl/assets/tiny"]
    assert main([*given, str(tmp_path), "--task", "referring", "--page", str(page)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(WORDS["zh"]["title"])
    assert page.exists()
    assert main([*given, "a yellow house", "--image", str(PICTURE)]) == 0
    assert "the place of an image patch: never" in capsys.readouterr().out
    assert main([*given, "yellow", "--image", str(PICTURE), "--ask", "What colour?", "--task", "vqa"]) == 0
    capsys.readouterr()
    for wrong, message in (
        (["yellow"], "say what it answers"),
        (["yellow", "--task", "vqa", "--ask", "What?"], "vqa --image and --ask"),
        ([str(tmp_path), "--id", "nobody"], "no sample with id nobody"),
    ):
        assert main([*given, *wrong]) == 2
        assert message in capsys.readouterr().err
