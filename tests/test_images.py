"""Pictures: the published transform's own outputs, limits that hold, boxes where they belong."""

import hashlib
import io
import json
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file

from qvl import images
from qvl.errors import ImageError
from qvl.text.markup import Box, Quad, Ref, Text

DATA = Path(__file__).parent / "data" / "preprocess"
GOLDEN: dict[str, Any] = json.loads((DATA / "golden.json").read_text())
FILES = sorted(GOLDEN["images"])


def encoded(size: tuple[int, int] = (60, 40), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.mark.parametrize("name", FILES)
def test_published_transform(name: str) -> None:
    expected, samples = GOLDEN["images"][name], load_file(DATA / "golden.safetensors")
    rgb = images.load(DATA / "images" / name)
    assert list(rgb.size) == expected["size"], "no rotation by EXIF"
    pixels = images.preprocess(rgb, GOLDEN["size"])
    for offset in (0, 7):
        torch.testing.assert_close(pixels[:, offset::14, offset::14], samples[f"{name}.sample_s14_o{offset}"])
    assert pixels.min() == pytest.approx(expected["min"], abs=1e-5)
    assert pixels.max() == pytest.approx(expected["max"], abs=1e-5)
    assert pixels.mean(dim=(1, 2)).tolist() == pytest.approx(expected["channel_mean"], abs=1e-4)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".png")])
def test_rgb_and_resize_are_exact_where_the_format_is_lossless(name: str) -> None:
    rgb = images.load(DATA / "images" / name)
    assert sha256(np.array(rgb)) == GOLDEN["images"][name]["rgb_sha256"]
    resized = np.array(rgb.resize((448, 448), PILImage.Resampling.BICUBIC))
    assert sha256(resized) == GOLDEN["images"][name]["resized_u8_sha256"]


def test_path_bytes_and_picture_give_the_same_pixels(tmp_path: Path) -> None:
    data = encoded()
    (tmp_path / "图.png").write_bytes(data)
    sources: list[images.ImageSource] = [
        str(tmp_path / "图.png"),
        tmp_path / "图.png",
        data,
        PILImage.open(io.BytesIO(data)),
    ]
    first, *others = [images.preprocess(source, 28) for source in sources]
    assert first.shape == (3, 28, 28)
    assert all(torch.equal(first, other) for other in others)


def test_normalize_a_batch_is_preprocess_of_each() -> None:
    pictures = [images.load(encoded(size)).resize((28, 28), PILImage.Resampling.BICUBIC) for size in ((60, 40), (9, 9))]
    batch = images.normalize(
        torch.from_numpy(np.stack([np.array(picture) for picture in pictures])).permute(0, 3, 1, 2)
    )
    assert batch.dtype == torch.float32
    assert torch.equal(batch, torch.stack([images.preprocess(picture, 28) for picture in pictures]))


def photograph(width: int, height: int) -> PILImage.Image:
    """Smooth detail of several sizes."""
    random = np.random.default_rng(0)
    total = np.full((height, width, 3), 128.0)
    for cells, strength in ((6, 60), (40, 25), (200, 10)):
        coarse = (random.normal(size=(cells, cells, 3)) * 40 + 128).clip(0, 255).astype(np.uint8)
        fine = PILImage.fromarray(coarse).resize((width, height), PILImage.Resampling.BICUBIC)
        total += (np.asarray(fine, dtype=float) - 128) * strength / 60
    return PILImage.fromarray(total.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "kind", "mean", "most"),
    [
        ((300, 260), "PNG", 0.02, 1),  # no scaled decoding: resizing alone differs
        ((300, 260), "JPEG", 0.02, 1),
        ((90, 60), "JPEG", 0.02, 2),  # made larger
        ((224, 224), "JPEG", 0, 0),  # nothing to resize
        ((900, 700), "JPEG", 1.0, 12),  # decoded at a half
    ],
)
def test_training_pixels_are_nearly_those_of_preprocess(
    size: tuple[int, int], kind: str, mean: float, most: int
) -> None:
    buffer = io.BytesIO()
    photograph(*size).save(buffer, kind, quality=90)
    exact = images.preprocess(buffer.getvalue(), 224)
    fast = images.training_pixels(buffer.getvalue(), 224)
    assert fast.shape == (3, 224, 224)
    assert fast.dtype == torch.uint8
    scale = torch.tensor(images.STD).view(3, 1, 1) * 255
    difference = ((images.normalize(fast[None])[0] - exact) * scale).abs()
    assert difference.mean() <= mean + 1e-4
    assert difference.max() <= most + 1e-3


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("empty.png", b"", "not an image"),
        ("words.jpg", b"no picture at all", "not an image"),
        ("cut.png", encoded()[:-200], "broken or cut-short"),
        ("cut.jpg", encoded(kind="JPEG")[:400], "broken or cut-short"),
        ("flipped.png", encoded()[:60] + b"\0\0\0\0" + encoded()[64:], "broken or cut-short"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=rf"{name}.*{problem}"):
        images.load(tmp_path / name)
    with pytest.raises(ImageError, match=f"image of {len(data)} bytes"):
        images.load(data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png: no such image"):
        images.load(tmp_path / "nowhere.png")


@pytest.mark.parametrize("side", [12_000, 60_000])  # beyond our limit; beyond Pillow's own as well
def test_too_many_pixels_are_refused_from_the_header(side: int) -> None:
    header = encoded((8, 8))
    width_and_height = side.to_bytes(4, "big") * 2
    body = b"IHDR" + width_and_height + header[24:29]
    crc = zlib.crc32(body).to_bytes(4, "big")
    bomb = header[:12] + body + crc + header[33:]
    with pytest.raises(ImageError, match="100,000,000"):
        images.load(bomb)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="0x5"):
        images.load(PILImage.new("RGB", (0, 5)))


def test_boxes_and_quads_are_drawn_where_they_are() -> None:
    picture = PILImage.new("RGB", (200, 100), "white")
    content = (
        Text("see "),
        Ref("dog"),
        Box(100, 500, 400, 900),
        Ref("狗"),
        Quad(600, 500, 900, 500, 900, 900, 600, 900),
    )
    drawn = images.draw_boxes(picture, content)
    assert picture.getpixel((20, 70)) == (255, 255, 255), "the picture itself stays as it is"
    first, second = drawn.getpixel((20, 70)), drawn.getpixel((180, 70))
    assert first != (255, 255, 255)
    assert second not in ((255, 255, 255), first), "each phrase has its own colour"
    assert drawn.getpixel((50, 70)) == (255, 255, 255), "only the outline"


def test_the_boxes_of_one_phrase_share_a_colour_and_no_phrase_is_needed() -> None:
    picture = PILImage.new("RGB", (200, 100), "white")
    two = images.draw_boxes(picture, (Ref("bees"), Box(100, 500, 300, 900), Box(600, 500, 900, 900)))
    assert two.getpixel((20, 70)) == two.getpixel((120, 70)) != (255, 255, 255)
    bare = images.draw_boxes(picture, (Box(0, 0, 999, 999),))
    assert bare.getpixel((0, 50)) != (255, 255, 255)


def test_drawing_works_without_any_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LABEL_FONTS", ())
    images._label_font.cache_clear()
    picture = PILImage.new("RGB", (200, 100), "white")
    drawn = images.draw_boxes(picture, (Ref("狗 dog"), Box(100, 500, 400, 900)))
    images._label_font.cache_clear()
    assert drawn.tobytes() != picture.tobytes()


def test_decoding_in_threads_leaves_the_warnings_of_others_on() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: images.training_pixels(data, 28), [encoded()] * 200))
    assert warnings.filters == before


def test_a_tiff_with_a_header_of_another_type_is_a_broken_image() -> None:
    tiff = encoded((8, 8), "TIFF")
    strip_offsets = tiff.index(struct.pack("<HH", 273, 4))
    changed = tiff[: strip_offsets + 2] + struct.pack("<H", 2) + tiff[strip_offsets + 4 :]
    with pytest.raises(ImageError, match="broken or cut-short image"):
        images.probe(changed)
