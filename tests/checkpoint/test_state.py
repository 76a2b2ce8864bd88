"""Training states: the newest whole one wins, old ones go, nothing half-written counts."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qvl.checkpoint.pickles import read_index
from qvl.checkpoint.state import INDEX_NAME, KEPT_STATES, StateWriter, restore
from qvl.errors import CheckpointError


def save(folder: Path, step: int) -> Path:
    writer = StateWriter(folder)
    writer.save(step, {"w": torch.full((3,), float(step)), "count": torch.tensor(step)}, {"loader": {"position": step}})
    writer.finish()
    return folder / f"step-{step:08d}"


def load(folder: Path) -> tuple[int, dict[str, Any], dict[str, Tensor]] | None:
    tensors: dict[str, Tensor] = {}

    def places(shapes: Mapping[str, torch.Size]) -> Mapping[str, Tensor]:
        tensors.update({name: torch.empty(shape) for name, shape in shapes.items()})
        return tensors

    found = restore(folder, places)
    return None if found is None else (*found, tensors)


def test_newest_state_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    for step in (2, 4, 6, 10):
        save(tmp_path, step)
    state = load(tmp_path)
    assert state is not None
    assert state[:2] == (10, {"loader": {"position": 10}})
    assert torch.equal(state[2]["w"], torch.full((3,), 10.0))
    assert state[2]["count"] == 10
    assert len(list(tmp_path.iterdir())) == KEPT_STATES


def test_training_on_does_not_reach_a_state_that_is_being_written(tmp_path: Path) -> None:
    weight = torch.zeros(1 << 20)
    writer = StateWriter(tmp_path)
    writer.save(1, {"w": weight}, {})
    weight += 1  # at once, while the thread writes
    writer.finish()
    state = load(tmp_path)
    assert state is not None
    assert not state[2]["w"].any()


@pytest.mark.parametrize("name", [INDEX_NAME, "__0_0.distcp"])
@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_truncated_newest_state_is_passed_over(tmp_path: Path, name: str, kept: int) -> None:
    save(tmp_path, 2)
    path = save(tmp_path, 4) / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.warns(UserWarning, match="step-00000004: damaged"):
        state = load(tmp_path)
    assert state is not None
    assert state[0] == 2
    assert torch.equal(state[2]["w"], torch.full((3,), 2.0))


@pytest.mark.filterwarnings("ignore::UserWarning")  # ours for each, and torch's own for some
@pytest.mark.parametrize("name", [INDEX_NAME, "__0_0.distcp"])
def test_damage_anywhere_is_no_traceback(tmp_path: Path, name: str) -> None:
    """A byte turned over makes torch fail in a dozen ways; all of them mean damaged."""
    save(tmp_path, 2)
    path = save(tmp_path, 4) / name
    whole = path.read_bytes()
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert load(tmp_path) is not None  # this one with another value in it, or the one before


def test_when_nothing_can_be_read_the_run_does_not_start_on_what_was_half_read(tmp_path: Path) -> None:
    folder = save(tmp_path, 4)
    stored = {index.fqn: place for index, place in read_index(folder / INDEX_NAME).storage_data.items()}["w"]
    with (folder / stored.relative_path).open("r+b") as file:
        file.seek(stored.offset)
        file.write(b"\0" * stored.length)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError, match="delete it"):
        load(tmp_path)


def test_half_a_state_does_not_count_and_goes_with_the_next(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (save(tmp_path, 4) / INDEX_NAME).unlink()
    state = load(tmp_path)
    assert state is not None
    assert state[0] == 2
    save(tmp_path, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000006"]


def test_a_state_that_can_not_be_written_is_an_error_and_the_one_before_stays(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / "step-00000004").write_text("a file is in the way")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(tmp_path, 4)
    (tmp_path / "step-00000004").unlink()
    state = load(tmp_path)
    assert state is not None
    assert state[0] == 2


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_nobody_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (save(tmp_path / "states", 2) / INDEX_NAME).write_bytes(pickle.dumps(Evil()))
    with pytest.warns(UserWarning, match="damaged"):
        assert load(tmp_path / "states") is None
    assert not Path("ran").exists()
