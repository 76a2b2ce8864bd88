"""Writes a CLIP of ViT-B/32's shape with random weights, as transformers loads it: random_clip.py FOLDER TEXT ...

Its tokenizer, in CLIP's own files, has learnt the words of the texts, so that these are as long as to a trained one.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPConfig, CLIPModel

ENDS = ("<|startoftext|>", "<|endoftext|>")


def write_tokenizer(folder: Path, texts: list[str]) -> tuple[int, int]:
    """vocab.json, merges.txt and settings; the ids of both ends."""
    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    letters = [letter + end for end in ("", "</w>") for letter in sorted(ByteLevel.alphabet())]
    trainer = BpeTrainer(vocab_size=2000, special_tokens=letters, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator([word for text in texts for word in text.lower().split()], trainer)
    tokenizer.model.save(str(folder))
    path = folder / "vocab.json"
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    start, end = len(vocabulary), len(vocabulary) + 1
    vocabulary |= dict(zip(ENDS, (start, end), strict=True))
    path.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return start, end


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir()
    start, end = write_tokenizer(folder, sys.argv[2:])
    processor = {"image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config={"bos_token_id": start, "eos_token_id": end})).save_pretrained(folder)


if __name__ == "__main__":
    main()
