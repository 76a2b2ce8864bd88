"""A published-layout folder that a test may break."""

import shutil
from pathlib import Path

import pytest

GOLDEN = Path("tests/data/model-tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, tmp_path / name)
    return tmp_path
