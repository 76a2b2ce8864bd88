"""Training states: the newest readable one wins, old ones go, nothing half-written counts."""

from pathlib import Path

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


def test_a_damaged_newest_state_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 2)
    newest = save(tmp_path, 4)
    newest.write_bytes(newest.read_bytes()[:100])
    state = latest_state(tmp_path)
    assert state is not None
    assert state["step"] == 2


def test_a_file_left_by_a_killed_write_is_no_state(tmp_path: Path) -> None:
    (tmp_path / ".step-00000004.pt.tmp").write_bytes(b"half")
    assert latest_state(tmp_path) is None
