"""What stage 1 starts from: parts of folders in the formats in which the donors are published."""

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qvl.checkpoint import load_model
from qvl.checkpoint.donors import load_part
from qvl.checkpoint.layout import load_config
from qvl.errors import CheckpointError
from qvl.model.config import PRESETS, VisionConfig
from qvl.model.vision import LAYER_NORM_EPS, VisionEncoder
from qvl.text.tokenizer import Tokenizer
from qvl.train.recipe import load_recipe
from qvl.train.stage import initial_model

CONFIG = replace(PRESETS["tiny"], vision=replace(PRESETS["tiny"].vision, width=48, layers=2, heads=4))


class OpenCLIPBlock(nn.Module):
    """With the names of OpenCLIP's state dict; its attention is torch's own."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        layers = [("c_fc", nn.Linear(width, inner)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(inner, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class OpenCLIPVision(nn.Module):
    """Its ViT up to the last block; the class token, which Qwen-VL does not have, does not go in."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.width, config.patch_size
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(1 + config.position_rows, width))
        self.ln_pre = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        inner = int(width * config.mlp_ratio)
        blocks = [OpenCLIPBlock(width, config.heads, inner) for _ in range(config.layers)]
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.ln_post = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.proj = nn.Parameter(torch.randn(width, 8))
        for parameter in self.parameters():  # torch starts biases at zero and norms at one
            nn.init.normal_(parameter, std=0.2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.conv1(pixel_values).flatten(2).transpose(1, 2) + self.positional_embedding[1:]
        x = self.ln_pre(x)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return x


def write_open_clip(folder: Path, config: VisionConfig) -> OpenCLIPVision:
    """OpenCLIP's folder, a bit of its text tower included."""
    torch.manual_seed(3)
    donor = OpenCLIPVision(config)
    tensors = {f"visual.{name}": tensor for name, tensor in donor.state_dict().items()}
    tensors |= {
        "positional_embedding": torch.ones(77, 8),
        "text_projection": torch.ones(8, 8),
        "logit_scale": torch.tensor(4.6),
        "transformer.resblocks.0.attn.in_proj_weight": torch.ones(24, 8),
    }
    vision = {
        "image_size": config.image_size,
        "layers": config.layers,
        "width": config.width,
        "head_width": config.width // config.heads,
        "mlp_ratio": config.mlp_ratio,
        "patch_size": config.patch_size,
    }
    settings = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {"layers": 1}}, "preprocess_cfg": {}}
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "open_clip_model.safetensors")
    return donor


def make_qwen_7b(folder: Path) -> None:
    """A Qwen-VL folder becomes Qwen-7B's: no vision in config and weights, two files with an index."""
    config = json.loads((folder / "config.json").read_text())
    del config["visual"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {n: t for n, t in load_file(folder / "model.safetensors").items() if "visual" not in n}
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def change_json(path: Path, keys: tuple[str, ...], value: object) -> None:
    whole = json.loads(path.read_text())
    table = whole
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    path.write_text(json.dumps(whole))


def test_the_vit_computes_what_openclips_blocks_compute(tmp_path: Path) -> None:
    donor = write_open_clip(tmp_path, CONFIG.vision).eval()
    ours = VisionEncoder(CONFIG.vision)
    ours.load_state_dict(load_part(tmp_path, "vision", CONFIG))
    pictures = torch.randn(2, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(ours(pictures), donor(pictures), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["vision", "adapter", "language"])
def test_any_part_of_a_qwen_vl_folder(folder: Path, part: str) -> None:
    expected = load_model(folder).get_submodule(part).state_dict()
    tensors = load_part(folder, part, load_config(folder))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_the_language_model_of_a_qwen_7b_folder(folder: Path) -> None:
    config, expected = load_config(folder), load_model(folder).language.state_dict()
    make_qwen_7b(folder)
    tensors = load_part(folder, "language", config)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    with pytest.raises(CheckpointError, match=r"config\.json: no table 'visual': a language model alone has no vision"):
        load_part(folder, "vision", config)


def test_only_the_part_is_read(folder: Path) -> None:
    """The rest may be damaged, or of another shape: a donor's other parts are nobody's concern."""
    config = load_config(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.visual.proj"] = torch.ones(3)
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert load_part(folder, "vision", config)
    with pytest.raises(CheckpointError, match=r"missing lm_head\.weight"):
        load_part(folder, "language", config)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: transformer\.visual\.proj has shape \(3,\)"):
        load_part(folder, "adapter", config)


def test_a_fresh_model_takes_each_part_from_its_donor(tmp_path: Path, checkpoint_dir: Path) -> None:
    donor = write_open_clip(tmp_path / "clip", PRESETS["tiny"].vision)
    recipe = load_recipe(
        Path("recipes/tiny/pretrain.toml"), [f'init_from={{vision="{tmp_path / "clip"}", adapter="{checkpoint_dir}"}}']
    )
    model = initial_model(recipe, tmp_path, Tokenizer.tiny())
    untouched = initial_model(replace(recipe, init_from={}), tmp_path, Tokenizer.tiny())
    assert torch.equal(model.vision.conv1.weight, donor.conv1.weight)
    assert torch.equal(model.adapter.proj, load_model(checkpoint_dir).adapter.proj)
    assert torch.equal(model.language.head.weight, untouched.language.head.weight)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.vision.parameters())


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model_cfg",), None, r"no table model_cfg\.vision_cfg"),
        (("model_cfg", "quick_gelu"), True, "exact GELU"),
        (("model_cfg", "vision_cfg", "head_width"), None, "head_width = None: expected a number"),
        (("model_cfg", "vision_cfg", "head_width"), 24, "vision with heads = 2, this model has 4"),
        (("model_cfg", "vision_cfg", "layers"), 3, "vision with layers = 3, this model has 2"),
    ],
)
def test_an_openclip_config_that_does_not_fit(
    tmp_path: Path, keys: tuple[str, ...], value: object, message: str
) -> None:
    write_open_clip(tmp_path, CONFIG.vision)
    change_json(tmp_path / "open_clip_config.json", keys, value)
    with pytest.raises(CheckpointError, match=rf"open_clip_config\.json: .*{message}"):
        load_part(tmp_path, "vision", CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.ln_pre.bias": None}, r"missing visual\.ln_pre\.bias"),
        ({"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(48)}, r"unexpected visual\.\S+ls_1\.gamma"),
        ({"visual.positional_embedding": torch.ones(64, 48)}, r"positional_embedding has shape \(64, 48\).*\(65, 48\)"),
        ({"visual.conv1.weight": torch.ones(48, 3, 16, 16)}, r"open_clip_model\.safetensors: visual\.conv1\.weight"),
    ],
)
def test_openclip_tensors_that_do_not_fit(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    write_open_clip(tmp_path, CONFIG.vision)
    path = tmp_path / "open_clip_model.safetensors"
    changed = {name: tensor for name, tensor in (load_file(path) | change).items() if tensor is not None}
    save_file(changed, path)
    with pytest.raises(CheckpointError, match=message):
        load_part(tmp_path, "vision", CONFIG)


@pytest.mark.parametrize(("key", "field"), [("num_attention_heads", "num_heads"), ("vocab_size", "vocab_size")])
def test_a_language_model_for_other_sizes(folder: Path, key: str, field: str) -> None:
    """Heads show in no shape; rows of another vocabulary are other tokens."""
    config = load_config(folder)
    ours = getattr(config.language, field)
    change_json(folder / "config.json", (key,), ours // 2 if key == "num_attention_heads" else ours + 128)
    change_json(folder / "config.json", ("kv_channels",), None)
    with pytest.raises(CheckpointError, match=rf"config\.json: language with {field} = \d+, this model has {ours}$"):
        load_part(folder, "language", config)


def test_biases_are_not_left_behind(folder: Path) -> None:
    config = load_config(folder)
    change_json(folder / "config.json", ("no_bias",), False)
    with pytest.raises(CheckpointError, match=r"no_bias = False, this model has True"):
        load_part(folder, "language", config)


def test_folders_that_have_no_such_part(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_part(tmp_path / "nowhere", "vision", CONFIG)
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        load_part(tmp_path, "vision", CONFIG)
    write_open_clip(tmp_path, CONFIG.vision)
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json: .* no adapter"):
        load_part(tmp_path, "adapter", CONFIG)


def test_openclip_pickles(tmp_path: Path) -> None:
    write_open_clip(tmp_path, CONFIG.vision)
    expected = load_part(tmp_path, "vision", CONFIG)
    path = tmp_path / "open_clip_model.safetensors"
    torch.save(load_file(path), tmp_path / "open_clip_pytorch_model.bin")
    path.unlink()
    tensors = load_part(tmp_path, "vision", CONFIG)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_qwen_7b_pickles(folder: Path) -> None:
    config = load_config(folder)
    make_qwen_7b(folder)
    expected = load_part(folder, "language", config)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    for path in sorted(folder.glob("*.safetensors")):
        torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()
    index.unlink()
    with pytest.raises(CheckpointError, match="nor an index of several"):
        load_part(folder, "language", config)
    renamed = {name: file.replace(".safetensors", ".bin") for name, file in weight_map.items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": renamed}))
    tensors = load_part(folder, "language", config)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
