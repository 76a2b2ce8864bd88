"""English or Chinese."""


def is_cjk(character: str) -> bool:
    """Chinese characters, their punctuation and full-width forms: written without spaces between them."""
    code = ord(character)
    return (
        0x2E80 <= code <= 0x303F
        or 0x3100 <= code <= 0x312F
        or 0x3400 <= code <= 0x4DBF
        or 0x4E00 <= code <= 0x9FFF
        or 0xF900 <= code <= 0xFAFF
        or 0xFF00 <= code <= 0xFFEF
        or 0x20000 <= code <= 0x323AF
    )


def language_of(text: str) -> str:
    """zh or en. A Chinese character says about as much as a Latin word, so five letters weigh as much as one."""
    chinese = sum(is_cjk(c) and c.isalpha() for c in text)
    latin = sum(c.isalpha() and not is_cjk(c) for c in text)
    return "zh" if chinese and 5 * chinese >= latin else "en"
