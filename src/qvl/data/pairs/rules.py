"""The cleaning rules: pure functions on columns, each a threshold that drops a pair or a change of its text.

Source: paper appendix A.1, which names the rules and their order but no thresholds; a source's settings hold ours
with their reasons. A batch is an Arrow table with the columns of PAIR_SCHEMA.
"""

import unicodedata
from dataclasses import dataclass, fields
from html.parser import HTMLParser
from typing import Any, ClassVar, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc
import regex

from qvl.errors import UsageError

PAIR_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("clip_score", pa.float32()),  # null where the source carries none
    ]
)

# Emoji as one class for Arrow's expressions, which know no emoji property. Of the symbols that text has always had,
# those of U+2600 to U+27BF count when they can be emoji at all, the others (arrows, (c)) when they always are.
_SYMBOLS = [chr(c) for c in range(0x2300, 0x2C00)]
_EMOJI = (
    "".join(c for c in _SYMBOLS if regex.match(r"[\p{Emoji}&&[\u2600-\u27BF]]|\p{Emoji_Presentation}", c, regex.V1))
    + r"\x{1F000}-\x{1FAFF}\x{FE0F}\x{20E3}\x{200D}\x{E0020}-\x{E007F}"
)
# English and Chinese: Basic Latin and Latin-1, Han with its punctuation and phonetics, full-width forms, and the
# punctuation, currencies, numbers and symbols that both use.
_KNOWN = (
    r"\t\n\r\x{20}-\x{7E}\x{A0}-\x{FF}\x{2000}-\x{200C}\x{2010}-\x{205E}\x{2070}-\x{209C}\x{20A0}-\x{20BF}"
    r"\x{2100}-\x{218B}\x{2190}-\x{22FF}\x{2300}-\x{23FF}\x{2460}-\x{27BF}\p{Han}\x{3000}-\x{3020}\x{3030}-\x{303F}\x{3105}-\x{312F}"
    r"\x{3200}-\x{33FF}\x{FE30}-\x{FE4F}\x{FF01}-\x{FF60}\x{FFE0}-\x{FFE6}"
)

# Irregular patterns by name, in the order in which they are cleaned: (expression, replacement).
IRREGULAR = {
    "address": (r"(?i)\b(?:https?://|www\.)\S+", " "),
    "email": (r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+", " "),
    "file_name": (r"(?i)[\w-]+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|pdf|html?|php)\b", " "),
    "camera_number": (r"\b(?:IMG|DSC|DSCN|DSCF|PICT|MVC)[_-]?\d{3,}\b", " "),
    "long_code": (r"\b(?:[0-9a-f]{16,}|\d{9,})\b", " "),
    "stock_notice": (r"(?i)[-–—|,\s]*\b(?:royalty[- ]free )?stock (?:photo|image|vector|picture)s?\b[\s#\d]*$", ""),
    "empty_brackets": (r"\(\s*\)|\[\s*\]|\{\s*\}|（\s*）|【\s*】|《\s*》", " "),
    "rows_of_marks": (r"[*=_~#|•·]{2,}|-{3,}|\.{4,}|。{3,}", " "),
    "shouting": (r"([!?！？])[!?！？]+", r"\1"),
    "spaces": (r"[\s\x{00A0}\x{2000}-\x{200C}\x{3000}]+", " "),
    "edges": (r"^[\s|,;:/\\*#>_\-–—，；：、]+|[\s|,;:/\\*#<_\-–—，；：、]+$", ""),
}


@runtime_checkable
class DropRule(Protocol):
    """Drops the pairs for which drops(measure(batch)) is true; the measure goes into the pair's provenance."""

    name: ClassVar[str]

    def measure(self, batch: pa.Table) -> pa.Array | pa.ChunkedArray: ...

    def drops(self, measured: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray: ...


class CleanRule(Protocol):
    """Changes texts; never drops."""

    name: ClassVar[str]

    def clean(self, texts: pa.ChunkedArray) -> pa.ChunkedArray: ...


@dataclass(frozen=True)
class AspectRatio:
    """Drops images whose longer side is more than `max` times the shorter."""

    name: ClassVar[str] = "aspect_ratio"
    max: float

    def measure(self, batch: pa.Table) -> pa.Array | pa.ChunkedArray:
        width, height = batch["width"], batch["height"]
        longer, shorter = pc.max_element_wise(width, height), pc.min_element_wise(width, height)
        return pc.divide(longer.cast(pa.float32()), shorter.cast(pa.float32()))

    def drops(self, measured: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.greater(measured, self.max)


@dataclass(frozen=True)
class ImageSize:
    """Drops images whose shorter side has fewer than `min_side` pixels."""

    name: ClassVar[str] = "image_size"
    min_side: int

    def measure(self, batch: pa.Table) -> pa.Array | pa.ChunkedArray:
        return pc.min_element_wise(batch["width"], batch["height"])

    def drops(self, measured: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.less(measured, self.min_side)


@dataclass(frozen=True)
class ClipScore:
    """Drops pairs whose CLIP similarity is below `min`. The score must be there: read, or computed before."""

    name: ClassVar[str] = "clip_score"
    min: float

    def measure(self, batch: pa.Table) -> pa.Array | pa.ChunkedArray:
        return batch["clip_score"]

    def drops(self, measured: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.less(measured, self.min)


@dataclass(frozen=True)
class SpecialTags:
    """Drops texts that hold a tag with which a data set hides words, such as CC12M's <PERSON>."""

    name: ClassVar[str] = "special_tags"
    tags: tuple[str, ...]

    def measure(self, batch: pa.Table) -> pa.Array | pa.ChunkedArray:
        counts = [pc.count_substring(batch["text"], tag, ignore_case=True) for tag in self.tags]
        total = counts[0]
        for count in counts[1:]:
            total = pc.add(total, count)
        return total

    def drops(self, measured: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.greater(measured, 0)


@dataclass(frozen=True)
class Characters:
    """Drops texts with more than `max_foreign` characters that are neither English nor Chinese."""

    name: ClassVar[str] = "characters"
    max_foreign: int

    def measure(self, batch: pa.Table) -> pa.Array | pa.ChunkedArray:
        return pc.count_substring_regex(batch["text"], f"[^{_KNOWN}{_EMOJI}]")

    def drops(self, measured: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.greater(measured, self.max_foreign)


@dataclass(frozen=True)
class Emoji:
    """Drops texts with more than `max` emoji."""

    name: ClassVar[str] = "emoji"
    max: int

    def measure(self, batch: pa.Table) -> pa.Array | pa.ChunkedArray:
        return pc.count_substring_regex(batch["text"], f"[{_EMOJI}]")

    def drops(self, measured: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.greater(measured, self.max)


@dataclass(frozen=True)
class TextLength:
    """Drops texts of fewer than `min` or more than `max` characters, spaces at the ends left out."""

    name: ClassVar[str] = "text_length"
    min: int
    max: int

    def measure(self, batch: pa.Table) -> pa.Array | pa.ChunkedArray:
        return pc.utf8_length(pc.utf8_trim_whitespace(batch["text"]))

    def drops(self, measured: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.or_(pc.less(measured, self.min), pc.greater(measured, self.max))


@dataclass(frozen=True)
class LeftOver:
    """Drops what cleaning left with fewer than `min` letters, digits and Chinese characters."""

    name: ClassVar[str] = "left_over"
    min: int

    def measure(self, batch: pa.Table) -> pa.Array | pa.ChunkedArray:
        return pc.count_substring_regex(batch["text"], r"[\pL\pN]")

    def drops(self, measured: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.less(measured, self.min)


@dataclass(frozen=True)
class HtmlTags:
    """Takes HTML tags, comments, scripts and entities out of the text."""

    name: ClassVar[str] = "html_tags"

    def clean(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        marked = pc.match_substring_regex(texts, r"<[A-Za-z/!?]|&[#A-Za-z]")
        if not pc.any(marked).as_py():
            return texts
        cleaned = [
            without_html(text) if suspicious else text
            for text, suspicious in zip(texts.to_pylist(), marked.to_pylist(), strict=True)
        ]
        return pa.chunked_array([pa.array(cleaned, pa.string())])


@dataclass(frozen=True)
class IrregularPatterns:
    """Takes the named patterns of IRREGULAR out of the text, in the order of that table."""

    name: ClassVar[str] = "irregular_patterns"
    patterns: tuple[str, ...]

    def clean(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        for name, (pattern, replacement) in IRREGULAR.items():
            if name in self.patterns:
                texts = pc.replace_substring_regex(texts, pattern, replacement)
        return texts


Rule = DropRule | CleanRule
RULES: dict[str, type] = {
    rule.name: rule
    for rule in (
        SpecialTags,
        AspectRatio,
        ImageSize,
        ClipScore,
        Characters,
        Emoji,
        TextLength,
        HtmlTags,
        IrregularPatterns,
        LeftOver,
    )
}


def make_rule(name: str, values: dict[str, Any], where: str) -> Rule:
    """A rule from its settings. UsageError names the settings' file, the rule and the value that does not fit."""
    if name not in RULES:
        raise UsageError(f"{where}: no rule {name!r}; known are {', '.join(RULES)}")
    if not isinstance(values, dict):
        raise UsageError(f"{where}: rule {name} is a table, as in [rules.{name}]")
    kind = RULES[name]
    wanted = {field.name: field.type for field in fields(kind)}
    if set(values) != set(wanted):
        needs = ", ".join(wanted) or "nothing"
        raise UsageError(f"{where}: rule {name} needs {needs}, found {', '.join(values) or 'nothing'}")
    checked = {key: _checked(value, wanted[key], f"{where}: {name}.{key}") for key, value in values.items()}
    if unknown := [n for n in checked.get("patterns", ()) if n not in IRREGULAR]:
        raise UsageError(f"{where}: {name} has no pattern {unknown[0]!r}; known are {', '.join(IRREGULAR)}")
    rule: Rule = kind(**checked)
    return rule


def _checked(value: Any, kind: Any, where: str) -> Any:
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is int and type(value) is int:
        return value
    if kind == tuple[str, ...] and isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return tuple(value)
    wanted = (
        "a list of texts, at least one" if kind == tuple[str, ...] else {int: "a whole number", float: "a number"}[kind]
    )
    raise UsageError(f"{where} = {value!r}: {wanted} is needed")


def without_html(text: str) -> str:
    """The text that a browser would show: no tags, comments or scripts; entities as their characters.

    Tags that break the line leave a space. Text that merely holds "<" stays. Alt texts are often escaped once too
    often, so tags that come out of entities go too.
    """
    for _ in range(ESCAPED):
        parser = _TextOnly()
        parser.feed(text)
        parser.close()
        before, text = text, unicodedata.normalize("NFC", "".join(parser.parts).strip())
        if text == before:
            break
    return text


ESCAPED = 4  # times that a text is read again, at most


class _TextOnly(HTMLParser):
    """Collects what is outside tags."""

    SILENT = frozenset({"script", "style"})
    INLINE = frozenset({"a", "abbr", "b", "em", "font", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.silent += tag in self.SILENT
        self._space(tag)

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in self.SILENT and self.silent > 0
        self._space(tag)

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.parts.append(data)

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """`<![...`: to a browser a comment; the parser's own method fails on sections that it does not know."""
        return int(self.parse_bogus_comment(i))

    def _space(self, tag: str) -> None:
        if tag not in self.INLINE:
            self.parts.append(" ")
