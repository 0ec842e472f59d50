"""Which clips belong to a sentence: cosines, and pooling over clips."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...base.batch import Batch, Layout


@dataclass(frozen=True)
class Alignment:
    """Similarities between the sentences and clips of a batch, as cosines."""

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
        position_bias: how strongly a sentence attends to where its position in the paragraph
            suggests: the attention's logits lose this much at 1.5 equal parts from the middle of
            the sentence's own, growing with the square of the distance. 0 attends everywhere.
        initial_scale, learn_scale: λ of the contrastive terms; bounded above by 100.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        attention: float,
        position_bias: float,
        initial_scale: float,
        learn_scale: bool = True,
    ) -> None:
        super().__init__()
        self.attention, self.position_bias = attention, position_bias
        self.clip = nn.Linear(hidden_size, hidden_size)
        log_scale = torch.tensor(float(initial_scale)).log()
        self.log_scale = nn.Parameter(log_scale, requires_grad=learn_scale)

    def cosines(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"]
    ) -> Float[Tensor, "M B N"]:
        """Cosines of every sentence with every clip (projected by ``self.clip``) of every video."""
        sentences = nn.functional.normalize(sentences, dim=-1)
        clips = nn.functional.normalize(clips, dim=-1)
        return torch.einsum("md,bnd->mbn", sentences, clips)

    def evidence(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], batch: Layout
    ) -> Float[Tensor, "M N"]:
        """Cosines of every sentence with the clips (projected by ``self.clip``) of its own
        video."""
        sentences = nn.functional.normalize(sentences, dim=-1)
        clips = nn.functional.normalize(clips, dim=-1)
        cosines = torch.einsum("bsd,bnd->bsn", batch.padded(sentences), clips)
        return batch.flat(cosines)

    def attend(
        self, cosines: Float[Tensor, "M B N"], expected: Float[Tensor, "M N"]
    ) -> Float[Tensor, "M B"]:
        """Mean over clips weighted by their soft-max: near the maximum, but every clip gets a
        gradient."""
        weights = (cosines * self.attention + expected[:, None]).softmax(dim=-1)
        return (weights * cosines).sum(dim=-1)

    def forward(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], batch: Batch
    ) -> Alignment:
        cosines = self.cosines(sentences, self.clip(clips))
        expected = position_logits(batch, clips.shape[1], self.position_bias)
        pooled = self.attend(cosines, expected)
        rows = torch.arange(len(cosines), device=cosines.device)
        evidence = cosines[rows, batch.owner]
        evidence_by_paragraph = batch.padded(evidence)
        weights = batch.padded((evidence * self.attention + expected).softmax(dim=-1))
        return Alignment(
            evidence=evidence,
            sentence_similarity=pooled,
            similarity=batch.mean(pooled),
            within=torch.einsum("bsn,btn->bst", evidence_by_paragraph, weights),
            scale=self.log_scale.exp().clamp(max=100),
        )

    def paragraph_similarity(
        self,
        sentences: Float[Tensor, "Q S D"],
        mask: Bool[Tensor, "Q S"],
        clips: Float[Tensor, "G N D"],
    ) -> Float[Tensor, "Q G"]:
        """Attended cosine of each paragraph with each video, the mean over its sentences."""
        batch = Layout.of(mask)
        expected = position_logits(batch, clips.shape[1], self.position_bias)
        return batch.mean(self.attend(self.cosines(batch.flat(sentences), clips), expected))


def position_logits(layout: Layout, num_clips: int, strength: float) -> Float[Tensor, "M N"]:
    """What a sentence's position in its paragraph adds to the logits of attention over clips: they
    lose ``strength`` at 1.5 equal parts from the middle of the sentence's own, growing with the
    square of the distance."""
    position = layout.sentence_position
    count = layout.sentence_counts[layout.owner]
    middle = (torch.arange(num_clips, device=position.device) + 0.5) / num_clips
    off = middle * count[:, None] - (position[:, None] + 0.5)  # in equal parts
    return -strength * (off / 1.5).square()
