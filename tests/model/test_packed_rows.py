"""Packed rows, padding and gradients of the whole model."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qvl.errors import TextError
from qvl.generate.decoding import decode, new_cache, prefill
from qvl.model.config import PRESETS
from qvl.model.qwen_vl import QwenVL
from qvl.text.special_tokens import IGNORE_INDEX

QUERIES = PRESETS["tiny"].vision.num_queries
START = PRESETS["tiny"].image_start_id


@pytest.fixture(scope="module")
def model() -> QwenVL:
    preset = PRESETS["tiny"]
    small = QwenVL(
        replace(preset, vision=replace(preset.vision, layers=2), language=replace(preset.language, num_layers=2))
    )
    small.initialize(3)
    return small.eval()


def document(length: int, with_image: bool, seed: int) -> tuple[list[int], list[int]]:
    """Ids and labels of one document: an image or not, some unsupervised text, some supervised."""
    ids = torch.randint(0, 1000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    if with_image:
        ids = [START, *[START + 2] * QUERIES, START + 1, *ids]
    labels = [IGNORE_INDEX] * (len(ids) - length // 2) + ids[len(ids) - length // 2 :]
    return ids, labels


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 112, 112, generator=torch.Generator().manual_seed(0))


DOCUMENTS = [document(12, True, 1), document(20, False, 2), document(9, True, 3)]


def packed() -> tuple[Tensor, Tensor, Tensor]:
    ids = [i for d, _ in DOCUMENTS for i in d]
    labels = [i for _, d in DOCUMENTS for i in d]
    documents = [n for n, (d, _) in enumerate(DOCUMENTS) for _ in d]
    return tuple(
        torch.tensor([values + pad])
        for values, pad in ((ids, [0] * 3), (labels, [IGNORE_INDEX] * 3), (documents, [-1] * 3))
    )  # type: ignore[return-value]


def test_loss_of_a_packed_row_is_the_sum_of_separate_losses(model: QwenVL) -> None:
    ids, labels, documents = packed()
    with torch.inference_mode():
        whole, count = model.loss(ids, labels, pictures(2), document_ids=documents)
        parts = []
        for (d, label), picture in zip(DOCUMENTS, (pictures(2)[:1], None, pictures(2)[1:]), strict=True):
            parts.append(model.loss(torch.tensor([d]), torch.tensor([label]), picture))
    assert float(whole) == pytest.approx(sum(float(loss) for loss, _ in parts), abs=1e-5 * float(count))
    assert float(count) == sum(float(n) for _, n in parts)


def test_rows_of_one_document_need_no_mask(model: QwenVL) -> None:
    """With padding on the right, what the real tokens see is the same."""
    ids, labels, documents = packed()
    with torch.inference_mode():
        masked, _ = model.loss(ids, labels, pictures(2), document_ids=documents.clamp(max=0))
        plain, count = model.loss(ids, labels, pictures(2))
    assert float(plain) == pytest.approx(float(masked), abs=1e-5 * float(count))


def test_one_document_does_not_see_another(model: QwenVL) -> None:
    ids, _, documents = packed()
    changed = ids.clone()
    changed[0, 25] = (changed[0, 25] + 1) % 1000  # in the first document, behind its image
    with torch.inference_mode():
        before, after = (model(i, pictures(2), document_ids=documents) for i in (ids, changed))
    same = (documents[0] != 0) & (documents[0] >= 0)
    assert torch.equal(before[0][same], after[0][same])
    assert not torch.equal(before[0, 25:27], after[0, 25:27])


def test_without_documents_later_ones_see_earlier_ones(model: QwenVL) -> None:
    """The paper's interleaving: what gives in-context ability."""
    ids, _, documents = packed()
    changed = ids.clone()
    changed[0, 25] = (changed[0, 25] + 1) % 1000
    with torch.inference_mode():
        before, after = (model(i, pictures(2)) for i in (ids, changed))
    assert not torch.equal(before[0][documents[0] == 1], after[0][documents[0] == 1])


def test_gradients_reach_the_pixels_and_not_the_places_of_the_image(model: QwenVL) -> None:
    ids, labels = (torch.tensor([values]) for values in DOCUMENTS[0])
    picture = pictures(1).requires_grad_()
    loss, _ = model.loss(ids, labels, picture)
    loss.backward()
    assert picture.grad is not None
    assert float(picture.grad.abs().sum()) > 0
    gradient = model.language.embedding.weight.grad
    assert gradient is not None
    assert float(gradient[START + 2].abs().sum()) == 0  # <imgpad> is overwritten by the features
    assert float(gradient[START].abs().sum()) > 0
    model.zero_grad()


def test_loss_weights_scale_each_token(model: QwenVL) -> None:
    ids, labels = (torch.tensor([values]) for values in DOCUMENTS[1])
    with torch.inference_mode():
        plain, count = model.loss(ids, labels)
        halved, weight = model.loss(ids, labels, loss_weights=torch.full(labels.shape, 0.5))
    assert float(halved) == pytest.approx(float(plain) / 2, rel=1e-6)
    assert float(weight) == float(count) / 2


def test_padding_mask_of_ones_changes_nothing(model: QwenVL) -> None:
    ids = torch.arange(18).view(2, 9)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids, attention_mask=torch.ones(2, 9, dtype=torch.bool)), model(ids))


def test_cached_rows_of_two_lengths_equal_one_alone(model: QwenVL) -> None:
    """Prompts of two lengths, padded on the right, then one token at a time."""
    long, short = DOCUMENTS[0][0], DOCUMENTS[2][0]
    new = torch.randint(0, 1000, (2, 6), generator=torch.Generator().manual_seed(4))
    cache = new_cache(model, 2, len(long) + 6)
    with torch.inference_mode():
        features = model.encode_images(pictures(2))
        shown = [
            model.embed(torch.tensor([ids]), features[place : place + 1])[0] for place, ids in enumerate((long, short))
        ]
        steps = [prefill(model, shown, cache)]
        steps += [decode(model, token.tolist(), cache) for token in new.T]
        alone = model(torch.tensor([short + new[1].tolist()]), pictures(2)[1:])
    torch.testing.assert_close(torch.stack(steps)[:, 1], alone[0, -7:], atol=1e-5, rtol=0)


def test_image_tokens_said_while_decoding_are_plain_tokens(model: QwenVL) -> None:
    cache = new_cache(model, 1, 4)
    with torch.inference_mode():
        prefill(model, [model.embed(torch.tensor([[1, 2, 3]]))[0]], cache)
        said = decode(model, [START], cache)
    assert said.isfinite().all()


def test_a_row_without_supervised_tokens_has_no_loss(model: QwenVL) -> None:
    ids = torch.tensor([DOCUMENTS[0][0]])
    loss, count = model.loss(ids, torch.full_like(ids, IGNORE_INDEX), pictures(1))
    loss.backward()
    assert (float(loss.detach()), float(count)) == (0.0, 0.0)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


@pytest.mark.parametrize("autocast", [False, True], ids=["bf16 weights", "autocast"])
def test_bfloat16_stays_near_float32(model: QwenVL, autocast: bool) -> None:
    """Logits of about 1 move by a few hundredths when 8 bits are kept."""
    ids, picture = torch.tensor([DOCUMENTS[0][0]]), pictures(1)
    half = model if autocast else copy.deepcopy(model).to(torch.bfloat16)
    with torch.inference_mode():
        exact = model(ids, picture)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            near = half(ids, picture)
    assert near.dtype == torch.bfloat16
    assert float((near.float() - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_images_and_spans_must_match(model: QwenVL) -> None:
    ids = torch.tensor([DOCUMENTS[0][0]])
    with pytest.raises(TextError, match=r"1 image spans.*2 images"):
        model(ids, pictures(2))
    with pytest.raises(TextError, match=r"1 image spans.*0 images"):
        model(ids)
    with pytest.raises(TextError, match="cut"):
        model(ids[:, :10], pictures(1))
    for length in (QUERIES - 1, QUERIES + 1):
        span = torch.tensor([[START, *[START + 2] * length, START + 1, *range(20)]])
        with pytest.raises(TextError, match=f"not {QUERIES} places long"):
            model(span, pictures(1))


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_named(model: QwenVL, wrong: int) -> None:
    with pytest.raises(TextError, match=rf"{wrong}.*this model knows 0 to {model.config.language.vocab_size - 1}"):
        model(torch.tensor([[5, wrong]]))


def test_initialisation_is_a_function_of_the_seed() -> None:
    models = [QwenVL(PRESETS["tiny"]) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(torch.randint(100, ()).item())  # whatever the global state is
        model.initialize(seed)
    first, second, third = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
