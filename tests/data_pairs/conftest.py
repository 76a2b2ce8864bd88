"""A tar of pairs on disk."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conftest_pairs import tar_of


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[..., Path]:
    """Writes tmp/raw/NAME.tar from members."""

    def write(name: str, *pairs: Mapping[str, bytes]) -> Path:
        path = tmp_path / "raw" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tar_of({name: data for members in pairs for name, data in members.items()}))
        return path

    return write
