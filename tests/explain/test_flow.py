"""The way of a picture and a question through the model: what is told equals what was computed."""

from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage

import qvl
from qvl import images
from qvl.cli import main
from qvl.explain.flow import PLACES, AnswerFlow, answer_flow
from qvl.explain.flow_page import lit, lit_queries, write_flow_page
from qvl.explain.flow_text import flow_text
from qvl.explain.flow_words import FLOW_WORDS
from qvl.explain.looks import looking
from qvl.explain.shapes import STEPS
from qvl.generate.loaded import QwenVLWithTokenizer
from qvl.model.config import PRESETS
from qvl.train.flops import StepWork, forward_operations

PICTURE = Path("examples/picture.png")


@pytest.fixture(scope="module")
def vl() -> QwenVLWithTokenizer:
    return qvl.load("src/qvl/assets/tiny")


@pytest.fixture(scope="module")
def flow(vl: QwenVLWithTokenizer) -> AnswerFlow:
    return answer_flow(vl.model, vl.tokenizer, PICTURE, "Find the yellow house.")


@torch.inference_mode()
def test_the_shares_are_those_that_the_pass_used(vl: QwenVLWithTokenizer) -> None:
    """The values weighed by them, head by head, are what the adapter itself goes on with."""
    model = vl.model
    pixels = images.preprocess(PICTURE, 112)[None]
    features = model.vision(pixels)
    seen = []
    hook = model.adapter.out_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with looking(model, slice(0, None)) as looks:
        model.adapter(features)
    hook.remove()
    q, k, v = model.adapter.project(features)
    by_head = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    torch.testing.assert_close((by_head @ v).transpose(1, 2).flatten(2), seen[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(looks.patches, by_head.mean(1), atol=1e-6, rtol=1e-5)
    assert not model.adapter._forward_pre_hooks  # nothing stays on the model


@torch.inference_mode()
def test_the_language_model_s_shares_are_causal_and_its_own(vl: QwenVLWithTokenizer) -> None:
    model = vl.model
    ids = torch.tensor([vl.tokenizer.encode("a small yellow house in the centre")])
    seen = []
    block = model.language.blocks[2]
    hook = block.attn_c_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    values = []
    inputs = block.register_forward_pre_hook(lambda m, i: values.append(m.project(m.ln_1(i[0]), i[1])))
    with looking(model, slice(2, None)) as looks:
        model(ids)
    hook.remove(), inputs.remove()
    shares = looks.layers[2]
    assert shares.shape == (ids.shape[1] - 2, ids.shape[1])
    torch.testing.assert_close(shares.sum(-1), torch.ones(len(shares)))
    assert not shares[0, 3:].any()
    q, k, v = values[0]
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    by_head = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close((by_head @ v).transpose(1, 2).flatten(2), seen[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shares, by_head.mean(1)[0, 2:], atol=1e-6, rtol=1e-5)


def test_shapes_and_cost_of_both_models(flow: AnswerFlow) -> None:
    own, large = flow.own, flow.published
    assert large is not None
    text = own.shapes["language.head"][1] - 16
    assert list(own.shapes) == list(STEPS) == list(large.shapes)
    assert own.shapes["adapter"] == (1, 16, 256)
    assert large.shapes["pixel_values"] == (1, 3, 448, 448)
    assert large.shapes["vision.blocks"] == (1, 1024, 1664)
    assert large.shapes["adapter"] == (1, 256, 4096)
    assert large.shapes["language.head"] == (1, text + 256, 151936)
    # Paper, Table 1: 1.9B, 0.08B (the adapter), 7.7B.
    vision, adapter, *language = (part.parameters for part in large.parts)
    assert vision == pytest.approx(1.9e9, rel=0.05)
    assert adapter == pytest.approx(0.08e9, rel=0.2)
    assert sum(language) == pytest.approx(7.7e9, rel=0.01)
    operations = forward_operations(PRESETS["qwen-vl"], StepWork(1, [text + 256], text + 256))
    assert sum(part.operations for part in large.parts) == operations.total


def test_every_token_of_the_answer_is_told(flow: AnswerFlow) -> None:
    assert flow.answer.startswith("<ref>yellow house</ref><box>(")
    assert flow.looks[-1].text == "<|im_end|>"
    for look in flow.looks:
        assert sum(look.shares) == pytest.approx(1, abs=1e-4)
        assert float(look.patches.sum()) == pytest.approx(look.shares[PLACES.index("picture")], abs=1e-4)
        assert len(look.words) == 3
    assert flow.looks[0].shares[PLACES.index("answer")] == 0
    assert len(flow.layers) == 4
    mean = [sum(layer[i] for layer in flow.layers) / 4 for i in range(len(PLACES))]
    assert mean == pytest.approx([sum(look.shares[i] for look in flow.looks) / len(flow.looks) for i in range(4)])


def test_queries_look_where_they_stand(flow: AnswerFlow) -> None:
    """Position-aware: in the tiny model, as in its start, a query's strongest patch lies in its own quarter."""
    rows = flow.queries.argmax(1)
    right = sum(
        (patch // 8 // 4, patch % 8 // 4) == (query // 4 // 2, query % 4 // 2)
        for query, patch in enumerate(rows.tolist())
    )
    assert right >= 12


def test_pictures_are_lit_where_the_share_is() -> None:
    picture = PILImage.new("RGB", (200, 100), (200, 200, 200))
    patches = torch.zeros(64)
    patches[9] = 0.5  # second row, second column
    shown = lit(picture, patches, 80)
    assert shown.size == (80, 40)
    assert shown.getpixel((15, 7)) == (200, 200, 200)
    assert max(shown.getpixel((60, 30))) < 60
    sheet = lit_queries(picture, torch.eye(64)[:16])
    assert sheet.width == 4 * (1040 // 4)
    assert sheet.getpixel((260 + 40, 5)) == (200, 200, 200)  # the second query's second patch


@pytest.mark.parametrize("language", FLOW_WORDS)
def test_in_both_languages(language: str, flow: AnswerFlow, tmp_path: Path) -> None:
    words = FLOW_WORDS[language]
    assert words.keys() == FLOW_WORDS["en"].keys()
    text = flow_text(flow, language)
    for part in (*STEPS, *(words[place] for place in PLACES), flow.answer, "9.66B", "1 x 256 x 4096"):
        assert part in text
    write_flow_page(flow, tmp_path / "flow.html", language)
    written = (tmp_path / "flow.html").read_text(encoding="utf-8")
    assert written.count("data:image/jpeg") == 2 + len(flow.looks)
    assert "&lt;imgpad&gt;" in written


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "flow.html"
    model = ["--model", "src/qvl/assets/tiny"]
    assert main(["explain", "flow", str(PICTURE), "图里有什么？", "--page", str(page), *model]) == 0
    out = capsys.readouterr().out
    assert "逐步看形状" in out
    assert page.exists()
    assert main(["explain", "flow", "missing.png", "What is this?", *model]) == 5
    assert "missing.png" in capsys.readouterr().err


def test_a_question_without_room_is_refused(vl: QwenVLWithTokenizer) -> None:
    with pytest.raises(qvl.errors.UsageError, match="the model reads 2048"):
        answer_flow(vl.model, vl.tokenizer, PICTURE, "why " * 3000)
