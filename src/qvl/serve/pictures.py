"""The pictures of a request, within the server's limits, before anything is decoded."""

import asyncio
import io
from collections.abc import Mapping, Sequence

from PIL import Image as PILImage

from qvl import images
from qvl.errors import ImageError
from qvl.serve.errors import ApiError
from qvl.serve.fetch import check_address, fetch
from qvl.serve.settings import Settings

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")


async def load_pictures(sources: Sequence[str], settings: Settings) -> Mapping[str, PILImage.Image]:
    """By their image_url. ApiError 400 for one that is refused or can't be read."""
    if len(sources) > settings.max_images:
        raise _bad(f"{len(sources)} pictures, at most {settings.max_images}", "too_many_images")
    loaded: dict[str, PILImage.Image] = {}
    for source in dict.fromkeys(sources):
        data = await _bytes(source, settings)
        loaded[source] = await asyncio.to_thread(decode, data, settings)
    return loaded


async def _bytes(source: str, settings: Settings) -> bytes:
    if source[:5].lower() == "data:":
        if len(source) > settings.max_image_bytes * 4 // 3 + 256:
            raise _bad(f"a picture of more than {settings.max_image_bytes:,} bytes", "image_too_large")
        try:
            return images.data_uri_bytes(source)
        except ImageError as error:
            raise _bad(str(error), "invalid_image") from error
    if not settings.allow_urls:
        raise _bad("this server takes pictures as data URIs alone (data:image/png;base64,...)", "urls_not_allowed")
    target = await asyncio.to_thread(check_address, source, settings.allowed_domains)
    return await fetch(target, settings.max_image_bytes, settings.fetch_timeout_s)


def decode(data: bytes, settings: Settings) -> PILImage.Image:
    """ApiError says what is wrong in our words alone: a library's may tell of its memory (CVE-2026-22778)."""
    if len(data) > settings.max_image_bytes:
        raise _bad(f"a picture of more than {settings.max_image_bytes:,} bytes", "image_too_large")
    try:
        with PILImage.open(io.BytesIO(data), formats=FORMATS) as header:
            width, height = header.size
        if width * height > settings.max_pixels:
            raise _bad(f"a picture of {width}x{height} pixels, at most {settings.max_pixels:,}", "image_too_large")
        return images.load(data)
    except PILImage.DecompressionBombError:
        raise _bad(f"a picture of more than {settings.max_pixels:,} pixels", "image_too_large") from None
    except (ImageError, OSError, SyntaxError, ValueError, TypeError, OverflowError, MemoryError):
        raise _bad(f"a picture is no {', '.join(FORMATS)} or is broken", "invalid_image") from None


def _bad(message: str, code: str) -> ApiError:
    return ApiError(400, f"messages: {message}", code, "messages")
