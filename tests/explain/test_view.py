"""The page shows what is trained on: every token with its loss, boxes, and what is wrong with a sample."""

import re
from pathlib import Path

import pytest

from qvl.cli import main
from qvl.data.sample import Sample, Turn, write_shard
from qvl.data.world.tasks import make_sample
from qvl.errors import UsageError
from qvl.explain.view import sample_html
from qvl.text.markup import Text
from qvl.text.render import render
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.tiny()


@pytest.mark.parametrize("task", ["referring", "ocr", "dialogue", "text"])
def test_each_token_is_marked_as_the_trainer_takes_it(task: str) -> None:
    sample = make_sample(3, "test", 1, task, "zh")
    rendered = render([(t.role, t.content) for t in sample.turns], task, TOKENIZER, 16)
    assert rendered is not None
    page = sample_html(sample, TOKENIZER, 16, 2048)
    shown = {
        int(place): "loss" in kinds for kinds, place in re.findall(r'<span class="([^"]*)" title="(\d+): id', page)
    }
    pad = TOKENIZER.special.img_pad
    expected = {
        place: label != IGNORE_INDEX
        for place, (token_id, label) in enumerate(zip(rendered.input_ids, rendered.labels, strict=True))
        if token_id != pad
    }
    assert shown == expected
    assert page.count("&lt;imgpad&gt; × 16") == len(rendered.image_indices)


def test_what_is_wrong_with_a_sample_stands_beside_it() -> None:
    long = Sample("x", "text", "en", (), (Turn("assistant", (Text("word " * 50 + "<script>"),)),), {"source": "s"})
    page = sample_html(long, TOKENIZER, 16, 20)
    assert "longer than a sequence of 20 tokens" in page
    assert "provenance: no row, settings" in page
    assert "<script>" not in page


def test_the_command_writes_a_page_of_one_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [make_sample(3, "test", i, task, "en") for task in ("vqa", "referring") for i in range(3)]
    write_shard(samples, tmp_path / "split" / "0.parquet")
    command = ["data", "view", str(tmp_path / "split"), "--out", str(tmp_path / "page.html"), "--task"]
    assert main([*command, "referring", "--limit", "2"]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 2
    assert page.count("<polygon") >= 4  # each box with its dark border
    assert "data:image/jpeg" in page
    capsys.readouterr()
    assert main([*command, "ocr"]) == UsageError.exit_code
    assert "no sample of task 'ocr'" in capsys.readouterr().err
