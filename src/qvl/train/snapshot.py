"""Model, optimizers and random states as tensors by name: what a state on the disk holds."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

RANDOM = "random"


class Snapshot:
    """The tensors of a run: `tensors()` to save them, `places(...)` and `loaded()` to put saved ones back.

    Names: model/PARAMETER, optimizer/model/PARAMETER/STATE, random/RANK/DEVICE. A rank holds its part of each.
    """

    def __init__(self, modules: Mapping[str, nn.Module], optimizers: list[torch.optim.Optimizer]) -> None:
        self.weights = {f"{part}/{name}": t for part, m in modules.items() for name, t in m.state_dict().items()}
        names = {p: f"{part}/{name}" for part, m in modules.items() for name, p in m.named_parameters()}
        self.owners = {
            names[p]: (optimizer, p)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for p in group["params"]
        }
        self.random: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        """Everything, as it is now; weights and optimizer states are not copied."""
        tensors = dict(self.weights)
        for name, (optimizer, param) in self.owners.items():
            tensors |= {f"optimizer/{name}/{key}": value for key, value in optimizer.state[param].items()}
        return tensors | _random_states()

    def places(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Shapes of what was saved -> tensors to read it into: the run's own, made where the optimizer has none yet."""
        tensors = dict(self.weights)
        for full_name, shape in shapes.items():
            kind, _, rest = full_name.partition("/")
            if kind != "optimizer":
                continue
            name, _, key = rest.rpartition("/")
            optimizer, param = self.owners[name]
            like_param = shape == param.shape
            value = torch.zeros_like(param) if like_param else torch.zeros(shape, device=param.device)
            optimizer.state[param][key] = tensors[full_name] = value.detach()
        self.random = {name: state for name, state in _random_states().items() if name in shapes}
        return tensors | self.random

    def loaded(self) -> None:
        """After the places were filled: the random states take effect, where this rank had one."""
        for name, state in self.random.items():
            if name.endswith("cpu"):
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state)


def _random_states() -> dict[str, Tensor]:
    rank = dist.get_rank() if dist.is_initialized() else 0
    states = {f"{RANDOM}/{rank}/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"{RANDOM}/{rank}/cuda"] = torch.cuda.get_rng_state()
    return states
