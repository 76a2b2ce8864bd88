"""What a step of a recipe reads, before there are data: how much on average, and how much at the most.

Samples are taken to be as long as TYPICAL says. With these, rows of stage 2 hold the paper's four samples (Table 8: a
batch of 4,096 samples, in 1,024 rows here).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from qvl.model.config import QwenVLConfig
from qvl.train.activations import MicroBatch
from qvl.train.flops import StepWork
from qvl.train.recipe import Recipe

FILLED = 0.98  # of the places of packed rows hold tokens: docs/data.md


@dataclass(frozen=True)
class Typical:
    """A sample of a task: pictures, tokens of its text, and of these the supervised ones."""

    images: int
    text: int
    supervised: int


TYPICAL = {
    "caption": Typical(1, 30, 22),
    "vqa": Typical(1, 20, 4),
    "grounding": Typical(1, 60, 50),
    "referring": Typical(1, 30, 22),
    "grounded_caption": Typical(1, 100, 90),
    "region_caption": Typical(1, 40, 12),
    "ocr": Typical(1, 600, 590),
    "text": Typical(0, 600, 599),
    "dialogue": Typical(1, 350, 220),
}


@dataclass(frozen=True)
class StepSize:
    """What all ranks together read in a step, on average."""

    samples: float
    work: StepWork

    @property
    def tokens(self) -> int:
        """Real ones."""
        return sum(self.work.documents)


def expected_step(recipe: Recipe, config: QwenVLConfig) -> StepSize:
    """The mean step of a recipe."""
    data, span = recipe.data, config.vision.num_queries + 2
    rows = data.batch_rows * recipe.batches_per_step
    kinds = list(_kinds(recipe, span))
    length = sum(share * kind.length for share, kind in kinds)
    samples = rows * (FILLED * data.row_length / length if data.packing != "none" else 1.0)
    documents = [tokens for share, kind in kinds for tokens in [kind.length] * round(share * samples)]
    if data.packing == "interleaved":
        documents = [round(samples * length / rows)] * rows
    images = round(samples * sum(share * kind.images for share, kind in kinds))
    supervised = round(samples * sum(share * kind.supervised for share, kind in kinds))
    return StepSize(samples, StepWork(images, documents, supervised))


def fullest_batch(recipe: Recipe, config: QwenVLConfig) -> MicroBatch:
    """The micro-batch that takes the most memory: rows at their full length, with as many pictures and as many
    supervised tokens as rows of one task can hold."""
    data, span = recipe.data, config.vision.num_queries + 2
    images, supervised = 0, 0
    for _, kind in _kinds(recipe, span):
        together = data.row_length // kind.length if data.packing != "none" else 1
        images = max(images, together * kind.images)
        supervised = max(supervised, data.row_length - together * kind.images * span)
    return MicroBatch(
        rows=data.batch_rows,
        tokens=data.row_length,
        images=data.batch_rows * images,
        supervised=data.batch_rows * supervised,
        isolated=data.packing == "isolated",
    )


@dataclass(frozen=True)
class _Kind:
    length: int
    images: int
    supervised: int


def _kinds(recipe: Recipe, span: int) -> Iterator[tuple[float, _Kind]]:
    """(share of the samples, what one is) of each task, cut to a row."""
    total = sum(recipe.data.mixture.values())
    for task, weight in recipe.data.mixture.items():
        if weight > 0:
            sample = TYPICAL[task]
            text = max(1, min(sample.text, recipe.data.row_length - sample.images * span))
            length = sample.images * span + text
            yield weight / total, _Kind(length, sample.images, min(sample.supervised, text))
