"""Rare words and clips in one space, by one linear map for each side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...base.batch import Batch, DataDims, Layout
from ...losses.similarity import sentence_nce, within_paragraph_nce
from .alignment import position_logits
from .bag import BagOfWords


@dataclass(frozen=True)
class LinearAlignOutput:
    """What the loss reads."""

    similarity: Float[Tensor, "M B"]  # of a sentence with a video: pooled cosines
    within: Float[Tensor, "B S S"]  # of sentence s with the clips that sentence t attends to
    text: Float[Tensor, "M F"]  # features of the sentences before any map


class LinearAlignment(nn.Module):
    """Cosines of sentences and clips, and their pooling over clips and over a paragraph.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, of the common space.
        dropout: of both inputs.
        smoothing: clips on each side that are averaged into a clip.
        attention: inverse temperature of the attention over clips.
        position_bias: how strongly that attention looks where the sentence's position suggests.
        alike: cosine of text features above which sentences of a paragraph count once in the
            similarity of the paragraph with a video.

    Raises:
        ValueError: the clips do not divide the frames.
    """

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int,
        dropout: float,
        smoothing: int,
        attention: float,
        position_bias: float,
        alike: float,
    ) -> None:
        super().__init__()
        if dims.num_frames % dims.num_clips:
            raise ValueError(f"{dims.num_clips} clips do not divide {dims.num_frames} frames")
        self.num_clips, self.smoothing = dims.num_clips, smoothing
        self.attention, self.position_bias = attention, position_bias
        self.alike = alike
        self.words = BagOfWords(dims)
        self.dropout = nn.Dropout(dropout)
        self.text = nn.Linear(self.words.width, hidden_size)
        self.clip = nn.Linear(dims.video_dim, hidden_size)

    def clips_of(
        self, video: Float[Tensor, "B T C"], *, drop: bool = True
    ) -> Float[Tensor, "B N D"]:
        """Unit vectors. ``drop``: with the dropout of training, in training."""
        clips = video.unflatten(1, (self.num_clips, -1)).mean(dim=2)
        if self.smoothing:
            k = self.smoothing
            padded = nn.functional.pad(clips.mT, (k, k), mode="replicate")
            clips = nn.functional.avg_pool1d(padded, 2 * k + 1, stride=1).mT
        clips = self.dropout(clips) if drop else clips
        return nn.functional.normalize(self.clip(clips), dim=-1)

    def sentences_of(
        self, text: Float[Tensor, "M F"], *, drop: bool = True
    ) -> Float[Tensor, "M D"]:
        """Unit vectors of what ``words`` gives. ``drop``: as for clips."""
        text = self.dropout(text) if drop else text
        return nn.functional.normalize(self.text(text), dim=-1)

    def attended(self, cosines: Float[Tensor, "M B N"], layout: Layout) -> Float[Tensor, "M B N"]:
        """The soft-max of a sentence's cosines over the clips of a video, and of where its position
        suggests."""
        logits = cosines * self.attention
        if self.position_bias:
            logits = (
                logits + position_logits(layout, cosines.shape[-1], self.position_bias)[:, None]
            )
        return logits.softmax(dim=-1)

    def pooled(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], layout: Layout
    ) -> Float[Tensor, "M B"]:
        """Mean over a video's clips of the cosines, weighted by the attention."""
        cosines = torch.einsum("md,bnd->mbn", sentences, clips)
        return (self.attended(cosines, layout) * cosines).sum(dim=-1)

    def paragraph_similarity(
        self,
        sentences: Float[Tensor, "Q S D"],
        text: Float[Tensor, "Q S F"],
        mask: Bool[Tensor, "Q S"],
        clips: Float[Tensor, "G N D"],
    ) -> Float[Tensor, "Q G"]:
        """Mean over a paragraph's sentences, those that are alike counting once together."""
        queries = Layout.of(mask)
        pooled = self.pooled(queries.flat(sentences), clips, queries)
        return torch.einsum("qs,qsg->qg", self.weights(text, mask), queries.padded(pooled))

    def weights(
        self, text: Float[Tensor, "Q S F"], mask: Bool[Tensor, "Q S"]
    ) -> Float[Tensor, "Q S"]:
        """How much each sentence counts in its paragraph: those that are alike once together. The
        sum is 1."""
        text = nn.functional.normalize(text, dim=-1)
        alike = (text @ text.mT > self.alike) & mask[:, None, :]
        weights = mask / alike.sum(dim=2).clamp(min=1)
        return weights / weights.sum(dim=1, keepdim=True)

    def compared(
        self,
        sentences: Float[Tensor, "M D"],
        text: Float[Tensor, "M F"],
        clips: Float[Tensor, "B N D"],
        batch: Layout,
    ) -> LinearAlignOutput:
        """Every sentence with every video of a batch, and with the moments of its paragraph."""
        cosines = torch.einsum("md,bnd->mbn", sentences, clips)
        attended = self.attended(cosines, batch)
        rows = torch.arange(len(cosines), device=cosines.device)
        own, attention = (batch.padded(x[rows, batch.owner]) for x in (cosines, attended))
        return LinearAlignOutput(
            similarity=(attended * cosines).sum(dim=-1),
            within=torch.einsum("bsn,btn->bst", own, attention),
            text=text,
        )


def sentence_loss(
    out: LinearAlignOutput, batch: Batch, *, scale: float, alike: float
) -> Float[Tensor, ""]:
    """The right video for a sentence, and the right sentence for a video; a video that has a
    sentence like the one at hand is no negative."""
    scaled = out.similarity.new_full((), scale)
    unit = nn.functional.normalize(out.text, dim=-1)
    likes = (unit @ unit.T > alike).float()
    holds = nn.functional.one_hot(batch.owner, len(batch)).float()
    ambiguous = likes @ holds > 0  # videos of which a sentence is like this one
    return sentence_nce(out.similarity, scaled, batch.owner, batch.same_video, ambiguous)


def within_loss(
    out: LinearAlignOutput, batch: Batch, *, scale: float, alike: float
) -> Float[Tensor, ""]:
    """The attended clips find their sentence among those of the paragraph that are unlike it."""
    scaled = out.similarity.new_full((), scale)
    unit = batch.padded(nn.functional.normalize(out.text, dim=-1))
    return within_paragraph_nce(out.within, scaled, batch.sentence_mask, unit @ unit.mT > alike)
