"""The Auto classes of transformers on folders of ours and on ones as published, against our own engine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

import qvl
import qvl.hf
from qvl.checkpoint import load_model
from qvl.checkpoint.config_json import config_to_json
from qvl.generate.loaded import QwenVLWithTokenizer
from qvl.quantize.export import export
from qvl.quantize.layout import save_int4, to_int4
from qvl.text.tokenizer import Tokenizer

SHIPPED = Path("src/qvl/assets/tiny")
PICTURE = "examples/picture.png"
TEXTS = [
    "Find the yellow house.",
    "What colour is it? 这是什么？",
    "I can't  see\n\n它 ½ 😀.",
    "<ref>a</ref> <|im_end|>",
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without a word of ours in it but the weights; with code that nobody may run."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(SHIPPED, folder)
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        kinds = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.Tok", None]}
        (folder / name).write_text(json.dumps({**values, "auto_map": kinds}))
    (folder / "evil.py").write_text("raise SystemExit('remote code')")
    return folder


@pytest.fixture(scope="module")
def auto(exported: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(exported), AutoProcessor.from_pretrained(exported)


@pytest.fixture(scope="module")
def ours(exported: Path) -> QwenVLWithTokenizer:
    return qvl.load(exported)


def asked(text: str, pictures: int) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = [{"type": "image", "path": PICTURE}] * pictures
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


def in_ours(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    [message] = messages
    parts = [{"type": "image_url", "image_url": p["path"]} if p["type"] == "image" else p for p in message["content"]]
    return [{"role": "user", "content": parts}]


def generated(model: Any, processor: Any, inputs: Any, **settings: Any) -> list[str]:
    out = model.generate(**inputs, max_new_tokens=24, do_sample=False, **settings)
    return list(processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=False))


def test_the_classes_are_ours_and_no_other_code_runs(auto: tuple[Any, Any], exported: Path) -> None:
    model, processor = auto
    assert type(model) is qvl.hf.QWenLMHeadModel
    assert type(AutoModelForImageTextToText.from_pretrained(exported)) is qvl.hf.QWenLMHeadModel
    assert type(processor) is qvl.hf.QWenVLProcessor
    assert type(AutoTokenizer.from_pretrained(exported)) is qvl.hf.QWenTokenizer


def test_generate_says_what_the_engine_says(auto: tuple[Any, Any], ours: QwenVLWithTokenizer) -> None:
    """One by one and in a batch with padding, with no picture, one, two."""
    model, processor = auto
    dialogues = [asked(TEXTS[0], 1), asked(TEXTS[1], 2), asked(TEXTS[2], 0)]
    wanted = [ours.chat(in_ours(one), max_new_tokens=24).text for one in dialogues]
    assert "<box>" in wanted[0]
    for dialogue, text in zip(dialogues, wanted, strict=True):
        assert (
            generated(model, processor, processor.apply_chat_template(dialogue))[0].partition("<|im_end|>")[0] == text
        )
    together = generated(model, processor, processor.apply_chat_template(dialogues))
    assert [text.partition("<|")[0] for text in together] == wanted


def test_without_a_cache_and_with_beams(auto: tuple[Any, Any]) -> None:
    """Beams of a batch whose rows show one and two pictures are those of each row alone."""
    model, processor = auto
    dialogues = [asked(TEXTS[0], 1), asked(TEXTS[1], 2)]
    alone = [processor.apply_chat_template(one) for one in dialogues]
    greedy = [generated(model, processor, one)[0] for one in alone]
    assert [generated(model, processor, one, use_cache=False)[0] for one in alone] == greedy
    beams = [generated(model, processor, one, num_beams=3)[0] for one in alone]
    together = generated(model, processor, processor.apply_chat_template(dialogues), num_beams=3)
    assert [one.partition("<|im_end|>")[0] for one in together] == [one.partition("<|im_end|>")[0] for one in beams]


def test_the_tokenizer_reads_and_spells_as_ours_does(exported: Path, ours: QwenVLWithTokenizer, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported)
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert ids == ours.tokenizer.encode_published(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(ids)) == ids
    assert len(tokenizer) == ours.tokenizer.vocab_size
    assert tokenizer.get_vocab()["<|im_end|>"] == ours.tokenizer.special.im_end
    assert tokenizer.decode(tokenizer("a<|im_end|>").input_ids, skip_special_tokens=True) == "a"
    padded = tokenizer(["a b c d", "a"], padding=True, return_tensors="pt")
    assert padded.attention_mask.tolist()[1][0] == 0, "on the left"
    tokenizer.save_pretrained(tmp_path)
    assert qvl.hf.QWenTokenizer.from_pretrained(tmp_path)(TEXTS[1]).input_ids == tokenizer(TEXTS[1]).input_ids


def test_text_in_a_dialogue_stays_text(auto: tuple[Any, Any]) -> None:
    _, processor = auto
    ids = processor.apply_chat_template([{"role": "user", "content": "<|im_end|><img></img>"}])["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.qvl.special.im_end) == 2, "system's and user's ends alone"
    assert processor.tokenizer.qvl.special.img_start not in ids


def test_prompts_of_base_models(auto: tuple[Any, Any], ours: QwenVLWithTokenizer) -> None:
    model, processor = auto
    inputs = processor(text="<img></img>Describe the image in English:", images=PICTURE)
    assert inputs["pixel_values"].shape[0] == 1
    assert len(generated(model, processor, inputs)[0]) > 0
    with pytest.raises(qvl.QvlError, match=r"has 1 <img></img> for 2 pictures"):
        processor(text="<img></img>", images=[PICTURE, PICTURE])


def test_training_sees_the_trainer_s_loss(exported: Path, auto: tuple[Any, Any], tmp_path: Path) -> None:
    _, processor = auto
    model = AutoModelForCausalLM.from_pretrained(exported)
    inputs = processor.apply_chat_template(asked(TEXTS[0], 1))
    labels = inputs["input_ids"].clone()
    labels[:, :-12] = -100
    loss = model(**inputs, labels=labels).loss
    total, count = model.model.loss(inputs["input_ids"], labels, inputs["pixel_values"])
    assert float(loss.detach()) == pytest.approx(float(total.detach() / count), abs=1e-6)
    loss.backward()
    assert model.get_input_embeddings().weight.grad.norm() > 0
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.01)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert load_model(tmp_path).config == model.config.qvl, "our own reader takes it too"
    assert AutoProcessor.from_pretrained(tmp_path).tokenizer(TEXTS[0]).input_ids


def test_int4_and_other_types(exported: Path, tmp_path: Path, auto: tuple[Any, Any]) -> None:
    whole = load_model(exported)
    to_int4(whole)
    save_int4(whole, config_to_json(whole.config), tmp_path / "int4", Tokenizer.from_dir(exported))
    shutil.copy(exported / "tokenizer_config.json", tmp_path / "int4")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "int4", dtype="float32")
    inputs = auto[1].apply_chat_template(asked(TEXTS[0], 1))
    assert "<box>" in generated(model, auto[1], inputs)[0]
    assert AutoModelForCausalLM.from_pretrained(exported, dtype="auto").dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(exported, torch_dtype=torch.float16).dtype == torch.float16
