import base64
import io
import re
import sys
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image as PILImage

import qvl
from qvl.generate import terminal
from qvl.generate.inline import KITTY_CHUNK, show

KITTY = {"TERM": "xterm-kitty"}
ITERM = {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}
NOISE = PILImage.effect_noise((1600, 400), 90).convert("RGB")


class Terminal(io.StringIO):
    """What was written to a terminal."""

    def isatty(self) -> bool:
        return True


def written(environment: dict[str, str], picture: PILImage.Image = NOISE) -> str:
    out = Terminal()
    show(picture, out, environment)
    return out.getvalue()


def decoded(data: str) -> PILImage.Image:
    return PILImage.open(io.BytesIO(base64.b64decode(data, validate=True)))


@pytest.mark.parametrize(
    "environment", [KITTY, {"TERM": "xterm-ghostty"}, {"TERM_PROGRAM": "ghostty"}, {"KITTY_WINDOW_ID": "1"}]
)
def test_kitty_gets_a_png_in_chunks_and_sends_no_reply(environment: dict[str, str]) -> None:
    text = written(environment)
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert text == "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in chunks) + "\n"
    keys = [keys for keys, _ in chunks]
    assert keys == ["a=T,f=100,q=2,m=1", *["m=1"] * (len(keys) - 2), "m=0"]
    assert all(len(data) <= KITTY_CHUNK for _, data in chunks)
    picture = decoded("".join(data for _, data in chunks))
    assert (picture.format, picture.size) == ("PNG", (800, 200))


def test_a_small_picture_is_one_chunk_in_its_own_size() -> None:
    [(keys, data)] = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", written(KITTY, PILImage.new("RGB", (20, 10))))
    assert keys == "a=T,f=100,q=2,m=0"
    assert decoded(data).size == (20, 10)


@pytest.mark.parametrize("environment", [ITERM, {"TERM_PROGRAM": "WezTerm"}])
def test_iterm_gets_a_png(environment: dict[str, str]) -> None:
    match = re.fullmatch(r"\x1b\]1337;File=inline=1:([^\a]*)\a\n", written(environment))
    assert match is not None
    assert decoded(match[1]).size == (800, 200)


@pytest.mark.parametrize(
    "environment",
    [{}, {"TERM": "xterm-256color"}, KITTY | {"TMUX": "/tmp/x"}, ITERM | {"TERM": "screen-256color"}],
)
def test_other_terminals_get_nothing(environment: dict[str, str]) -> None:
    assert written(environment) == ""


def test_a_file_or_pipe_gets_nothing() -> None:
    out = io.StringIO()
    show(NOISE, out, KITTY)
    assert out.getvalue() == ""


def test_the_chat_shows_what_it_has_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.setenv("TERM", "xterm-kitty")
    chat = qvl.load(str(resources.files("qvl.assets") / "tiny")).conversation()
    terminal.ask_once(chat, "Find the yellow house.", ["examples/picture.png"], tmp_path / "answer.png")
    data = "".join(re.findall(r"\x1b_G[^;]*;([^\x1b]*)\x1b", out.getvalue()))
    with PILImage.open(tmp_path / "answer.png") as saved:
        assert decoded(data).tobytes() == saved.tobytes()
