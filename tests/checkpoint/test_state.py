"""Training states: the newest readable one wins, old ones go, nothing half-written counts."""

import pickle
from pathlib import Path

import pytest
import torch

from qvl.checkpoint.state import KEPT_STATES, latest_state, save_state


def save(folder: Path, step: int) -> Path:
    return save_state(folder, step, {"w": torch.full((3,), float(step))}, {"lr": 0.1}, {"loader": {"position": step}})


def test_newest_state_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    assert latest_state(tmp_path) is None
    for step in (2, 4, 6, 10):
        save(tmp_path, step)
    state = latest_state(tmp_path)
    assert state is not None
    assert state["step"] == 10
    assert torch.equal(state["model"]["w"], torch.full((3,), 10.0))
    assert state["extra"] == {"loader": {"position": 10}}
    assert len(list(tmp_path.iterdir())) == KEPT_STATES


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_truncated_newest_state_is_passed_over(tmp_path: Path, kept: int) -> None:
    save(tmp_path, 2)
    newest = save(tmp_path, 4)
    newest.write_bytes(newest.read_bytes()[:kept])
    with pytest.warns(UserWarning, match=r"step-00000004\.pt: damaged"):
        state = latest_state(tmp_path)
    assert state is not None
    assert state["step"] == 2


@pytest.mark.filterwarnings("ignore::UserWarning")  # ours for each, and torch's own for some
def test_damage_anywhere_is_no_traceback(tmp_path: Path) -> None:
    """A byte turned over makes torch fail in a dozen ways; all of them mean damaged."""
    save(tmp_path, 2)
    newest = save(tmp_path, 4)
    whole = newest.read_bytes()
    for place in range(0, len(whole), 13):
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert latest_state(tmp_path) is not None  # this one with another value in it, or the one before


def test_a_file_of_something_else_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 2)
    torch.save([1, 2], tmp_path / "step-00000004.pt")
    with pytest.warns(UserWarning, match="no training state"):
        state = latest_state(tmp_path)
    assert state is not None
    assert state["step"] == 2


def test_a_save_that_fails_leaves_the_states_before_it(tmp_path: Path) -> None:
    save(tmp_path, 2)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_state(tmp_path, 4, {"w": lambda: None}, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002.pt"]


def test_a_file_left_by_a_killed_write_is_no_state(tmp_path: Path) -> None:
    (tmp_path / ".step-00000004.pt.tmp").write_bytes(b"half")
    assert latest_state(tmp_path) is None
