"""Pictures inside the terminals that can show them: kitty's graphics protocol and iTerm2's inline images.

Sources: sw.kovidgoyal.net/kitty/graphics-protocol (kitty, Ghostty), iterm2.com/documentation-images.html
(iTerm2, WezTerm).
"""

import base64
import io
from collections.abc import Iterator, Mapping
from typing import TextIO

from PIL import Image as PILImage

MAX_SIDE = 800  # pixels
KITTY_CHUNK = 4096  # characters of one escape sequence's payload, at most


def show(picture: PILImage.Image, out: TextIO, environment: Mapping[str, str]) -> None:
    """Write the picture, at most MAX_SIDE pixels large, if `out` is a terminal that is known to show it."""
    if not out.isatty() or (protocol := _protocol(environment)) is None:
        return
    data = base64.b64encode(_png(picture)).decode()
    out.writelines(_kitty(data) if protocol == "kitty" else _iterm(data))
    out.write("\n")
    out.flush()


def _protocol(environment: Mapping[str, str]) -> str | None:
    """Which of the two the terminal speaks by its environment; inside tmux and screen none gets through."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term.startswith(("tmux", "screen")) or "TMUX" in environment:
        return None
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return "kitty"
    return "iterm" if program in ("iTerm.app", "WezTerm") else None


def _png(picture: PILImage.Image) -> bytes:
    small = picture.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def _kitty(data: str) -> Iterator[str]:
    """a=T: show at once; f=100: PNG; q=2: no reply, it would be read as the next question; m: more follows."""
    for start in range(0, len(data), KITTY_CHUNK):
        keys = "a=T,f=100,q=2," if start == 0 else ""
        more = int(start + KITTY_CHUNK < len(data))
        yield f"\x1b_G{keys}m={more};{data[start : start + KITTY_CHUNK]}\x1b\\"


def _iterm(data: str) -> Iterator[str]:
    yield f"\x1b]1337;File=inline=1:{data}\a"
