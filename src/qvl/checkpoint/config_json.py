"""config.json <-> QwenVLConfig. Source: config.json and configuration_qwen.py of the published checkpoints."""

from typing import Any

from qvl.errors import CheckpointError
from qvl.model.config import LanguageConfig, QwenVLConfig, VisionConfig

_VISION_KEYS = {  # published key within "visual" -> field; these must be there
    "image_size": "image_size",
    "patch_size": "patch_size",
    "width": "width",
    "layers": "layers",
    "heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "output_dim": "output_dim",
}
# Ours: constants of the published code, written down only where a model differs from it.
_VISION_EXTRAS = ("num_queries", "position_rows", "adapter_head_size")
_LANGUAGE_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "rotary_emb_base": "rotary_base",
    "seq_length": "seq_length",
    "use_dynamic_ntk": "use_dynamic_ntk",
    "use_logn_attn": "use_logn_attn",
    "no_bias": "no_bias",
}


def config_from_json(raw: dict[str, Any], source: str) -> QwenVLConfig:
    """Published config.json values -> QwenVLConfig. CheckpointError names source and key."""
    visual = raw.get("visual")
    if not isinstance(visual, dict):
        raise CheckpointError(f"{source}: no table 'visual': this is not a Qwen-VL checkpoint")
    language = language_from_json(raw, source)
    vision = _take(visual, _VISION_KEYS, source, "visual.")
    vision.update({key: visual[key] for key in _VISION_EXTRAS if key in visual})
    start = _take(visual, {"image_start_id": "image_start_id"}, source, "visual.")["image_start_id"]
    try:
        return QwenVLConfig(VisionConfig(**vision), language, start)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def language_from_json(raw: dict[str, Any], source: str) -> LanguageConfig:
    """The language model's values of a config.json, Qwen-VL's or Qwen-7B's. CheckpointError names source and key."""
    if "quantization_config" in raw:
        raise CheckpointError(f"{source}: quantised weights (quantization_config) are not supported yet")
    try:
        config = LanguageConfig(**_take(raw, _LANGUAGE_KEYS, source, ""))
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error
    if (kv_channels := raw.get("kv_channels")) not in (None, config.head_size):
        raise CheckpointError(f"{source}: kv_channels = {kv_channels} must be hidden_size / num_attention_heads")
    return config


def config_to_json(config: QwenVLConfig) -> dict[str, Any]:
    """QwenVLConfig -> values that the published loader reads too (our extras apart)."""
    vision, language = config.vision, config.language
    visual = {key: getattr(vision, field) for key, field in _VISION_KEYS.items()}
    standard = VisionConfig()
    for key in _VISION_EXTRAS:
        if getattr(vision, key) != getattr(standard, key):
            visual[key] = getattr(vision, key)
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        **{key: getattr(language, field) for key, field in _LANGUAGE_KEYS.items()},
        "kv_channels": language.head_size,
        "tie_word_embeddings": False,
        "visual": {**visual, "image_start_id": config.image_start_id},
    }


def _take(raw: dict[str, Any], keys: dict[str, str], source: str, prefix: str) -> dict[str, Any]:
    values = {}
    for key, name in keys.items():
        value = raw.get(key)
        if isinstance(value, bool) != name.startswith(("use_", "no_")) or not isinstance(value, int | float):
            raise CheckpointError(f"{source}: {prefix}{key} = {value!r}: expected a number or true/false")
        values[name] = value
    return values
