"""Token ids -> text as it comes: no character is split, and text that may begin a stop string waits."""

from collections.abc import Sequence

from qvl.text.tokenizer import StreamDecoder, Tokenizer


class SpokenText:
    """Of one answer. `stopped`: a stop string came; what stands before it is all."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._decoder, self._size = StreamDecoder(tokenizer), tokenizer.vocab_size
        self._stops = tuple(stop for stop in stops if stop)
        self._waiting = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that is certain after this id. Rows of the embedding that stand for no token say nothing."""
        return self._certain(self._decoder.push(token_id) if token_id < self._size else "")

    def flush(self) -> str:
        """What is left at the end."""
        rest = self._certain(self._decoder.flush())
        rest, self._waiting = rest + self._waiting, ""
        return rest

    def _certain(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._waiting + new
        if found := [place for stop in self._stops if (place := text.find(stop)) >= 0]:
            self.stopped, self._waiting = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._waiting = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of text with which the stop string begins."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
