"""Five properties that every model has, as functions that raise AssertionError.

``tests/test_properties.py`` runs them over every model, ``tests/test_models.py`` over models with a
planted fault, where the one that should notice must.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib.base.batch import Batch, DataDims, Sample, collate
from lib.losses import Criterion, Term
from lib.models.interface import Model, ground
from lib.models.layers.text import MaskedWords, word_places

DIMS = DataDims(
    video_dim=10,
    word_dim=8,
    vocab_size=30,
    num_frames=32,
    num_clips=8,
    max_sentences=5,
    word_vectors=torch.randn(30, 8, generator=torch.Generator().manual_seed(7)),
    word_idf=torch.rand(30, generator=torch.Generator().manual_seed(8)) + 0.5,
)
Build = Callable[[], Model]
# Of an output: spans, which all sentences may share, and distances from spans drawn anew each time.
NOT_COMPARED = ("spans.", "intra.", "inter.")


def make_sample(index: int, sentences: int, *, video: int | None = None) -> Sample:
    """A paragraph whose content is a function of its index alone."""
    g = torch.Generator().manual_seed(1000 + index)
    counts = torch.randint(2, 9, (sentences,), generator=g).tolist()
    ids = tuple(torch.randint(2, DIMS.vocab_size, (n,), generator=g) for n in counts)
    times = torch.rand(sentences, 2, generator=g).sort(dim=1).values
    duration = 20.0 + index
    rows = torch.randn(DIMS.num_frames, DIMS.video_dim, generator=g)
    return Sample(
        video=nn.functional.normalize(rows, dim=1),
        words=torch.cat([torch.randn(n, DIMS.word_dim, generator=g) for n in counts]),
        word_ids=torch.cat(ids),
        word_weights=1 + (torch.cat(ids) % 2).float(),
        word_counts=torch.tensor(counts),
        moments=(times + torch.tensor([0.0, 0.1])) / 1.1 * duration,
        duration=duration,
        video_index=index if video is None else video,
        video_id=f"v{index if video is None else video}",
        paragraph_id=f"p{index}",
        sentences=tuple(" ".join(f"w{i}" for i in each.tolist()) for each in ids),
    )


def make_batch(sizes: tuple[int, ...] = (2, 4, 1, 3)) -> Batch:
    return collate([make_sample(index, size) for index, size in enumerate(sizes)])


def mask_first_words(weights: Tensor, counts: Tensor, **_: object) -> MaskedWords:
    """The first third of every sentence: what a test masks, so that nothing is drawn."""
    quota = (counts // 3).clamp(min=1)
    column = torch.arange(int(quota.max())).expand(len(counts), -1)
    return MaskedWords(column, *word_places(quota))


def keep_first_sentences(real: Tensor, most: int) -> Tensor:
    """The first half of every paragraph, likewise."""
    return real & (real.cumsum(dim=1) <= (real.sum(dim=1, keepdim=True) + 1) // 2)


def draw_by(patch: pytest.MonkeyPatch, functions: Mapping[str, Callable[..., Any]]) -> None:
    """Give functions of these names, wherever models have them, another definition."""
    for name, module in list(sys.modules.items()):
        for function, definition in functions.items():
            if name.startswith("lib.models.") and hasattr(module, function):
                patch.setattr(module, function, definition)


def nothing_is_drawn_by(patch: pytest.MonkeyPatch) -> None:
    """In training every model masks and keeps what a test can foresee."""
    draw_by(patch, {"draw_masked_words": mask_first_words, "draw_sentences": keep_first_sentences})


def floats_of(output: Any) -> Iterator[tuple[str, Tensor, bool]]:
    """The tensors of numbers in what ``compare`` returned, whatever it is, by name: of a record, a
    mapping, or alone; and whether each stands in a tuple of them."""
    fields = {"output": output}
    if isinstance(output, Mapping):
        fields = dict(output)
    elif dataclasses.is_dataclass(output):
        fields = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    for name, value in fields.items():
        several = isinstance(value, tuple)
        for number, tensor in enumerate(value if several else (value,)):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                yield f"{name}.{number}", tensor, several


def per_item(model: Model, batch: Batch) -> dict[str, Tensor]:
    """What a model says of each paragraph or sentence, batch axis first, in evaluation mode."""
    model.eval()
    M, B = len(batch.flat_index), len(batch)
    said: dict[str, Tensor] = {}
    for name, tensor, one_of_several in floats_of(model(batch)):
        if tensor.shape[:2] == (B, B) and tensor.dim() == 2:
            said[name] = tensor.diagonal()
        elif tensor.shape == (M, B):  # of a sentence with every video: its own
            own = tensor.gather(1, batch.owner[:, None])
            said[name] = batch.padded(own)
        elif tensor.shape == (M, M) and one_of_several:  # as between sentences
            said[name] = batch.padded(tensor.diagonal())
        elif tensor.dim() and tensor.shape[0] == M and not name.startswith(NOT_COMPARED):
            said[name] = batch.padded(tensor)
    videos, paragraphs = model.encode_videos(batch.video), model.encode_paragraphs(batch)
    said |= {f"video.{k}": v for k, v in videos.items()}
    said |= {f"text.{k}": v for k, v in paragraphs.items() if v.is_floating_point()}
    if model.retrieves():
        said["similarity"] = model.similarity(paragraphs, videos).diagonal()
    if model.grounds():
        said["ground"] = batch.padded(ground(model, batch).scores)
        evidence = model.ground_pairs(paragraphs, videos)
        said |= {f"evidence.{k}": batch.padded(v) for k, v in evidence.clips.items()}
    return said


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding, judged by the spread of the values: a flat map is no excuse."""
    spread = b.std().item() if b.numel() > 1 else 1.0
    return torch.allclose(a, b, rtol=0, atol=1e-3 * spread + 1e-6)


def terms_of(model: Model) -> dict[str, Term]:
    """The loss terms that an instance can compute."""
    terms = model.losses()
    return {name: terms[name] for name in terms if name not in model.unavailable_terms}


def loss_of(model: Model, batch: Batch) -> dict[str, Tensor]:
    terms = terms_of(model)
    criterion = Criterion(terms, dict.fromkeys(terms, 1.0))
    return criterion(model(batch, terms=criterion.active), batch)


def every_parameter_learns(build: Build) -> None:
    """A gradient other than zero reaches every trainable parameter."""
    torch.manual_seed(0)
    model = build()
    torch.manual_seed(1)
    loss_of(model, make_batch((5, 4, 3, 5)))["total"].backward()
    dead = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    assert not dead, f"no gradient reaches {dead}"


def deterministic(build: Build) -> None:
    """In evaluation mode two passes agree; in training mode they agree after seeding."""
    torch.manual_seed(0)
    model, batch = build(), make_batch()
    first, second = per_item(model, batch), per_item(model, batch)
    for name in first:
        assert torch.equal(first[name], second[name]), f"{name} differs between two passes"
    model.train()
    torch.manual_seed(2)
    one = loss_of(model, batch)["total"]
    torch.manual_seed(2)
    assert torch.equal(one, loss_of(model, batch)["total"]), "the loss differs after seeding"


def videos_independent(build: Build) -> None:
    """What is said of a paragraph does not depend on its neighbours in the batch."""
    torch.manual_seed(0)
    model = build()
    together = per_item(model, make_batch((3, 3, 3, 3)))
    for b in range(4):
        alone = per_item(model, collate([make_sample(b, 3)]))
        for name, value in alone.items():
            mixed = together[name][b : b + 1, ...]
            mixed = mixed[tuple(slice(0, n) for n in value.shape)]
            assert close(mixed, value), f"{name} of item {b} depends on others"


def padding_free(build: Build) -> None:
    """More padding, with garbage in it, changes nothing."""
    torch.manual_seed(0)
    model, batch = build(), make_batch()
    before = per_item(model, batch)
    for name, value in per_item(model, pad_more(batch)).items():
        old = before[name]
        new = value[tuple(slice(0, n) for n in old.shape)]
        assert close(new, old), f"{name} changes with padding"


def pad_more(batch: Batch, sentences: int = 2, words: int = 3, garbage: float = 5.0) -> Batch:
    """The same batch with more sentence slots and word slots, filled with garbage."""
    B, S, W, E = batch.words.shape

    def grow(x: Tensor, fill: float) -> Tensor:
        shape = (B, S + sentences, W + words, *x.shape[3:])
        out = torch.full(shape, fill, dtype=x.dtype)
        out[:, :S, :W] = x
        return out

    mask = torch.zeros(B, S + sentences, dtype=torch.bool)
    mask[:, :S] = batch.sentence_mask
    moments = torch.full((B, S + sentences, 2), torch.nan)
    moments[:, :S] = batch.moments
    word_mask = grow(batch.word_mask, 0)
    return dataclasses.replace(
        batch,
        words=torch.where(word_mask[..., None], grow(batch.words, garbage), garbage),
        word_ids=grow(batch.word_ids, 0),
        word_weights=grow(batch.word_weights, 0),
        word_mask=word_mask,
        sentence_mask=mask,
        moments=moments,
        flat_index=mask.flatten().nonzero().squeeze(1),
    )


def state_dict_is_everything(build: Build) -> None:
    """Another instance with the same state dict says the same."""
    torch.manual_seed(0)
    model, batch = build(), make_batch()
    torch.manual_seed(99)
    twin = build()
    twin.load_state_dict(model.state_dict())
    first, second = per_item(model, batch), per_item(twin, batch)
    for name in first:
        assert torch.equal(first[name], second[name]), f"{name} is not in the state dict"


PROPERTIES = {
    f.__name__: f
    for f in (
        every_parameter_learns,
        deterministic,
        videos_independent,
        padding_free,
        state_dict_is_everything,
    )
}
