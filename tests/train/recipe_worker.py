"""What each rank of tests/train/test_lora_ranks.py runs: recipes, one after the other.

torchrun ... recipe_worker.py OUT RECIPE...
"""

import sys
from pathlib import Path

from qvl.train.ranks import joined
from qvl.train.trainer import run_recipe


def main(out: str, *recipes: str) -> None:
    """Train each into OUT/NAME."""
    with joined("cpu", 1) as (ranks, device):
        for recipe in recipes:
            run_recipe(Path(recipe), out=Path(out), device=device, ranks=ranks)


if __name__ == "__main__":
    main(*sys.argv[1:])
