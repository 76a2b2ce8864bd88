"""Qwen-VL for the transformers library, nobody's remote code run: `import qvl.hf`, then its Auto classes.

`AutoConfig`, `AutoModelForCausalLM`, `AutoTokenizer` and `AutoProcessor` take published folders and exported ones.
"""

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from qvl.hf.config import QWenConfig
from qvl.hf.model import QWenLMHeadModel
from qvl.hf.processor import QWenVLProcessor
from qvl.hf.tokenizer import QWenTokenizer

AutoConfig.register(QWenConfig.model_type, QWenConfig)
AutoModelForCausalLM.register(QWenConfig, QWenLMHeadModel)
AutoModelForImageTextToText.register(QWenConfig, QWenLMHeadModel)
AutoTokenizer.register(QWenConfig, QWenTokenizer)
AutoProcessor.register(QWenConfig, QWenVLProcessor)

__all__ = ["QWenConfig", "QWenLMHeadModel", "QWenTokenizer", "QWenVLProcessor"]
