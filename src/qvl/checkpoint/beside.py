"""What lies beside the weights of a folder that others read: settings of their own, and a model card."""

import json
import shutil
from pathlib import Path
from typing import Any

from qvl.files import write_text
from qvl.model.config import QwenVLConfig
from qvl.text.tokenizer import Tokenizer

COPIED = (".json", ".py", ".tiktoken", ".ttf", ".txt", ".md")  # tokenizer, generation, code, card
WEIGHTS_OWN = (".index.json", "quantize_config.json")  # but not what tells of the weights before
CARD_NAME = "README.md"


def copy_beside(source: Path, out: Path) -> None:
    """All that a checkpoint folder has beside its weights."""
    for path in source.iterdir():
        if path.is_file() and path.suffix in COPIED and not path.name.endswith(WEIGHTS_OWN):
            shutil.copy(path, out / path.name)


def write_beside(out: Path, config: QwenVLConfig, tokenizer: Tokenizer, name: str) -> None:
    """What is not there yet of: the tokenizer's and the generation's settings, and a card. name: the model's."""
    special = tokenizer.special
    generation = {
        "chat_format": "chatml",
        "eos_token_id": [special.endoftext, special.im_end],
        "pad_token_id": special.endoftext,
        "do_sample": False,
        "max_new_tokens": 512,
    }
    settings = {"tokenizer_class": "QWenTokenizer", "model_max_length": config.language.seq_length}
    for file, values in {"generation_config.json": generation, "tokenizer_config.json": settings}.items():
        _write_new(out / file, json.dumps(values, indent=2) + "\n")
    _write_new(out / CARD_NAME, model_card(config, name))


def _write_new(path: Path, text: str) -> None:
    if not path.exists():
        write_text(path, text)


def model_card(config: QwenVLConfig, name: str) -> str:
    """Markdown: what the model is, by its own sizes, and how to run it."""
    vision, language = config.vision, config.language
    rows: dict[str, Any] = {
        "Pictures": f"{vision.image_size} x {vision.image_size} pixels in patches of {vision.patch_size}",
        "Vision encoder": f"ViT, {vision.layers} layers of width {vision.width}, {vision.heads} heads",
        "Adapter": f"one cross-attention, {vision.grid**2} patches to {vision.num_queries} tokens",
        "Language model": f"{language.num_layers} layers of width {language.hidden_size}, {language.num_heads} heads",
        "Vocabulary": f"{language.vocab_size} rows",
        "Sequence": f"{language.seq_length} tokens in training",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
library_name: qvl
pipeline_tag: image-text-to-text
tags: [qwen-vl, grounding, ocr]
language: [en, zh]
---

# {name}

A model of Qwen-VL's design (arXiv 2308.12966), in the layout of the published checkpoints. It takes pictures and text,
English or Chinese, and answers in text; boxes are `<ref>phrase</ref><box>(x1,y1),(x2,y2)</box>` on a grid of 1000.

| | |
|---|---|
{table}

## Use

```python
import qvl

vl = qvl.load(".")
print(vl.chat([{{"role": "user", "content": [
    {{"type": "image_url", "image_url": {{"url": "picture.png"}}}},
    {{"type": "text", "text": "Where is the dog?"}},
]}}]).text)
```

With transformers, no remote code: `import qvl.hf`, then `AutoModelForCausalLM.from_pretrained(".")` and
`AutoProcessor.from_pretrained(".")`.
"""
