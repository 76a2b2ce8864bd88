"""Dialogues in Qwen-VL's own JSON, LLaVA's and InternVL's, ShareGPT's, OpenAI's and ms-swift's messages; plain text."""

import base64
import binascii
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from qvl import images
from qvl.data.damage import Damage
from qvl.data.language import language_of
from qvl.data.raw import encodable, parse_json, printable
from qvl.data.sample import Sample, Turn
from qvl.data.sources.common import CLIPPED, NOT_UTF8, Statistics, names_of, of_form, read_json, read_picture
from qvl.data.sources.objects import fill_marks
from qvl.errors import DataError, ImageError, TextError
from qvl.text.markup import Box, Content, Image, Quad, Ref, Segment, Text, parse_markup, plain_text, stray_tag
from qvl.text.published import to_list_format

ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "system": "system",
}
IMAGE_MARK = "<image>"
TEXT_PIECE = 1500  # characters; a text is never cut by the renderer, so that it is cut here, between paragraphs
_NUMBERING = re.compile(r"Picture \d+: ?$")
_NESTED_BOXES = re.compile(r"<box>\[(\[[^<>]*\])\]</box>")  # InternVL: <box>[[x1, y1, x2, y2], ...]</box>
_UNREAD_BOX = re.compile(r"<(?:box|quad)>")
FORM_ROWS = 100  # that are looked at for the form of a file
Picture = Path | bytes


def form_of(path: Path) -> str:
    """Which reader a file of dialogues wants, by its first rows: qwen, llava or messages. DataError for none."""
    rows = [row for _, row in islice(_numbered(path), FORM_ROWS)]
    keys = {key for row in rows for key in row}
    if keys & {"messages", "images"}:
        return "messages"
    if "conversations" in keys:
        marked = any(IMAGE_MARK in json.dumps(row.get("conversations")) for row in rows)
        return "llava" if marked or "image" in keys else "qwen"
    raise of_form(path, "rows with conversations (Qwen-VL's, LLaVA's) or messages (OpenAI's)")


def read_qwen(files: Sequence[Path], images_dir: Path) -> Iterator[Sample | Damage]:
    """Qwen-VL's fine-tuning JSON: a list of id and conversations (from, value), tags in the text.

    Images are `<img>path</img>`; "Picture 1: " before and the newline behind are left to the renderer.
    """
    [path] = files
    for key, row in _numbered(path):
        pictures: list[Picture] = []

        def content(text: str, pictures: list[Picture] = pictures) -> Content:
            return _from_published(text, pictures, images_dir)

        yield from _dialogue("qwen", path.name, key, row.get("conversations"), ("from", "value"), content, pictures)


def _from_published(text: str, pictures: list[Picture], images_dir: Path) -> Content:
    segments: list[Segment] = []
    for element in to_list_format(text):
        match element:
            case {"image": name}:
                if segments and isinstance(segments[-1], Text):
                    segments[-1] = Text(_NUMBERING.sub("", segments[-1].text))
                segments.append(Image(len(pictures)))
                pictures.append(_picture(name, images_dir))
            case {"text": words}:
                after_image = segments and isinstance(segments[-1], Image)
                segments.append(Text(words.removeprefix("\n") if after_image else words))
            case {"ref": words}:
                segments.append(Ref(words))
            case {"box": inner}:
                segments.append(Box(*_numbers(inner, 4, "box")))
            case {"quad": inner}:
                segments.append(Quad(*_numbers(inner, 8, "quad")))
    return tuple(s for s in segments if s != Text(""))


def _numbers(inner: str, count: int, kind: str) -> list[int]:
    found = re.findall(r"-?\d+\.?\d*", inner)
    if len(found) != count or not all(n.isdigit() for n in found):
        raise TextError(f"{kind} {inner!r} does not hold {count} integers in [0, 1000)")
    return [int(n) for n in found]


def read_llava(files: Sequence[Path], images_dir: Path) -> Iterator[Sample | Damage]:
    """LLaVA's and InternVL's JSON: a list of id, image (a path or several), conversations with <image> in the text."""
    [path] = files
    for key, row in _numbered(path):
        named = row.get("image") or []
        named = [named] if isinstance(named, str) else list(named)
        yield from _marked("llava", path.name, key, row.get("conversations"), ("from", "value"), named, images_dir)


def read_messages(files: Sequence[Path], images_dir: Path) -> Iterator[Sample | Statistics | Damage]:
    """ShareGPT's and OpenAI's: rows of messages (role, content) and images; content is a text with <image> in it,
    or parts of type text and image_url (a data URI or a path). ms-swift's have `objects` for marks in the texts."""
    for path, file_name in zip(files, names_of(files), strict=True):
        for key, row in _numbered(path):
            names = ("role", "content") if "messages" in row else ("from", "value")
            messages, named = row.get("messages", row.get("conversations")), list(row.get("images") or [])
            if row.get("objects") is not None:
                try:
                    messages, clipped = _with_objects(messages, names[1], row["objects"], named, images_dir)
                except DataError as error:
                    yield _damage(error, key)
                    continue
                if clipped:
                    yield Statistics(Counter({CLIPPED: clipped}))
            yield from _marked("messages", file_name, key, messages, names, named, images_dir)


def _with_objects(
    messages: Any, name: str, objects: Any, named: list[Any], images_dir: Path
) -> tuple[list[dict[str, Any]], int]:
    """The messages with phrases and boxes in place of their marks; how many boxes were cut."""

    def size_of(index: int) -> tuple[int, int]:
        if not 0 <= index < len(named):
            raise DataError("a bbox in `objects` is on an image that is not there")
        return images.probe(_picture(named[index], images_dir))

    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get(name), str) for m in messages
    ):
        raise DataError("messages with `objects` are not texts")
    texts, clipped = fill_marks([message[name] for message in messages], objects, size_of)
    return [{**message, name: text} for message, text in zip(messages, texts, strict=True)], clipped


def _marked(
    source: str, name: str, key: str, messages: Any, names: tuple[str, str], named: list[Any], images_dir: Path
) -> Iterator[Sample | Damage]:
    """A dialogue whose texts hold <image> where the next of `named` belongs; images without a mark come first."""
    pictures: list[Picture] = []
    remaining = iter(named)

    def content(value: Any) -> Content:
        if isinstance(value, list):
            return tuple(segment for part in value for segment in _part(part, pictures, images_dir))
        segments: list[Segment] = []
        for number, piece in enumerate(value.split(IMAGE_MARK)):
            if number:
                segments.append(Image(len(pictures)))
                if (image := next(remaining, None)) is None:
                    raise DataError("more <image> marks than images")
                pictures.append(_picture(image, images_dir))
                piece = piece.removeprefix("\n")
            segments += _with_boxes(piece)
        return tuple(segments)

    texts = [m.get(names[1]) for m in messages] if isinstance(messages, list) else []
    if named and not any(isinstance(text, str) and IMAGE_MARK in text for text in texts):
        place = next((i for i, m in enumerate(messages or ()) if ROLES.get(m.get(names[0])) == "user"), None)
        if place is not None and isinstance(texts[place], str):
            messages = [dict(m) for m in messages]
            messages[place][names[1]] = IMAGE_MARK * len(named) + texts[place]
    yield from _dialogue(source, name, key, messages, names, content, pictures, len(named))


def _part(part: Any, pictures: list[Picture], images_dir: Path) -> Iterator[Segment]:
    match part:
        case {"type": "text", "text": str(text)}:
            yield from _with_boxes(text)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            yield Image(len(pictures))
            pictures.append(_picture(url, images_dir))
        case _:
            raise DataError("a part is neither text nor image_url")


def _with_boxes(text: str) -> Content:
    """Markup in the text as segments. DataError for a box that can't be read: it would be learnt as words."""
    segments = parse_markup(_NESTED_BOXES.sub(_unnested, text))
    if unread := next((s.text for s in segments if isinstance(s, Text) and _UNREAD_BOX.search(s.text)), None):
        raise DataError("box is not (x1,y1),(x2,y2) with integers in [0, 1000), x1 <= x2 and y1 <= y2", unread)
    return segments


def _unnested(match: re.Match[str]) -> str:
    boxes = re.findall(r"\[([^\[\]]*)\]", match[1])
    corners = [re.findall(r"-?\d+\.?\d*", box) for box in boxes]
    inside = [["999" if number == "1000" else number for number in c] for c in corners]  # theirs end at 1000
    return "".join(f"<box>({','.join(c[:2])}),({','.join(c[2:])})</box>" for c in inside)


def _picture(name: Any, images_dir: Path) -> Picture:
    """Bytes of a data URI, or the path of a file. DataError for an address: nothing is fetched."""
    if not isinstance(name, str):
        raise DataError("an image is not named by a text")
    if name.startswith("data:"):
        try:
            return base64.b64decode(name.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise DataError("a data URI is not base64") from error
    if re.match(r"https?://", name):
        raise DataError("an image is an address; fetch it first and name the file")
    return images_dir / name.removeprefix("file://")


def _dialogue(
    source: str,
    name: str,
    key: str,
    messages: Any,
    names: tuple[str, str],
    content: Callable[[Any], Content],
    pictures: list[Picture],
    expected: int = 0,
) -> Iterator[Sample | Damage]:
    """One row as a sample; what does not fit is a Damage of a kind that says why."""
    try:
        turns = _turns(messages, names, content)
        if len(pictures) < expected:
            raise DataError("more images than <image> marks")
        _check_words(turns)
        shown = [s.index for turn in turns for s in turn.content if isinstance(s, Image)]
        turns = tuple(Turn(turn.role, _renumbered(turn.content, shown)) for turn in turns)
        encoded = tuple(_read(pictures[index]) for index in shown)
    except (DataError, TextError) as error:
        yield _damage(error, key)
        return
    row = printable(f"{name}#{key}")
    provenance = {"source": source, "row": row, "settings": source}
    language = language_of("".join(plain_text(turn.content) for turn in turns))
    identity = hashlib.sha256(row.encode()).hexdigest()[:20]
    yield Sample(f"{source}/{identity}", "dialogue", language, encoded, turns, provenance)


def _check_words(turns: Iterable[Turn]) -> None:
    """DataError for words that are no Unicode, or hold a tag: they would be learnt as words."""
    for segment in (s for turn in turns for s in turn.content if isinstance(s, Text | Ref)):
        if not encodable(segment.text):
            raise DataError(NOT_UTF8)
        if stray_tag(segment.text):
            raise DataError("tag that does not close", segment.text[:80])


def _damage(error: DataError | TextError, key: str) -> Damage:
    """An error in a row as a Damage of the kind that it names."""
    match error:
        case ImageError():
            return Damage(error.kind, key, str(error))
        case TextError():
            return Damage("tags that can't be read", key, str(error))
    return Damage(str(error.args[0]), key, "".join(map(str, error.args[1:])))


def _turns(messages: Any, names: tuple[str, str], content: Callable[[Any], Content]) -> tuple[Turn, ...]:
    """An optional system turn, then question and answer in turn. As published, an answer before the first question
    is left out; so is a last question without an answer."""
    if not isinstance(messages, list) or not messages:
        raise DataError("no messages")
    turns: list[Turn] = []
    for message in messages:
        role = ROLES.get(str(message.get(names[0]))) if isinstance(message, dict) else None
        if role is None or not isinstance(message.get(names[1]), str | list):
            raise DataError(f"a message without {names[0]} (user, assistant, system) and {names[1]}")
        turns.append(Turn(role, content(message[names[1]])))
    system, spoken = [t for t in turns[:1] if t.role == "system"], [t for t in turns if t.role != "system"]
    spoken = spoken[1:] if spoken and spoken[0].role == "assistant" else spoken
    spoken = spoken[:-1] if spoken and spoken[-1].role == "user" else spoken
    if [t.role for t in spoken] != ["user", "assistant"] * (len(spoken) // 2):
        raise DataError("user and assistant don't take turns")
    if not spoken:
        raise DataError("no question with an answer")
    if not all(turn.content for turn in spoken):
        raise DataError("an empty turn")
    return tuple(system + spoken)


def _renumbered(content: Content, shown: list[int]) -> Content:
    """Images counted anew where a turn with an image was left out."""
    return tuple(Image(shown.index(s.index)) if isinstance(s, Image) else s for s in content)


def _read(picture: Picture) -> bytes:
    encoded = picture if isinstance(picture, bytes) else read_picture(picture)
    images.probe(encoded)
    return encoded


def _numbered(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id or place, row) of a JSON list or of JSON lines; an id that came before has its place too. DataError names
    the file, and the line."""
    known: set[str] = set()
    if path.suffix == ".jsonl":
        rows = _lines(path)
    else:
        content = read_json(path)
        if not isinstance(content, list):
            raise of_form(path, "a list of dialogues")
        rows = enumerate(content)
    for place, row in rows:
        if not isinstance(row, dict):
            raise of_form(path, f"row {place} is a {type(row).__name__}, not an object")
        key = str(row.get("id", place))
        yield (f"{key} row {place}" if key in known else key), row
        known.add(key)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, parse_json(line)
                except ValueError as error:
                    raise DataError(f"{path} line {number}: not JSON ({error})") from error


def read_text(files: Sequence[Path], images_dir: Path) -> Iterator[Sample | Damage]:
    """Plain text (.txt, one document) and JSON lines of text: pieces of whole paragraphs for the task text."""
    for path, name in zip(files, names_of(files), strict=True):
        for key, text in _documents(path):
            if not isinstance(text, str) or not text.strip():
                yield Damage("no text", key)
                continue
            if not encodable(text):
                yield Damage(NOT_UTF8, key)
                continue
            for number, piece in enumerate(_pieces(text)):
                row = printable(f"{name}#{key}.{number}")
                provenance = {"source": "text", "row": row, "settings": f"{TEXT_PIECE} characters"}
                identity = hashlib.sha256(row.encode()).hexdigest()[:20]
                turns = (Turn("assistant", (Text(piece),)),)
                yield Sample(f"text/{identity}", "text", language_of(piece), (), turns, provenance)


def _documents(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".jsonl":
        for key, row in _numbered(path):
            yield key, row.get("text")
    else:
        try:
            yield "0", path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a readable UTF-8 text ({error})") from error


def _pieces(text: str) -> Iterator[str]:
    """Runs of paragraphs of at most TEXT_PIECE characters; a longer paragraph is cut at spaces or marks."""
    piece = ""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        while len(paragraph) > TEXT_PIECE:
            cut = max(paragraph.rfind(mark, TEXT_PIECE // 2, TEXT_PIECE) for mark in (" ", "\n", "。", "，"))
            cut = cut + 1 if cut >= 0 else TEXT_PIECE
            if piece:
                yield piece
                piece = ""
            yield paragraph[:cut].strip()
            paragraph = paragraph[cut:]
        if piece and len(piece) + 2 + len(paragraph) > TEXT_PIECE:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
    if piece.strip():
        yield piece
