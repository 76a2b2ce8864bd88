"""The whole model: images become tokens among the others. Source: paper section 2; modeling_qwen.py."""

import torch
from torch import Tensor, nn

from qvl.errors import TextError
from qvl.model.adapter import Adapter
from qvl.model.cache import KVCache
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
        cache: KVCache | None = None,
    ) -> Tensor:
        """input_ids (B, T), pixel_values (N, 3, S, S) in reading order of their spans -> logits (B, T, V).

        attention_mask (B, T): 0 at padding, left or right. document_ids (B, T): packed rows whose documents
        don't see each other, -1 at padding; without it later documents see earlier ones, as in the paper.
        cache: what was read before; grows by these tokens (attention_mask then covers the new tokens).
        Raises TextError when the image spans and pixel_values don't match, or for an id outside the vocabulary.
        """
        return self.language.head(self.hidden_states(input_ids, pixel_values, attention_mask, document_ids, cache))

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
        cache: KVCache | None = None,
    ) -> Tensor:
        """The language model's last hidden states, (B, T, D); arguments as in forward."""
        try:
            embeddings = self.language.embedding(input_ids)
        except IndexError as error:
            low, high, rows = int(input_ids.min()), int(input_ids.max()), self.config.language.vocab_size
            raise TextError(f"input_ids reach from {low} to {high}: this model knows 0 to {rows - 1}") from error
        if pixel_values is not None or cache is None or cache.num_tokens == 0:
            embeddings = self._splice_images(input_ids, embeddings, pixel_values)
        positions = self._positions(input_ids, attention_mask, document_ids, cache)
        return self.language(embeddings, positions, cache)

    def _splice_images(self, input_ids: Tensor, embeddings: Tensor, pixel_values: Tensor | None) -> Tensor:
        """Put the features at the places between <img> and </img>, out of place so that gradients flow.

        No image at all (N = 0) goes the same way, so that all ranks use the same modules whatever their samples show.
        """
        rows, starts = torch.where(input_ids == self.config.image_start_id)
        given = 0 if pixel_values is None else len(pixel_values)
        if len(rows) != given:
            raise TextError(f"input_ids hold {len(rows)} image spans, but pixel_values hold {given} images")
        if pixel_values is None:
            return embeddings
        queries = self.config.vision.num_queries
        ends = starts + queries + 1
        inside = ends < input_ids.shape[1]
        if not bool(inside.all()) or bool((input_ids[rows, ends] != self.config.image_end_id).any()):
            raise TextError(f"an image span in input_ids is cut or is not {queries} places long")
        features = self.encode_images(pixel_values)  # (N, Q, D)
        columns = starts[:, None] + torch.arange(1, queries + 1, device=starts.device)
        return embeddings.index_put((rows[:, None], columns), features.to(embeddings.dtype))

    def _positions(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        document_ids: Tensor | None,
        cache: KVCache | None,
    ) -> Positions:
        config, (_, tokens) = self.config.language, input_ids.shape
        past = cache.num_tokens if cache is not None else 0
        places = torch.arange(past, past + tokens, device=input_ids.device)[None]
        if document_ids is not None:
            places = places - _document_starts(document_ids)
        alpha = 1.0
        if config.use_dynamic_ntk and not self.training and document_ids is None:
            alpha = ntk_alpha(tokens, config.seq_length) if past == 0 else cache.alpha if cache else 1.0
        if cache is not None and past == 0:
            cache.alpha = alpha
        cos, sin = rotary_tables(places, config.head_size, config.rotary_base, alpha)
        long = config.use_logn_attn and not self.training and past + tokens > config.seq_length
        logn = logn_scale(places, config.seq_length) if long else None
        return Positions(cos, sin, logn, _mask(input_ids, past, attention_mask, document_ids, cache))

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
    input_ids: Tensor,
    past: int,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    cache: KVCache | None,
) -> Tensor | None:
    """(B or 1, 1, T, past + T) bool, True where attended; None when plain causal attention is right."""
    batch, tokens = input_ids.shape
    real = _extend_mask(attention_mask, past, batch, tokens, cache)
    if real is None and document_ids is None and (past == 0 or tokens == 1):
        return None
    queries = torch.arange(past, past + tokens, device=input_ids.device)[:, None]
    keys = torch.arange(past + tokens, device=input_ids.device)
    mask = (keys <= queries)[None]  # (1, T, past + T)
    if document_ids is not None:
        mask = mask & (document_ids[:, :, None] == document_ids[:, None, :])
    if real is not None:
        mask = mask & real[:, None, :]
        # Padding on the left sees nothing, and a softmax over nothing is NaN: let it see itself.
        mask = mask | (~mask.any(-1, keepdim=True) & (keys == queries)[None])
    return mask[:, None]


def _extend_mask(
    attention_mask: Tensor | None, past: int, batch: int, tokens: int, cache: KVCache | None
) -> Tensor | None:
    """Which of the past and new places are real, (B, past + T) bool; None when all are. The cache keeps it."""
    before = cache.attention_mask if cache is not None else None
    if attention_mask is None and before is None:
        return None
    device = attention_mask.device if attention_mask is not None else before.device  # type: ignore[union-attr]
    new = torch.ones(batch, tokens, dtype=torch.bool, device=device)
    if attention_mask is not None:
        new = attention_mask[:, -tokens:].bool()
    if before is None:
        before = torch.ones(batch, past, dtype=torch.bool, device=device)
    whole = torch.cat((before, new), dim=1)
    if cache is not None:
        cache.attention_mask = whole
    return whole
