"""The processes that train together: who this one is, and the few words they exchange.

Ranks that share every sample ("tensor") stand side by side; the others ("data") read samples of their own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from qvl.errors import RecipeError, UsageError

PATIENCE = timedelta(minutes=20)  # a rank that lets the others wait longer is lost: reading weights takes minutes


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; without a mesh it is alone."""

    mesh: DeviceMesh | None = None  # ("data", "tensor")

    @property
    def is_first(self) -> bool:
        """The one that writes what all share."""
        return self.mesh is None or dist.get_rank() == 0

    @property
    def data_rank(self) -> int:
        """Which of the ranks that read samples of their own."""
        return 0 if self.mesh is None else self.mesh.get_local_rank("data")

    @property
    def data_size(self) -> int:
        """Ranks that read samples of their own."""
        return 1 if self.mesh is None else self.mesh["data"].size()

    @property
    def tensor_size(self) -> int:
        """Ranks that share each sample."""
        return 1 if self.mesh is None else self.mesh["tensor"].size()

    def add(self, values: Tensor, over: str = "data") -> Tensor:
        """Sums over the ranks of one dimension, in place."""
        if self.mesh is not None and self.mesh[over].size() > 1:
            dist.all_reduce(values, group=self.mesh.get_group(over))
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, a small object, in order of rank."""
        if self.mesh is None:
            return [value]
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values


ALONE = Ranks()


@contextmanager
def joined(device: str, tensor: int) -> Iterator[tuple[Ranks, str]]:
    """This process among those that torchrun started (its environment says so), and its own device; ALONE without.

    RecipeError where `tensor` does not divide their number.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size % tensor:
        raise RecipeError(f"parallel.tensor = {tensor}: {size} ranks can't form groups of {tensor}")
    if size == 1:
        yield ALONE, device
        return
    kind = device.split(":")[0]
    if device != kind:
        raise UsageError(f"--device {device}: each of {size} ranks takes a device of its own; give {kind}")
    here, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.accelerator.device_count()
    if kind != "cpu" and here > devices:
        raise UsageError(f"--device {kind}: {here} ranks on a machine that has {devices}; each takes one of its own")
    backend = "gloo" if kind == "cpu" else f"cpu:gloo,{kind}:nccl"
    if kind != "cpu":
        device = f"{kind}:{os.environ['LOCAL_RANK']}"
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Ranks(init_device_mesh(kind, (size // tensor, tensor), mesh_dim_names=("data", "tensor"))), device
    finally:
        dist.destroy_process_group()
