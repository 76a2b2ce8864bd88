"""Train the tiny preset's vocabulary anew on the world's own English and Chinese.

    .venv/bin/python scripts/tiny_vocabulary.py

Checkpoints keep the vocabulary that they were trained with; recipes train with the new one from then on.
"""

from pathlib import Path

from qvl.data.world.build import world_texts
from qvl.text.vocab import train_vocabulary, write_vocabulary

SEED, TEXTS, RANKS = 7, 4000, 800
TARGET = Path(__file__).parents[1] / "src" / "qvl" / "assets" / "tiny.tiktoken"

if __name__ == "__main__":
    ranks = train_vocabulary(world_texts(SEED, TEXTS), RANKS)
    write_vocabulary(ranks, TARGET)
    print(f"{TARGET}: {len(ranks)} ranks")
