"""Each rule on both sides of its threshold; the settings of the ten sources."""

from typing import Any

import pyarrow as pa
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from qvl.data.pairs.rules import (
    IRREGULAR,
    PAIR_SCHEMA,
    AspectRatio,
    Characters,
    ClipScore,
    DropRule,
    Emoji,
    HtmlTags,
    ImageSize,
    IrregularPatterns,
    LeftOver,
    SpecialTags,
    TextLength,
    without_html,
)
from qvl.data.pairs.sources import bundled_sources, load_source, parse_source
from qvl.errors import UsageError

ALL_PATTERNS = IrregularPatterns(tuple(IRREGULAR))


def drops(rule: DropRule, rows: list[dict[str, Any]]) -> list[bool]:
    return rule.drops(rule.measure(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA))).to_pylist()


def cleaned(rule: HtmlTags | IrregularPatterns, text: str) -> str:
    return rule.clean(pa.chunked_array([pa.array([text], pa.string())])).to_pylist()[0]


def test_shapes_at_the_threshold() -> None:
    rows = [{"width": 300, "height": 100}, {"width": 100, "height": 301}]
    assert drops(AspectRatio(3.0), rows) == [False, True]
    assert drops(ImageSize(100), [{"width": 100, "height": 900}, {"width": 900, "height": 99}]) == [False, True]
    assert drops(ClipScore(0.25), [{"clip_score": 0.25}, {"clip_score": 0.2499}]) == [False, True]


@pytest.mark.parametrize(
    "text", ["Plain ASCII, 100%!", "café à Zürich", "中文，“引号”和、标点。", "a – b … €5 ™ ½ → ℃", "①㎡", "龘𠮷"]
)
def test_english_and_chinese_are_known(text: str) -> None:
    assert drops(Characters(0), [{"text": text}]) == [False]


@pytest.mark.parametrize(
    "text", ["Привет", "ひらがな", "カタカナ", "한국어", "العربية", "ไทย", "Łódź", "a\x00b", "a\ue000b", "a\ufffdb"]
)
def test_other_scripts_and_no_characters_are_foreign(text: str) -> None:
    assert drops(Characters(0), [{"text": text}]) == [True]


def test_every_character_that_shows_as_emoji_is_one_and_is_not_foreign() -> None:
    shown = [chr(c) for c in range(0x110000) if regex.fullmatch(r"\p{Emoji_Presentation}", chr(c))]
    assert len(shown) > 1000
    rows = [{"text": c} for c in shown]
    assert all(drops(Emoji(0), rows))
    assert not any(drops(Characters(0), rows))


@pytest.mark.parametrize("text", ["© 2020 ™ ®", "#1 & 9", "a → b", "中文㊙", "★☆ ■ ● ✓"])
def test_text_symbols_are_neither_emoji_nor_foreign(text: str) -> None:
    assert drops(Emoji(0), [{"text": text}]) == drops(Characters(0), [{"text": text}]) == [False]


def test_lengths_count_characters_without_spaces_at_the_ends() -> None:
    rows = [{"text": "  中文字符五 "}, {"text": " abcd "}, {"text": "x" * 11}, {"text": ""}]
    assert drops(TextLength(5, 10), rows) == [False, True, True, True]
    assert drops(LeftOver(2), [{"text": "a1"}, {"text": "中!?--"}]) == [False, True]


def test_special_tags_in_any_case() -> None:
    assert drops(SpecialTags(("<PERSON>",)), [{"text": "with <person> at sea"}, {"text": "a person"}]) == [True, False]


@pytest.mark.parametrize(
    ("found", "left"),
    [
        ("a <b>bold</b> man", "a bold man"),
        ("<p>one</p><p>two</p>", "one  two"),
        ("<script>alert(1)</script>kept<style>p{}</style>", "kept"),
        ("Tom &amp;amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("I <3 you", "I <3 you"),
        ("<!-- hidden -->shown", "shown"),
        ("cut <a href='x", "cut <a href='x"),
        ("&lt;p&gt;A dog&lt;/p&gt;", "A dog"),
        ("Tom &amp;lt;b&amp;gt; Cat", "Tom  Cat"),
        ("<![foo bar", "<![foo bar"),
        ("a <![CDATA[b]]> c", "a  c"),
    ],
)
def test_html_goes_and_other_angles_stay(found: str, left: str) -> None:
    assert cleaned(HtmlTags(), found) == left


@given(st.text(alphabet=st.characters(blacklist_characters="<&", blacklist_categories=["Cs"])))
def test_text_without_html_is_left_alone(text: str) -> None:
    assert cleaned(HtmlTags(), text) == text


@given(st.text() | st.text("<b>&lt;![/ "))
def test_no_tag_survives_and_nothing_raises(text: str) -> None:
    assert "<b>" not in without_html(f"<b>{text}</b>")


@pytest.mark.parametrize(
    ("found", "left"),
    [
        ("see https://a.org/x?y=1 now", "see now"),
        ("IMG_20190101.JPG", ""),
        ("DSC_0042 the harbour", "the harbour"),
        ("write to a.b@c.de today", "write to today"),
        ("A cat - Stock Photo #123", "A cat"),
        ("stock photo of a cat", "stock photo of a cat"),
        ("Sale!!!! Now???", "Sale! Now?"),
        ("*** News *** | 2020", "News | 2020"),
        ("red  \n\t shoe (  )", "red shoe"),
        ("，中文，", "中文"),
        ("wait ... and 3.5 - 4", "wait ... and 3.5 - 4"),
    ],
)
def test_irregular_patterns(found: str, left: str) -> None:
    assert cleaned(ALL_PATTERNS, found) == left


@given(st.text())
def test_cleaned_text_has_no_spaces_at_its_ends_and_none_double(text: str) -> None:
    left = cleaned(ALL_PATTERNS, text.replace("\0", ""))
    assert "  " not in left
    assert left == left.strip(" ")


def test_the_ten_sources_of_table_2_with_the_rules_in_the_papers_order() -> None:
    assert len(bundled_sources()) == 11
    order = [
        "aspect_ratio",
        "image_size",
        "clip_score",
        "characters",
        "emoji",
        "text_length",
        "html_tags",
        "irregular_patterns",
    ]
    for name in bundled_sources():
        settings = load_source(name)
        assert settings.name == name
        assert (settings.paper_retention is None) == (name == "flickr30k")  # the paper evaluates on it
        names = [rule.name for rule in settings.rules]
        assert [n for n in order if n in names] == [n for n in names if n in order]
    assert {n for n in bundled_sources() if any(r.name == "special_tags" for r in load_source(n).rules)} == {
        "cc12m",
        "sbu",
    }


GOOD: dict[str, Any] = {
    "name": "mine",
    "about": "",
    "language": "en",
    "columns": {"text": ["t"], "clip_score": []},
    "rules": {"image_size": {"min_side": 10}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "fr"}, "language 'fr' is not one of en, zh, auto"),
        ({"rulez": {}}, "'rulez' is unknown"),
        ({"rules": {"image_siz": {}}}, "no rule 'image_siz'"),
        ({"rules": {"image_size": {"max_side": 1}}}, "rule image_size needs min_side, found max_side"),
        ({"rules": {"image_size": {"min_side": "10"}}}, "image_size.min_side = '10': a whole number is needed"),
        ({"rules": {"special_tags": {"tags": []}}}, "special_tags.tags = []: a list of texts, at least one"),
        ({"rules": {"irregular_patterns": {"patterns": ["adress"]}}}, "irregular_patterns has no pattern 'adress'"),
        ({"columns": {"text": ["t"]}}, "look at 'clip_score'"),
        ({"columns": {"text": "t", "clip_score": []}}, "each of columns is a list of names"),
    ],
)
def test_settings_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=r"mine\.toml") as caught:
        parse_source(GOOD | change, "mine.toml")
    assert message in str(caught.value)


def test_another_threshold_is_another_version() -> None:
    other = GOOD | {"rules": {"image_size": {"min_side": 11}}}
    assert parse_source(GOOD, "x").version != parse_source(other, "x").version
