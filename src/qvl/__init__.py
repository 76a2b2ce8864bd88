"""qvl: Qwen-VL, end to end."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvl.data.sample import Sample
    from qvl.errors import QvlError
    from qvl.generate.chat import Chat
    from qvl.generate.loaded import load
    from qvl.model.config import PRESETS, QwenVLConfig
    from qvl.model.qwen_vl import QwenVL
    from qvl.text.tokenizer import Tokenizer

_HOMES = {  # public name -> module; imported on first use, so that `import qvl` and `qvl --help` are quick
    "Chat": "qvl.generate.chat",
    "PRESETS": "qvl.model.config",
    "QvlError": "qvl.errors",
    "QwenVL": "qvl.model.qwen_vl",
    "QwenVLConfig": "qvl.model.config",
    "Sample": "qvl.data.sample",
    "Tokenizer": "qvl.text.tokenizer",
    "load": "qvl.generate.loaded",
}
_MODULES = ("checkpoint", "images")  # so that `import qvl; qvl.images.preprocess(...)` works

__all__ = ["PRESETS", "Chat", "QvlError", "QwenVL", "QwenVLConfig", "Sample", "Tokenizer", "load"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"qvl.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'qvl' has no attribute {name!r}")
