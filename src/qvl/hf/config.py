"""config.json as transformers holds it. The names are the published ones: other programs look for them."""

from typing import Any

from transformers import PretrainedConfig

from qvl.checkpoint.config_json import config_from_json
from qvl.model.config import QwenVLConfig


class QWenConfig(PretrainedConfig):
    """Whatever config.json says; `qvl` is what our model is made from."""

    model_type = "qwen"

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)

    @property
    def qvl(self) -> QwenVLConfig:
        """CheckpointError names a key that is missing or wrong."""
        return config_from_json(self.to_dict(), "config")
