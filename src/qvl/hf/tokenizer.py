"""The vocabulary as a tokenizer of transformers."""

from pathlib import Path
from typing import Any

from transformers import AddedToken, PreTrainedTokenizer

from qvl.text.special_tokens import ENDOFTEXT
from qvl.text.tokenizer import VOCABULARY_NAME, Tokenizer

# Each byte as a character that can be seen: the common ones as themselves, the others from U+0100 on, as in GPT-2.
_SEEN = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_UNSEEN = [byte for byte in range(256) if byte not in _SEEN]
_TO_CHAR = {byte: chr(byte) for byte in _SEEN} | {byte: chr(256 + n) for n, byte in enumerate(_UNSEEN)}
_TO_BYTE = {char: byte for byte, char in _TO_CHAR.items()}


class QWenTokenizer(PreTrainedTokenizer):
    """Byte-pair tokens, written as visible characters. As everywhere in transformers, a special tag in a text becomes
    its id: for text from others take the processor's chat template, in which text stays text."""

    vocab_files_names: dict[str, str] = {"vocab_file": VOCABULARY_NAME}
    model_input_names: list[str] = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **values: Any) -> None:
        self.qvl = Tokenizer.from_file(Path(vocab_file))
        special = {i: AddedToken(name, special=True) for name, i in self.qvl.special.as_dict.items()}
        names = list(self.qvl.special.as_dict)
        values = {"padding_side": "left", "eos_token": ENDOFTEXT, "pad_token": ENDOFTEXT, **values}
        values |= {"extra_special_tokens": [name for name in names if name != ENDOFTEXT]}
        values.pop("added_tokens_decoder", None)
        super().__init__(added_tokens_decoder=special, special_tokens_pattern="none", **values)

    @property
    def vocab_size(self) -> int:
        """Ranks; the special tokens count as added ones."""
        return len(self.qvl.ranks)

    def get_vocab(self) -> dict[str, int]:
        return {_shown(token): i for token, i in self.qvl.ranks.items()} | self.added_tokens_encoder

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [_shown(self.qvl.token_bytes(i)) for i in self.qvl.encode(text)]

    def _convert_token_to_id(self, token: str) -> int | None:
        if any(char not in _TO_BYTE for char in token):
            return None
        return self.qvl.ranks.get(bytes(_TO_BYTE[char] for char in token))

    def _convert_id_to_token(self, index: int) -> str:
        return _shown(self.qvl.token_bytes(index))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        spelled = b"".join(
            token.encode() if token in self._added_tokens_encoder else bytes(_TO_BYTE[char] for char in token)
            for token in tokens
        )
        return spelled.decode("utf-8", "replace")

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return (str(self.qvl.save(Path(save_directory))),)


def _shown(token: bytes) -> str:
    return "".join(_TO_CHAR[byte] for byte in token)
