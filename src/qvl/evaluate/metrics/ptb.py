"""Captions -> words, as the caption scorers' tokenizer has them: the Penn Treebank's, of Stanford CoreNLP 3.4.1, lower
case, without punctuation.

Source: its recorded outputs (tests/data/metrics/ptb_tokenizer.json), which also show where it is odd: an euro becomes a
dollar, brackets are words, and so is "?!". It reads all captions of a set as one text, in which a few abbreviations
keep their period only before a digit, be it the next caption's.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_NO_WORD = re.compile("[.]+|-+|[\"'`?!,:;]|''|``")
# Words that keep their period: in any case, as names alone, unless in capitals, and before a digit.
_ABBREVIATIONS = """
mr mrs ms dr drs prof profs sen sens rep reps gov govs gen lt col maj sgt cpl capt adm rev pres hon atty messrs st ste
ave blvd rd esq jr sr bros inc co cos corp ltd plc dept univ assn intl jan feb mar apr jun jul aug sep sept oct nov
dec mon tue tues wed thu thurs fri etc al vs cf ft seq ala ariz calif colo conn fla ga ind kan kans ky md mich minn mo
mont neb nev okla penn tenn va vt wash wis wisc wyo ph\\.d ed\\.d ct mt ph rt sq wm adj adv bhd cie dak det ens est
ext jos mme pfc pvt sfc spc sys tel alex assoc elec insp invt
""".split()
_NAMES = "la pa az ark del ill ore tex mass miss".split()
_NOT_CAPITALS = "mfg mtg pte pty".split()
_BEFORE_DIGIT = "no nos fig figs p pp art ca op prop".split()
# A single letter loses its period before these, be it in the next caption.
_STARTS = """
A About After An As At But Earlier He Her Here However If In It Last Many More Mr\\. Ms\\. Now Once One Other Our She
Since So Some Such THE That The Their Then There These They This We What When While Yet You
""".split()
_LOOKED_AT = 12  # characters of what follows
_MARKS = "".join(chr(c) for c in range(0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc"))

_DROPPED = re.compile("[\u00ad\ufe0e\ufe0f]")
_SPACES = re.compile("[\\s\u200b\ufeff\U00010000-\U0010ffff]+")  # an emoji is none of its words
_REPLACED = {"€": " $ ", "£": " # ", "¢": " cents ", "½": "\ue002", "¼": "\ue001", "¾": "\ue003", "…": " ... "}
_REPLACED |= {"–": " -- ", "—": " -- ", "’": "'", "‘": " ` ", "‹": " ` ", "›": " ' ", "“": " `` ", "”": " '' "}
_REPLACED |= {"«": " `` ", "»": " '' ", "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": " '' "}
_REPLACE = re.compile("|".join(map(re.escape, _REPLACED)))
_SPELT = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", " ": "\xa0"}
_SPELT |= {"\ue001": "1/4", "\ue002": "1/2", "\ue003": "3/4"}
_SPELL = re.compile("|".join(map(re.escape, _SPELT)))

_W = rf"[\w{_MARKS}]"  # of a word, digits too
_L = rf"(?:[^\W\d_]|[{_MARKS}])"
_NUMBER = r"\d+(?:[.,:/]\d+)*"
_PIECE = rf"(?:{_NUMBER}(?!{_W})|{_W}+)"
_JOINED = rf"{_PIECE}(?:[-/]{_PIECE})*"  # two-year-old, 24/7, 3.5-inch
_RULES = [
    # Found first, for speed: words between spaces and commas, several at once; one before its 's or mark; those.
    r"(?P<run>(?:(?!(?:cannot|gonna|gotta|wanna|lemme|gimme)[ ,])[A-Za-z]+,? )+)",
    r"(?!(?:cannot|gonna|gotta|wanna|lemme|gimme)[!?])[A-Za-z]+(?='s[!? ]|[!?] )|'s(?=[!? ])|[!?](?= )",
    r"(?:https?://|www\.)\S*[\w/]",
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    r"@\w+|#[A-Za-z]\w*",
    r"</?[A-Za-z][^<>\s]*>",
    r"-[LR][RCS]B-",
    r"\(\d{3}\) \d{3}-\d{4}",
    r"[:;=]-?\)|:[DP](?!\w)",
    r"(?:US|C|A|HK)\$|[CF](?:\+\+|#)",
    r"(?-i:[A-Z]+(?:&[A-Z]+)+)",
    r"\d+ \d+/\d+(?!\w)",
    rf"{_L}(?=\. (?-i:{'|'.join(_STARTS)})(?: |$))",
    rf"(?:(?![\u3040-\u9fff]){_L}\.)+{_L}?(?:-{_W}+)*(?!{_W})",  # U.S.A, a.m.
    rf"(?:{'|'.join(_ABBREVIATIONS)})\.(?!{_W})",
    rf"(?-i:{'|'.join(form for word in _NAMES for form in (word.capitalize(), word.upper()))})\.(?!{_W})",
    rf"(?-i:{'|'.join(form for word in _NOT_CAPITALS for form in (word, word.capitalize()))})\.(?!{_W})",
    rf"(?:{'|'.join(_BEFORE_DIGIT)})\.(?= ?\d)",
    r"can(?=not(?!\w))|gon(?=na(?!\w))|got(?=ta(?!\w))|wan(?=na(?!\w))|lem(?=me(?!\w))|gim(?=me(?!\w|'s))",
    r"'t(?=(?:is|was)(?!\w))|'n'|'(?:em|till?|cause|n)(?!\w)|(?<!\d)'\d\ds?(?!\w)|'\d\d(?= )|y'(?=\w{2})|ol'",
    r"'(?:s|m|d|ll|ve|re)(?!\w)|n't\w*",
    rf"[A-HJ-XZa-hj-xz]'{_L}{{2,}}|{_L}+[aeiouy]'[aeiou]{_L}*",
    rf"{_L}+?(?=n't)",
    rf"{_L}+(?:[.!?]{_L}+)+",
    rf"\d{{1,2}}:\d\d(?={_L})",
    rf"anti-(?!{_W})|[-+](?=\d){_JOINED}|{_JOINED}|\.\d+(?:\.\d+)*",
    r"[!?]{2,}|--+|\.\.+|''|``|\*+|_+|\\\*",
    r"\S",
]
_TOKEN = re.compile("|".join(f"(?:{rule})" for rule in _RULES), re.IGNORECASE)


# Most captions are words and commas, perhaps with a stop: those need no rules, unless a word has one of its own.
_PLAIN = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:,? [A-Za-z0-9]+(?:-[A-Za-z]+)*)* ?\.?")
_SPLIT_WORDS = frozenset("cannot gonna gotta wanna lemme gimme".split())
_KEEP_STOP = frozenset(_ABBREVIATIONS + _NAMES + _NOT_CAPITALS + _BEFORE_DIGIT)


def words(caption: str, following: str = "") -> list[str]:
    """The words of a caption. following: what comes after it in the set, of which the start is looked at.

    "3 1/2" is one word with a no-break space in it; ROUGE takes it so, BLEU and CIDEr as two.
    """
    if (plain := _plain_words(caption)) is not None:
        return plain
    return words_by_rules(caption, following)


def _plain_words(caption: str) -> list[str] | None:
    """The words of a caption that needs no rules; None for any other."""
    if not _PLAIN.fullmatch(caption):
        return None
    found = caption.lower().replace(",", "").rstrip(". ").split(" ")
    if not _SPLIT_WORDS.isdisjoint(found):
        return None
    last = found[-1]
    return None if caption[-1] == "." and (len(last) == 1 or last in _KEEP_STOP) else found


def words_by_rules(caption: str, following: str = "") -> list[str]:
    """As `words`, by all the rules."""
    text = _normal(caption)
    end = len(text)
    found = []
    for match in _TOKEN.finditer(f"{text} {following[:_LOOKED_AT]}"):
        if match.start() >= end:
            break
        token = match[0][: end - match.start()].lower()  # a run may reach into what follows
        if match["run"]:
            found += token.replace(",", "").split()
        elif not _NO_WORD.fullmatch(token):
            found.append(_SPELL.sub(lambda part: _SPELT[part[0]], token))
    return found


def all_words(captions: Sequence[str]) -> list[list[str]]:
    """Those of every caption of a set, in its order."""
    found = []
    for place, caption in enumerate(captions):
        if (plain := _plain_words(caption)) is None:
            later = map(_normal, map(captions.__getitem__, range(place + 1, len(captions))))
            following = next(filter(None, later), "")
            plain = words_by_rules(caption, following)
        found.append(plain)
    return found


@lru_cache(maxsize=1 << 16)
def _normal(caption: str) -> str:
    text = _REPLACE.sub(lambda found: _REPLACED[found[0]], caption)
    return _SPACES.sub(" ", _DROPPED.sub("", text)).strip()
