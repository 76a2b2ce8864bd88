"""Tokens a second of our engine beside transformers' `generate` on its own Qwen2 of the same sizes and weights.

    python benchmarks/decoding.py [--sizes small large] [--types float32 float32-all-bits bfloat16]

One process, turn by turn, the best of several. Batch 1: one prompt, one answer. Batch 16: 48 requests whose prompts and
answers have mixed lengths; transformers takes 16 at a time, padded on the left, and each group runs until its longest
answer is there; only wanted tokens count. The share of the bandwidth: bytes of matrices (and of keys and values) that a
token must read, over the time it took and over what a large copy moves (bytes read and written).

float32: weights of a bf16 checkpoint, as published ones are, in float32 arithmetic. float32-all-bits: weights that need
all bits of a float32.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from qvl.generate.engine import Engine
from qvl.generate.prepare import prepare
from qvl.generate.request import Request
from qvl.model.config import LanguageConfig, QwenVLConfig, VisionConfig
from qvl.model.narrow import NarrowLinear
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.layout import to_int4

SIZES = {  # 40M: in the caches for a part; 740M: well beyond them
    "small": LanguageConfig(8192, 512, 8, 8, 2 * 1376),
    "large": LanguageConfig(32000, 2048, 12, 16, 2 * 5504),
}
TYPES = {  # in which the weights are drawn, and in which both compute
    "float32": (torch.bfloat16, torch.float32),
    "float32-all-bits": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
}
ROWS, REQUESTS = 16, 48
COPY_BYTES = 2**30


@dataclass(frozen=True)
class Work:
    """One prompt and how many tokens are wanted."""

    ids: list[int]
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(TYPES))
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for size in args.sizes:
        for kind in args.types:
            compare(size, kind)
    int4_beside_bfloat16("large")


@torch.inference_mode()
def compare(size: str, kind: str) -> None:
    config = SIZES[size]
    theirs, ours, kernels = peers(config, *TYPES[kind])
    narrow = any(isinstance(layer, NarrowLinear) for layer in ours.modules())
    weights = sum(p.numel() for n, p in theirs.named_parameters() if "embed" not in n)
    matrices = weights * (2 if narrow else TYPES[kind][1].itemsize)
    print(f"\n{size}, {kind}: {kernels}; {matrices / 1e6:.0f} MB of matrices to read")
    rng = random.Random(0)
    batches = {
        1: [work(rng, config, 128, 48)],
        4: [work(rng, config, 128, 48) for _ in range(4)],
        ROWS: [work(rng, config, rng.randrange(16, 256), rng.randrange(8, 96)) for _ in range(REQUESTS)],
    }
    for rows, works in batches.items():
        wanted = sum(one.tokens for one in works)
        turns = {"transformers": partial(by_transformers, theirs), "qvl": partial(by_qvl, ours)}
        answers, seconds = {}, dict.fromkeys(turns, float("inf"))
        for _ in range(2 if rows == ROWS else 5):  # by turns: the machine's bandwidth is not the same every minute
            for name, run in turns.items():
                answers[name], taken = best(partial(run, works, rows), 1)
                seconds[name] = min(seconds[name], taken)
        ratio = seconds["transformers"] / seconds["qvl"]
        same = sum(a == b for a, b in zip(answers["qvl"], answers["transformers"], strict=True))
        line = f"  batch {rows:2}: qvl {wanted / seconds['qvl']:7.1f} tokens/s, transformers "
        line += f"{wanted / seconds['transformers']:7.1f}: {ratio:.2f} times; same answers {same} of {len(works)}"
        print(line, flush=True)
    [one] = batches[1]
    print(f"  one token of batch 1: {token_and_share(ours, one, matrices + cached_bytes(config, one))}")


@torch.inference_mode()
def int4_beside_bfloat16(size: str) -> None:
    """Our own model in both, at a size beyond the caches: prompts and tokens."""
    config = SIZES[size]
    _, whole, _ = peers(config, *TYPES["bfloat16"])
    rounded = QwenVL(whole.config).to(torch.bfloat16).eval()
    rounded.initialize(0)
    to_int4(rounded)
    print(f"\n{size}, Int4 beside bfloat16: {prepare(rounded)}")
    head = config.vocab_size * config.hidden_size * 2
    blocks = config.num_layers * config.hidden_size * (4 * config.hidden_size + 3 * config.intermediate_size // 2)
    rng = random.Random(0)
    for rows in (1, 4, ROWS):
        works = [work(rng, config, 128, 48) for _ in range(rows)]
        seconds = [best(partial(by_qvl, model, works, rows), 3)[1] for model in (rounded, whole)]
        speeds = [rows * 48 / taken for taken in seconds]
        ratio = speeds[0] / speeds[1]
        print(f"  batch {rows:2}: Int4 {speeds[0]:.1f} tokens/s, {ratio:.2f} times bfloat16's {speeds[1]:.1f}")
    one = work(rng, config, 128, 48)
    for name, model, size_bytes in (("Int4", rounded, head + blocks * 33 / 64), ("bfloat16", whole, head + 2 * blocks)):
        token = token_and_share(model, one, size_bytes + cached_bytes(config, one))
        print(f"  {name}, a token of batch 1: {token}")
    long = work(rng, config, 512, 1)
    seconds = [best(partial(by_qvl, model, [long], 1), 3)[1] for model in (rounded, whole)]
    print(f"  a prompt of 512 tokens: Int4 {512 / seconds[0]:.0f} tokens/s, bfloat16 {512 / seconds[1]:.0f}")


def peers(config: LanguageConfig, drawn: torch.dtype, dtype: torch.dtype) -> tuple[Qwen2ForCausalLM, QwenVL, str]:
    """The same weights in both, and what computes ours."""
    torch.manual_seed(0)
    width = config.hidden_size
    vision = VisionConfig(28, 14, 32, 1, 2, 2.0, width, 1, 1)
    ours = QwenVL(QwenVLConfig(vision, config, config.vocab_size - 3)).eval()
    ours.initialize(0)
    made = Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=width,
        intermediate_size=config.intermediate_size // 2,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        rms_norm_eps=config.layer_norm_epsilon,
        rope_theta=config.rotary_base,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = Qwen2ForCausalLM(made).eval()
    state = theirs.state_dict()
    language = ours.language
    plain = {"model.embed_tokens": language.embedding, "model.norm": language.ln_f, "lm_head": language.head}
    for i, block in enumerate(language.blocks):
        prefix = f"model.layers.{i}"
        plain |= {
            f"{prefix}.input_layernorm": block.ln_1,
            f"{prefix}.post_attention_layernorm": block.ln_2,
            f"{prefix}.self_attn.o_proj": block.attn_c_proj,
            f"{prefix}.mlp.gate_proj": block.w2,
            f"{prefix}.mlp.up_proj": block.w1,
            f"{prefix}.mlp.down_proj": block.mlp_c_proj,
        }
        attention: nn.Linear = block.c_attn
        nn.init.normal_(attention.bias, std=0.1)
        parts = zip("qkv", attention.weight.chunk(3), attention.bias.chunk(3), strict=True)
        for letter, weight, bias in parts:
            state[f"{prefix}.self_attn.{letter}_proj.weight"].copy_(weight)
            state[f"{prefix}.self_attn.{letter}_proj.bias"].copy_(bias)
    for name, layer in plain.items():
        state[f"{name}.weight"].copy_(layer.weight)
    theirs.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    for parameter in (*theirs.parameters(), *ours.parameters()):  # transformers' rotary table, a buffer, stays exact
        parameter.data = parameter.data.to(drawn).to(dtype)
    return theirs, ours, prepare(ours)


def work(rng: random.Random, config: LanguageConfig, length: int, tokens: int) -> Work:
    return Work([rng.randrange(1, config.vocab_size - 3) for _ in range(length)], tokens)


def by_qvl(model: QwenVL, works: Sequence[Work], rows: int) -> list[list[int]]:
    longest = max(len(one.ids) + one.tokens for one in works)
    return Engine(model, max_rows=rows, max_tokens=longest).run([Request(one.ids, (), one.tokens) for one in works])


def by_transformers(model: Qwen2ForCausalLM, works: Sequence[Work], rows: int) -> list[list[int]]:
    answers = []
    for start in range(0, len(works), rows):
        group = works[start : start + rows]
        longest = max(len(one.ids) for one in group)
        ids = torch.tensor([[0] * (longest - len(one.ids)) + one.ids for one in group])
        mask = torch.tensor([[0] * (longest - len(one.ids)) + [1] * len(one.ids) for one in group])
        most = max(one.tokens for one in group)
        said = model.generate(ids, attention_mask=mask, max_new_tokens=most, min_new_tokens=most)[:, longest:].tolist()
        answers += [row[: one.tokens] for row, one in zip(said, group, strict=True)]
    return answers


def best(run: Callable[[], list[list[int]]], times: int) -> tuple[list[list[int]], float]:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        answers = run()
        taken.append(time.perf_counter() - start)
    return answers, min(taken)


def token_and_share(model: QwenVL, one: Work, read: float) -> str:
    """A decoded token's time, the prompt's reading left out, and which share of what a copy moves it reads.

    Both are the best of three, by turns: the machine's bandwidth is not the same every minute.
    """
    token, bandwidth = float("inf"), 0.0
    for _ in range(3):
        bandwidth = max(bandwidth, copy_bandwidth())
        engine = Engine(model, max_rows=1, max_tokens=len(one.ids) + one.tokens)
        times = [time.perf_counter() for _ in engine.stream(Request(one.ids, (), one.tokens))]
        token = min(token, (times[-1] - times[0]) / (len(times) - 1))
    reached = read / token
    share = f"{reached / bandwidth:.0%} of a copy's {bandwidth / 1e9:.1f}"
    return f"{token * 1e3:.1f} ms, {reached / 1e9:.1f} GB/s, {share}"


def cached_bytes(config: LanguageConfig, one: Work) -> int:
    """Keys and values, in float32, of half the answer."""
    return 2 * 4 * config.num_layers * config.hidden_size * (len(one.ids) + one.tokens // 2)


def copy_bandwidth() -> float:
    """Bytes a second read and written by a copy much larger than the caches."""
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    taken = []
    for _ in range(6):
        start = time.perf_counter()
        target.copy_(source)
        taken.append(time.perf_counter() - start)
    return 2 * COPY_BYTES / min(taken)


if __name__ == "__main__":
    main()
