"""A checkpoint folder of the published size and layout with weights that mean nothing, to see before a download what a
machine makes of the 9.6B model: how much memory it takes, how long a token.

    python scripts/full_size_folder.py OUT [--int4]

19.3 GB in bfloat16, 9.7 GB in Int4. Its text is Qwen's own vocabulary (`pip install dashscope`).
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from qvl.checkpoint import save_model
from qvl.checkpoint.config_json import config_to_json
from qvl.model.config import PRESETS, QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton
from qvl.quantize.gptq import GROUP_SIZE, PER_INT, GPTQLinear
from qvl.quantize.layout import save_int4
from qvl.text.tokenizer import Tokenizer

MIDDLE = 0x77777777  # zero points of 8, which AutoGPTQ writes less one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--int4", action="store_true", help="the language model's matrices as AutoGPTQ packs them")
    args = parser.parse_args()
    write(args.out, PRESETS["qwen-vl"], Tokenizer.published(), args.int4)


def write(out: Path, config: QwenVLConfig, tokenizer: Tokenizer, int4: bool) -> None:
    """The folder; whole files only."""
    model = made_up(config, int4)
    if int4:
        save_int4(model, config_to_json(config), out, tokenizer)
    else:
        save_model(model, out, tokenizer)


def made_up(config: QwenVLConfig, int4: bool) -> QwenVL:
    """All tensors of a type are the same random numbers, so that they take the memory of the largest."""
    with skeleton():
        model = QwenVL(config)
        if int4:
            pack(model.language.blocks)
    torch.manual_seed(0)
    shapes = model.state_dict()
    most = max(tensor.numel() for tensor in shapes.values())
    numbers = {
        torch.float32: torch.empty(most, dtype=torch.float16 if int4 else torch.bfloat16).normal_(std=0.02),
        torch.float16: torch.full((most,), 0.01, dtype=torch.float16),  # scales
        torch.int32: torch.randint(-(2**31), 2**31, (most // PER_INT,), dtype=torch.int32),
    }
    state = {name: numbers[tensor.dtype][: tensor.numel()].view(tensor.shape) for name, tensor in shapes.items()}
    state |= {name: in_order(tensor) for name, tensor in state.items() if name.endswith(".g_idx")}
    state |= {name: torch.full_like(tensor, MIDDLE) for name, tensor in state.items() if name.endswith(".qzeros")}
    model.load_state_dict(state, assign=True)
    return model


def pack(blocks: nn.Module) -> None:
    for name, layer in list(blocks.named_modules()):
        if isinstance(layer, nn.Linear):
            blocks.set_submodule(name, GPTQLinear(layer.in_features, layer.out_features, layer.bias is not None))


def in_order(columns: Tensor) -> Tensor:
    """Groups of neighbours."""
    return torch.arange(len(columns), dtype=torch.int32) // GROUP_SIZE


if __name__ == "__main__":
    main()
