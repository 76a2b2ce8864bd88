"""Low-rank adapters: which matrices have one, and their folder in the format of the peft library.

Source: LoRA (arXiv 2106.09685); finetune.py of the published code for values and targets. In the file modules have
their published names, so that it loads wherever a published checkpoint does. The adapter's in_proj and out_proj have
none: published they lie inside torch's MultiheadAttention, which reads its matrices past whatever is put around them.
"""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qvl.checkpoint.names import published_names
from qvl.checkpoint.weights import write_weights
from qvl.errors import CheckpointError, MissingDependencyError
from qvl.files import write_text
from qvl.model.config import QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.nf4 import quantize_nf4
from qvl.text.special_tokens import SpecialTokens
from qvl.train.chat_tokens import chat_tokens_look_trained
from qvl.train.recipe import LoraConfig

TARGETS = {
    "vision": ("in_proj", "out_proj", "c_fc", "c_proj"),
    "adapter": ("kv_proj",),
    "language": ("c_attn", "attn_c_proj", "w1", "w2"),
}
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
BASE_NAME = "base.json"  # ours: how the base was quantised for training
_PREFIX = "base_model.model."  # peft's, before the module's name
_WHOLE = {"language.embedding": "wte", "language.head": "lm_head"}  # ours -> peft's modules_to_save
_LOW_RANK = re.compile(r"(.+)\.(lora_[AB])\.weight")
_UNREAD = ("use_dora", "fan_in_fan_out", "lora_bias", "rank_pattern", "alpha_pattern", "target_parameters")


def targets(model: QwenVL, parts: tuple[str, ...]) -> list[str]:
    """Names of the matrices of these parts that an adapter goes to."""
    return [
        name
        for name, module in model.named_modules()
        for part, _, _ in [name.partition(".")]
        if part in parts and isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGETS[part]
    ]


def add_lora(
    model: QwenVL, lora: LoraConfig, parts: tuple[str, ...], special: SpecialTokens, dtype: torch.dtype, device: str
) -> None:
    """Put fresh adapters, from torch's random state, on the parts that train and freeze everything else, in place.

    dtype: of a frozen weight; what trains is float32. device: rounds matrices. Whether embedding and head train is
    decided here. Raises CheckpointError where the parts have no matrix for an adapter.
    """
    language = model.language
    names = targets(model, parts)
    if not names:
        raise CheckpointError(f"{', '.join(parts)}: this model has no matrix there for an adapter")
    embeddings = lora.train_embeddings == "yes" or (
        lora.train_embeddings == "auto"
        and "language" in parts
        and not chat_tokens_look_trained(language.embedding.weight.detach(), language.head.weight.detach(), special)
    )
    if lora.quantize == "nf4":
        quantize_nf4(model, dtype, device)
    _inject(model, names, {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout})
    for parameter in (language.embedding.weight, language.head.weight):
        parameter.requires_grad_(embeddings)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)


def save_adapter(model: QwenVL, directory: Path, lora: LoraConfig, base: str) -> None:
    """Write a model's adapters in peft's format, adapter_config.json last. base: the checkpoint that they belong to."""
    modules = _published_modules(model.config)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        module, found, kind = name.replace(".default.weight", ".weight").partition(".lora_")
        if found:
            tensors[f"{_PREFIX}{modules[module]}.lora_{kind}"] = parameter
    whole = [name for name in _WHOLE if model.get_submodule(name).weight.requires_grad]
    for name in whole:
        tensors[f"{_PREFIX}{modules[name]}.weight"] = model.get_submodule(name).weight  # type: ignore[assignment]
    adapted = sorted({modules[name] for name in _lora_layers(model)})
    config = _peft().LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=adapted,
        modules_to_save=[_WHOLE[name] for name in whole] or None,
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    values = {**config.to_dict(), "target_modules": adapted}
    write_weights(
        {name: t.detach().float().cpu().contiguous() for name, t in tensors.items()}, directory / WEIGHTS_NAME
    )
    write_text(directory / BASE_NAME, json.dumps({"quantize": lora.quantize}) + "\n")
    write_text(directory / CONFIG_NAME, json.dumps(values, indent=2, sort_keys=True) + "\n")


def load_adapter(model: QwenVL, directory: Path) -> None:
    """Put the adapters of a folder in peft's format, ours or another's, on the model that they belong to, in place.

    A base that was quantised to NF4 for training is so here. Raises CheckpointError for a folder that is none, for
    another kind of adapter, and for one that does not fit the model.
    """
    values = adapter_config(directory)
    tensors = _read_tensors(directory)
    ours_of = {theirs: ours for ours, theirs in _published_modules(model.config).items()}
    state: dict[str, Tensor] = {}
    names = []
    for key, tensor in tensors.items():
        module, kind = key.removeprefix(_PREFIX), "weight"
        if match := _LOW_RANK.fullmatch(module):
            module, kind = match[1], f"{match[2]}.default.weight"
            names.append(ours_of.get(module, ""))
        else:
            module = module.removesuffix(".weight")
        if module not in ours_of:
            raise CheckpointError(f"{directory / WEIGHTS_NAME}: {key} belongs to no matrix of this model")
        state[f"{ours_of[module]}.{kind}"] = tensor
    if quantize_of(directory) == "nf4":
        weight = model.language.embedding.weight
        quantize_nf4(model, weight.dtype, str(weight.device))
    rank = {"r": values["r"], "lora_alpha": values["lora_alpha"], "use_rslora": bool(values.get("use_rslora"))}
    _inject(model, sorted(set(names)), rank)
    wanted = model.state_dict()
    for name, tensor in state.items():
        if name not in wanted or wanted[name].shape != tensor.shape:
            found = tuple(wanted[name].shape) if name in wanted else "none"
            raise CheckpointError(f"{directory}: {name} has shape {tuple(tensor.shape)}, the model's is {found}")
    model.load_state_dict(state, strict=False)
    model.requires_grad_(False).eval()


def adapter_config(directory: Path) -> dict[str, Any]:
    """adapter_config.json. CheckpointError where there is none, or it asks for what can't be done here."""
    path = directory / CONFIG_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind, _, _ = values["peft_type"], int(values["r"]), float(values["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no adapter of the peft library ({error!r})") from error
    asked = [key for key in _UNREAD if values.get(key)] + ["bias"] * (values.get("bias", "none") != "none")
    if kind != "LORA" or asked:
        raise CheckpointError(f"{path}: {', '.join(asked) or kind} is not supported, only plain LoRA is")
    return dict(values)


def quantize_of(directory: Path) -> str:
    """How an adapter's base was quantised for training, "no" for adapters made elsewhere."""
    path = directory / BASE_NAME
    return str(json.loads(path.read_text(encoding="utf-8"))["quantize"]) if path.exists() else "no"


def merge_lora(model: QwenVL) -> None:
    """Add each adapter to its matrix and take it off, in place; the matrices must be whole."""
    for name, layer in _lora_layers(model).items():
        layer.merge(safe_merge=True)
        model.set_submodule(name, layer.get_base_layer())


def _lora_layers(model: QwenVL) -> dict[str, Any]:
    """Name of the matrix -> peft's layer around it."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _inject(model: QwenVL, names: list[str], settings: dict[str, Any]) -> None:
    peft = _peft()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=names, **settings), model)


def _published_modules(config: QwenVLConfig) -> dict[str, str]:
    """Our module -> the published one, for everything with a weight."""
    names = published_names(config)
    return {o.removesuffix(".weight"): t.removesuffix(".weight") for o, t in names.items() if o.endswith(".weight")}


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    path = directory / WEIGHTS_NAME
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: no safetensors file of adapters ({error})") from error


def _peft() -> Any:
    try:
        return import_module("peft")
    except ImportError as error:
        raise MissingDependencyError("LoRA needs peft: pip install 'qvl[finetune]'") from error
