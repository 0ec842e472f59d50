"""Padding and its inverse."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.base.batch import Batch, Sample, collate, join

T, C, E = 3, 2, 4
paragraph_sizes = st.lists(
    st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4
)


def make_samples(sizes: list[list[int]]) -> list[Sample]:
    """Paragraphs of sentences with so many words; every number is different."""
    generator = torch.Generator().manual_seed(0)
    return [
        Sample(
            video=torch.rand(T, C, generator=generator),
            words=torch.rand(sum(counts), E, generator=generator),
            word_ids=torch.randint(2, 99, (sum(counts),), generator=generator),
            word_weights=1 + torch.rand(sum(counts), generator=generator),
            word_counts=torch.tensor(counts),
            moments=torch.rand(len(counts), 2, generator=generator),
            duration=10.0 + number,
            video_index=number // 2,
            video_id=f"v{number // 2}",
            paragraph_id=f"p{number}",
        )
        for number, counts in enumerate(sizes)
    ]


@given(paragraph_sizes)
@settings(max_examples=30, deadline=None)
def test_every_word_of_every_sample_is_in_its_place_and_the_rest_is_padding(
    sizes: list[list[int]],
) -> None:
    samples = make_samples(sizes)
    batch = collate(samples)
    S, W = max(map(len, sizes)), max(max(counts) for counts in sizes)
    assert batch.words.shape == (len(sizes), S, W, E)
    seen = 0
    for b, sample in enumerate(samples):
        assert torch.equal(batch.video[b], sample.video)
        words, ids, weights = (
            flat.split(sizes[b]) for flat in (sample.words, sample.word_ids, sample.word_weights)
        )
        for s in range(S):
            real = s < len(sizes[b])
            assert bool(batch.sentence_mask[b, s]) == real
            count = sizes[b][s] if real else 0
            assert batch.word_mask[b, s].tolist() == [w < count for w in range(W)]
            assert not batch.words[b, s, count:].any() and not batch.word_ids[b, s, count:].any()
            assert not batch.word_weights[b, s, count:].any()
            if real:
                assert torch.equal(batch.words[b, s, :count], words[s])
                assert torch.equal(batch.word_ids[b, s, :count], ids[s])
                assert torch.equal(batch.word_weights[b, s, :count], weights[s])
                assert torch.equal(batch.moments[b, s], sample.moments[s])
                assert batch.word_counts[seen] == count and batch.owner[seen] == b
                seen += 1
            else:
                assert batch.moments[b, s].isnan().all()
    assert seen == len(batch.flat_index) == len(batch.owner)


@given(paragraph_sizes)
@settings(max_examples=30, deadline=None)
def test_flat_and_padded_are_inverse(sizes: list[list[int]]) -> None:
    batch = collate(make_samples(sizes))
    flat = torch.rand(len(batch.flat_index), 3, 2)
    padded = batch.padded(flat)
    assert torch.equal(batch.flat(padded), flat)
    assert not padded[~batch.sentence_mask].any()
    assert batch.flat(batch.sentence_mask).all()


def test_gradients_pass_through_padding_and_back() -> None:
    batch = collate(make_samples([[2, 3], [1]]))
    flat = torch.rand(3, 2, requires_grad=True)
    (batch.flat(batch.padded(flat)) * torch.arange(3.0)[:, None]).sum().backward()
    assert flat.grad is not None and flat.grad[:, 0].tolist() == [0, 1, 2]


def test_paragraphs_of_one_video_know_each_other() -> None:
    batch = collate(make_samples([[1], [1], [1]]))
    assert batch.same_video.tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, True],
    ]


def test_moving_a_batch_leaves_word_counts_on_the_cpu() -> None:
    batch = collate(make_samples([[2, 1], [3]]))
    moved = batch.to("meta")
    for field in dataclasses.fields(Batch):
        value = getattr(moved, field.name)
        if isinstance(value, torch.Tensor):
            assert value.device.type == ("cpu" if field.name == "word_counts" else "meta")
    assert moved.video_ids == batch.video_ids and len(moved) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_a_pinned_batch_is_the_same_batch() -> None:
    batch = collate(make_samples([[2, 1], [3]]))
    pinned = batch.pin_memory()
    assert pinned.words.is_pinned() and torch.equal(pinned.words, batch.words)


@given(paragraph_sizes, st.data())
@settings(max_examples=30, deadline=None)
def test_parts_of_a_batch_are_batches_and_make_it_up(sizes, data) -> None:
    samples = make_samples(sizes)
    count = data.draw(st.integers(1, len(sizes)))
    parts, first = collate(samples).split(count), 0
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for part in parts:  # as if there had been nothing else, padding included
        assert_equal(part, collate(samples[first : first + len(part)]))
        first += len(part)
    assert_equal(join(parts), collate(samples))


def test_an_outline_knows_the_sentences_and_no_word() -> None:
    batch = collate(make_samples([[2, 1], [3]]))
    outline = batch.outline()
    assert outline.video.numel() == outline.words.numel() == outline.word_mask.numel() == 0
    for name in ("sentence_mask", "flat_index", "moments", "duration", "video_index"):
        assert getattr(outline, name) is getattr(batch, name)
    assert len(outline) == 2 and torch.equal(outline.same_video, batch.same_video)


def assert_equal(a: Batch, b: Batch) -> None:
    for field in dataclasses.fields(Batch):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        else:
            assert ours == theirs, field.name


def test_a_batch_from_disk_fits_together(batch: Batch) -> None:
    assert batch.words.shape[:3] == batch.word_ids.shape == batch.word_mask.shape
    assert batch.word_mask.any(dim=2).equal(batch.sentence_mask)
    assert batch.flat(batch.moments).isfinite().all()
    start, end = batch.flat(batch.moments).unbind(dim=1)
    assert (start < end).all() and (end <= batch.duration[batch.owner]).all()
    torch.testing.assert_close(
        batch.video.norm(dim=2).max(), torch.tensor(1.0), atol=1e-5, rtol=0
    )  # an average of unit rows is never longer
