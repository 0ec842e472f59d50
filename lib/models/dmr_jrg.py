"""DMR-JRG: dual-task mutual reinforcing embedded joint video paragraph retrieval and grounding.

Wang, Li, Zhang, Li, Xie and Tao. Weakly supervised: training knows which paragraph belongs to which
video, and no timestamp. This file is the paper and nothing else, its parts in the order of its
sections, with its symbols and equation numbers. Where the paper leaves something open or cannot be
meant, ``docs/deviations.md`` states what is done and why; what was added to make it ground is in
``dmr_jrg_evidence.py``.

    text encoder ─┬─ retrieval branch (VPCMR) ──────────────── S^r ──┐
                  │                                                  ├─ distillation (GRRM)
    clips ─ map ──┴─ TAN ─ P ─┬─ candidates ─ global branch ── S^g ──┘
                              ├─ candidates ─ reconstructor (VTC-LD)
                              └─ temporal heads P^f, P^r (BTSE-TD)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..base.moments import greedy_suppression, iou
from ..decoding import Evidence
from ..losses import Losses
from ..losses.overlap import remaining_mass, scaled_iou_bce
from ..losses.reconstruction import candidate_nll, rank_by_reconstruction
from ..losses.similarity import distill, info_nce, triplet
from .interface import Encoded, Model, Plan, require
from .layers.fusion import fused_cells
from .layers.proposal_map import MaskedConvStack, ProposalGrid
from .layers.reconstructor import Reconstructor
from .layers.text import (
    MaskedWords,
    SentenceEncoder,
    SentenceFeatures,
    all_words,
    draw_masked_words,
)
from .layers.transformer import ClassToken, transformer_encoder
from .layers.video import ClipEncoder

GLOBAL_TERMS = frozenset({"global_triplet", "global_nce", "distillation"})
TOKEN_TERMS = frozenset({"retrieval_triplet", "retrieval_nce"}) | GLOBAL_TERMS
RECONSTRUCTION_TERMS = frozenset({"reconstruction", "rank", "temporal_rank"})
TEMPORAL_TERMS = frozenset({"temporal", "temporal_rank"})
MAP_TERMS = GLOBAL_TERMS | RECONSTRUCTION_TERMS | TEMPORAL_TERMS
DIRECTIONS: dict[str, tuple[bool, ...]] = {  # whether each temporal head reads in reverse
    "both": (False, True),
    "forward": (False,),
    "reverse": (True,),
    "none": (),
}
TEMPORAL_PARTS = ("temporal_forward", "temporal_reverse")


@dataclass(frozen=True)
class DMRJRGOutput:
    """What the losses read. A field is None when no active term asks for it."""

    similarity: Float[Tensor, "B B"] | None  # S^r, paragraphs x videos
    scale: Float[Tensor, ""]  # λ of S^r
    spans: Float[Tensor, "P 2"]
    logits: Float[Tensor, "M P"] | None = None  # of P
    candidates: Int[Tensor, "M Q"] | None = None
    nll: Float[Tensor, "M Q"] | None = None  # of the masked words, by candidate
    global_similarity: Float[Tensor, "B B"] | None = None  # S^g
    global_scale: Float[Tensor, ""] | None = None  # λ of S^g
    temporal_logits: tuple[Float[Tensor, "M P"], ...] = ()  # of P^f and P^r, as far as built


class DMRJRG(Model):
    """The method whole; every part can be left out by a keyword.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, the paper's d_s and d_v.
        text_encoder: ``lstm``, or the folder of a pretrained transformer (Table VI: BERT), whose
            sentences a linear map brings to D. Masked words are read by the Bi-LSTM in either case.
        lstm_layers: depth of the Bi-LSTM.
        density: ``sparse`` (2D-TAN's rule) or ``dense``: which spans are proposals.
        kernel_size, conv_layers, conv_norm: of the TAN; 0 layers score every cell alone.
        num_candidates: Q.
        candidate_weights: w of Eq. 14, best candidate first.
        learn_candidate_weights: start from them and train them (Table V).
        candidate_iou: two candidates of a sentence overlap at most this much; 1: the plain top Q.
        candidate_frames: rows of the video that the reconstructor sees of a candidate.
        retrieval: ``class_token`` (VPCMR), or ``mean`` of clips and sentences (the ablation's
            base).
        grounded_retrieval: build the global branch, VTFA-GD.
        temporal: which of the heads of BTSE-TD to build: both, forward, reverse or none.
        encoder_layers, heads, feedforward, dropout: of the encoders E1 and E2.
        reconstructor_layers: of its encoder and decoder.
        reconstruct: ``masked`` words only, or ``all`` words of the sentence.
        label_smoothing: of the reconstruction.
        initial_scale, learn_scale: λ of Eq. 3 and 4; bounded above by 100.
    """

    frame_rows: Int[Tensor, "P F"]
    map_terms, temporal_terms = MAP_TERMS, TEMPORAL_TERMS
    mask_ratio = 1 / 3  # of a sentence's words, in the reconstruction

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 512,
        text_encoder: str = "lstm",
        lstm_layers: int = 1,
        density: Literal["sparse", "dense"] = "sparse",
        kernel_size: int = 5,
        conv_layers: int = 4,
        conv_norm: Literal["relative", "count"] = "relative",
        num_candidates: int = 3,
        candidate_weights: Sequence[float] = (0.4, 0.3, 0.3),
        learn_candidate_weights: bool = False,
        candidate_iou: float = 1.0,
        candidate_frames: int = 16,
        retrieval: Literal["class_token", "mean"] = "class_token",
        grounded_retrieval: bool = True,
        temporal: Literal["both", "forward", "reverse", "none"] = "both",
        encoder_layers: int = 6,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
        reconstructor_layers: int = 2,
        reconstruct: Literal["masked", "all"] = "masked",
        label_smoothing: float = 0.1,
        initial_scale: float = 1 / 0.07,
        learn_scale: bool = True,
    ) -> None:
        super().__init__()
        if len(candidate_weights) != num_candidates:
            raise ValueError(f"{num_candidates} candidates, {len(candidate_weights)} weights")
        if grounded_retrieval and retrieval == "mean":
            raise ValueError("grounded_retrieval needs an encoder to share: retrieval is 'mean'")
        D, N = hidden_size, dims.num_clips

        # III-C, features.
        own_text = text_encoder == "lstm"
        self.text = SentenceEncoder(dims.word_dim, D, num_layers=lstm_layers, readout=own_text)
        self.sentence = None if own_text else SentenceFeatures(dims, text_encoder, hidden_size=D)
        if self.sentence is not None:
            self.from_pretrained = nn.Linear(self.sentence.width, D)
        self.mask_word = nn.Parameter(torch.randn(dims.word_dim) * 0.02)
        self.clips = ClipEncoder(dims.video_dim, D, dims.num_frames, N)

        # III-E, the map and its reconstructor (VTC-LD).
        self.num_candidates, self.candidate_iou = num_candidates, candidate_iou
        self.reconstruct, self.label_smoothing = reconstruct, label_smoothing
        self.grid = ProposalGrid(N, density)
        rows = self.grid.frames(dims.num_frames, candidate_frames)
        self.register_buffer("frame_rows", rows, persistent=False)
        self.query = nn.Linear(D, D)  # W_s
        self.cell = nn.Linear(D, D)  # W_v
        self.context = MaskedConvStack(
            D, self.grid, kernel_size=kernel_size, num_layers=conv_layers, norm=conv_norm
        )
        self.score = nn.Linear(D, 1)  # PL
        self.reconstructor = Reconstructor(
            dims,
            D,
            num_layers=reconstructor_layers,
            heads=heads,
            feedforward=feedforward,
            dropout=dropout,
            num_frames=candidate_frames,
        )

        # III-G, the temporal heads (BTSE-TD).
        self.directions = DIRECTIONS[temporal]
        self.temporal_scores = nn.ModuleList(nn.Linear(D, 1) for _ in self.directions)  # PL^f, PL^r

        # III-D, retrieval by class tokens (VPCMR).
        self.retrieval: str = retrieval
        self.grounded_retrieval = grounded_retrieval
        log_scale = torch.tensor(float(initial_scale)).log()
        self.log_scale = nn.Parameter(log_scale.clone(), requires_grad=learn_scale)
        if retrieval == "class_token" or grounded_retrieval:
            sizes = {"num_layers": encoder_layers, "heads": heads, "feedforward": feedforward}
            self.video_encoder = transformer_encoder(D, dropout=dropout, **sizes)  # E1 = E3
            self.text_encoder = transformer_encoder(D, dropout=dropout, **sizes)  # E2
            self.video_token = ClassToken(N, D)
            self.text_token = ClassToken(dims.max_sentences, D)

        # III-F, the global branch (VTFA-GD).
        if grounded_retrieval:
            self.candidate_weights = nn.Parameter(
                torch.tensor(list(candidate_weights)), requires_grad=learn_candidate_weights
            )
            self.grounded_token = ClassToken(dims.max_sentences, D)
            self.merge = nn.Linear(2 * D, D)  # the 1x1 convolution of Eq. 16
            self.global_log_scale = nn.Parameter(log_scale.clone(), requires_grad=learn_scale)

    @property
    def embeddings(self) -> tuple[str, str] | None:
        return "token", "token"

    @property
    def compares_embeddings(self) -> bool:
        return True

    @property
    def unavailable_terms(self) -> frozenset[str]:
        terms: frozenset[str] = frozenset()
        if not self.grounded_retrieval:
            terms |= GLOBAL_TERMS
        if not self.directions:
            terms |= TEMPORAL_TERMS
        return terms

    # Training: what the terms read of each row, and what is compared across the batch.

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        wanted = self.map_terms if terms is None else terms & self.map_terms
        sentences, clips = self.sentence_features(batch), self.clips(batch.video)
        parts: Encoded = {}
        video_state = None
        if terms is None or terms & TOKEN_TERMS:
            parts["text"] = self.text_feature(batch, sentences)
            video_state = self.video_state(clips)
            parts["video"] = nn.functional.normalize(video_state.float(), dim=-1)
        if wanted:
            parts |= self.encode_map(batch, sentences, clips, video_state, wanted)
        return parts

    def encode_map(
        self,
        batch: Batch,
        sentences: Float[Tensor, "M D"],
        clips: Float[Tensor, "B N D"],
        video_state: Float[Tensor, "B D"] | None,
        wanted: frozenset[str],
        added: Sequence[Float[Tensor, "M P D"]] = (),
        belief: Callable[[Float[Tensor, "M P"]], Float[Tensor, "M P"]] = torch.sigmoid,
    ) -> Encoded:
        """The parts that hang on P: candidates, reconstruction, global branch, temporal heads.

        Args:
            added: to the fused map.
            belief: from the logits of P to the scores by which candidates are chosen.
        """
        features = self.map_features(clips, sentences, batch, added)
        logits, *temporal = self.map_scores(features, temporal=bool(wanted & self.temporal_terms))
        candidates = self.candidates(belief(logits.detach()))
        parts: Encoded = {"logits": logits, "candidates": candidates}
        if wanted & RECONSTRUCTION_TERMS:
            parts["nll"] = self.reconstruction(batch, candidates)
        if wanted & GLOBAL_TERMS and self.grounded_retrieval:
            rows = torch.arange(len(candidates), device=candidates.device)[:, None]
            parts["merged"] = self.merged(batch, require(video_state), features[rows, candidates])
        if wanted & self.temporal_terms:
            parts |= self.temporal(batch, temporal)
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> DMRJRGOutput:
        return DMRJRGOutput(
            similarity=parts["text"] @ parts["video"].T if "video" in parts else None,
            scale=self.log_scale.exp().clamp(max=100),
            **self.compare_map(parts),
        )

    def compare_map(self, parts: Encoded) -> dict[str, Any]:
        """The fields of the output that hang on P."""
        fields: dict[str, Any] = {"spans": self.grid.spans}
        fields |= {name: parts.get(name) for name in ("logits", "candidates", "nll")}
        fields["temporal_logits"] = tuple(parts[name] for name in TEMPORAL_PARTS if name in parts)
        if "merged" in parts:
            fields["global_similarity"] = parts["text"] @ parts["merged"].T
            fields["global_scale"] = self.global_log_scale.exp().clamp(max=100)
        return fields

    # III-C. Features of sentences; those of clips are ``self.clips``.

    def sentence_features(self, batch: Batch) -> Float[Tensor, "M D"]:
        if self.sentence is None:
            return self.text(batch.flat(batch.words), batch.word_counts)[1]
        return self.from_pretrained(self.sentence(batch))

    # III-D, VPCMR. Neither side reads the other.

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips`` (B, N, D) and ``token``: unit features (B, D)."""
        clips = self.clips(video)
        return {
            "clips": clips,
            "token": nn.functional.normalize(self.video_state(clips), dim=-1),
        }

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` (B, S, D), ``mask``: which exist, ``token``: unit features (B, D)."""
        sentences = self.sentence_features(batch)
        return {
            "sentences": batch.padded(sentences),
            "mask": batch.sentence_mask,
            "token": self.text_feature(batch, sentences),
        }

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        return paragraphs["token"] @ videos["token"].T

    def video_state(self, clips: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        if self.retrieval == "mean":
            return clips.mean(dim=1)
        return self.video_token(self.video_encoder, clips)

    def text_feature(self, batch: Batch, sentences: Float[Tensor, "M D"]) -> Float[Tensor, "B D"]:
        if self.retrieval == "mean":
            state = batch.padded(sentences).sum(dim=1)  # the length does not matter to a direction
        else:
            state = self.text_token(self.text_encoder, sentences, batch)
        return nn.functional.normalize(state.float(), dim=-1)

    # III-E, VTC-LD: the map P, its candidates, and how well each reconstructs the masked words.

    def map_features(
        self,
        clips: Float[Tensor, "B N D"],
        sentences: Float[Tensor, "M D"],
        layout: Layout,
        added: Sequence[Float[Tensor, "M P D"]] = (),
    ) -> Float[Tensor, "M P D"]:
        """F̄: the fused map after the TAN (Eq. 8), valid cells only."""
        query, cells = self.query(sentences), self.cell(self.grid.max_pool(clips))
        # A unit vector's entries shrink with D; the TAN is initialised for entries of variance 1.
        fused = fused_cells(query, cells, layout.owner, length=query.shape[-1] ** 0.5)
        return self.context(sum(added, fused))

    def map_scores(
        self, features: Float[Tensor, "M P D"], *, temporal: bool
    ) -> tuple[Float[Tensor, "M P"], ...]:
        """Logits of P, and what the temporal heads make of the features, without their bias; one
        product, since features are large and heads small."""
        heads = [self.score, *self.temporal_scores] if temporal else [self.score]
        weights = torch.cat([cast(nn.Linear, head).weight for head in heads])
        logits, *raw = (features @ weights.T).float().unbind(dim=-1)
        return logits + self.score.bias, *raw

    def candidates(self, scores: Float[Tensor, "M P"]) -> Int[Tensor, "M Q"]:
        if self.candidate_iou >= 1:
            return scores.topk(self.num_candidates, dim=1).indices
        chosen, _ = greedy_suppression(
            self.grid.spans, scores, keep=self.num_candidates, max_iou=self.candidate_iou
        )
        return chosen

    def reconstruction(
        self,
        batch: Batch,
        candidates: Int[Tensor, "M Q"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "M R"]:
        """Eq. 9-11: NLL of the masked words by candidate, or whatever ``rows_of`` makes of them."""
        words, counts = batch.flat(batch.words), batch.word_counts
        masked = draw_masked_words(
            batch.flat(batch.word_weights), counts, ratio=self.mask_ratio, generator=generator
        )
        mask = masked.mask(words.shape[1])[..., None]
        states, _ = self.text(torch.where(mask, self.mask_word.to(words.dtype), words), counts)
        if self.reconstruct == "all":
            masked = all_words(counts, words.device)
        frames = self.reconstructor.frames(batch.video)
        ids, rows = batch.flat(batch.word_ids), self.rows_of(batch, candidates)
        return self.nll(frames, batch.owner, rows, states, ids, counts, masked)

    def rows_of(self, batch: Batch, candidates: Int[Tensor, "M Q"]) -> Int[Tensor, "M R F"]:
        """The frames from which each sentence is reconstructed, R times: here of each candidate."""
        return self.frame_rows[candidates]

    def nll(
        self,
        frames: Float[Tensor, "B T D"],
        owner: Int[Tensor, " M"],
        rows: Int[Tensor, "M Q F"],
        states: Float[Tensor, "M W D"],
        ids: Int[Tensor, "M W"],
        counts: Int[Tensor, " M"],
        masked: MaskedWords,
    ) -> Float[Tensor, "M Q"]:
        logits = self.reconstructor(frames, owner, rows, states, counts, masked)
        target = ids.flatten().index_select(0, masked.position(ids.shape[1]))
        return candidate_nll(
            logits, target, masked.sentence, len(ids), label_smoothing=self.label_smoothing
        )

    # III-F, VTFA-GD.

    def merged(
        self,
        batch: Batch,
        video_state: Float[Tensor, "B D"],
        moments: Float[Tensor, "M Q D"],
    ) -> Float[Tensor, "B D"]:
        """Videos seen through their own grounded sentences (Eq. 14-16), of whose candidates
        ``moments`` are the features; against them, paragraphs have the similarity S^g."""
        fused = torch.einsum("mqd,q->md", moments, self.candidate_weights)
        grounded = self.grounded_token(self.video_encoder, fused, batch)
        merged = self.merge(torch.cat([video_state, grounded], dim=-1))
        return nn.functional.normalize(merged.float(), dim=-1)

    # III-G, BTSE-TD.

    def temporal(self, batch: Batch, scores: Sequence[Float[Tensor, "M P"]]) -> Encoded:
        """Logits of P^f and P^r (Eq. 18 and 19), (M, P) each."""
        maps = {}
        for raw, head, reverse in zip(scores, self.temporal_scores, self.directions, strict=True):
            bias = cast(nn.Linear, head).bias
            logits = remaining_mass(batch.padded(raw), bias, batch.sentence_mask, reverse=reverse)
            maps[TEMPORAL_PARTS[reverse]] = batch.flat(logits)
        return maps

    # III-H, training and inference: the global and the temporal heads take no part in the latter.

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """Every valid cell's score in P."""
        pairs = Layout.of(paragraphs["mask"])
        features = self.map_features(videos["clips"], pairs.flat(paragraphs["sentences"]), pairs)
        scores = self.score(features).squeeze(-1).sigmoid()
        return Evidence(pairs, self.grid.spans, self.grid.num_clips, scores)

    def inspect(self, batch: Batch) -> dict[str, Tensor]:
        """``reconstruction_gap``: by how many nats a masked word is likelier with the frames of the
        sentence's own candidates than with those of the next video of the batch. At 0 the
        reconstructor reads the words around it and not the video."""
        out = self(batch, terms=frozenset({"rank"}))
        own, other = (
            self.reconstruction(
                dataclasses.replace(batch, video=batch.video.roll(shift, dims=0)),
                out.candidates,
                torch.Generator(batch.video.device).manual_seed(0),
            ).mean()
            for shift in (0, 1)
        )
        return {"reconstruction_gap": other - own}

    @staticmethod
    def losses(*, margin: float = 0.2, min_iou: float = 0.5, max_iou: float = 1.0) -> Losses:
        """The terms of Eq. 23, one weight each, and one of ours.

        L_cmr is ``retrieval_triplet`` + β1 · ``retrieval_nce``; L_local is ``reconstruction`` +
        ``rank``; L_global is ``global_triplet`` + β2 · ``global_nce``; L_mse is ``distillation``;
        L_time is ``temporal``. The paper leaves PL^f and PL^r without any gradient (an arg-max is a
        label, not a function); ``temporal_rank`` gives them the candidates' rank loss.

        Args:
            margin: Δ of Eq. 6 and 7.
            min_iou, max_iou: overlap with a pseudo-label at which its soft label is 0 and 1.
        """

        def retrieval_nce(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return info_nce(require(out.similarity), out.scale, batch.same_video)

        def retrieval_triplet(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return triplet(require(out.similarity), batch.same_video, margin=margin)

        def reconstruction(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return require(out.nll).mean()

        def rank(out: DMRJRGOutput, batch: Batch) -> Tensor:
            scores = require(out.logits).float().sigmoid().gather(1, require(out.candidates))
            return rank_by_reconstruction(scores, require(out.nll))

        def global_nce(out: DMRJRGOutput, batch: Batch) -> Tensor:
            similarity, scale = require(out.global_similarity), require(out.global_scale)
            return info_nce(similarity, scale, batch.same_video)

        def global_triplet(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return triplet(require(out.global_similarity), batch.same_video, margin=margin)

        def distillation(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return distill(require(out.similarity), require(out.global_similarity))

        def temporal(out: DMRJRGOutput, batch: Batch) -> Tensor:
            logits = require(out.logits)
            total = logits.new_zeros((), dtype=torch.float32)
            for head in out.temporal_logits:
                overlap = iou(out.spans[head.detach().argmax(dim=1)][:, None], out.spans)
                total = total + scaled_iou_bce(logits, overlap, min_iou=min_iou, max_iou=max_iou)
            return total

        def temporal_rank(out: DMRJRGOutput, batch: Batch) -> Tensor:
            total = require(out.logits).new_zeros((), dtype=torch.float32)
            for head in out.temporal_logits:
                scores = head.float().sigmoid().gather(1, require(out.candidates))
                total = total + rank_by_reconstruction(scores, require(out.nll))
            return total

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
        }

    @staticmethod
    def plan(*, pretrained_rate: float = 0.1) -> Plan:
        """One step per batch, all terms.

        Args:
            pretrained_rate: factor on the learning rate of a pretrained text encoder (as in MMN;
                the paper does not say).
        """
        return Plan(rates={"sentence.pretrained.": pretrained_rate})
