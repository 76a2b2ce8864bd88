"""What autograd keeps of each unit of the model (a block, the adapter, the loss) between its forward and its backward
pass, and the most that is alive while they run: bytes, as formulas in the sizes.

Read off the code of the units, term by term, and held to what torch saves and allocates (`tests/train/test_memory.py`,
`benchmarks/planner.py`). docs/planning.md tells them in words. Letters: N images, P patches, B rows, T tokens, D width,
H heads, I inner width of the MLP, Q queries, V classes, M supervised tokens.
"""

from dataclasses import dataclass

import torch

from qvl.model.attention import ROWS, by_products
from qvl.model.config import QwenVLConfig
from qvl.model.loss import HELD_LOGITS

FULL = 4  # bytes of a float32


@dataclass(frozen=True)
class MicroBatch:
    """What a rank reads at once, padding included."""

    rows: int
    tokens: int  # of a row
    images: int
    supervised: int  # tokens with a loss
    isolated: bool = False  # rows of samples that don't see each other: attention with a mask


@dataclass(frozen=True)
class Arithmetic:
    """Bytes of a number, and which kernels run.

    product: what goes into matrix products. vision_stream, language_stream: what blocks pass on. casts: weights are
    float32, and autocast keeps copies of them for the products. on_cpu: sums of mixed types by way of a copy, and no
    float32 LayerNorm of autocast's.
    """

    product: int
    vision_stream: int
    language_stream: int
    casts: bool
    on_cpu: bool

    @classmethod
    def of(cls, bf16: bool, sharded: bool, on_cpu: bool) -> "Arithmetic":
        """Sharded ranks (FSDP) compute with bf16 weights, so what blocks pass on is bf16 too, save where autocast's
        LayerNorm makes it float32: behind the ViT's first one on a GPU."""
        if not bf16:
            return cls(FULL, FULL, FULL, False, on_cpu)
        narrow = 2 if sharded else FULL
        return cls(2, narrow if on_cpu else FULL, narrow, not sharded, on_cpu)

    def by_products(self, keys: int) -> bool:
        """Whether attention to so many keys goes as products of matrices."""
        dtype = torch.float32 if self.product == FULL else torch.bfloat16
        return by_products("cpu" if self.on_cpu else "cuda", dtype, keys)

    @property
    def cast(self) -> int:
        """Bytes of a weight's copy."""
        return self.product if self.casts else 0

    def sum_copy(self, stream: int) -> int:
        """Bytes of a number that a sum of a product and the stream copies first."""
        return stream if self.on_cpu and stream != self.product else 0

    @property
    def norm(self) -> int:
        """Bytes of a number in the adapter's LayerNorms, behind a product."""
        return self.product if self.on_cpu else FULL


@dataclass(frozen=True)
class Gradients:
    """What flows back through a unit: whether its weights learn, whether gradients pass at all, and the bytes that a
    weight's fresh gradient takes until the unit is done (0 where it is added to an older one)."""

    learns: bool
    passes: bool
    fresh: int


@dataclass(frozen=True)
class Footprint:
    """Bytes of a unit. saved: from its forward to its backward pass. forward, backward: the most alive in each, what is
    saved included."""

    saved: float
    forward: float
    backward: float


@dataclass(frozen=True)
class _Attention:
    saved: float
    forward: float  # beyond q, k and v, before the output is there
    backward: float


def _fused(how: Arithmetic, queries: float, keys: float, heads: float, packed: float) -> _Attention:
    """queries, keys: numbers in q and in k (as many in v). heads: places times heads. packed: bytes of q, k and v as
    they come, which the kernel keeps."""
    saved = packed + how.product * queries + FULL * heads  # and its output, and a sum a query
    return _Attention(saved, saved, saved + how.product * 2 * (queries + keys))


def _products(how: Arithmetic, queries: float, keys: float, scores: float, last: float) -> _Attention:
    """scores: pairs of places times heads that are computed; last: of them at once, in the end."""
    copies, kept = how.product * (queries + 2 * keys), FULL + how.product  # the softmax, and as the product takes it
    before = copies + kept * (scores - last)
    return _Attention(
        saved=copies + kept * scores,
        forward=before + (how.product + 2 * FULL) * last,
        backward=before + 3 * FULL * last,
    )


def vision_block(config: QwenVLConfig, batch: MicroBatch, how: Arithmetic, flow: Gradients, tensor: int) -> Footprint:
    """A block of the ViT, its matrices shared by `tensor` ranks."""
    c = config.vision
    places = batch.images * c.grid**2
    n, inner = places * c.width, places * int(c.width * c.mlp_ratio) / tensor
    product, stream, learns = how.product, how.vision_stream, int(flow.learns)
    attend, mlp = c.width**2 / tensor, c.width * int(c.width * c.mlp_ratio) / tensor  # weights of a matrix
    packed = product * 3 * n / tensor
    apart = how.by_products(c.grid**2)
    if apart:
        scores = places * c.grid**2 * c.heads / tensor
        attention = _products(how, n / tensor, n / tensor, scores, scores)
    else:
        attention = _fused(how, n / tensor, n / tensor, places * c.heads / tensor, packed)

    before = stream * n + learns * product * n  # the block's input, and the first product's
    output = learns * product * n / tensor if apart else 0  # the fused kernel's output is kept anyhow
    after = stream * n + product * inner + learns * product * (n + inner)
    saved = before + attention.saved + output + after + how.cast * (4 * attend + 2 * mlp)
    unpacked = packed if apart else 0  # q, k and v live on to the end of the block
    in_attention = before + how.cast * 3 * attend + unpacked + attention.forward
    at_end = saved + unpacked + (stream + product + how.sum_copy(stream)) * n + (1 - learns) * product * inner
    if not flow.passes:
        return Footprint(0, max(in_attention, at_end - attention.saved), 0)
    gradient = stream * n
    last_product = saved + gradient + product * (n + inner + learns * mlp)
    last_gelu = saved + gradient + product * (2 - learns) * inner + learns * (flow.fresh - how.cast) * mlp
    in_attention_back = before + how.cast * 3 * attend + gradient + attention.backward
    in_attention_back += learns * flow.fresh * (2 * mlp + attend)
    return Footprint(saved, max(in_attention, at_end), max(last_product, last_gelu, in_attention_back))


def language_block(config: QwenVLConfig, batch: MicroBatch, how: Arithmetic, flow: Gradients, tensor: int) -> Footprint:
    """A block of the language model."""
    c = config.language
    places, dim, width = batch.rows * batch.tokens, c.hidden_size, c.intermediate_size // 2
    n, inner = places * dim, places * width / tensor
    product, stream, learns = how.product, how.language_stream, int(flow.learns)
    attend, mlp = dim**2 / tensor, dim * width / tensor
    packed = product * 3 * n / tensor
    turned = packed + product * 2 * n / tensor  # v lies in the product of all three; q and k are turned copies
    squares = how.by_products(batch.tokens)
    if squares:
        at_once = batch.tokens if batch.isolated else min(ROWS, batch.tokens)  # rows of the causal square
        last = batch.rows * at_once * batch.tokens * c.num_heads / tensor
        scores = last * (1 + batch.tokens / at_once) / 2  # each piece is longer than the one before
        attention = _products(how, n / tensor, n / tensor, scores, last)
    else:
        mask = product * places * batch.tokens if batch.isolated else 0  # as the attention adds it
        attention = _fused(how, n / tensor, n / tensor, places * c.num_heads / tensor, turned + mask)

    norm = (FULL + learns * stream if flow.passes else stream) * n  # its input as float32, and what is scaled
    apart = stream != product  # then products take a copy of the norm's output, each its own
    before = norm + learns * product * n
    output = learns * product * n / tensor if squares else 0
    after = norm + learns * product * (2 if apart else 1) * n + product * (3 + learns) * inner
    saved = before + attention.saved + output + after + how.cast * (4 * attend + 3 * mlp)
    normed = stream * n if apart or not learns else 0  # the norm's output itself
    in_attention = before + normed + how.cast * 3 * attend + turned * squares + attention.forward
    at_end = saved + normed + (stream + product + how.sum_copy(stream)) * n + (1 - learns) * product * inner
    if not flow.passes:
        return Footprint(0, max(in_attention, at_end - attention.saved), 0)
    gradient = stream * n
    last_product = saved + gradient + product * (n + inner + learns * mlp)
    gate = saved + gradient + product * (3 - learns) * inner + learns * (flow.fresh - how.cast) * mlp
    rest = before + how.cast * 4 * attend + gradient + learns * flow.fresh * 3 * mlp
    second_norm = rest + attention.saved + output + FULL * 5 * n
    in_attention_back = rest - how.cast * attend + attention.backward + learns * flow.fresh * attend
    return Footprint(saved, max(in_attention, at_end), max(last_product, gate, second_norm, in_attention_back))


def stem(config: QwenVLConfig, batch: MicroBatch, how: Arithmetic, flow: Gradients) -> Footprint:
    """Patches, their product, positions and the first norm."""
    c = config.vision
    places = batch.images * c.grid**2
    pixels, n = places * 3 * c.patch_size**2, places * c.width
    saved = how.product * pixels + how.vision_stream * n
    forward = (FULL + how.product) * pixels + (how.product + 2 * how.vision_stream) * n
    backward = saved + 2 * how.vision_stream * n
    return Footprint(saved, forward, backward) if flow.passes else Footprint(0, forward, 0)


def adapter(config: QwenVLConfig, batch: MicroBatch, how: Arithmetic, flow: Gradients) -> Footprint:
    """Cross-attention of the queries to the patches: its keys are many, its layer is one."""
    c = config.vision
    patches, dim = batch.images * c.grid**2, c.output_dim
    n, keys, queries = patches * c.width, patches * dim, batch.images * c.num_queries * dim
    heads = dim // c.adapter_head_size
    product, norm, learns = how.product, how.norm, int(flow.learns)
    packed = product * (queries + 2 * keys)
    apart = how.by_products(c.grid**2)
    if apart:
        scores = batch.images * c.num_queries * c.grid**2 * heads
        attention = _products(how, queries, keys, scores, scores)
    else:
        attention = _fused(how, queries, keys, batch.images * c.num_queries * heads, packed)
    weights = c.width * dim * (c.width != dim) + 5 * dim**2
    before = learns * product * n + norm * keys + learns * product * (2 * keys + queries)
    after = learns * product * (queries * apart + queries) + norm * queries
    saved = before + attention.saved + after + how.cast * weights
    # The features, keys with their positions and values as they came are still at hand.
    forward = how.vision_stream * n + before + FULL * keys + norm * keys + packed * apart + attention.forward
    forward = max(forward, saved) + how.cast * weights
    if not flow.passes:
        return Footprint(0, forward, 0)
    backward = before + how.cast * weights + attention.backward + learns * flow.fresh * 2 * dim**2
    return Footprint(saved, forward, max(saved + 3 * product * queries, backward))


def head(config: QwenVLConfig, batch: MicroBatch, how: Arithmetic, flow: Gradients) -> Footprint:
    """The last norm, the head at supervised places, and the loss: logits whole, or in chunks that leave gradients."""
    c = config.language
    n, states = batch.rows * batch.tokens * c.hidden_size, batch.supervised * c.hidden_size
    logits, weights = batch.supervised * c.vocab_size, c.vocab_size * c.hidden_size
    product, stream, learns = how.product, how.language_stream, int(flow.learns)
    norm = (FULL + learns * stream) * n
    chosen = stream * (n + states)  # all places and the supervised ones
    if logits <= HELD_LOGITS:
        kept = norm + learns * product * states + how.cast * weights
        forward = kept + chosen + 2 * FULL * logits
        if not flow.passes:
            return Footprint(0, forward, 0)
        made = learns * (product + FULL * how.casts) * weights
        backward = kept + max(3 * FULL * logits, product * (logits + states) + made)
        return Footprint(kept + FULL * logits, forward, backward)
    chunk = HELD_LOGITS // c.vocab_size * c.vocab_size
    own = FULL if how.casts else product  # bytes of a weight, and so of its gradient in the end
    left = stream * states + learns * own * weights  # the gradients that the chunks leave behind
    made = product * states + learns * (FULL + own * (own != FULL)) * weights
    logits_held = (product + FULL * (product != FULL)) * chunk
    forward = norm + chosen + how.cast * weights + made + logits_held
    return Footprint(norm + left, forward, norm + 2 * left) if flow.passes else Footprint(0, forward, 0)
