"""How well an image and a text fit, by a CLIP model of the user's choice.

The library is transformers, which is an extra; the model is any folder or name that its CLIP classes load (CLIP,
Chinese-CLIP, SigLIP, ...), without running code from it.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch.nn import functional as F

from qvl import images
from qvl.errors import MissingDependencyError, UsageError

BATCH = 64  # pairs the model sees at once


@lru_cache(maxsize=1)
def load_clip(name: str) -> tuple[Any, Any]:
    """(model, processor) on the GPU if there is one; loaded once per process."""
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise MissingDependencyError("--clip-model needs transformers: pip install 'qvl[clip]'") from error
    try:
        processor = transformers.AutoProcessor.from_pretrained(name)
        model = transformers.AutoModel.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"--clip-model {name}: not a CLIP model that can be loaded ({error})") from error
    if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
        raise UsageError(f"--clip-model {name}: a {type(model).__name__}, which does not embed images and texts")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), processor


def clip_scores(name: str, encoded: Sequence[bytes], texts: Sequence[str]) -> list[float]:
    """Cosine similarity of each image with its text, -1..1. Texts beyond the model's length are cut."""
    model, processor = load_clip(name)
    scores: list[float] = []
    for start in range(0, len(texts), BATCH):
        part = slice(start, start + BATCH)
        scores += compare(model, prepare(processor, encoded[part], texts[part]))
    return scores


def prepare(processor: Any, encoded: Sequence[bytes], texts: Sequence[str]) -> Any:
    """Images decoded, resized and normalised, texts as tokens: what the model takes of up to BATCH pairs."""
    pictures = [images.load(image) for image in encoded]
    return processor(text=list(texts), images=pictures, return_tensors="pt", padding=True, truncation=True)


@torch.inference_mode()
def compare(model: Any, prepared: Any) -> list[float]:
    """The model's part of `clip_scores`."""
    batch = dict(prepared.to(model.device))
    pixel_values = batch.pop("pixel_values")
    with torch.autocast(model.device.type, torch.bfloat16, enabled=_multiplies_bf16(model.device)):
        pictures, texts = _vectors(model.get_image_features(pixel_values)), _vectors(model.get_text_features(**batch))
    fit: list[float] = F.cosine_similarity(pictures.float(), texts.float()).tolist()
    return fit


def _multiplies_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast there: on GPUs, and on CPUs with instructions for it."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _vectors(output: Any) -> torch.Tensor:
    """(N, D); newer releases of transformers wrap them."""
    vectors: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return vectors
