"""MMN: proposals and sentences in one space, matched across all videos of a batch.

Wang, Wang, Wu, Li and Wu, "Negative Sample Matters: A Renaissance of Metric Learning for Temporal
Grounding", AAAI 2022. Fully supervised. The text meets the video only after the map's convolutions
(a cosine), so a video's map is computed once for all sentences, and videos can be searched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..base.moments import iou
from ..decoding import Evidence
from ..losses import Losses
from ..losses.matching import best_proposals, proposal_to_sentence, sentence_to_proposal
from ..losses.overlap import overlap_with_truth, scaled_iou_bce
from .interface import Encoded, Model, Plan, Stage
from .layers.precision import in_full
from .layers.proposal_map import ConvMap, MaskedConvStack, MaxPoolMap, ProposalGrid
from .layers.text import SentenceFeatures
from .layers.video import ClipEncoder

OVERLAP_SCALE = 10.0  # a cosine times this is the logit of the overlap
GALLERY_BLOCK = 32  # videos scored at once against all queries; bounds memory only


@dataclass(frozen=True)
class MMNOutput:
    """Unit vectors of the matching space, and logits of the overlap with the own video's cells."""

    cells: Float[Tensor, "B P J"]
    sentences: Float[Tensor, "M J"]
    overlap_logits: Float[Tensor, "M P"]
    spans: Float[Tensor, "P 2"]


class MMN(Model):
    """Mutual matching network.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D.
        joint_size: J, of both spaces.
        text_encoder: ``lstm``, or the folder of a pretrained transformer (the paper: DistilBERT).
        lstm_layers, words: of the former, one direction; see ``SentenceEncoder``.
        proposal_map: ``pool`` or ``conv`` (here without a layer for the diagonal).
        density: which spans are proposals.
        kernel_size, conv_layers: of the map stack, batch norm before each ReLU.
        score_power: γ on the matching score, in the product that ranks moments.
    """

    supervision = "full"

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 512,
        joint_size: int = 256,
        text_encoder: str = "lstm",
        lstm_layers: int = 3,
        words: bool = False,
        proposal_map: Literal["pool", "conv"] = "pool",
        density: Literal["sparse", "dense"] = "sparse",
        kernel_size: int = 9,
        conv_layers: int = 4,
        score_power: float = 0.5,
    ) -> None:
        super().__init__()
        D = hidden_size
        self.score_power = score_power
        self.clips = ClipEncoder(dims.video_dim, D, dims.num_frames, dims.num_clips)
        self.grid = ProposalGrid(dims.num_clips, density)
        self.proposals: nn.Module = (
            MaxPoolMap(D, self.grid)
            if proposal_map == "pool"
            else ConvMap(D, self.grid, project=False)
        )
        self.context = MaskedConvStack(
            D,
            self.grid,
            kernel_size=kernel_size,
            num_layers=conv_layers,
            padding="first",
            norm="count",
            batch_norm=True,
        )
        self.cell_matching = nn.Linear(D, joint_size)
        self.cell_overlap = nn.Linear(D, joint_size)
        self.sentence = SentenceFeatures(
            dims,
            text_encoder,
            hidden_size=D,
            lstm_layers=lstm_layers,
            bidirectional=False,
            words=words,
        )
        self.norm = nn.LayerNorm(self.sentence.width)
        self.sentence_matching = nn.Linear(self.sentence.width, joint_size)
        self.sentence_overlap = nn.Linear(self.sentence.width, joint_size)

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``matching`` and ``overlap``: unit features of every cell in both spaces, (B, P, J)."""
        cells = self._map(video)
        return {
            "matching": _unit(self.cell_matching(cells)),
            "overlap": _unit(self.cell_overlap(cells)),
        }

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``matching`` and ``overlap``: unit features of the sentences, (B, S, J), and ``mask``:
        which exist."""
        features = self.norm(self.sentence(batch))
        return {
            "matching": batch.padded(_unit(self.sentence_matching(features))),
            "overlap": batch.padded(_unit(self.sentence_overlap(features))),
            "mask": batch.sentence_mask,
        }

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """The best cell's cosine with each sentence, mean over the paragraph's sentences.

        MMN itself ranks moments only; this aggregation is ours. It uses the matching space alone:
        that is trained against other videos too, the overlap space is not.
        """
        mask = paragraphs["mask"]
        sentences = paragraphs["matching"][mask]
        best_cosines = torch.cat(
            [
                torch.einsum("mj,bpj->mbp", sentences, cells).amax(dim=-1)
                for cells in videos["matching"].split(GALLERY_BLOCK)
            ],
            dim=1,
        )  # (M, G)
        return Layout.of(mask).mean(best_cosines)

    def _map(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B P D"]:
        return self.context(self.proposals(self.clips(video)))

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        cells = self._map(batch.video)
        features = self.norm(self.sentence(batch))
        overlap = _unit(self.cell_overlap(cells)).index_select(0, batch.owner)
        sentences = _unit(self.sentence_overlap(features))
        with in_full(overlap):
            cosine = torch.einsum("mj,mpj->mp", sentences, overlap)
        return {
            "cells": _unit(self.cell_matching(cells)),
            "sentences": _unit(self.sentence_matching(features)),
            "overlap_logits": OVERLAP_SCALE * cosine,
        }

    def compare(self, parts: Encoded, batch: Batch) -> MMNOutput:
        return MMNOutput(**parts, spans=self.grid.spans)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """((matching + 1) / 2)^γ times the overlap's probability."""
        pairs = Layout.of(paragraphs["mask"])
        matching, overlap = (
            pairs.flat(torch.einsum("bsj,bpj->bsp", paragraphs[space], videos[space]))
            for space in ("matching", "overlap")
        )
        # Rounding may leave a cosine below -1, and a power of a negative number is none.
        likeness = (matching * 0.5 + 0.5).clamp(min=0) ** self.score_power
        return Evidence(
            pairs,
            self.grid.spans,
            self.grid.num_clips,
            likeness * (OVERLAP_SCALE * overlap).sigmoid(),
        )

    @staticmethod
    def losses(
        *,
        min_iou: float = 0.5,
        max_iou: float = 1.0,
        positives: int = 1,
        margin: float = 0.3,
        temperature: float = 0.1,
        negative_iou: float = 0.5,
    ) -> Losses:
        """``overlap`` as in 2D-TAN; ``proposal_to_sentence`` and ``sentence_to_proposal``, the two
        directions of mutual matching, with the negatives of the whole batch.

        Args:
            min_iou, max_iou: overlap at which the target of ``overlap`` is 0 and 1.
            positives: proposals per sentence that are positives, best overlap first.
            margin: m, taken off the positives' cosine.
            temperature: τ of both directions.
            negative_iou: within a video, what overlaps the moment by less is a negative: sentences
                by their moments, proposals by themselves.
        """

        def overlap(out: MMNOutput, batch: Batch) -> Tensor:
            target = overlap_with_truth(out.spans, batch)
            return scaled_iou_bce(out.overlap_logits, target, min_iou=min_iou, max_iou=max_iou)

        def to_sentence(out: MMNOutput, batch: Batch) -> Tensor:
            shared = overlap_with_truth(out.spans, batch)
            proposals = best_proposals(out.cells, shared, batch.owner, positives)
            truth = batch.flat(batch.moments)
            siblings = batch.same_video[batch.owner][:, batch.owner]
            rival = ~siblings | (iou(truth[:, None], truth[None]) < negative_iou)
            return proposal_to_sentence(
                proposals, out.sentences, rival, margin=margin, temperature=temperature
            )

        def to_proposal(out: MMNOutput, batch: Batch) -> Tensor:
            shared = overlap_with_truth(out.spans, batch)
            proposals = best_proposals(out.cells, shared, batch.owner, positives)
            other = ~batch.same_video[batch.owner]  # (M, B)
            own_video = nn.functional.one_hot(batch.owner, len(batch)).bool()
            rival = other[:, :, None] | (own_video[:, :, None] & (shared < negative_iou)[:, None])
            return sentence_to_proposal(
                out.sentences,
                proposals,
                out.cells,
                rival,
                margin=margin,
                temperature=temperature,
            )

        return {
            "overlap": overlap,
            "proposal_to_sentence": to_sentence,
            "sentence_to_proposal": to_proposal,
        }

    @staticmethod
    def plan(
        *,
        pretrained_rate: float = 0.1,
        frozen_epochs: int = 4,
        matching_epochs: int = 6,
        later_matching: float = 0.01,
    ) -> Plan:
        """A pretrained text encoder learns more slowly and later; matching fades at the end.

        Args:
            pretrained_rate: factor on the learning rate of the pretrained text encoder.
            frozen_epochs: for so many epochs it does not learn.
            matching_epochs: after so many epochs the two matching terms …
            later_matching: … have this factor on their weight.
        """

        def stages(epoch: int) -> tuple[Stage, ...]:
            factor = 1.0 if epoch < matching_epochs else later_matching
            return (
                Stage(
                    factors=dict.fromkeys(("proposal_to_sentence", "sentence_to_proposal"), factor),
                    frozen=("sentence.pretrained.",) if epoch < frozen_epochs else (),
                ),
            )

        return Plan(stages, rates={"sentence.pretrained.": pretrained_rate})


def _unit(x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    return nn.functional.normalize(x.float(), dim=-1)
