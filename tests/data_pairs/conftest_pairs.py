"""Small pair data sets in the true formats."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image as PILImage


def jpeg(width: int = 320, height: int = 240, colour: tuple[int, int, int] = (90, 120, 40)) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (width, height), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def tar_of(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pair(
    key: str, text: str = "a red kite over a field", image: bytes | None = None, **fields: Any
) -> dict[str, bytes]:
    """One pair's members as img2dataset writes them."""
    metadata = {"key": key, "caption": text, "url": f"http://example.org/{key}", "status": "success", **fields}
    return {
        f"{key}.jpg": jpeg() if image is None else image,
        f"{key}.txt": text.encode(),
        f"{key}.json": json.dumps(metadata).encode(),
    }


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file's bytes by its name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
