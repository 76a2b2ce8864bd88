"""Make a trained tiny model the one that `qvl chat` answers with before any training, in bfloat16.

.venv/bin/python scripts/ship_tiny.py runs/tiny-long/sft/checkpoint
"""

import sys
from pathlib import Path

import torch

from qvl.checkpoint import load_model
from qvl.checkpoint.layout import save_model
from qvl.text.tokenizer import Tokenizer

TARGET = Path(__file__).parents[1] / "src" / "qvl" / "assets" / "tiny"

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give one checkpoint folder, for example runs/tiny-long/sft/checkpoint")
    source = Path(sys.argv[1])
    save_model(load_model(source, dtype=torch.bfloat16), TARGET, Tokenizer.from_dir(source))
    size = sum(path.stat().st_size for path in TARGET.iterdir())
    print(f"{TARGET}: {size / 1e6:.1f} MB")
