"""Floating point operations of a training step, from the model's sizes alone, and what follows: the MFU.

Counted are matrix products, a multiplication and an addition each: norms, softmax and the like are a few per cent and
are left out, as is usual. Causal attention counts half of its square, because the other half is never needed, and the
head counts supervised places alone, because only these have logits. What is done again for activation checkpointing is
not counted: a model's operations don't depend on how it is trained.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from qvl.model.config import QwenVLConfig


@dataclass(frozen=True)
class StepWork:
    """What a step reads. documents: the tokens of each run of tokens that see each other, padding left out: of each
    sample where a row's samples are isolated, of each row where they are interleaved."""

    images: int
    documents: Sequence[int]
    supervised: int  # tokens with a loss


@dataclass(frozen=True)
class Operations:
    """Floating point operations, forward and backward, by part."""

    vision: float
    adapter: float
    language: float  # the blocks
    head: float

    @property
    def total(self) -> float:
        """Of all parts."""
        return self.vision + self.adapter + self.language + self.head


@dataclass(frozen=True)
class Product:
    """A matrix product of the forward pass, and which of its two gradients the backward pass makes: each costs as much
    as the product."""

    part: str
    forward: float
    gradients: int  # 0 to 2
    in_block: bool = False


def step_operations(config: QwenVLConfig, trains: Collection[str], work: StepWork) -> Operations:
    """Forward and backward of a step in which the parts `trains` (vision, adapter, language) learn.

    Backward costs twice the forward where weights learn and gradients pass on, once where frozen weights let them pass
    (the language model in stage 1), nothing where no gradient goes (the ViT in stage 3).
    """
    sums = dict.fromkeys(("vision", "adapter", "language", "head"), 0.0)
    for product in _products(config, trains, work):
        sums[product.part] += product.forward * (1 + product.gradients)
    return Operations(**sums)


def forward_operations(config: QwenVLConfig, work: StepWork) -> Operations:
    """The forward pass alone."""
    return step_operations(config, (), work)


def recomputed_operations(config: QwenVLConfig, trains: Collection[str], work: StepWork) -> float:
    """What activation checkpointing adds: another forward pass of the blocks through which gradients go."""
    return sum(p.forward for p in _products(config, trains, work) if p.in_block and p.gradients)


def mfu(operations: float, seconds: float, gpus: int, peak: float) -> float:
    """Model FLOPs utilisation: the operations of real tokens over what the GPUs could have done in that time.

    operations: of all ranks together. peak: a GPU's dense bf16 FLOP/s. Source: PaLM, appendix B (arXiv 2204.02311).
    """
    return operations / (seconds * gpus * peak)


def _products(config: QwenVLConfig, trains: Collection[str], work: StepWork) -> Iterator[Product]:
    yield from _vision(config, "vision" in trains, work.images)
    yield from _adapter(config, "vision" in trains, "adapter" in trains, work.images)
    upstream = "vision" in trains or "adapter" in trains  # a step without pictures goes the same way
    yield from _language(config, upstream, "language" in trains, work)


def _vision(config: QwenVLConfig, learns: bool, images: int) -> Iterator[Product]:
    c = config.vision
    patches, inner = c.grid**2, int(c.width * c.mlp_ratio)
    pixels = 3 * c.patch_size**2
    yield Product("vision", 2.0 * images * patches * pixels * c.width, int(learns))  # pixels need no gradient
    matrices = c.layers * (4 * c.width**2 + 2 * c.width * inner)
    attention = c.layers * 2 * patches * c.width
    yield Product("vision", 2.0 * images * patches * (matrices + attention), 2 * learns, True)


def _adapter(config: QwenVLConfig, vision_learns: bool, learns: bool, images: int) -> Iterator[Product]:
    c = config.vision
    dim, queries, patches = c.output_dim, c.num_queries, c.grid**2
    passes = vision_learns or learns
    if c.width != dim:
        yield Product("adapter", 2.0 * images * patches * c.width * dim, vision_learns + learns)
    yield Product("adapter", 2.0 * images * queries * dim**2, 2 * learns)  # of the queries, which no picture changes
    yield Product("adapter", 2.0 * images * 2 * patches * dim**2, passes + learns)  # of keys and values
    attention = 2.0 * images * queries * patches * dim
    yield Product("adapter", attention, passes + learns)  # queries by keys
    yield Product("adapter", attention, 2 * passes)  # shares by values
    yield Product("adapter", 2.0 * images * 2 * queries * dim**2, passes + learns)  # out_proj, proj


def _language(config: QwenVLConfig, upstream: bool, learns: bool, work: StepWork) -> Iterator[Product]:
    c = config.language
    dim, inner = c.hidden_size, c.intermediate_size // 2
    passes = upstream or learns
    matrices = c.num_layers * (4 * dim**2 + 3 * dim * inner)
    yield Product("language", 2.0 * sum(work.documents) * matrices, passes + learns, True)
    pairs = sum(tokens**2 for tokens in work.documents) / 2
    yield Product("language", 2.0 * c.num_layers * 2 * pairs * dim, 2 * passes, True)
    yield Product("head", 2.0 * work.supervised * dim * c.vocab_size, passes + learns)
