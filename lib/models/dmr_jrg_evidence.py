"""DMR-JRG with evidence over clips: from an alignment, from its reconstruction, or from both.

Ours. The paper's parts are those of ``dmr_jrg.py``; this file adds evidence to the map P of where a
sentence happens: the cosines of an alignment of clips and sentences (``clip_align.py`` alone), and
how well each clip reconstructs the sentence's words, all of them masked. The map reads that
evidence, candidates are chosen by it, and what the decoding of the whole paragraph makes of it is
the pseudo-label of the temporal heads. At test time the decoding reads the evidence, P, or both
(``DECODE``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..base.moments import iou
from ..decoding import Decoding, Evidence, decode
from ..decoding.decode import span_scores
from ..losses import Losses
from ..losses.overlap import scaled_iou_bce
from ..losses.similarity import sentence_nce, within_paragraph_nce
from .dmr_jrg import (
    DMRJRG,
    GLOBAL_TERMS,
    MAP_TERMS,
    TEMPORAL_TERMS,
    TOKEN_TERMS,
    DMRJRGOutput,
)
from .interface import Encoded, require
from .layers.alignment import Alignment, ClipAlignment
from .layers.position import PositionCells
from .layers.precision import in_full
from .layers.reconstruction_evidence import clip_cells, clip_reconstruction_gain
from .layers.text import all_words, word_logits

ALIGNMENT_TERMS = frozenset({"sentence_nce", "within_nce"})
TEACHER_TERMS = frozenset({"temporal_teacher"})


@dataclass(frozen=True)
class EvidenceOutput(DMRJRGOutput):
    """What the losses read, beside what those of the paper read."""

    alignment: Alignment | None = None
    teacher: Int[Tensor, " M"] | None = None  # the span that the decoded evidence points at


def masked_reconstruction_gain(
    model: DMRJRG,
    cells: Int[Tensor, " N"],
    frames: Float[Tensor, "B T D"],
    ids: Int[Tensor, "M W"],
    counts: Int[Tensor, " M"],
    layout: Layout,
) -> Float[Tensor, "M N"]:
    """``clip_reconstruction_gain`` of a model's reconstructor with all words masked.

    Args:
        cells: of the map that are single clips.
        frames: of the videos, through ``reconstructor.frames``.
        ids: of the words, of which ``counts`` (on the CPU) are real.
    """
    states, _ = model.text(model.mask_word.expand(*ids.shape, -1), counts)
    masked = all_words(counts, ids.device)
    return clip_reconstruction_gain(
        lambda chosen: model.nll(
            frames, layout.owner, model.frame_rows[chosen], states, ids, counts, masked
        ),
        cells,
        len(ids),
    )


def pseudo_label_loss(
    out: DMRJRGOutput, label: Int[Tensor, " M"], *, min_iou: float, max_iou: float
) -> Tensor:
    """Of P^f and P^r against the spans that a pseudo-label names."""
    total = require(out.logits).new_zeros((), dtype=torch.float32)
    overlap = iou(out.spans[label][:, None], out.spans)
    for head in out.temporal_logits:
        total = total + scaled_iou_bce(head, overlap, min_iou=min_iou, max_iou=max_iou)
    return total


class DMRJRGEvidence(DMRJRG):
    """DMR-JRG whose map reads evidence over clips. Further keywords are those of ``DMRJRG``.

    Args:
        dims: the sizes that the data decides.
        decoding: by which evidence becomes candidates and pseudo-labels in training.
        words: add the mean of a sentence's words to its feature.
        tied_embeddings: the reconstructor names masked words by their vectors, not by rows of its
            own.
        mask_ratio: part of a sentence's words that are masked; 1: each is reconstructed from the
            frames and its position alone.
        alignment: align clips and sentences directly.
        attention: inverse temperature of the alignment's attention over clips.
        position_bias: how strongly that attention looks where the sentence's position suggests.
        rank_by: what ranks videos, S^r: the paper's ``retrieval``, or the ``alignment``.
        reconstruction_evidence: how well each clip reconstructs the sentence's words is evidence
            for the decoding.
        reconstruction_evidence_in_training: the map, candidates and pseudo-labels read it too.
        sentence_position: give the map each sentence's position in the paragraph.
    """

    grounds_from = frozenset({"scores", "clips"})
    map_terms = MAP_TERMS | TEACHER_TERMS
    temporal_terms = TEMPORAL_TERMS | TEACHER_TERMS
    clip_cells: Int[Tensor, " N"]

    def __init__(
        self,
        dims: DataDims,
        decoding: Decoding | None = None,
        *,
        words: bool = False,
        tied_embeddings: bool = False,
        mask_ratio: float = 1 / 3,
        alignment: bool = False,
        attention: float = 10.0,
        position_bias: float = 0.0,
        rank_by: Literal["retrieval", "alignment"] = "retrieval",
        reconstruction_evidence: bool = False,
        reconstruction_evidence_in_training: bool = False,
        sentence_position: bool = False,
        **paper: Any,
    ) -> None:
        if rank_by == "alignment" and not paper.get("grounded_retrieval", True):
            paper["retrieval"] = "mean"  # no class tokens that nobody reads
        super().__init__(dims, **paper)
        if words and self.sentence is not None:
            raise ValueError("words adds to the LSTM's sentences: text_encoder is not 'lstm'")
        if rank_by == "alignment" and not alignment:
            raise ValueError("rank_by 'alignment' needs alignment: true")
        if reconstruction_evidence and mask_ratio < 1:
            raise ValueError("reconstruction_evidence needs mask_ratio: 1, or words predict words")
        if reconstruction_evidence_in_training and not reconstruction_evidence:
            raise ValueError(
                "reconstruction_evidence_in_training needs reconstruction_evidence: true"
            )
        D = self.score.in_features
        # In training, and for what the map reads: the evidence, whatever is decoded at test time.
        self.decoding = dataclasses.replace(decoding or Decoding(), source="evidence")
        self.mask_ratio, self.rank_by = mask_ratio, rank_by
        self.reconstruction_evidence = reconstruction_evidence
        self.reconstruction_in_training = reconstruction_evidence_in_training
        if words:
            self.text.words = nn.Linear(dims.word_dim, D)
        if tied_embeddings:
            self.reconstructor.words = word_logits(dims, D, tied=True)
        self.alignment = None
        if alignment:
            self.alignment = ClipAlignment(
                D,
                attention=attention,
                position_bias=position_bias,
                initial_scale=self.log_scale.exp().item(),
                learn_scale=self.log_scale.requires_grad,
            )
        if rank_by == "alignment":
            del self.log_scale  # λ is the alignment's
        self.map_reads_evidence = alignment or reconstruction_evidence_in_training
        if self.map_reads_evidence:
            self.evidence_cell = nn.Linear(1, D)
        self.position_cell = PositionCells(D) if sentence_position else None
        self.register_buffer("clip_cells", clip_cells(self.grid), persistent=False)

    @property
    def embeddings(self) -> tuple[str, str] | None:
        return super().embeddings if self.rank_by == "retrieval" else ("aligned", "sentences")

    @property
    def compares_embeddings(self) -> bool:
        return self.rank_by == "retrieval"

    @property
    def unavailable_terms(self) -> frozenset[str]:
        terms = super().unavailable_terms
        if self.alignment is None:
            terms |= ALIGNMENT_TERMS
        if not (self.map_reads_evidence and self.directions):
            terms |= TEACHER_TERMS
        return terms

    # Training.

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        wanted = self.map_terms if terms is None else terms & self.map_terms
        sentences, clips = self.sentence_features(batch), self.clips(batch.video)
        parts: Encoded = {}
        state = None
        ranks = self.rank_by == "retrieval" and (terms is None or bool(terms & TOKEN_TERMS))
        if self.alignment is not None:
            parts |= {"sentences": sentences, "clips": clips}
        if ranks or self.grounded_retrieval and wanted & GLOBAL_TERMS:
            parts["text"] = self.text_feature(batch, sentences)
            state = self.video_state(clips)
        if ranks:
            parts["video"] = nn.functional.normalize(require(state).float(), dim=-1)
        if not wanted:
            return parts

        evidence = self._evidence_in_training(sentences, clips, batch)
        scores = None if evidence is None else span_scores(evidence, self.decoding)
        parts |= self.encode_map(
            batch,
            sentences,
            clips,
            state,
            wanted,
            added=self._added(scores, batch),
            belief=lambda logits: self._belief(logits, scores),
        )
        if evidence is not None and wanted & TEACHER_TERMS:
            parts["teacher"] = decode(evidence, self.decoding).scores.argmax(dim=1)
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> EvidenceOutput:
        aligned = None
        if self.alignment is not None:
            aligned = self.alignment(parts["sentences"], parts["clips"], batch)
        if self.rank_by == "alignment":
            similarity, scale = require(aligned).similarity, require(aligned).scale
        else:
            similarity = parts["text"] @ parts["video"].T if "video" in parts else None
            scale = self.log_scale.exp().clamp(max=100)
        return EvidenceOutput(
            similarity=similarity,
            scale=scale,
            alignment=aligned,
            teacher=parts.get("teacher"),
            **self.compare_map(parts),
        )

    @torch.no_grad()
    def _evidence_in_training(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], batch: Batch
    ) -> Evidence | None:
        """Of the sentences in their own video, as far as training reads it; no gradient, it is read
        by arg-max and as input."""
        if not self.map_reads_evidence:
            return None
        sources = {}
        with in_full(clips):
            if self.alignment is not None:
                clips = self.alignment.clip(clips.float())
                sources["alignment"] = self.alignment.evidence(sentences.float(), clips, batch)
            if self.reconstruction_in_training:
                frames, ids = self.reconstructor.frames(batch.video), batch.flat(batch.word_ids)
                sources["reconstruction"] = self.reconstruction_gain(
                    frames, ids, batch.word_counts, batch
                )
        return self._evidence(batch, sources)

    def _evidence(self, layout: Layout, sources: dict[str, Tensor]) -> Evidence:
        return Evidence(layout, self.grid.spans, self.grid.num_clips, clips=sources)

    def _added(
        self, scores: Float[Tensor, "M P"] | None, layout: Layout
    ) -> list[Float[Tensor, "M P D"]]:
        """What the map reads beside the video and the sentence."""
        added = []
        if scores is not None:
            cells = scores[..., None].to(self.evidence_cell.weight.dtype)
            added.append(self.evidence_cell(cells))
        if self.position_cell is not None:
            added.append(self.position_cell(self.grid, layout))
        return added

    def _belief(
        self, logits: Float[Tensor, "M P"], scores: Float[Tensor, "M P"] | None
    ) -> Float[Tensor, "M P"]:
        """By what candidates are chosen: the evidence with P beside it, or P alone."""
        if scores is None:
            return logits.sigmoid()
        return scores + self.decoding.score_weight * logits.sigmoid()

    def reconstruction_gain(
        self,
        frames: Float[Tensor, "B T D"],
        ids: Int[Tensor, "M W"],
        counts: Int[Tensor, " M"],
        layout: Layout,
    ) -> Float[Tensor, "M N"]:
        """``masked_reconstruction_gain`` of this model."""
        return masked_reconstruction_gain(self, self.clip_cells, frames, ids, counts, layout)

    # Scoring.

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips`` (B, N, D), ``aligned`` for the alignment, ``frames`` (B, T, D) for the
        reconstructor, ``token``: unit features (B, D); as far as there is someone to read them."""
        clips = self.clips(video)
        parts = {"clips": clips}
        if self.alignment is not None:
            parts["aligned"] = self.alignment.clip(clips)
        if self.reconstruction_evidence:
            parts["frames"] = self.reconstructor.frames(video)
        if self.rank_by == "retrieval":
            parts["token"] = nn.functional.normalize(self.video_state(clips), dim=-1)
        return parts

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` (B, S, D), ``mask``: which exist, ``token``: unit features (B, D); for the
        reconstruction ``word_ids`` (B, S, W) and ``word_counts`` (B, S)."""
        sentences = self.sentence_features(batch)
        parts = {"sentences": batch.padded(sentences), "mask": batch.sentence_mask}
        if self.rank_by == "retrieval":
            parts["token"] = self.text_feature(batch, sentences)
        if self.reconstruction_evidence:
            parts |= {"word_ids": batch.word_ids, "word_counts": batch.word_mask.sum(dim=2)}
        return parts

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        if self.rank_by == "retrieval":
            return super().similarity(paragraphs, videos)
        return require(self.alignment).paragraph_similarity(
            paragraphs["sentences"], paragraphs["mask"], videos["aligned"]
        )

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """Evidence over clips, and every valid cell's score in P where it is read."""
        read = self.grounds_from if read is None else read
        pairs = Layout.of(paragraphs["mask"])
        sentences = pairs.flat(paragraphs["sentences"])
        sources = {}
        if self.alignment is not None:
            sources["alignment"] = self.alignment.evidence(sentences, videos["aligned"], pairs)
        if self.reconstruction_evidence:
            ids, counts = (pairs.flat(paragraphs[name]) for name in ("word_ids", "word_counts"))
            sources["reconstruction"] = self.reconstruction_gain(
                videos["frames"], ids, counts.cpu(), pairs
            )
        evidence = self._evidence(pairs, sources)
        if "scores" not in read and sources:  # without a source there is nothing but the map
            return evidence
        scores = None
        if self.map_reads_evidence:  # what it has learnt to read
            learnt = sources
            if not self.reconstruction_in_training:
                learnt = {"alignment": sources["alignment"]}
            scores = span_scores(self._evidence(pairs, learnt), self.decoding)
        features = self.map_features(videos["clips"], sentences, pairs, self._added(scores, pairs))
        return dataclasses.replace(evidence, scores=self.score(features).squeeze(-1).sigmoid())

    @staticmethod
    def losses(*, margin: float = 0.2, min_iou: float = 0.5, max_iou: float = 1.0) -> Losses:
        """The paper's; ``temporal_teacher`` gives P^f and P^r the span that the decoded evidence
        points at; ``sentence_nce`` and ``within_nce`` train the alignment: the right video for a
        sentence, the right sentence for the clips it attends to.

        Args:
            margin: Δ of Eq. 6 and 7.
            min_iou, max_iou: overlap with a pseudo-label at which its soft label is 0 and 1.
        """

        def temporal_teacher(out: EvidenceOutput, batch: Batch) -> Tensor:
            return pseudo_label_loss(out, require(out.teacher), min_iou=min_iou, max_iou=max_iou)

        def sentence(out: EvidenceOutput, batch: Batch) -> Tensor:
            aligned = require(out.alignment)
            return sentence_nce(
                aligned.sentence_similarity, aligned.scale, batch.owner, batch.same_video
            )

        def within(out: EvidenceOutput, batch: Batch) -> Tensor:
            aligned = require(out.alignment)
            return within_paragraph_nce(aligned.within, aligned.scale, batch.sentence_mask)

        paper = DMRJRG.losses(margin=margin, min_iou=min_iou, max_iou=max_iou)
        ours = {
            "temporal_teacher": temporal_teacher,
            "sentence_nce": sentence,
            "within_nce": within,
        }
        return {**paper, **ours}
