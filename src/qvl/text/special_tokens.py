"""Every special token, its id and its pair, for any byte-level vocabulary of Qwen's format.

Source: tokenization_qwen.py of the published checkpoints. Ids follow the ranks of the vocabulary, so
the published file (151,643 ranks) gives `<|endoftext|>` 151643 and `<img>` 151857, and a smaller
vocabulary keeps the same tokens in the same order.
"""

from dataclasses import dataclass

ENDOFTEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
NUM_EXTRA = 205
REF_START, REF_END = "<ref>", "</ref>"
BOX_START, BOX_END = "<box>", "</box>"
QUAD_START, QUAD_END = "<quad>", "</quad>"
IMG_START, IMG_END, IMG_PAD = "<img>", "</img>", "<imgpad>"

CHAT_TOKENS = (ENDOFTEXT, IM_START, IM_END, *(f"<|extra_{i}|>" for i in range(NUM_EXTRA)))
MARKUP_TOKENS = (REF_START, REF_END, BOX_START, BOX_END, QUAD_START, QUAD_END)
IMAGE_TOKENS = (IMG_START, IMG_END, IMG_PAD)
ALL_TOKENS = (*CHAT_TOKENS, *MARKUP_TOKENS, *IMAGE_TOKENS)

PUBLISHED_NUM_RANKS = 151643
IGNORE_INDEX = -100  # the label of a place that carries no loss


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens behind a vocabulary of `num_ranks` byte-pair ranks."""

    num_ranks: int

    def id_of(self, token: str) -> int:
        """Id of a special token; ValueError (from the tuple) for any other string."""
        return self.num_ranks + ALL_TOKENS.index(token)

    @property
    def vocab_size(self) -> int:
        """Ranks plus special tokens: 151,860 for the published vocabulary."""
        return self.num_ranks + len(ALL_TOKENS)

    @property
    def as_dict(self) -> dict[str, int]:
        return {token: self.num_ranks + i for i, token in enumerate(ALL_TOKENS)}

    @property
    def endoftext(self) -> int:
        return self.id_of(ENDOFTEXT)

    @property
    def im_start(self) -> int:
        return self.id_of(IM_START)

    @property
    def im_end(self) -> int:
        return self.id_of(IM_END)

    @property
    def img_start(self) -> int:
        return self.id_of(IMG_START)

    @property
    def img_end(self) -> int:
        return self.id_of(IMG_END)

    @property
    def img_pad(self) -> int:
        return self.id_of(IMG_PAD)
