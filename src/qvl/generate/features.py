"""What stands for a picture in the sequence, computed once for each content."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from qvl.model.qwen_vl import QwenVL

BATCH = 8  # pictures encoded at once: a bound on memory


def content_hash(pixel_values: Tensor) -> bytes:
    """Of a picture's values, type and shape: 30 x 100 pixels are not 100 x 30."""
    head = f"{pixel_values.dtype} {tuple(pixel_values.shape)}".encode()
    return hashlib.sha256(head + pixel_values.contiguous().view(torch.uint8).numpy().tobytes()).digest()


class ImageFeatures:
    """Features (Q, D) by content, the ones that were used last; `hits` and `misses` count."""

    def __init__(self, model: QwenVL, max_bytes: int) -> None:
        self.model, self.max_bytes = model, max_bytes
        self.hits = self.misses = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0

    def of(self, hashes: Sequence[bytes], images: Sequence[Tensor]) -> dict[bytes, Tensor]:
        """The features of images (3, S, S) by their hashes; the new ones are encoded together."""
        found = {key: self._kept[key] for key in hashes if key in self._kept}
        missing = {key: image for key, image in zip(hashes, images, strict=True) if key not in found}
        self.hits, self.misses = self.hits + len(hashes) - len(missing), self.misses + len(missing)
        weight = self.model.vision.conv1.weight
        keys = list(missing)
        for start in range(0, len(keys), BATCH):
            part = keys[start : start + BATCH]
            pixels = torch.stack([missing[key] for key in part]).to(weight)
            found |= zip(part, self.model.encode_images(pixels).unbind(), strict=True)
        for key in dict.fromkeys(hashes):
            self._keep(key, found[key])
        return found

    def _keep(self, key: bytes, features: Tensor) -> None:
        if key not in self._kept:
            self._kept[key] = features.clone()  # alone: a view would hold its whole batch
            self._bytes += features.nbytes
        self._kept.move_to_end(key)
        while self._bytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
