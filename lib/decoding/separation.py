"""Evidence over clips: against the paragraph's other sentences, and from clips to spans."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base.batch import Layout


def subtract_paragraph_mean(evidence: Float[Tensor, "M N"], layout: Layout) -> Float[Tensor, "M N"]:
    """A sentence's evidence minus the mean of the other sentences of its paragraph.

    What all sentences of a paragraph share (the video's topic, its background) says which video it
    is and nothing about when. The only sentence of a paragraph keeps its evidence.
    """
    total = layout.padded(evidence).sum(dim=1).index_select(0, layout.owner)
    others = (layout.sentence_counts[layout.owner, None] - 1).to(evidence.dtype)
    return evidence - (total - evidence) / others.clamp(min=1)


def paragraph_softmax(
    evidence: Float[Tensor, "M N"], layout: Layout, *, scale: float
) -> Float[Tensor, "M N"]:
    """The probability that a clip is this sentence's, among the sentences of its paragraph.

    The soft-max over the paragraph of ``scale`` times the evidence: as ``subtract_paragraph_mean``,
    but a clip is lost to the sentence that fits it best, not to the average one. The only sentence
    of a paragraph keeps its evidence.
    """
    logits = layout.padded(evidence.float() * scale)
    shares = logits.masked_fill(~layout.sentence_mask[..., None], -torch.inf).softmax(dim=1)
    alone = (layout.sentence_counts == 1)[layout.owner, None]
    return torch.where(alone, evidence.float(), layout.flat(shares))


def separation(
    evidence: Float[Tensor, "M N"],
    spans: Float[Tensor, "*M P 2"],
    *,
    length_exponent: float = 0.5,
) -> Float[Tensor, "M P"]:
    """How well each span separates its clips from the rest.

    For a span of L of N clips, (mean inside - mean outside) over the standard deviation, times
    (L (N - L) / N²) to the power of ``length_exponent``. At 1/2 this is the correlation of the
    evidence with the span's indicator, in [-1, 1]; below, short and long spans are held back less.
    The whole video, which separates nothing, has 0, and so has a span of less than half a clip.
    """
    N = evidence.shape[1]
    start = (spans[..., 0] * N).round().long()
    end = (spans[..., 1] * N).round().long()
    length = (end - start).to(evidence.dtype)
    sums = nn.functional.pad(evidence.cumsum(dim=-1), (1, 0))
    if spans.dim() == 2:
        inside = sums[:, end] - sums[:, start]
    else:
        inside = sums.gather(1, end) - sums.gather(1, start)
    contrast = inside / length.clamp(min=1) - (sums[:, -1:] - inside) / (N - length).clamp(min=1)
    spread = evidence.std(dim=-1, unbiased=False, keepdim=True).clamp(min=1e-6)
    return contrast * (length * (N - length) / N**2) ** length_exponent / spread
