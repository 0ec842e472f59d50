"""One vector that keeps the order of what it sums up."""

from __future__ import annotations

import math

import pytest
import torch

from lib.base.batch import Layout
from lib.models.layers.placed_mean import PlacedMean

D = 5


def gaussian(distance: float, width: float) -> float:
    return math.exp(-((distance / width) ** 2) / 2)


def layout(counts: list[int]) -> Layout:
    return Layout.of(torch.arange(max(counts)) < torch.tensor(counts)[:, None])


@pytest.mark.parametrize("places", [1, 3])
def test_it_is_what_a_loop_says(places: int) -> None:
    g = torch.Generator().manual_seed(0)
    clips, sentences = (torch.randn(2, n, D, generator=g) for n in (7, 4))
    counts, weights = [4, 1], torch.tensor([[0.1, 0.4, 0.3, 0.2], [1.0, 0.0, 0.0, 0.0]])
    module = PlacedMean(places)
    found = module.of_clips(clips), module.of_sentences(sentences, weights, layout(counts))
    centres = [(k + 0.5) / places for k in range(places)]
    for b in range(2):
        parts = []
        for centre in centres:
            shares = [gaussian((n + 0.5) / 7 - centre, 0.1) for n in range(7)]
            parts.append(sum(s * clips[b, n] for n, s in enumerate(shares)) / sum(shares))
        expected = torch.cat(parts)
        torch.testing.assert_close(found[0][b], expected / expected.norm())
        parts = [torch.zeros(D) for _ in centres]
        for s in range(counts[b]):
            middle = (s + 0.5) / counts[b]
            shares = [gaussian(middle - centre, 1 / 3 / counts[b]) for centre in centres]
            for k, share in enumerate(shares):
                parts[k] += share / sum(shares) * weights[b, s] * sentences[b, s]
        expected = torch.cat(parts)
        torch.testing.assert_close(found[1][b], expected / expected.norm())


def test_a_paragraph_told_backwards_fits_the_video_played_backwards() -> None:
    events = torch.eye(4)
    videos = torch.stack([events, events.flip(0)]).repeat_interleave(3, dim=1)
    weights = torch.full((2, 4), 0.25)
    paragraphs = torch.stack([events, events.flip(0)])
    for places, told_apart in ((1, False), (3, True)):
        module = PlacedMean(places)
        ranked = (
            module.of_sentences(paragraphs, weights, layout([4, 4])) @ module.of_clips(videos).T
        )
        if told_apart:
            assert (ranked.diagonal() > ranked.flip(1).diagonal() + 0.2).all()
        else:
            torch.testing.assert_close(ranked, ranked.flip(1))


def test_a_single_sentence_asks_for_the_whole_video() -> None:
    """And padding, of which there is more beside a longer paragraph, changes nothing."""
    module, sentence = PlacedMean(3), torch.eye(D)[None, :1]
    weights = torch.ones(1, 1)
    alone = module.of_sentences(sentence, weights, layout([1]))
    assert alone.unflatten(1, (3, D))[0, :, 0].min() > 0.3
    wide = torch.nn.functional.pad(sentence, (0, 0, 0, 3)).expand(2, -1, -1)
    together = module.of_sentences(
        wide, torch.nn.functional.pad(weights, (0, 3)).expand(2, -1), layout([1, 4])
    )
    assert torch.equal(together[:1], alone)


def test_no_place_is_refused() -> None:
    with pytest.raises(ValueError, match="places is 0, expected at least 1"):
        PlacedMean(0)
