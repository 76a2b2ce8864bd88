"""Several ranks on this machine, started and watched together: when one dies the others end with it.

Over several machines torchrun does the same: `torchrun --nnodes ... --nproc-per-node ... -m qvl train RECIPE`.
"""

import logging
import os
import shlex
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from qvl.errors import TrainingError

ENDS_WITHIN_S = 5  # the others, asked to


def launch(count: int, arguments: Sequence[str], again: str | None = None) -> None:
    """Run `python -m qvl ARGUMENTS` as `count` ranks of one job, and wait for them.

    again: what goes on after a rank was killed (the same arguments with --ranks).

    Raises TrainingError naming the rank that died and the command that goes on; an error that a rank has already said
    ends this process with the same exit code.
    """
    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    # Its own reports are pages long and say less than ours.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=ENDS_WITHIN_S,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "qvl", *arguments)
    except SignalException as error:  # this process was asked to end, and has ended the ranks
        raise SystemExit(128 + error.sigval) from error
    except ChildFailedError as error:
        print(file=sys.stderr)  # below the bar of a rank that could not end it
        rank, failure = _root(error.failures)
        if failure.exitcode > 0:
            raise SystemExit(failure.exitcode) from error
        name = signal.Signals(-failure.exitcode).name
        again = again or shlex.join(["qvl", *arguments, "--ranks", str(count)])
        raise TrainingError(
            f"rank {rank} (process {failure.pid}) was killed by {name} and the others were ended; go on with: {again}"
        ) from error


def _root(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The failure that brought down the others, which were asked to end or lost their partner."""
    asked = (-signal.SIGTERM, TrainingError.exit_code)
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode not in asked}
    return min((own or failures).items(), key=lambda item: item[1].timestamp)


@contextmanager
def losing_others_is_told() -> Iterator[None]:
    """TrainingError instead of torch's words when the rank that this one talks to is gone.

    Asked to end, a rank ends at once: waiting for one that is gone it would not hear an exception.
    """
    if "WORLD_SIZE" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise TrainingError("lost the connection to another rank; the one that ended first says why") from error
        raise
