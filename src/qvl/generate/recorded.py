"""Decoding whose launches are always the same ones, so that a GPU replays them from one recording (a CUDA graph).

One token of a large model is some thousand small kernels; started one by one from Python they take longer than reading
the weights. A recording has fixed shapes: it looks at a multiple of EXTENT_STEP places of the cache, and a mask hides
those behind each row's last token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qvl.generate.decoding import decode
from qvl.model.cache import KVCache, Window
from qvl.model.qwen_vl import QwenVL

EXTENT_STEP = 256


@dataclass(frozen=True)
class _Recording:
    """What is read anew at each replay, and what comes out."""

    ids: Tensor  # (B, 1)
    lengths: Tensor  # (B,)
    replay: Callable[[], Tensor]  # -> logits (B, V), the same memory every time


class RecordedDecoder:
    """As qvl.generate.decoding.decode over one cache. On a device without graphs the same operations, one by one."""

    def __init__(self, model: QwenVL, cache: KVCache) -> None:
        self._model, self._cache = model, cache
        self._recordings: dict[tuple[int, int, float], _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle() if cache.keys.is_cuda else None

    def __call__(self, token_ids: Sequence[int]) -> Tensor:
        """Read one more token of each of the first rows; the logits of what follows, (B, V), until the next call."""
        cache, rows = self._cache, len(token_ids)
        lengths, alphas = cache.lengths[:rows], set(cache.alphas[:rows])
        if len(alphas) > 1:  # beyond the trained length, and rare: not a recording for every mixture
            return decode(self._model, token_ids, cache)
        extent = min(-(-(max(lengths) + 1) // EXTENT_STEP) * EXTENT_STEP, cache.capacity)
        key = (rows, extent, alphas.pop())
        recording = self._recordings.get(key)
        known = recording is not None
        if recording is None:
            recording = self._prepared(*key)
        recording.ids.copy_(torch.tensor(token_ids)[:, None])
        recording.lengths.copy_(torch.tensor(lengths))
        if not known:
            recording = self._recordings[key] = self._recorded(recording)
        logits = recording.replay()
        for row in range(rows):
            cache.lengths[row] += 1
        return logits

    def _prepared(self, rows: int, extent: int, alpha: float) -> _Recording:
        cache, model = self._cache, self._model
        device = cache.keys.device
        ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        lengths = torch.zeros(rows, dtype=torch.long, device=device)

        def run() -> Tensor:
            window = Window(cache.keys[:, :rows], cache.values[:, :rows], lengths, extent, alpha)
            hidden = model.read(model.language.embedding(ids), cache=window)
            return model.language.head(hidden[:, -1])

        return _Recording(ids, lengths, run)

    def _recorded(self, made: _Recording) -> _Recording:
        """With its values in place: what is run while recording writes the right keys and values."""
        if self._pool is None:
            return made
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            made.replay()  # libraries start, and what is kept for all calls is made, outside the recording
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = made.replay()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return _Recording(made.ids, made.lengths, replay)
