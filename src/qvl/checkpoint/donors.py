"""What a part starts from: a Qwen-VL folder, Qwen-7B's (language), or OpenCLIP's ViT-bigG-14 (vision).

Source: paper section 2.1; config.json and safetensors of Qwen-7B; open_clip_config.json and the VisionTransformer of
OpenCLIP.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from qvl.checkpoint.config_json import config_from_json, language_from_json
from qvl.checkpoint.json_files import read_json
from qvl.checkpoint.names import open_clip_names, part_names
from qvl.checkpoint.weights import OPEN_CLIP_FILES, QWEN_FILES, Files, check_names, files_of, read_tensors, tensor_names
from qvl.errors import CheckpointError
from qvl.model.config import QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton

# What the weights were made for: what shapes don't show, depths, biases, and the vocabulary, whose rows are tokens.
_MADE_FOR = {
    "vision": ("layers", "heads"),
    "adapter": ("adapter_head_size",),
    "language": ("vocab_size", "num_layers", "num_heads", "no_bias", "layer_norm_epsilon", "rotary_base"),
}
# OpenCLIP's ViT has these too; Qwen-VL's patches go to the adapter before any of them.
_OPEN_CLIP_LEFT_OUT = {"visual.class_embedding", "visual.ln_post.weight", "visual.ln_post.bias", "visual.proj"}


def load_part(directory: str | Path, part: str, config: QwenVLConfig) -> dict[str, Tensor]:
    """Our name within the part -> tensor, as stored, for `vision`, `adapter` or `language` of a model of this config.

    Reads only the part's tensors. Of OpenCLIP these are left out: the text tower and logit_scale, the class token
    with its row of the position table, and what comes after the blocks (ln_post, proj). Its LayerNorms add 1e-5 to
    the variance, ours 1e-6, as the published Qwen-VL. Raises CheckpointError naming the file, field or tensors: a
    folder without the part, a part of other sizes, missing or misshapen tensors.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint folder")
    with skeleton():
        empty = QwenVL(config).get_submodule(part)
    shapes = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    if files_of(directory) is OPEN_CLIP_FILES:
        return _from_open_clip(directory, part, config, shapes)
    return _from_qwen(directory, part, config, shapes)


def _from_qwen(
    directory: Path, part: str, config: QwenVLConfig, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    path = directory / QWEN_FILES.config
    raw = read_json(path)
    if "visual" in raw:
        donor = config_from_json(raw, str(path))
        sizes: Any = donor.language if part == "language" else donor.vision
    elif part == "language":
        sizes = language_from_json(raw, str(path))
    else:
        raise CheckpointError(f"{path}: no table 'visual': a language model alone has no {part}")
    _check_made_for(path, part, {name: getattr(sizes, name) for name in _MADE_FOR[part]}, config)
    names = part_names(config, part)
    check_names(directory, set(names.values()), tensor_names(directory) & set(names.values()))
    return _read(directory, QWEN_FILES, names, shapes)


def _from_open_clip(
    directory: Path, part: str, config: QwenVLConfig, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    path = directory / OPEN_CLIP_FILES.config
    if part != "vision":
        raise CheckpointError(f"{path}: OpenCLIP's folder has a vision encoder, no {part}")
    _check_made_for(path, part, _open_clip_sizes(path), config)
    names = open_clip_names(config)
    rows, width = shapes["positional_embedding"]
    shapes = shapes | {"positional_embedding": (1 + rows, width)}  # the class token's row comes first
    visual = {name for name in tensor_names(directory, OPEN_CLIP_FILES) if name.startswith("visual.")}
    check_names(directory, set(names.values()), visual - _OPEN_CLIP_LEFT_OUT)
    tensors = _read(directory, OPEN_CLIP_FILES, names, shapes)
    tensors["positional_embedding"] = tensors["positional_embedding"][1:].clone()
    for name in tensors:
        if ".in_proj." in name:
            tensors[name] = _by_head(tensors[name], config.vision.heads)
    return tensors


def _read(
    directory: Path, files: Files, names: dict[str, str], shapes: dict[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    tensors = read_tensors(directory, {theirs: shapes[ours] for ours, theirs in names.items()}, files)
    return {ours: tensors[theirs] for ours, theirs in names.items()}


def _open_clip_sizes(path: Path) -> dict[str, int]:
    """layers and heads of open_clip_config.json."""
    model = read_json(path).get("model_cfg")
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vision, dict):
        raise CheckpointError(f"{path}: no table model_cfg.vision_cfg: this is not an OpenCLIP model")
    if model.get("quick_gelu"):
        raise CheckpointError(f"{path}: model_cfg.quick_gelu = true: Qwen-VL's ViT has the exact GELU")
    for key in ("layers", "width", "head_width"):
        if type(vision.get(key)) is not int or vision[key] < 1:
            raise CheckpointError(f"{path}: model_cfg.vision_cfg.{key} = {vision.get(key)!r}: expected a number from 1")
    return {"layers": vision["layers"], "heads": vision["width"] // vision["head_width"]}


def _check_made_for(path: Path, part: str, found: dict[str, Any], config: QwenVLConfig) -> None:
    wanted = config.language if part == "language" else config.vision
    for name, value in found.items():
        if value != getattr(wanted, name):
            raise CheckpointError(f"{path}: {part} with {name} = {value}, this model has {getattr(wanted, name)}")


def _by_head(rows: Tensor, heads: int) -> Tensor:
    """Rows [q; k; v], each head after head -> head after head, each [q; k; v], as VisionBlock reads them."""
    return rows.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
