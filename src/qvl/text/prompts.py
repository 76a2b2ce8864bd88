"""The wording of every task, in one place.

Source: paper appendix B.1 (prefix without loss, answer with loss). The published model was trained on
English prefixes for both languages; the language word in the prefix picks the language of the caption.
`LEADING_SPACE` says which answers begin with a space: `text/render.py` adds it, a sample's content never
carries it.
"""

from qvl.errors import TextError
from qvl.text.markup import Box, Content, Image, Ref, Text

DEFAULT_SYSTEM = "You are a helpful assistant."
LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}
LEADING_SPACE = frozenset({"caption", "vqa", "grounded_caption", "region_caption", "ocr"})


def caption_prefix(language: str = "en") -> Content:
    """`<img>..</img>Generate the caption in English:`"""
    return (Image(0), Text(f"Generate the caption in {_language(language)}:"))


def grounded_caption_prefix(language: str = "en") -> Content:
    """`<img>..</img>Generate the caption in English with grounding:`"""
    return (Image(0), Text(f"Generate the caption in {_language(language)} with grounding:"))


def vqa_prefix(question: str) -> Content:
    """`<img>..</img>question Answer:`, also for questions about text in the image."""
    return (Image(0), Text(f"{question} Answer:"))


def referring_prefix(phrase: str) -> Content:
    """`<img>..</img><ref>phrase</ref>`; the answer is its box."""
    return (Image(0), Ref(phrase))


def region_prefix(box: Box) -> Content:
    """`<img>..</img><ref>This</ref><box>..</box> is`; the answer describes the region."""
    return (Image(0), Ref("This"), box, Text(" is"))


def ocr_prefix() -> Content:
    """`<img>..</img>OCR with grounding:`; the answer is phrases with their quads."""
    return (Image(0), Text("OCR with grounding:"))


# The task "grounding" (Table 3: grounding data) asks for a phrase's box exactly as referring does.
grounding_prefix = referring_prefix


def picture_prefix(number: int) -> Text:
    """What stands before the number-th image (from 1) of a dialogue; a newline follows the image."""
    return Text(f"Picture {number}: ")


def _language(language: str) -> str:
    if language not in LANGUAGE_NAMES:
        raise TextError(f"language {language!r}: known are {', '.join(LANGUAGE_NAMES)}")
    return LANGUAGE_NAMES[language]
