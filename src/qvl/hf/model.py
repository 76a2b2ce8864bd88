"""The model as transformers' generate, Trainer and peft drive it: our QwenVL inside, its cache or theirs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from qvl.checkpoint.hub import find_model
from qvl.checkpoint.layout import write_folder
from qvl.generate.chat import stop_ids
from qvl.generate.loaded import usual_dtype
from qvl.hf.config import QWenConfig
from qvl.model.loss import head_loss, supervised_places
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.layout import any_tensors, load_any
from qvl.text.tokenizer import Tokenizer


class QWenLMHeadModel(PreTrainedModel, GenerationMixin):
    """Qwen-VL under its published name. `model` is ours, with our names of its parameters."""

    config_class = QWenConfig
    main_input_name = "input_ids"
    input_modalities: list[str] = ["image", "text"]
    _supports_sdpa = True

    def __init__(self, config: QWenConfig, model: QwenVL | None = None) -> None:
        super().__init__(config)
        self.model = QwenVL(config.qvl) if model is None else model
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *_: Any,
        config: QWenConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        **__: Any,
    ) -> "QWenLMHeadModel":
        """A folder, whole or Int4, safetensors or .bin, or `owner/model` in a hub's cache. dtype: None as `qvl.load`
        has it, "auto" as it is stored. device_map: a device, or "auto" for a GPU where there is one.

        Raises CheckpointError for what does not fit; the model is on one device, in eval mode.
        """
        folder = find_model(pretrained_model_name_or_path)
        config = config or QWenConfig.from_pretrained(folder)
        device = _device(device_map)
        wanted = dtype or torch_dtype or usual_dtype(config.qvl, device)
        if isinstance(wanted, str):
            kept: torch.dtype | None = None if wanted == "auto" else getattr(torch, wanted)
        else:
            kept = wanted
        made = cls(config, load_any(folder, kept, device))
        made.config.dtype = made.dtype
        if (folder / "generation_config.json").exists():
            made.generation_config = GenerationConfig.from_pretrained(folder)
        tokenizer = Tokenizer.from_dir(folder)
        made.generation_config.eos_token_id = sorted(stop_ids(tokenizer))  # the published file has one of them only
        made.generation_config.pad_token_id = tokenizer.special.endoftext
        return made.eval()

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:  # type: ignore[override]
        """The published layout, safetensors."""
        folder = Path(save_directory)
        values = {**self.config.to_diff_dict(), "architectures": [type(self).__name__]}
        write_folder(any_tensors(self.model, None), values, folder, None)
        self.generation_config.save_pretrained(folder)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.model.language.embedding

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.model.language.head

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Each part of ours starts itself."""

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """input_ids (B, T), pixel_values (N, 3, S, S) in reading order of their spans, attention_mask (B, past + T)
        -> logits (B, T, V) or of the last places. labels (B, T): the loss is the mean of what is supervised, not -100.
        """
        if labels is not None:
            hidden = self.model.hidden_states(input_ids, pixel_values, attention_mask)
            places = supervised_places(labels)
            total, count = head_loss(
                hidden[places], self.model.language.head.weight, labels[:, 1:][places[:, :-1]], None
            )
            logits = self.model.language.head(hidden[:, -logits_to_keep:])
            return CausalLMOutputWithPast(loss=total / count, logits=logits)
        if use_cache and cache is None:
            cache = DynamicCache()
        features = None if pixel_values is None else self.model.encode_images(pixel_values)
        embeddings = self.model.embed(input_ids, features)
        window = None if cache is None else _Window(cache, self._alphas(cache, input_ids, attention_mask), embeddings)
        hidden = self.model.read(embeddings, attention_mask, cache=window)
        logits = self.model.language.head(hidden[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, cache=cache)

    def _alphas(self, cache: Cache, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[float, ...]:
        """The rotary alpha of each row, by its prompt's length: kept with the cache that it was read into."""
        if cache.get_seq_length() == 0:
            rows, tokens = input_ids.shape
            counts = [tokens] * rows if attention_mask is None else attention_mask.sum(-1).tolist()
            cache.qvl_alphas = tuple(map(self.model.rotary_alpha, counts))  # type: ignore[attr-defined]
        return cache.qvl_alphas  # type: ignore[attr-defined]

    def prepare_inputs_for_generation(self, input_ids: Tensor, is_first_iteration: bool = False, **kwargs: Any) -> Any:
        """Pictures are read with the prompt, once."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and inputs.get("cache") is not None:
            inputs["pixel_values"] = None
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **values: Any
    ) -> Any:
        """A row's pictures go with each of its copies."""
        pixels = values.pop("pixel_values", None)
        if pixels is not None:
            counts = (input_ids == self.model.config.image_start_id).sum(-1).tolist()
            pixels = torch.cat([part for part in pixels.split(counts) for _ in range(expand_size)])
        expanded, values = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **values
        )
        return expanded, {**values, "pixel_values": pixels}


def _device(device_map: Any) -> str:
    if isinstance(device_map, dict):
        device_map = next(iter(device_map.values()), None)
    if device_map == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cpu" if device_map is None else str(device_map)


class _Window:
    """transformers' cache in the form in which our layers ask (see qvl.model.cache.Window)."""

    def __init__(self, cache: Cache, alpha: tuple[float, ...], embeddings: Tensor) -> None:
        self.cache, self.alpha = cache, alpha[0] if len(set(alpha)) == 1 else alpha
        self.past, self.extent = cache.get_seq_length(), 0
        self.dtype, self._device = embeddings.dtype, embeddings.device

    def places(self, tokens: int) -> Tensor:
        self.extent = self.past + tokens
        return torch.arange(self.past, self.extent, device=self._device)[None]

    def append(self, layer: int, keys: Tensor, values: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.update(keys, values, layer)
