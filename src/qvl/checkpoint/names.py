"""Published parameter names <-> ours: one table, both ways. No tensor is permuted.

Source: pytorch_model.bin.index.json of the published checkpoints (853 names); OpenCLIP's VisionTransformer.
"""

from qvl.model.config import QwenVLConfig

_ONCE = {  # ours -> published
    "vision.conv1.weight": "transformer.visual.conv1.weight",
    "vision.positional_embedding": "transformer.visual.positional_embedding",
    "vision.ln_pre.weight": "transformer.visual.ln_pre.weight",
    "vision.ln_pre.bias": "transformer.visual.ln_pre.bias",
    "adapter.query": "transformer.visual.attn_pool.query",
    "adapter.pos_embed": "transformer.visual.attn_pool.pos_embed",
    "adapter.kv_proj.weight": "transformer.visual.attn_pool.kv_proj.weight",
    "adapter.ln_q.weight": "transformer.visual.attn_pool.ln_q.weight",
    "adapter.ln_q.bias": "transformer.visual.attn_pool.ln_q.bias",
    "adapter.ln_kv.weight": "transformer.visual.attn_pool.ln_kv.weight",
    "adapter.ln_kv.bias": "transformer.visual.attn_pool.ln_kv.bias",
    "adapter.in_proj.weight": "transformer.visual.attn_pool.attn.in_proj_weight",
    "adapter.in_proj.bias": "transformer.visual.attn_pool.attn.in_proj_bias",
    "adapter.out_proj.weight": "transformer.visual.attn_pool.attn.out_proj.weight",
    "adapter.out_proj.bias": "transformer.visual.attn_pool.attn.out_proj.bias",
    "adapter.ln_post.weight": "transformer.visual.ln_post.weight",
    "adapter.ln_post.bias": "transformer.visual.ln_post.bias",
    "adapter.proj": "transformer.visual.proj",
    "language.embedding.weight": "transformer.wte.weight",
    "language.ln_f.weight": "transformer.ln_f.weight",
    "language.head.weight": "lm_head.weight",
}
_VISION_BLOCK = {  # behind vision.blocks.I. -> behind transformer.visual.transformer.resblocks.I.
    "ln_1": "ln_1",
    "in_proj": "attn.in_proj",
    "out_proj": "attn.out_proj",
    "ln_2": "ln_2",
    "c_fc": "mlp.c_fc",
    "c_proj": "mlp.c_proj",
}
_LANGUAGE_BLOCK = {  # behind language.blocks.I. -> behind transformer.h.I.
    "ln_1": "ln_1",
    "c_attn": "attn.c_attn",
    "attn_c_proj": "attn.c_proj",
    "ln_2": "ln_2",
    "w1": "mlp.w1",
    "w2": "mlp.w2",
    "mlp_c_proj": "mlp.c_proj",
}
_LANGUAGE_BIASED = ("attn_c_proj", "w1", "w2", "mlp_c_proj")  # only where the config says no_bias = false


def published_names(config: QwenVLConfig) -> dict[str, str]:
    """Our name -> published name, for every tensor that a checkpoint of this config holds."""
    names = dict(_ONCE)
    if config.vision.width == config.vision.output_dim:
        del names["adapter.kv_proj.weight"]
    for layer in range(config.vision.layers):
        for ours, theirs in _VISION_BLOCK.items():
            for kind in ("weight", "bias"):
                published = f"transformer.visual.transformer.resblocks.{layer}.{theirs}.{kind}"
                names[f"vision.blocks.{layer}.{ours}.{kind}"] = published
    for layer in range(config.language.num_layers):
        for ours, theirs in _LANGUAGE_BLOCK.items():
            names[f"language.blocks.{layer}.{ours}.weight"] = f"transformer.h.{layer}.{theirs}.weight"
            if ours == "c_attn" or (ours in _LANGUAGE_BIASED and not config.language.no_bias):
                names[f"language.blocks.{layer}.{ours}.bias"] = f"transformer.h.{layer}.{theirs}.bias"
    return names


def part_names(config: QwenVLConfig, part: str) -> dict[str, str]:
    """Our name within the part -> published name. Qwen-7B's folder names the language model's tensors so too."""
    return {
        ours.removeprefix(f"{part}."): theirs
        for ours, theirs in published_names(config).items()
        if ours.startswith(f"{part}.")
    }


def open_clip_names(config: QwenVLConfig) -> dict[str, str]:
    """Our name within `vision` -> OpenCLIP's, from which the published ViT's names come."""
    return {
        ours: theirs.removeprefix("transformer.").replace(".attn.in_proj.", ".attn.in_proj_")
        for ours, theirs in part_names(config, "vision").items()
    }
