"""Where a run's numbers go besides its own log: TensorBoard, Weights & Biases. Each is an extra."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from qvl.errors import MissingDependencyError
from qvl.train.recipe import Recipe


class Sink(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, values: dict[str, float]) -> None: ...
    def close(self) -> None: ...


def open_sink(name: str, stage_dir: Path, recipe: Recipe, first_step: int) -> Sink:
    """ "tensorboard" or "wandb"; MissingDependencyError where its package is not installed."""
    kinds: dict[str, Callable[[Path, Recipe, int], Sink]] = {"tensorboard": TensorBoard, "wandb": Wandb}
    try:
        return kinds[name](stage_dir, recipe, first_step)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"--log-to {name}: {error.name} is not installed: pip install 'qvl[{name}]'"
        ) from error


class TensorBoard:
    """Event files in STAGE/tensorboard; steps that a resumed run repeats replace those before."""

    def __init__(self, stage_dir: Path, recipe: Recipe, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(stage_dir / "tensorboard"), purge_step=first_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of the project `qvl`, named after the folder of the run and the stage; goes on under the same id."""

    def __init__(self, stage_dir: Path, recipe: Recipe, first_step: int) -> None:
        import wandb

        name = f"{stage_dir.resolve().parent.name}-{recipe.name}"
        settings: dict[str, Any] = asdict(recipe)
        self.run = wandb.init(project="qvl", id=name, name=name, resume="allow", dir=str(stage_dir), config=settings)

    def write(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()
