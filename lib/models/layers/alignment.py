"""Which clips belong to a sentence: similarity, pooling over clips, and spans from evidence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.core.moments import iou
from lib.datasets.batch import Batch, Layout


@dataclass(frozen=True)
class Alignment:
    """What a batch's sentences and clips have to do with each other. All are cosines."""

    evidence: Float[Tensor, "M N"]  # of a sentence with the clips of its own video
    sentence_similarity: Float[Tensor, "M B"]  # of a sentence with a video
    similarity: Float[Tensor, "B B"]  # of a paragraph with a video
    within: Float[Tensor, "B S S"]  # of sentence s with the clips that sentence t attends to
    scale: Float[Tensor, ""]  # λ of the contrastive terms


class ClipAlignment(nn.Module):
    """Sentences and clips in one space, each sentence attending to the clips like it.

    Args:
        hidden_size: D.
        attention: inverse temperature of the attention over clips.
        in_order: how strongly a sentence looks for its clips where its place in the paragraph
            suggests: the attention's logits lose this much at 1.5 equal parts from the middle of
            the sentence's own, growing with the square of the distance. 0 looks everywhere.
        initial_scale, learn_scale: λ of the contrastive terms; bounded above by 100.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        attention: float,
        in_order: float,
        initial_scale: float,
        learn_scale: bool = True,
    ) -> None:
        super().__init__()
        self.attention, self.in_order = attention, in_order
        self.clip = nn.Linear(hidden_size, hidden_size)
        log_scale = torch.tensor(float(initial_scale)).log()
        self.log_scale = nn.Parameter(log_scale, requires_grad=learn_scale)

    def cosines(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"]
    ) -> Float[Tensor, "M B N"]:
        """Of every sentence with every clip (as ``self.clip`` gives them) of every video."""
        sentences = nn.functional.normalize(sentences, dim=-1)
        clips = nn.functional.normalize(clips, dim=-1)
        return torch.einsum("md,bnd->mbn", sentences, clips)

    def evidence(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], batch: Layout
    ) -> Float[Tensor, "M N"]:
        """Of every sentence with the clips (as ``self.clip`` gives them) of its own row's video."""
        sentences = nn.functional.normalize(sentences, dim=-1)
        clips = nn.functional.normalize(clips, dim=-1)
        found = torch.einsum("bsd,bnd->bsn", batch.padded(sentences), clips)
        return batch.flat(found)

    def expectation(
        self, place: Int[Tensor, " M"], count: Int[Tensor, " M"], num_clips: int
    ) -> Float[Tensor, "M N"]:
        """What ``in_order`` adds to the attention's logits for sentence ``place`` of ``count``."""
        middle = (torch.arange(num_clips, device=place.device) + 0.5) / num_clips
        off = middle * count[:, None] - (place[:, None] + 0.5)  # in equal parts
        return -self.in_order * (off / 1.5).square()

    def attend(
        self, cosines: Float[Tensor, "M B N"], expected: Float[Tensor, "M N"]
    ) -> Float[Tensor, "M B"]:
        """Mean over clips weighted by their soft-max: near the maximum, but every clip learns."""
        weights = (cosines * self.attention + expected[:, None]).softmax(dim=-1)
        return (weights * cosines).sum(dim=-1)

    def forward(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], batch: Batch
    ) -> Alignment:
        cosines = self.cosines(sentences, self.clip(clips))
        count = batch.sentence_counts[batch.owner]
        expected = self.expectation(batch.place, count, clips.shape[1])
        pooled = self.attend(cosines, expected)
        rows = torch.arange(len(cosines), device=cosines.device)
        evidence = cosines[rows, batch.owner]
        own = batch.padded(evidence)
        weights = batch.padded((evidence * self.attention + expected).softmax(dim=-1))
        return Alignment(
            evidence=evidence,
            sentence_similarity=pooled,
            similarity=batch.mean(pooled),
            within=torch.einsum("bsn,btn->bst", own, weights),
            scale=self.log_scale.exp().clamp(max=100),
        )

    def paragraph_similarity(
        self,
        sentences: Float[Tensor, "Q S D"],
        mask: Bool[Tensor, "Q S"],
        clips: Float[Tensor, "G N D"],
    ) -> Float[Tensor, "Q G"]:
        """Mean over its sentences of a paragraph's attended cosine with each video."""
        batch = Layout.of(mask)
        count = batch.sentence_counts[batch.owner]
        expected = self.expectation(batch.place, count, clips.shape[1])
        return batch.mean(self.attend(self.cosines(batch.flat(sentences), clips), expected))


def against_siblings(evidence: Float[Tensor, "M N"], batch: Layout) -> Float[Tensor, "M N"]:
    """A sentence's evidence minus the mean of the other sentences of its paragraph.

    What all sentences of a paragraph share (the video's topic, its background) says which video it
    is and nothing about when. A sentence without siblings keeps its evidence.
    """
    total = batch.padded(evidence).sum(dim=1).index_select(0, batch.owner)
    others = (batch.sentence_counts[batch.owner, None] - 1).to(evidence.dtype)
    return evidence - (total - evidence) / others.clamp(min=1)


def among_siblings(
    evidence: Float[Tensor, "M N"], batch: Layout, *, scale: float
) -> Float[Tensor, "M N"]:
    """The probability that a clip is this sentence's, among the sentences of its paragraph.

    The soft-max over the paragraph of ``scale`` times the evidence: as ``against_siblings``, but a
    clip is lost to the sibling that wants it most, not to the average one. A sentence without
    siblings keeps its evidence.
    """
    logits = batch.padded(evidence.float() * scale)
    shares = logits.masked_fill(~batch.sentence_mask[..., None], -torch.inf).softmax(dim=1)
    alone = (batch.sentence_counts == 1)[batch.owner, None]
    return torch.where(alone, evidence.float(), batch.flat(shares))


def separation(
    evidence: Float[Tensor, "M N"], spans: Float[Tensor, "P 2"], *, balance: float = 0.5
) -> Float[Tensor, "M P"]:
    """How well each span separates its clips from the rest.

    For a span of L of N clips, (mean inside - mean outside) over the standard deviation, times
    (L (N - L) / N²) to the power of ``balance``. At 1/2 this is the correlation of the evidence
    with the span's indicator, in [-1, 1]; below, short and long spans are held back less. The whole
    video, which separates nothing, has 0, and so has a span of less than half a clip.
    """
    N = evidence.shape[1]
    start = (spans[:, 0] * N).round().long()
    end = (spans[:, 1] * N).round().long()
    length = (end - start).to(evidence.dtype)
    sums = nn.functional.pad(evidence.cumsum(dim=-1), (1, 0))
    inside = sums[..., end] - sums[..., start]
    contrast = inside / length.clamp(min=1) - (sums[..., -1:] - inside) / (N - length).clamp(min=1)
    spread = evidence.std(dim=-1, unbiased=False, keepdim=True).clamp(min=1e-6)
    return contrast * (length * (N - length) / N**2) ** balance / spread


def position_prior(
    spans: Float[Tensor, "P 2"], place: Int[Tensor, " M"], count: Int[Tensor, " M"], *, width: float
) -> Float[Tensor, "M P"]:
    """Overlap of every span with where sentence ``place`` of ``count`` would be without evidence.

    Authors write in order: the video is cut into equal parts, and the sentence's part widened
    ``width`` times. A stated constant; no timestamp is read.
    """
    part = 1 / count.to(spans.dtype)
    centre = (place + 0.5) * part
    half = width * part / 2
    expected = torch.stack([(centre - half).clamp(min=0), (centre + half).clamp(max=1)], dim=1)
    return iou(expected[:, None], spans)
