"""Which pages are dropped, and under which name.

Source: paper appendix A.2 (PDF and HTML data): images too small, too many or too few characters, characters
of Latin Extended-A and -B, characters of the Private Use Area. The paper gives no thresholds; the defaults
here are ours, as are the rules after those: without them a label would not say what the page shows.
"""

import unicodedata
from dataclasses import dataclass

from qvl.data.language import is_cjk
from qvl.data.ocr.ink import overprinted
from qvl.data.ocr.page import Page

TOO_SMALL = "image too small"
TOO_FEW = "too few characters"
TOO_MANY = "too many characters"
LATIN_EXTENDED = "Latin Extended-A or -B character"
PRIVATE_USE = "Private Use Area character"
UNDECODABLE = "undecodable character"
RIGHT_TO_LEFT = "right-to-left text"
OTHER_SCRIPT = "neither English nor Chinese"
SLANTED = "slanted text"
HIDDEN_LAYER = "hidden text layer"
MASK = "text as a mask"
STRAY = "text without a label"
OVERPRINTED = "text over text"
TINY = "text too small to read"
DUPLICATE = "duplicate image"
NO_CROP = "no crop fits"
NO_CUT = "longer than a sequence"

OTHER_LETTERS = 0.05  # share of letters of other scripts that an English or Chinese page may have: formulas, names
OVER = 0.02  # share of words that may lie over others: accents, formulas
UNLABELLED = 0.05  # share of the text's ink that may lie in no label: words that run over the page's edge
LEGIBLE = 4  # pixels of ink from top to bottom: the least for a line with a letter or digit in it


@dataclass(frozen=True)
class PageFilter:
    """Thresholds. max_chars None: no upper limit (crops have their own)."""

    min_side: int = 224  # the model's smallest input
    min_chars: int = 10  # less is a page number or a picture's scrap
    max_chars: int | None = 8000  # on 1024 x 724 pixels: 93 for each, white space included


def page_problem(page: Page, limits: PageFilter) -> str | None:
    """The first reason to drop the page, or None."""
    if min(page.image.size) < limits.min_side:
        return TOO_SMALL
    if page.problems:
        return page.problems[0]
    text = page.text
    for reason, found in _CHARACTERS:
        if any(found(c) for c in text):
            return reason
    if page.stray > UNLABELLED:
        return STRAY
    letters = [c for c in text if c.isalpha()]
    if sum(not is_known_letter(c) for c in letters) > OTHER_LETTERS * len(letters):
        return OTHER_SCRIPT
    count = sum(not c.isspace() for c in text)
    if count < limits.min_chars:
        return TOO_FEW
    if limits.max_chars is not None and count > limits.max_chars:
        return TOO_MANY
    if any(line.height < LEGIBLE for line in page.lines if any(map(str.isalnum, line.text))):
        return TINY
    atoms = [atom for line in page.lines for atom in line.atoms]
    return OVERPRINTED if overprinted(atoms) > OVER * len(atoms) else None


def is_latin_extended(character: str) -> bool:
    """Unicode blocks Latin Extended-A and Latin Extended-B."""
    return 0x0100 <= ord(character) <= 0x024F


def is_private_use(character: str) -> bool:
    """The Private Use Area and the two supplementary planes of private use."""
    return unicodedata.category(character) == "Co"


def is_undecodable(character: str) -> bool:
    """The replacement character, lone surrogates, and code points that are no character."""
    return character == "\ufffd" or unicodedata.category(character) in ("Cs", "Cn")


def is_known_letter(character: str) -> bool:
    """Basic Latin and Latin-1, Chinese characters, full-width forms."""
    return ord(character) < 0x0100 or is_cjk(character)


def is_right_to_left(character: str) -> bool:
    """Arabic, Hebrew and others, whose order on the page is not their order in the text."""
    return unicodedata.bidirectional(character) in ("R", "AL")


_CHARACTERS = (
    (UNDECODABLE, is_undecodable),
    (PRIVATE_USE, is_private_use),
    (LATIN_EXTENDED, is_latin_extended),
    (RIGHT_TO_LEFT, is_right_to_left),
)
