"""Adapter and base -> one complete checkpoint folder, with how far its logits are from the two apart."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from qvl.checkpoint.beside import copy_beside
from qvl.checkpoint.json_files import read_json
from qvl.checkpoint.layout import (
    CONFIG_NAME,
    QUANTIZATION_KEY,
    published_tensors,
    write_folder,
)
from qvl.errors import UsageError
from qvl.files import appearing
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.layout import load_any, save_int4, to_int4, to_whole
from qvl.text.markup import Image, Text
from qvl.text.prompts import caption_prefix
from qvl.text.render import render
from qvl.text.tokenizer import Tokenizer
from qvl.train.lora import adapter_config, load_adapter, merge_lora

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LogitError:
    """How far logits (..., V) are from others, over all places of a few dialogues."""

    largest: float  # difference of a logit
    divergence: float  # Kullback-Leibler, nats, the mean of the places
    same: float  # share of the places with the same most likely token

    def __str__(self) -> str:
        return (
            f"logits differ by {self.largest:.2e} at most, divergence {self.divergence:.2e} nats, "
            f"the same first choice at {self.same:.1%} of the places"
        )


def merge_adapter(
    adapter: Path, out: Path, base: Path | None = None, *, requantize: bool = False, dtype: str = "float32"
) -> LogitError:
    """Write the merged model to `out` in the layout of its base, with all that lies beside the base's weights.

    base: where the adapter's own base lies now (what adapter_config.json names). A quantised base is made whole first:
    the merged model is what was trained. requantize: Int4 again, each value rounded to the nearest. Returns what the
    written model's logits differ by. Raises UsageError for a base that is not there or an `out` that is not empty.
    """
    base = base or Path(str(adapter_config(adapter).get("base_model_name_or_path")))
    if not base.is_dir():
        raise UsageError(f"{adapter}: its base {base} is not here; say where it is with --model")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; choose another folder")
    tokenizer = Tokenizer.from_dir(base)
    model = load_any(base)
    load_adapter(model, adapter)
    expected = probe_logits(model, tokenizer)
    to_whole(model)
    merge_lora(model)
    config = {key: value for key, value in read_json(base / CONFIG_NAME).items() if key != QUANTIZATION_KEY}
    with appearing(out) as folder:
        copy_beside(base, folder)
        if requantize:
            to_int4(model)
            save_int4(model, config, folder, tokenizer)
        else:
            tensors = {name: tensor.to(DTYPES[dtype]) for name, tensor in published_tensors(model).items()}
            write_folder(tensors, {**config, "torch_dtype": dtype}, folder, tokenizer)
    return logit_error(expected, probe_logits(load_any(out), tokenizer))


@torch.inference_mode()
def probe_logits(model: QwenVL, tokenizer: Tokenizer) -> list[Tensor]:
    """Logits of a caption and of a dialogue about a picture of noise, and of a dialogue without one."""
    vision = model.config.vision
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, vision.image_size, vision.image_size, generator=random)
    question, answer = (Text("What is on the left? 左边是什么？"),), (Text("A red circle at the top. 1 2 3"),)
    samples = [
        ("caption", caption_prefix("en"), answer),
        ("dialogue", (Image(0), *question), answer),
        ("dialogue", question, answer),
    ]
    logits = []
    for task, asked, said in samples:
        rendered = render([("user", asked), ("assistant", said)], task, tokenizer, vision.num_queries)
        if rendered is not None:
            shown = pixels if rendered.image_indices else None
            logits.append(model(torch.tensor([rendered.input_ids]), shown)[0].float())
    return logits


def logit_error(expected: list[Tensor], found: list[Tensor]) -> LogitError:
    """Of logits (T, V) each."""
    one, other = torch.cat(expected), torch.cat(found)
    divergence = F.kl_div(other.log_softmax(-1), one.log_softmax(-1), log_target=True, reduction="batchmean")
    same = (one.argmax(-1) == other.argmax(-1)).float().mean()
    return LogitError(float((one - other).abs().max()), float(divergence), float(same))
