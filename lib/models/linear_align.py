"""Rare words and clips in one space, by one linear map for each side.

Ours: the smallest weakly supervised system that holds on real features. A sentence is the mean of
its words' vectors beside the bag of its words, both weighted by how rare a word is among the
training sentences; a clip is the mean of its standardised rows and their neighbours. A few thousand
sentences teach a linear map what they cannot teach a recurrent network. A video that has a sentence
like the one at hand is no negative of it ("a person closes the door" is true of many videos), and
sentences that are alike count once in a paragraph.

Moments come from the cosines by the decoding (``DECODE``). ``experiments/real`` has it on CLIP
features; ``docs/findings.md`` says what each choice is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.base.batch import Batch, DataDims, Layout
from lib.decoding import Evidence
from lib.losses import Losses
from lib.losses.similarity import sentence_nce, within_paragraph_nce
from lib.models.interface import Encoded, Model
from lib.models.layers.alignment import position_logits
from lib.models.layers.bag import BagOfWords
from lib.models.layers.proposal_map import ProposalGrid


@dataclass(frozen=True)
class LinearAlignOutput:
    """What the loss reads."""

    similarity: Float[Tensor, "M B"]  # of a sentence with a video: pooled cosines
    within: Float[Tensor, "B S S"]  # of sentence s with the clips that sentence t attends to
    text: Float[Tensor, "M F"]  # features of the sentences before any map


class LinearAlign(Model):
    """Linear clip-sentence alignment.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, of the common space.
        dropout: of both inputs.
        smoothing: clips on each side that are averaged into a clip.
        attention: inverse temperature of the attention over clips.
        position_bias: how strongly that attention looks where the sentence's position suggests.
        alike: cosine of text features above which sentences of a paragraph count once in the
            similarity of the paragraph with a video.
        density: which spans are proposals.
    """

    grounds_from = frozenset({"clips"})

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        dropout: float = 0.5,
        smoothing: int = 2,
        attention: float = 5.0,
        position_bias: float = 0.0,
        alike: float = 0.7,
        density: Literal["sparse", "dense"] = "dense",
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
        self.grid = ProposalGrid(dims.num_clips, density)

    @property
    def embeddings(self) -> tuple[str, str] | None:
        return "clips", "sentences"

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips``: (B, N, D), of unit length."""
        return {"clips": self._clips(video)}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences``: (B, S, D) of unit length, ``text``: (B, S, F), ``mask``: which exist."""
        text = self.words(batch)
        return {
            "sentences": batch.padded(self._sentences(text)),
            "text": batch.padded(text),
            "mask": batch.sentence_mask,
        }

    def _clips(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B N D"]:
        clips = video.unflatten(1, (self.num_clips, -1)).mean(dim=2)
        if self.smoothing:
            k = self.smoothing
            padded = nn.functional.pad(clips.mT, (k, k), mode="replicate")
            clips = nn.functional.avg_pool1d(padded, 2 * k + 1, stride=1).mT
        return nn.functional.normalize(self.clip(self.dropout(clips)), dim=-1)

    def _sentences(self, text: Float[Tensor, "M F"]) -> Float[Tensor, "M D"]:
        return nn.functional.normalize(self.text(self.dropout(text)), dim=-1)

    def _attended(self, cosines: Float[Tensor, "M B N"], layout: Layout) -> Float[Tensor, "M B N"]:
        """The soft-max of a sentence's cosines over the clips of a video, and of where its position
        suggests."""
        logits = cosines * self.attention
        if self.position_bias:
            logits = (
                logits + position_logits(layout, cosines.shape[-1], self.position_bias)[:, None]
            )
        return logits.softmax(dim=-1)

    def _pooled(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], layout: Layout
    ) -> Float[Tensor, "M B"]:
        """Mean over a video's clips of the cosines, weighted by the attention."""
        cosines = torch.einsum("md,bnd->mbn", sentences, clips)
        return (self._attended(cosines, layout) * cosines).sum(dim=-1)

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """Mean over a paragraph's sentences, those that are alike counting once together."""
        queries = Layout.of(paragraphs["mask"])
        pooled = self._pooled(queries.flat(paragraphs["sentences"]), videos["clips"], queries)
        text = nn.functional.normalize(paragraphs["text"], dim=-1)
        alike = (text @ text.mT > self.alike) & queries.sentence_mask[:, None, :]
        weights = queries.sentence_mask / alike.sum(dim=2).clamp(min=1)
        weights = weights / weights.sum(dim=1, keepdim=True)
        return torch.einsum("qs,qsg->qg", weights, queries.padded(pooled))

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        text = self.words(batch)
        return {
            "sentences": self._sentences(text),
            "text": text,
            "clips": self._clips(batch.video),
        }

    def compare(self, parts: Encoded, batch: Batch) -> LinearAlignOutput:
        cosines = torch.einsum("md,bnd->mbn", parts["sentences"], parts["clips"])
        attended = self._attended(cosines, batch)
        rows = torch.arange(len(cosines), device=cosines.device)
        own, attention = (batch.padded(x[rows, batch.owner]) for x in (cosines, attended))
        return LinearAlignOutput(
            similarity=(attended * cosines).sum(dim=-1),
            within=torch.einsum("bsn,btn->bst", own, attention),
            text=parts["text"],
        )

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """``alignment``: the cosine of each sentence with each clip."""
        pairs = Layout.of(paragraphs["mask"])
        cosines = pairs.flat(paragraphs["sentences"] @ videos["clips"].mT)
        return Evidence(
            pairs,
            self.grid.spans,
            self.grid.num_clips,
            clips={"alignment": cosines},
            text=pairs.flat(paragraphs["text"]),
        )

    @staticmethod
    def losses(*, scale: float = 5.0, alike: float = 0.8) -> Losses:
        """``sentence``: the right video for a sentence, and the right sentence for a video.
        ``within``: the attended clips find their sentence among those of the paragraph.

        Args:
            scale: λ, on the similarities.
            alike: cosine of text features above which a sentence of another video is like the one
                at hand, so that the pair is no negative; 1: all are.
        """

        def sentence(out: LinearAlignOutput, batch: Batch) -> Tensor:
            scaled = out.similarity.new_full((), scale)
            unit = nn.functional.normalize(out.text, dim=-1)
            likes = (unit @ unit.T > alike).float()
            holds = nn.functional.one_hot(batch.owner, len(batch)).float()
            ambiguous = likes @ holds > 0  # videos of which a sentence is like this one
            return sentence_nce(out.similarity, scaled, batch.owner, batch.same_video, ambiguous)

        def within(out: LinearAlignOutput, batch: Batch) -> Tensor:
            scaled = out.similarity.new_full((), scale)
            unit = batch.padded(nn.functional.normalize(out.text, dim=-1))
            return within_paragraph_nce(
                out.within, scaled, batch.sentence_mask, unit @ unit.mT > alike
            )

        return {"sentence": sentence, "within": within}
