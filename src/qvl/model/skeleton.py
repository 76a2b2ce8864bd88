"""Modules without memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FILLING = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, Tensor.uniform_, Tensor.normal_)


@contextmanager
def skeleton() -> Iterator[None]:
    """Modules made within have shapes alone (torch's "meta" device), and their tensors are not filled.

    Filling what has no memory would do nothing, yet torch loads its compiler for it: 1.5 s at every start.
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        return (args[0] if args else given["tensor"]) if func in FILLING else func(*args, **given)
