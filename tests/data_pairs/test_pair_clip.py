"""CLIP scores computed where a source carries none. The model is a small random one in transformers' layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest_pairs import jpeg, pair
from transformers import CLIPConfig, CLIPModel

from qvl import images
from qvl.data.pairs import clip
from qvl.data.pairs.clip import clip_scores, load_clip
from qvl.data.pairs.run import clean_pairs
from qvl.data.sample import read_split
from qvl.errors import UsageError

RED, GREEN = jpeg(colour=(220, 20, 20)), jpeg(colour=(20, 200, 40))
SETTINGS = """
name = "scored"
about = "pairs without a score"
language = "en"
[columns]
text = ["caption"]
clip_score = ["similarity"]
[rules.clip_score]
min = {min}
"""


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP of one layer each, whose vocabulary is the alphabet."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 32})
    )
    size = {"height": 32, "width": 32}
    processor = {"image_processor_type": "CLIPImageProcessor", "size": size, "crop_size": size, "do_center_crop": False}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "processor_class": "CLIPProcessor"}))
    torch.manual_seed(3)
    ends = len(tokens) - 1
    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **part,
        "vocab_size": len(tokens),
        "max_position_embeddings": 32,
        "bos_token_id": ends - 1,
        "eos_token_id": ends,
    }
    config = CLIPConfig(text_config=text, vision_config={**part, "image_size": 32, "patch_size": 16}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 1e-2)])
def test_scores_are_the_models_own_cosines(
    clip_dir: str, bf16: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "_multiplies_bf16", lambda device: bf16)
    texts = ["a red thing", "a rather long text " * 9, "x"]
    scores = clip_scores(clip_dir, [RED, RED, GREEN], texts)
    assert len({round(s, 5) for s in scores}) == 3
    model, processor = load_clip(clip_dir)
    for image, text, score in zip([RED, RED, GREEN], texts, scores, strict=True):
        one = processor(text=[text], images=[images.load(image)], return_tensors="pt", truncation=True)
        with torch.inference_mode():
            logit = model(**one).logits_per_image.item()
        assert score == pytest.approx(logit / model.logit_scale.exp().item(), abs=tolerance)


def test_only_missing_scores_are_computed_and_the_threshold_acts_on_all(
    clip_dir: str, tmp_path: Path, make_tar: Callable[..., Path]
) -> None:
    path = make_tar(
        "a", pair("given", "red", RED, similarity=0.9), pair("low", "red", RED, similarity=-1), pair("none", "red", RED)
    )
    [computed] = clip_scores(clip_dir, [RED], ["red"])
    for threshold, expected in ((computed - 0.01, ["given", "none"]), (computed + 0.01, ["given"])):
        (tmp_path / "s.toml").write_text(SETTINGS.format(min=threshold))
        out = tmp_path / f"out{threshold}"
        clean_pairs([path], out, tmp_path / "s.toml", clip_model=clip_dir, workers=1)
        found = {s.provenance["row"].partition("#")[2]: s.provenance["scores"]["clip_score"] for s in read_split(out)}
        assert list(found) == expected
        assert found.get("none", computed) == pytest.approx(computed, abs=1e-4)


def test_what_is_no_clip_model_is_named(tmp_path: Path, checkpoint_dir: Path) -> None:
    for folder in (tmp_path, checkpoint_dir):
        with pytest.raises(UsageError, match="not a CLIP model that can be loaded"):
            load_clip(str(folder))
