"""The chat in a terminal."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from qvl.errors import QvlError, UsageError
from qvl.generate import inline
from qvl.generate.chat import Chat

HELP = "/image PATH shows a picture with your next question, /reset forgets everything, /quit leaves."


def ask_once(chat: Chat, question: str, pictures: Sequence[str], save: Path) -> None:
    """Print the answer as it comes; draw its boxes into `save`."""
    for piece in chat.ask(question, pictures):
        print(piece, end="", flush=True)
    print()
    if (drawn := chat.draw_last_answer()) is not None:
        try:
            drawn.save(save)
        except (ValueError, OSError) as error:
            raise UsageError(f"{save}: the picture can't be written there ({error})") from error
        inline.show(drawn, sys.stdout, os.environ)
        print(f"boxes drawn: {save}")


def converse(chat: Chat, pictures: Sequence[str], save: Path) -> None:
    """Read questions until the end of input or /quit; each answer with boxes gets a file of its own."""
    print(HELP)
    waiting, number = list(pictures), 0
    while (line := _read("you> ")) is not None:
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            chat.reset()
            waiting = []
        elif command == "/image":
            waiting += shlex.split(rest)
        elif line:
            number += 1
            try:
                ask_once(chat, line, waiting, save.with_stem(f"{save.stem}-{number}"))
            except QvlError as error:
                print(f"error: {error}")
            waiting = []


def _read(prompt: str) -> str | None:
    try:
        return input(prompt).strip()
    except EOFError:
        print()
        return None
