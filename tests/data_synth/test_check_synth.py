"""The check of drawn characters finds what is not there: in a font made for it, and in a sample with a wrong font."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from qvl.data.sample import read_split, write_shard
from qvl.data.synth.build import SynthConfig, synthesize
from qvl.data.synth.fonts import FOLDERS, Face, find_fonts, has_all

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_synth.py"


@pytest.fixture(scope="module")
def check() -> Any:
    spec = importlib.util.spec_from_file_location("check_synth", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def box(width: int) -> Any:
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for point in ((50, 700), (width, 700), (width, 0)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def test_every_way_to_lack_a_character(check: Any, tmp_path: Path) -> None:
    glyphs = {".notdef": box(450), "good": box(300), "empty": TTGlyphPen(None).glyph(), "tofu": box(450)}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({ord("A"): "good", ord("B"): ".notdef", ord("C"): "empty", ord("D"): "tofu"})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (500, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Holes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "holes.ttf")
    assert check.faults(tmp_path / "holes.ttf", 0, set("ABCDE")) == {
        "B": "not in the character map",  # to fontTools one that leads to .notdef
        "C": "no outline",
        "D": "drawn as a missing character",
        "E": "not in the character map",
    }
    face = Face(str(tmp_path / "holes.ttf"), 0, "Holes")
    assert [c for c in "ABCDE" if has_all(face, c)] == ["A"]  # nor does the generator draw those


def test_samples_are_checked_against_the_font_that_they_name(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(SynthConfig(count=3, seed=5, fast=True), tmp_path / "good", workers=1)
    folders = [str(folder) for folder in map(Path, FOLDERS) if folder.is_dir()]
    monkeypatch.setattr(sys, "argv", ["check_synth.py", str(tmp_path / "good"), *folders])
    assert check.main() == 0
    assert "0 missing from their font" in capsys.readouterr().out

    latin = next(iter(find_fonts().latin.values()))[0]
    chinese = next(sample for sample in read_split(tmp_path / "good") if sample.language == "zh")
    fonts = [{**font, "file": Path(latin.path).name, "face": latin.index} for font in chinese.provenance["fonts"]]
    wrong = replace(chinese, provenance={**chinese.provenance, "fonts": fonts})
    write_shard([wrong], tmp_path / "wrong" / "0.parquet")
    monkeypatch.setattr(sys, "argv", ["check_synth.py", str(tmp_path / "wrong"), *folders])
    assert check.main() == 1
    assert "(not in the character map)" in capsys.readouterr().out
