"""DMR-JRG around the linear alignment, which is its evidence and the teacher of its parts.

Ours. The alignment of ``linear_align.py`` ranks videos and grounds; the paper's parts learn from it
and send no gradient back, so that it is the same with them and without them, and each of them can
be judged by what it adds:

    VPCMR    class tokens, one vector for a video and one for a paragraph: the first stage of a
             search, which the alignment ranks again. Ours in their place is a mean that keeps
             places, which loses less
    GRRM     the class tokens learn the alignment's ranking, listwise
    VTFA-GD  videos seen through their grounded sentences, as in the paper
    VTC-LD   the moment that the evidence points at should predict the sentence's words better than
             what lies before it, what lies after it, and the whole video
    BTSE-TD  the temporal heads should know the order in which the sentences stand from others
    P        learns how probable each span is to be right by the decoded evidence, as far as that
             evidence is to be trusted
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..decoding import Decoding, Evidence, Proposals, decode
from ..decoding import posterior as posteriors
from ..decoding.decode import span_scores
from ..losses import Losses
from ..losses.order import halves_exchanged, ordered_log_mass, reversed_order, right_order
from ..losses.overlap import remaining_mass
from ..losses.reconstruction import better_than
from ..losses.similarity import distill_listwise
from .dmr_jrg import (
    DMRJRG,
    RECONSTRUCTION_TERMS,
    TEMPORAL_PARTS,
    TEMPORAL_TERMS,
    DMRJRGOutput,
)
from .dmr_jrg_evidence import masked_reconstruction_gain, pseudo_label_loss
from .interface import Encoded, Plan, Stage, require
from .layers.linear_alignment import (
    LinearAlignment,
    LinearAlignOutput,
    sentence_loss,
    within_loss,
)
from .layers.placed_mean import PlacedMean
from .layers.position import PositionCells
from .layers.proposal_map import frames_inside
from .layers.reconstruction_evidence import clip_cells
from .layers.text import SentenceEncoder, word_logits
from .layers.transformer import ClassToken, transformer_encoder

ALIGNMENT_TERMS = frozenset({"sentence", "within"})
GLOBAL_TERMS = frozenset({"global_triplet", "global_nce", "global_distillation"})
TOKEN_TERMS = frozenset({"retrieval_triplet", "retrieval_nce", "distillation"}) | GLOBAL_TERMS
HEAD_TERMS = TEMPORAL_TERMS | {"temporal_teacher", "order"}
MAP_TERMS = RECONSTRUCTION_TERMS | HEAD_TERMS | {"contrast", "posterior"} | GLOBAL_TERMS
# Blocks of time, as far apart from their neighbours as eight can be: what a moment is lost in.
SHUFFLED = (3, 6, 1, 4, 7, 2, 5, 0)


@dataclass(frozen=True)
class LinearOutput(DMRJRGOutput):
    """What the losses read beside what those of the paper read; ``similarity`` is that of the class
    tokens. A field is None when no active term asks for it."""

    alignment: LinearAlignOutput | None = None
    ranking: Float[Tensor, "B B"] | None = None  # of paragraphs and videos, by the alignment
    other_nll: Float[Tensor, "M 3"] | None = None  # from the whole video, before, after
    exists: Bool[Tensor, "M 3"] | None = None  # whether there is anything before and after
    teacher: Int[Tensor, " M"] | None = None  # the span that the decoded evidence points at
    order: tuple[Float[Tensor, "B 3"], ...] = ()  # log mass of the right order and of others
    posterior: Proposals | None = None  # how probably each span is right, by all of the batch


class DMRJRGLinear(DMRJRG):
    """The composition. Further keywords are those of ``DMRJRG``, whose ``retrieval`` and
    ``grounded_retrieval`` are given here.

    Args:
        dims: the sizes that the data decides.
        decoding: by which evidence becomes candidates and pseudo-labels in training.
        alignment_size: of the common space of clips and sentences, and of the class tokens.
        input_dropout: of both inputs of the alignment.
        smoothing: clips on each side that are averaged into a clip.
        attention: inverse temperature of the alignment's attention over clips.
        position_bias: how strongly that attention looks where the sentence's position suggests.
        alike: cosine of text features above which sentences of a paragraph count once in the
            similarity of the paragraph with a video.
        retrieval: ``class_token``: with the class tokens, VPCMR; ``placed_mean``: in their place
            the alignment's vectors around a few places, side by side, which nothing trains;
            ``mean``: neither, and a search shortlists by the alignment's clips.
        places: K of ``placed_mean``; 1 where sentences stand in no order of time.
        grounded_retrieval: build the global branch, VTFA-GD.
        tied_embeddings: the reconstructor names masked words by their vectors, not by rows of its
            own.
        mask_ratio: part of a sentence's words that are masked.
        reconstruction_evidence: how well each clip reconstructs the sentence's words is evidence
            for the decoding, beside the alignment; needs a mask_ratio of 1.
        sentence_position: give the map each sentence's position in the paragraph.
    """

    grounds_from = frozenset({"scores", "clips"})
    temporal_terms = HEAD_TERMS
    clip_cells: Int[Tensor, " N"]
    other_rows: Int[Tensor, "P 3 F"]
    other_exists: Bool[Tensor, "P 3"]
    starts: Int[Tensor, " P"]

    def __init__(
        self,
        dims: DataDims,
        decoding: Decoding | None = None,
        *,
        alignment_size: int = 256,
        input_dropout: float = 0.5,
        smoothing: int = 2,
        attention: float = 5.0,
        position_bias: float = 0.0,
        alike: float = 0.7,
        retrieval: Literal["class_token", "placed_mean", "mean"] = "class_token",
        places: int = 3,
        grounded_retrieval: bool = False,
        tied_embeddings: bool = False,
        mask_ratio: float = 1 / 3,
        reconstruction_evidence: bool = False,
        sentence_position: bool = True,
        **paper: Any,
    ) -> None:
        if paper.get("text_encoder", "lstm") != "lstm":
            raise ValueError("sentences are the alignment's: text_encoder is 'lstm'")
        if grounded_retrieval and retrieval != "class_token":
            raise ValueError(
                f"grounded_retrieval needs an encoder to share: retrieval is {retrieval!r}"
            )
        if reconstruction_evidence and mask_ratio < 1:
            raise ValueError("reconstruction_evidence needs mask_ratio: 1, or words predict words")
        super().__init__(dims, retrieval="mean", grounded_retrieval=False, **paper)
        D, A = self.score.in_features, alignment_size
        self.decoding = dataclasses.replace(decoding or Decoding(), source="evidence")
        self.alignment = LinearAlignment(
            dims,
            hidden_size=A,
            dropout=input_dropout,
            smoothing=smoothing,
            attention=attention,
            position_bias=position_bias,
            alike=alike,
        )
        # What the map reads; of the paper's encoders there remains what reads masked words.
        layers = self.text.lstm.num_layers
        self.text = SentenceEncoder(dims.word_dim, D, num_layers=layers, readout=False)
        self.clips = nn.Linear(A, D)  # type: ignore[assignment]
        self.sentences = nn.Linear(A, D)
        self.evidence_cell = nn.Linear(1, D)
        self.position_cell = PositionCells(D) if sentence_position else None
        if tied_embeddings:
            self.reconstructor.words = word_logits(dims, D, tied=True)
        self.mask_ratio = mask_ratio
        self.reconstruction_evidence = reconstruction_evidence
        self.placed = PlacedMean(places) if retrieval == "placed_mean" else None
        self._build_retrieval(dims, A, retrieval, grounded_retrieval, paper)
        self._build_spans(dims.num_frames, self.frame_rows.shape[1])

    def _build_retrieval(
        self,
        dims: DataDims,
        A: int,
        retrieval: Literal["class_token", "placed_mean", "mean"],
        grounded: bool,
        paper: dict[str, Any],
    ) -> None:
        """VPCMR and VTFA-GD, as wide as the alignment."""
        self.retrieval, self.grounded_retrieval = retrieval, grounded
        scale = self.log_scale.detach().clone()
        if retrieval != "class_token":
            del self.log_scale
            return
        sizes = {
            "num_layers": paper.get("encoder_layers", 6),
            "heads": paper.get("heads", 8),
            "feedforward": paper.get("feedforward", 2048),
            "dropout": paper.get("dropout", 0.1),
        }
        self.video_encoder = transformer_encoder(A, **sizes)  # E1 = E3
        self.text_encoder = transformer_encoder(A, **sizes)  # E2
        self.video_token = ClassToken(dims.num_clips, A)
        self.text_token = ClassToken(dims.max_sentences, A)
        if grounded:
            weights = paper.get("candidate_weights", (0.4, 0.3, 0.3))
            self.candidate_weights = nn.Parameter(
                torch.tensor(list(weights)),
                requires_grad=paper.get("learn_candidate_weights", False),
            )
            self.lift = nn.Linear(self.score.in_features, A)
            self.grounded_token = ClassToken(dims.max_sentences, A)
            self.merge = nn.Linear(2 * A, A)
            self.global_log_scale = nn.Parameter(scale, self.log_scale.requires_grad)

    def _build_spans(self, num_frames: int, count: int) -> None:
        spans = self.grid.spans
        zero, one = torch.zeros_like(spans[:, 0]), torch.ones_like(spans[:, 0])
        others = [(zero, one), (zero, spans[:, 0]), (spans[:, 1], one)]
        pairs = [torch.stack(pair, dim=1) for pair in others]
        rows = torch.stack([frames_inside(pair, num_frames, count) for pair in pairs], dim=1)
        exists = torch.stack([pair.diff(dim=1)[:, 0] > 1e-6 for pair in pairs], dim=1)
        whole = spans.diff(dim=1)[:, 0] > 1 - 1e-6  # is no worse than itself
        exists[:, 0] &= ~whole
        self.register_buffer("other_rows", rows, persistent=False)
        self.register_buffer("other_exists", exists, persistent=False)
        starts = posteriors.starts(spans, self.grid.num_clips)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("clip_cells", clip_cells(self.grid), persistent=False)

    @property
    def embeddings(self) -> tuple[str, str] | None:
        return ("aligned", "sentences") if self.retrieval == "mean" else ("token", "token")

    @property
    def compares_embeddings(self) -> bool:
        return False

    @property
    def unavailable_terms(self) -> frozenset[str]:
        terms: frozenset[str] = frozenset()
        if self.retrieval != "class_token":
            terms |= TOKEN_TERMS
        if not self.grounded_retrieval:
            terms |= GLOBAL_TERMS
        if not self.directions:
            terms |= HEAD_TERMS
        return terms

    # Training.

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        known = ALIGNMENT_TERMS | TOKEN_TERMS | MAP_TERMS
        wanted = (known if terms is None else terms & known) - self.unavailable_terms
        text = self.alignment.words(batch)
        parts: Encoded = {"text": text}
        if wanted & ALIGNMENT_TERMS:
            parts["sentences"] = self.alignment.sentences_of(text)
            parts["clips"] = self.alignment.clips_of(batch.video)
        if not wanted - ALIGNMENT_TERMS:
            return parts
        with torch.no_grad():  # the parts learn from the alignment as it is in use
            sentences = self.alignment.sentences_of(text, drop=False)
            clips = self.alignment.clips_of(batch.video, drop=False)
        state = None
        if wanted & TOKEN_TERMS:
            state = self.video_state(clips)
            parts["token"] = nn.functional.normalize(state.float(), dim=-1)
            parts["paragraph"] = self.text_feature(batch, sentences)
            parts |= {"fixed_sentences": sentences, "fixed_clips": clips}
        if wanted & MAP_TERMS:
            parts |= self._encode_map(batch, text, sentences, clips, state, wanted)
        return parts

    def _encode_map(
        self,
        batch: Batch,
        text: Float[Tensor, "M F"],
        sentences: Float[Tensor, "M A"],
        clips: Float[Tensor, "B N A"],
        state: Float[Tensor, "B A"] | None,
        wanted: frozenset[str],
    ) -> Encoded:
        cosines = batch.flat(batch.padded(sentences) @ clips.mT)
        evidence = self._evidence(batch, {"alignment": cosines}, text)
        decoded = decode(evidence, self.decoding).scores
        asked = wanted  # of what encode_map knows by the paper's terms
        if "contrast" in wanted:
            asked |= {"reconstruction"}
        if wanted & GLOBAL_TERMS:
            asked |= {"global_nce"}
        parts = self.encode_map(
            batch,
            self.sentences(sentences * sentences.shape[-1] ** 0.5),
            self.clips(clips * clips.shape[-1] ** 0.5),
            state,
            asked - {"distillation"},  # which is the alignment's here
            added=self._added(evidence),
            belief=lambda logits: decoded,
        )
        if "temporal_teacher" in wanted:
            parts["teacher"] = decoded.argmax(dim=1)
        if "posterior" in wanted:
            parts["evidence"] = cosines
            with torch.no_grad():
                mixed = self.alignment.clips_of(shuffled_blocks(batch.video), drop=False)
            parts["shuffled"] = batch.flat(batch.padded(sentences) @ mixed.mT)
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> LinearOutput:
        fields = self.compare_map({k: v for k, v in parts.items() if k != "merged"})
        fields |= {"alignment": None, "teacher": parts.get("teacher")}
        text = parts["text"]
        if "sentences" in parts:
            fields["alignment"] = self.alignment.compared(
                parts["sentences"], text, parts["clips"], batch
            )
        similarity, scale = None, text.new_ones(())
        if "token" in parts:
            similarity = parts["paragraph"] @ parts["token"].T
            scale = self.log_scale.exp().clamp(max=100)
            fields["ranking"] = self.alignment.paragraph_similarity(
                batch.padded(parts["fixed_sentences"]),
                batch.padded(text),
                batch.sentence_mask,
                parts["fixed_clips"],
            ).detach()
        if "merged" in parts:
            fields["global_similarity"] = parts["paragraph"] @ parts["merged"].T
            fields["global_scale"] = self.global_log_scale.exp().clamp(max=100)
        if "nll" in parts:
            Q = self.num_candidates
            fields["nll"], fields["other_nll"] = parts["nll"][:, :Q], parts["nll"][:, Q:]
            fields["exists"] = self.other_exists[parts["candidates"][:, 0]]
        names = [f"order_{name}" for name in TEMPORAL_PARTS]
        fields["order"] = tuple(parts[name] for name in names if name in parts)
        if "evidence" in parts:
            fields["posterior"] = self._posterior(parts, batch)
        return LinearOutput(similarity=similarity, scale=scale, **fields)

    @torch.no_grad()
    def _posterior(self, parts: Encoded, batch: Layout) -> Proposals:
        """How probably each span is right, given the evidence as far as it fits moments better in
        the videos' own time than in shuffled time."""
        own, mixed = parts["evidence"], parts["shuffled"]
        gain = posteriors.contiguity(own, mixed, self.grid.spans)
        gain = gain if math.isfinite(gain) else 0.0  # of a single sentence nothing is known
        trust = min(max(gain / self.decoding.full_trust, 0.0), 1.0)
        evidence = self._evidence(batch, {"alignment": own}, parts["text"])
        decoding = dataclasses.replace(self.decoding, method="posterior")
        return decode(evidence, decoding, {"trust": trust})

    def _evidence(
        self, layout: Layout, sources: dict[str, Tensor], text: Float[Tensor, "M F"]
    ) -> Evidence:
        return Evidence(layout, self.grid.spans, self.grid.num_clips, clips=sources, text=text)

    def _added(self, evidence: Evidence) -> list[Float[Tensor, "M P D"]]:
        """What the map reads beside the video and the sentence."""
        cells = span_scores(evidence, self.decoding)[..., None]
        added = [self.evidence_cell(cells.to(self.evidence_cell.weight.dtype))]
        if self.position_cell is not None:
            added.append(self.position_cell(self.grid, evidence.layout))
        return added

    def video_state(self, clips: Float[Tensor, "B N A"]) -> Float[Tensor, "B A"]:
        return super().video_state(clips * clips.shape[-1] ** 0.5)

    def text_feature(self, batch: Batch, sentences: Float[Tensor, "M A"]) -> Float[Tensor, "B A"]:
        return super().text_feature(batch, sentences * sentences.shape[-1] ** 0.5)

    def merged(
        self,
        batch: Batch,
        video_state: Float[Tensor, "B A"],
        moments: Float[Tensor, "M Q D"],
    ) -> Float[Tensor, "B A"]:
        return super().merged(batch, video_state, self.lift(moments))

    def rows_of(self, batch: Batch, candidates: Int[Tensor, "M Q"]) -> Int[Tensor, "M R F"]:
        """Those of the candidates, and of the whole video and what lies before and after the first
        candidate."""
        others = self.other_rows[candidates[:, 0]]
        return torch.cat([super().rows_of(batch, candidates), others], dim=1)

    def temporal(self, batch: Batch, scores: Sequence[Float[Tensor, "M P"]]) -> Encoded:
        """Beside the heads' logits the log mass (B, 3) that each gives to the order of the
        sentences, to the reverse one and to the one with the halves exchanged, when it has read
        them in that order."""
        maps = super().temporal(batch, scores)
        mask = batch.sentence_mask
        orders = [reversed_order(mask), halves_exchanged(mask)]
        for raw, head, reverse in zip(scores, self.temporal_scores, self.directions, strict=True):
            rows, bias = batch.padded(raw), cast(nn.Linear, head).bias
            masses = []
            for each in (rows, *(rows.gather(1, o[..., None].expand_as(rows)) for o in orders)):
                logits = remaining_mass(each, bias, mask, reverse=reverse)
                masses.append(ordered_log_mass(logits.log_softmax(dim=2), self.starts, mask))
            maps[f"order_{TEMPORAL_PARTS[reverse]}"] = torch.stack(masses, dim=1)
        return maps

    # Scoring.

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``aligned`` (B, N, A), of unit length; ``token`` (B, A or K·A) for the first stage;
        ``frames`` (B, T, D) for the reconstructor, as far as there is someone to read them."""
        clips = self.alignment.clips_of(video)
        parts = {"aligned": clips}
        if self.retrieval == "class_token":
            parts["token"] = nn.functional.normalize(self.video_state(clips).float(), dim=-1)
        elif self.placed is not None:
            parts["token"] = self.placed.of_clips(clips)
        if self.reconstruction_evidence:
            parts["frames"] = self.reconstructor.frames(video)
        return parts

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` (B, S, A) of unit length, ``text`` (B, S, F), ``mask``: which exist;
        ``token`` (B, A or K·A); for the reconstruction ``word_ids`` (B, S, W) and ``word_counts``
        (B, S).
        """
        text = self.alignment.words(batch)
        sentences = self.alignment.sentences_of(text)
        parts = {
            "sentences": batch.padded(sentences),
            "text": batch.padded(text),
            "mask": batch.sentence_mask,
        }
        if self.retrieval == "class_token":
            parts["token"] = self.text_feature(batch, sentences)
        elif self.placed is not None:
            weights = self.alignment.weights(parts["text"], batch.sentence_mask)
            parts["token"] = self.placed.of_sentences(parts["sentences"], weights, batch)
        if self.reconstruction_evidence:
            parts |= {"word_ids": batch.word_ids, "word_counts": batch.word_mask.sum(dim=2)}
        return parts

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """By the alignment."""
        return self.alignment.paragraph_similarity(
            paragraphs["sentences"], paragraphs["text"], paragraphs["mask"], videos["aligned"]
        )

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """``alignment``: the cosine of each sentence with each clip; ``reconstruction``: how well
        each clip predicts its words; and every valid cell's score in P where it is read."""
        read = self.grounds_from if read is None else read
        pairs = Layout.of(paragraphs["mask"])
        sentences, clips = paragraphs["sentences"], videos["aligned"]
        text = pairs.flat(paragraphs["text"])
        sources = {"alignment": pairs.flat(sentences @ clips.mT)}
        learnt = self._evidence(pairs, dict(sources), text)
        if self.reconstruction_evidence:
            ids, counts = (pairs.flat(paragraphs[name]) for name in ("word_ids", "word_counts"))
            sources["reconstruction"] = masked_reconstruction_gain(
                self, self.clip_cells, videos["frames"], ids, counts.cpu(), pairs
            )
        evidence = self._evidence(pairs, sources, text)
        if "scores" not in read:
            return evidence
        root = clips.shape[-1] ** 0.5
        features = self.map_features(
            self.clips(clips * root),
            self.sentences(pairs.flat(sentences) * root),
            pairs,
            self._added(learnt),
        )
        return dataclasses.replace(evidence, scores=self.score(features).squeeze(-1).sigmoid())

    @staticmethod
    def losses(  # type: ignore[override]
        *,
        scale: float = 5.0,
        alike: float = 0.8,
        margin: float = 0.2,
        temperature: float = 0.05,
        reference_margin: float = 0.1,
        outside_margin: float = 0.15,
        min_iou: float = 0.5,
        max_iou: float = 1.0,
    ) -> Losses:
        """``sentence`` and ``within`` train the alignment, as in ``linear_align``.
        ``distillation``: the class tokens rank as the alignment does. ``global_distillation``: they
        rank as the similarity of VTFA-GD does, as the paper has it, but listwise.
        ``temporal_teacher`` gives P^f and P^r the span that the decoded evidence points at;
        ``contrast``, ``order`` and ``posterior`` are those of VTC-LD, BTSE-TD and P above. The
        others are the paper's.

        Args:
            scale: λ of the alignment, on the similarities.
            alike: cosine of text features above which a sentence of another video is like the one
                at hand, so that the pair is no negative; 1: all are.
            margin: Δ of Eq. 6 and 7.
            temperature: of the alignment's ranking in the distillation.
            reference_margin, outside_margin: by which the moment should predict a word better than
                the whole video and than what lies before and after it, in nats.
            min_iou, max_iou: overlap with a pseudo-label at which its soft label is 0 and 1.
        """
        options = {"scale": scale, "alike": alike}

        def distillation(out: LinearOutput, batch: Batch) -> Tensor:
            teacher = require(out.ranking) / temperature
            return distill_listwise(require(out.similarity) * out.scale, teacher)

        def global_distillation(out: LinearOutput, batch: Batch) -> Tensor:
            teacher = require(out.global_similarity) * require(out.global_scale)
            return distill_listwise(require(out.similarity) * out.scale, teacher)

        def contrast(out: LinearOutput, batch: Batch) -> Tensor:
            nll, other = require(out.nll)[:, :1], require(out.other_nll)
            other = other.masked_fill(~require(out.exists), torch.inf)
            whole, sides = other.split([1, 2], dim=1)
            return better_than(nll, whole, margin=reference_margin) + better_than(
                nll, sides, margin=outside_margin
            )

        def temporal_teacher(out: LinearOutput, batch: Batch) -> Tensor:
            return pseudo_label_loss(out, require(out.teacher), min_iou=min_iou, max_iou=max_iou)

        def order(out: LinearOutput, batch: Batch) -> Tensor:
            total = require(out.logits).new_zeros((), dtype=torch.float32)
            for masses in out.order:
                total = total + right_order(masses, batch.sentence_counts)
            return total

        def posterior(out: LinearOutput, batch: Batch) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(
                require(out.logits).float(), require(out.posterior).scores.float().clamp(0, 1)
            )

        paper = DMRJRG.losses(margin=margin, min_iou=min_iou, max_iou=max_iou)
        return {
            **paper,
            "sentence": lambda out, batch: sentence_loss(require(out.alignment), batch, **options),
            "within": lambda out, batch: within_loss(require(out.alignment), batch, **options),
            "distillation": distillation,
            "global_distillation": global_distillation,
            "contrast": contrast,
            "temporal_teacher": temporal_teacher,
            "order": order,
            "posterior": posterior,
        }

    @staticmethod
    def plan(  # type: ignore[override]
        *, alignment_epochs: int = 0
    ) -> Plan:
        """First the alignment alone, then what learns from it, the alignment as it is.

        Args:
            alignment_epochs: how many epochs it has to itself; 0: everything learns together.
        """
        parts = (TOKEN_TERMS | MAP_TERMS) - ALIGNMENT_TERMS
        first = Stage(dict.fromkeys(parts, 0.0))
        second = Stage(dict.fromkeys(ALIGNMENT_TERMS, 0.0), frozen=("alignment.",))
        if not alignment_epochs:
            return Plan()
        return Plan(lambda epoch: (first if epoch < alignment_epochs else second,))


def shuffled_blocks(video: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
    """Videos of which eight blocks of time stand in another order."""
    blocks = video.tensor_split(len(SHUFFLED), dim=1)
    return torch.cat([blocks[block] for block in SHUFFLED], dim=1)
