"""One vector of a sequence that keeps where its items stand."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...base.batch import Layout

CLIP_WIDTH = 0.1  # of the Gaussian around a place, in videos
SENTENCE_WIDTH = 1 / 3  # in a sentence's equal part of its paragraph


class PlacedMean(nn.Module):
    """Weighted means of the items around K places in time, side by side: nothing is learned.

    The dot product of two such vectors compares what a paragraph says first with what a video shows
    first, and so on. A plain mean (K = 1) forgets the order, and so does, unless it learns better,
    a class token, which reads positions that are added to its items.

    Places lie in the middles of K equal parts. A clip counts for each place by a Gaussian of the
    distance, of width ``CLIP_WIDTH``; a sentence divides itself among the places, by Gaussians that
    are as much wider as its part of the paragraph is, so that a single sentence asks for the whole
    video.

    Args:
        places: K.

    Source: ours.
    """

    centres: Float[Tensor, " K"]

    def __init__(self, places: int) -> None:
        super().__init__()
        if places < 1:
            raise ValueError(f"places is {places}, expected at least 1")
        centres = (torch.arange(places) + 0.5) / places
        self.register_buffer("centres", centres, persistent=False)

    def of_clips(self, clips: Float[Tensor, "B N D"]) -> Float[Tensor, "B KD"]:
        """Of unit length."""
        N = clips.shape[1]
        middles = (torch.arange(N, device=clips.device) + 0.5) / N
        shares = self._near(middles, CLIP_WIDTH).softmax(dim=0)
        return _side_by_side(torch.einsum("nk,bnd->bkd", shares.to(clips.dtype), clips))

    def of_sentences(
        self,
        sentences: Float[Tensor, "Q S D"],
        weights: Float[Tensor, "Q S"],
        layout: Layout,
    ) -> Float[Tensor, "Q KD"]:
        """Of unit length. ``weights``: how much each sentence counts, 0 for padding."""
        counts = layout.sentence_counts[:, None]
        positions = torch.arange(sentences.shape[1], device=sentences.device)
        middles = ((positions + 0.5) / counts).clamp(max=1)  # of padding
        shares = self._near(middles, SENTENCE_WIDTH / counts[..., None]).softmax(dim=-1)
        shares = shares * weights[..., None]
        return _side_by_side(torch.einsum("qsk,qsd->qkd", shares.to(sentences.dtype), sentences))

    def _near(self, middles: Tensor, width: float | Tensor) -> Tensor:
        """Logarithms of the Gaussians."""
        return -((middles[..., None] - self.centres) / width).square() / 2


def _side_by_side(means: Float[Tensor, "B K D"]) -> Float[Tensor, "B KD"]:
    return nn.functional.normalize(means.flatten(1).float(), dim=-1)
