"""The loss on samples that are not trained on, as training goes, and the weights that had the lowest."""

import json
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path

import torch

from qvl import images
from qvl.data.prepare import Reading
from qvl.data.sample import Sample, read_split
from qvl.errors import DataError
from qvl.files import write_text
from qvl.images import normalize
from qvl.model.precision import fast_kernels
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer
from qvl.train.ranks import ALONE, Ranks
from qvl.train.recipe import Recipe

LOG_NAME = "held_out.jsonl"


class KeepBest:
    """Called after steps: takes the held-out loss when it is due, notes it, and saves the model when it is the lowest.

    All ranks call: they share the samples, and decide by the same sum.
    """

    def __init__(
        self,
        stage_dir: Path,
        recipe: Recipe,
        samples: Sequence[Sample],
        tokenizer: Tokenizer,
        device: str,
        save: Callable[[QwenVL], None],
        ranks: Ranks = ALONE,
    ) -> None:
        if recipe.held_out is None:
            raise ValueError("the recipe has no [held_out]")
        self.path, self.every, self.steps = stage_dir / LOG_NAME, recipe.held_out.every, recipe.steps
        self.recipe, self.samples, self.tokenizer, self.device = recipe, samples, tokenizer, device
        self.save, self.ranks = save, ranks
        self.losses: dict[int, float] = ranks.gather(_read_log(self.path))[0]

    @property
    def best(self) -> tuple[int, float]:
        """Step and loss of what was kept."""
        return min(((s, loss) for s, loss in self.losses.items() if s > 0), key=lambda pair: (pair[1], pair[0]))

    def after_step(self, step: int, model: QwenVL) -> None:
        """step: how many are done; at 0 the loss is only noted."""
        if step % self.every and step != self.steps:
            return
        model.eval()
        self.losses[step] = held_out_loss(model, self.samples, self.tokenizer, self.recipe, self.device, self.ranks)
        model.train()
        if step and self.best[0] == step:
            self.save(model)
        if not self.ranks.is_first:
            return
        lines = [json.dumps({"step": s, "loss": loss}) + "\n" for s, loss in sorted(self.losses.items())]
        write_text(self.path, "".join(lines))


@torch.no_grad()
def held_out_loss(
    model: QwenVL, samples: Sequence[Sample], tokenizer: Tokenizer, recipe: Recipe, device: str, ranks: Ranks = ALONE
) -> float:
    """Mean loss over the supervised tokens of the samples, which ranks share and read one by one. The model is in eval
    mode; all ranks call, and get the same."""
    vision = model.config.vision
    reading = Reading(tokenizer, vision.num_queries, recipe.data.row_length)
    fitting = [(sample, rendered) for sample in samples if (rendered := reading.render(sample)) is not None]
    if not fitting:
        raise DataError(f"held_out: no sample fits a row of {recipe.data.row_length} tokens")
    sums = torch.zeros(2, dtype=torch.float64)  # loss, tokens
    # As many for each rank, since a model that is shared out runs on all together: a last one may count elsewhere.
    for first in range(0, len(fitting), ranks.data_size):
        number = first + ranks.data_rank
        sample, rendered = fitting[number % len(fitting)]
        shown = [images.training_pixels(sample.images[i], vision.image_size) for i in rendered.image_indices]
        pixels = torch.stack(shown) if shown else torch.empty(0, 3, vision.image_size, vision.image_size)
        ids, labels = (torch.tensor([values], device=device) for values in (rendered.input_ids, rendered.labels))
        with fast_kernels(device, recipe.precision):
            loss, count = model.loss(ids, labels, pixel_values=normalize(pixels.to(device)))
        if number < len(fitting):
            sums += torch.tensor([float(loss), float(count)], dtype=torch.float64)
    total, weight = ranks.add(sums).tolist()
    return float(total / weight)


def read_held_out(recipe: Recipe, run_dir: Path) -> list[Sample]:
    """The samples that the recipe holds out, at most as many as it says. DataError where none fits a row."""
    if recipe.held_out is None:
        return []
    found = chain.from_iterable(read_split(run_dir / split) for split in recipe.held_out.split_dirs)
    samples = list(islice(found, recipe.held_out.samples))
    if not samples:
        raise DataError(f"{', '.join(recipe.held_out.split_dirs)}: no sample to hold out")
    return samples


def _read_log(path: Path) -> dict[int, float]:
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["step"]: line["loss"] for line in lines}
