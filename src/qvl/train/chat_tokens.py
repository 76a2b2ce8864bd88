"""Did a model ever learn the tokens of a dialogue? Its weights say.

The vocabulary holds tokens that no text ever has (`<|extra_10|>` and those behind it). Training leaves their rows of
the embedding as they were, but for the weight decay, and pushes their rows of the head all the same way, since they are
never right. So these rows lie about equally far from their mean. The rows of `<|im_start|>` and `<|im_end|>` lie as far
where they were never used either, and elsewhere once a model was trained on dialogues.
"""

import torch
from torch import Tensor

from qvl.text.special_tokens import SpecialTokens

NEVER_USED = "<|extra_10|>", "<|extra_204|>"  # first and last; the first ten are what others use for themselves
WITHIN = 1.5  # times the largest distance that one of them has from what is usual


def chat_tokens_look_trained(embedding: Tensor, head: Tensor, special: SpecialTokens) -> bool:
    """Rows (V, D) of embedding and head -> whether both tokens of a dialogue differ from rows that were never used, in
    one of the two at least."""
    first, last = map(special.id_of, NEVER_USED)
    tokens = [special.im_start, special.im_end]
    moved = [_stand_out(matrix[tokens].float(), matrix[first : last + 1].float()) for matrix in (embedding, head)]
    return bool((moved[0] | moved[1]).all())


def _stand_out(rows: Tensor, unused: Tensor) -> Tensor:
    """For each row, whether its distance from the mean of the unused ones is unlike theirs."""
    mean = unused.mean(0)
    usual = torch.linalg.vector_norm(unused - mean, dim=1)
    center = usual.median()
    spread = (usual - center).abs().max() * WITHIN + 1e-6
    return (torch.linalg.vector_norm(rows - mean, dim=1) - center).abs() > spread
