"""What DMR-JRG is trained for: the loss terms, and what of the model they read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.core.moments import iou
from lib.datasets.batch import Batch
from lib.losses.overlap import scaled_iou_bce
from lib.losses.reconstruction import rank_by_reconstruction
from lib.losses.similarity import (
    distill,
    info_nce,
    sentence_nce,
    triplet,
    within_paragraph_nce,
)
from lib.models.interface import Losses, there
from lib.models.layers.alignment import Alignment

GLOBAL_TERMS = frozenset({"global_triplet", "global_nce", "distillation"})
RECONSTRUCTION_TERMS = frozenset({"reconstruction", "rank", "temporal_rank"})
TEMPORAL_TERMS = frozenset({"temporal", "temporal_rank", "temporal_teacher"})
ALIGNMENT_TERMS = frozenset({"sentence_nce", "within_nce"})
MAP_TERMS = GLOBAL_TERMS | RECONSTRUCTION_TERMS | TEMPORAL_TERMS


@dataclass(frozen=True)
class DMRJRGOutput:
    """What the losses read. A field is None when no active term asks for it."""

    similarity: Float[Tensor, "B B"]  # S^r, paragraphs x videos
    scale: Float[Tensor, ""]  # λ of S^r
    spans: Float[Tensor, "P 2"]
    alignment: Alignment | None = None
    logits: Float[Tensor, "M P"] | None = None  # of P
    candidates: Int[Tensor, "M Q"] | None = None
    nll: Float[Tensor, "M Q"] | None = None  # of the hidden words, by candidate
    global_similarity: Float[Tensor, "B B"] | None = None  # S^g
    global_scale: Float[Tensor, ""] | None = None  # λ of S^g
    temporal_logits: tuple[Float[Tensor, "M P"], ...] = ()  # of P^f and P^r, as far as built
    teacher: Int[Tensor, " M"] | None = None  # the span that the ordered alignment points at


def losses(*, margin: float = 0.2, min_iou: float = 0.5, max_iou: float = 1.0) -> Losses:
    """The terms of Eq. 23, one weight each, and ours.

    L_cmr is ``retrieval_triplet`` + β1 · ``retrieval_nce``; L_local is ``reconstruction`` +
    ``rank``; L_global is ``global_triplet`` + β2 · ``global_nce``; L_mse is ``distillation``;
    L_time is ``temporal``. The paper leaves PL^f and PL^r without any gradient (an arg-max is a
    label, not a function); ``temporal_rank`` gives them the candidates' rank loss, and
    ``temporal_teacher`` the span that the ordered alignment points at. ``sentence_nce`` and
    ``within_nce`` train the alignment: the right video for a sentence, the right sentence for
    the clips it attends to.

    Args:
        margin: Δ of Eq. 6 and 7.
        min_iou, max_iou: overlap with a pseudo-label at which its soft label is 0 and 1.
    """

    def labelled(logits: Tensor, best: Tensor, spans: Tensor) -> Tensor:
        overlap = iou(spans[best][:, None], spans)
        return scaled_iou_bce(logits, overlap, min_iou=min_iou, max_iou=max_iou)

    def retrieval_nce(out: DMRJRGOutput, batch: Batch) -> Tensor:
        return info_nce(out.similarity, out.scale, batch.same_video)

    def retrieval_triplet(out: DMRJRGOutput, batch: Batch) -> Tensor:
        return triplet(out.similarity, batch.same_video, margin=margin)

    def reconstruction(out: DMRJRGOutput, batch: Batch) -> Tensor:
        return there(out.nll).mean()

    def rank(out: DMRJRGOutput, batch: Batch) -> Tensor:
        scores = there(out.logits).float().sigmoid().gather(1, there(out.candidates))
        return rank_by_reconstruction(scores, there(out.nll))

    def global_nce(out: DMRJRGOutput, batch: Batch) -> Tensor:
        return info_nce(there(out.global_similarity), there(out.global_scale), batch.same_video)

    def global_triplet(out: DMRJRGOutput, batch: Batch) -> Tensor:
        return triplet(there(out.global_similarity), batch.same_video, margin=margin)

    def distillation(out: DMRJRGOutput, batch: Batch) -> Tensor:
        return distill(out.similarity, there(out.global_similarity))

    def temporal(out: DMRJRGOutput, batch: Batch) -> Tensor:
        total = there(out.logits).new_zeros((), dtype=torch.float32)
        for logits in out.temporal_logits:
            total = total + labelled(there(out.logits), logits.detach().argmax(dim=1), out.spans)
        return total

    def temporal_rank(out: DMRJRGOutput, batch: Batch) -> Tensor:
        total = there(out.logits).new_zeros((), dtype=torch.float32)
        for logits in out.temporal_logits:
            scores = logits.float().sigmoid().gather(1, there(out.candidates))
            total = total + rank_by_reconstruction(scores, there(out.nll))
        return total

    def temporal_teacher(out: DMRJRGOutput, batch: Batch) -> Tensor:
        total = there(out.logits).new_zeros((), dtype=torch.float32)
        for logits in out.temporal_logits:
            total = total + labelled(logits, there(out.teacher), out.spans)
        return total

    def sentence(out: DMRJRGOutput, batch: Batch) -> Tensor:
        aligned = there(out.alignment)
        return sentence_nce(
            aligned.sentence_similarity, aligned.scale, batch.owner, batch.same_video
        )

    def within(out: DMRJRGOutput, batch: Batch) -> Tensor:
        aligned = there(out.alignment)
        return within_paragraph_nce(aligned.within, aligned.scale, batch.sentence_mask)

    return {
        "retrieval_triplet": retrieval_triplet,
        "retrieval_nce": retrieval_nce,
        "reconstruction": reconstruction,
        "rank": rank,
        "global_triplet": global_triplet,
        "global_nce": global_nce,
        "distillation": distillation,
        "temporal": temporal,
        "temporal_rank": temporal_rank,
        "temporal_teacher": temporal_teacher,
        "sentence_nce": sentence,
        "within_nce": within,
    }
