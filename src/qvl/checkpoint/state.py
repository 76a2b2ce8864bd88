"""What a run needs to go on: tensors by name and a few plain values, written beside training, each rank its own part.

A state is a folder step-NNNNNNNN in the format of torch.distributed.checkpoint. Its `.metadata` comes last, when the
files of all ranks are on the disk: a folder without it is half a state, of a run that was killed. So the newest whole
one can always be read, by any number of ranks.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from qvl.checkpoint.pickles import DAMAGE, read_index
from qvl.errors import CheckpointError

KEPT_STATES = 2
INDEX_NAME = ".metadata"
_VALUES = "values"  # the plain values: JSON in a tensor of bytes

Values = dict[str, Any]

# torch's remark that a process saves alone; from its own thread, where a context could not silence it.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class StateWriter:
    """Writes the states of a run, one at a time. Every rank has one; the first also tidies the folder."""

    def __init__(self, state_dir: Path, is_first: bool = True) -> None:
        self.state_dir, self.is_first = state_dir, is_first
        # A group of its own: the thread that writes talks to other ranks while this one trains.
        self.group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self.pending: tuple[Path, Future[Any]] | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor], values: Values) -> None:
        """Copy a state and write it from a thread; waits for the one before.

        values: fit JSON and are equal on all ranks. CheckpointError when the one before could not be written.
        """
        self.finish()
        path = self.state_dir / f"step-{step:08d}"
        encoded = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
        saving = dcp.async_save(
            {**tensors, _VALUES: encoded},
            storage_writer=dcp.FileSystemWriter(path),
            process_group=self.group,
            # Copies also what lies on the CPU: training changes it in place.
            async_stager=DefaultStager(StagingOptions(False, False, False, False)),
            no_dist=self.group is None,
        )
        self.pending = path, saving if isinstance(saving, Future) else saving.upload_completion

    def finish(self) -> None:
        """Wait until the last state is on the disk. CheckpointError says why it could not be written."""
        if self.pending is None:
            return
        (path, pending), self.pending = self.pending, None
        try:
            pending.result()
        except (OSError, RuntimeError, dcp.CheckpointException) as error:
            free = shutil.disk_usage(self.state_dir).free / 1e6
            if self.is_first:
                shutil.rmtree(path, ignore_errors=True)
            raise CheckpointError(
                f"{path}: a state could not be written ({_reason(error)}; {free:,.0f} MB were free on its disk)"
            ) from error
        if self.is_first:
            _tidy(self.state_dir)


def restore(
    state_dir: Path, places: Callable[[Mapping[str, torch.Size]], Mapping[str, Tensor]]
) -> tuple[int, Values] | None:
    """Read the newest whole state: (steps done, values); None when there is none.

    places: shapes of the tensors that were saved -> where to put them; each rank's own parts are filled in place. A
    state that was damaged from outside is named in a warning, and the one before it serves. CheckpointError when
    none can be read though some began to.
    """
    touched = False
    for path in reversed(_folders(state_dir)):
        if not (path / INDEX_NAME).exists():
            continue
        try:
            reader = _Reader(path)
            shapes = {
                name: entry.size
                for name, entry in reader.read_metadata().state_dict_metadata.items()
                if isinstance(entry, TensorStorageMetadata)
            }
            encoded = torch.empty(shapes.pop(_VALUES), dtype=torch.uint8)
            reader.fill({_VALUES: encoded})
            values = json.loads(encoded.numpy().tobytes())
            tensors = places(shapes)
            touched = True
            reader.fill(tensors)
        except (*DAMAGE, CheckpointError, dcp.CheckpointException):
            warnings.warn(f"{path}: damaged or no training state, passed over", stacklevel=2)
            continue
        return int(path.name.removeprefix("step-")), values
    if touched:
        raise CheckpointError(f"{state_dir}: no state in it can be read; delete it to start from the beginning")
    return None


class _Reader(dcp.FileSystemReader):
    """torch's own, but for the index: nobody's code runs when it is opened."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata: Metadata = read_index(Path(self.path) / INDEX_NAME)
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        dcp.load(dict(tensors), storage_reader=self, no_dist=not dist.is_initialized())


def _reason(error: BaseException) -> str:
    """What the first rank that failed said: torch wraps it."""
    if isinstance(error, dcp.CheckpointException):
        rank, (wrapped, _) = next(iter(error.failures.items()))
        return f"rank {rank}: {wrapped}"
    return str(error)


def _tidy(state_dir: Path) -> None:
    """Keep the newest whole states; older ones and halves go."""
    whole = [path for path in _folders(state_dir) if (path / INDEX_NAME).exists()]
    for path in _folders(state_dir):
        if path not in whole[-KEPT_STATES:]:
            shutil.rmtree(path, ignore_errors=True)


def _folders(state_dir: Path) -> list[Path]:
    return sorted(state_dir.glob("step-" + "[0-9]" * 8))
