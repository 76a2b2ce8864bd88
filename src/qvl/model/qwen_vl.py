"""The whole model: images become tokens among the others. Source: paper section 2; modeling_qwen.py."""

import torch
from torch import Tensor, nn

from qvl.errors import TextError
from qvl.model.adapter import Adapter
from qvl.model.cache import Window
from qvl.model.config import QwenVLConfig
from qvl.model.language import LanguageModel, Positions
from qvl.model.loss import head_loss, supervised_places
from qvl.model.rope import logn_scale, ntk_alpha, rotary_tables
from qvl.model.vision import VisionEncoder


class QwenVL(nn.Module):
    """Vision encoder, adapter and language model."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionEncoder(config.vision)
        self.adapter = Adapter(config.vision)
        self.language = LanguageModel(config.language)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> Tensor:
        """input_ids (B, T), pixel_values (N, 3, S, S) in reading order of their spans -> logits (B, T, V).

        attention_mask (B, T): 0 at padding, left or right. document_ids (B, T): packed rows whose documents
        don't see each other, -1 at padding; without it later documents see earlier ones, as in the paper.
        Raises TextError when the image spans and pixel_values don't match, or for an id outside the vocabulary.
        """
        return self.language.head(self.hidden_states(input_ids, pixel_values, attention_mask, document_ids))

    def loss(
        self,
        input_ids: Tensor,
        labels: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        loss_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Summed next-token loss over the supervised labels (B, T), and their number (or summed weight).

        Logits are made only where a label is supervised: most places of a row carry none.
        """
        hidden = self.hidden_states(input_ids, pixel_values, attention_mask, document_ids)
        places = supervised_places(labels)
        weights = None if loss_weights is None else loss_weights[:, 1:][places[:, :-1]]
        return head_loss(hidden[places], self.language.head.weight, labels[:, 1:][places[:, :-1]], weights)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (N, 3, S, S) -> what stands for each image in the sequence, (N, Q, D)."""
        return self.adapter(self.vision(pixel_values))

    def hidden_states(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> Tensor:
        """The language model's last hidden states, (B, T, D); arguments as in forward."""
        features = None if pixel_values is None else self.encode_images(pixel_values)
        return self.read(self.embed(input_ids, features), attention_mask, document_ids)

    def embed(self, input_ids: Tensor, features: Tensor | None = None) -> Tensor:
        """input_ids (B, T) and what stands for their images (N, Q, D) -> (B, T, D); errors as of forward.

        Out of place, so that gradients flow. No image at all (N = 0) goes the same way, so that all ranks use the
        same modules whatever their samples show.
        """
        try:
            embeddings = self.language.embedding(input_ids)
        except IndexError as error:
            low, high, rows = int(input_ids.min()), int(input_ids.max()), self.config.language.vocab_size
            raise TextError(f"input_ids reach from {low} to {high}: this model knows 0 to {rows - 1}") from error
        spans, starts = torch.where(input_ids == self.config.image_start_id)
        given = 0 if features is None else len(features)
        if len(spans) != given:
            raise TextError(f"input_ids hold {len(spans)} image spans, but pixel_values hold {given} images")
        if features is None:
            return embeddings
        queries = self.config.vision.num_queries
        ends = starts + queries + 1
        inside = ends < input_ids.shape[1]
        if not bool(inside.all()) or bool((input_ids[spans, ends] != self.config.image_end_id).any()):
            raise TextError(f"an image span in input_ids is cut or is not {queries} places long")
        columns = starts[:, None] + torch.arange(1, queries + 1, device=starts.device)
        return embeddings.index_put((spans[:, None], columns), features.to(embeddings.dtype))

    def read(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Window | None = None,
    ) -> Tensor:
        """Embedded tokens (B, T, D) -> last hidden states (B, T, D). cache: what was read before, in eval; these tokens
        are added to it, and attention_mask then covers (B, past + T)."""
        return self.language(embeddings, self._positions(embeddings, attention_mask, document_ids, cache), cache)

    def _positions(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None,
        document_ids: Tensor | None,
        cache: Window | None,
    ) -> Positions:
        config, tokens = self.config.language, embeddings.shape[1]
        new = torch.arange(tokens, device=embeddings.device)[None]
        places = new if cache is None else cache.places(tokens)
        alpha: float | tuple[float, ...] = 1.0
        if cache is not None:
            alpha = cache.alpha
        elif not self.training and document_ids is None:
            alpha = self.rotary_alpha(tokens)
        within = places if document_ids is None else places - _document_starts(document_ids)
        cos, sin = rotary_tables(within, config.head_size, config.rotary_base, alpha)
        extent = tokens if cache is None else cache.extent
        long = config.use_logn_attn and not self.training and extent > config.seq_length
        logn = logn_scale(within, config.seq_length) if long else None
        exact = cache is None or isinstance(cache.past, int)
        return Positions(cos, sin, logn, _mask(places, extent, attention_mask, document_ids, exact), places)

    def rotary_alpha(self, num_tokens: int) -> float:
        """With which a prompt of so many tokens is read, and what follows it too (dynamic NTK)."""
        config = self.config.language
        return ntk_alpha(num_tokens, config.seq_length) if config.use_dynamic_ntk else 1.0

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Every parameter once, named and in order of depth; the adapter's fixed table is in none."""
        vision, language = self.vision, self.language
        groups: list[tuple[str, list[nn.Parameter]]] = [
            ("vision.stem", [*vision.conv1.parameters(), vision.positional_embedding, *vision.ln_pre.parameters()])
        ]
        groups += [(f"vision.{i}", list(block.parameters())) for i, block in enumerate(vision.blocks)]
        fixed = self.adapter.pos_embed
        groups.append(("adapter", [p for p in self.adapter.parameters() if p is not fixed]))
        groups.append(("language.embedding", list(language.embedding.parameters())))
        groups += [(f"language.{i}", list(block.parameters())) for i, block in enumerate(language.blocks)]
        groups.append(("language.head", [*language.ln_f.parameters(), *language.head.parameters()]))
        return groups

    def initialize(self, seed: int) -> None:
        """Start every part afresh from a seed, whatever the global random state is."""
        generator = torch.Generator().manual_seed(seed)
        self.vision.initialize(generator)
        self.adapter.initialize(generator)
        self.language.initialize(generator)


def _document_starts(document_ids: Tensor) -> Tensor:
    """(B, T): the place at which the token's document begins."""
    places = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return torch.where(begins, places, 0).cummax(dim=1).values


def _mask(
    places: Tensor, extent: int, attention_mask: Tensor | None, document_ids: Tensor | None, exact: bool
) -> Tensor | None:
    """places (1 or B, T) of the tokens among `extent` -> (B or 1, 1, T, extent) bool, True where attended; None when
    plain causal attention is right. exact: the tokens are the last of them."""
    tokens = places.shape[1]
    if attention_mask is None and document_ids is None and exact and tokens in (1, extent):
        return None
    keys = torch.arange(extent, device=places.device)
    mask = keys <= places[..., None]  # (1 or B, T, extent)
    if document_ids is not None:
        mask = mask & (document_ids[:, :, None] == document_ids[:, None, :])
    if attention_mask is not None:
        mask = mask & attention_mask.bool()[:, None, :]
        # Padding on the left sees nothing, and a softmax over nothing is NaN: let it see itself.
        mask = mask | (~mask.any(-1, keepdim=True) & (keys == places[..., None]))
    return mask[:, None]
