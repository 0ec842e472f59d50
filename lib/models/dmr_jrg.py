"""DMR-JRG: dual-task mutual reinforcing embedded joint video paragraph retrieval and grounding.

Wang, Li, Zhang, Li, Xie and Tao. Weakly supervised: it is told which paragraph belongs to which
video, and no timestamp. Names and equation numbers are the paper's; ``docs/deviations.md`` lists
where we differ from the paper and from the authors' release.

    text encoder ─┬─ retrieval branch (VPCMR) ──────────────── S^r ──┐
                  │                                                  ├─ distillation (GRRM)
    clips ─ map ──┴─ TAN ─ P ─┬─ candidates ─ global branch ── S^g ──┘
                              ├─ candidates ─ reconstructor
                              └─ temporal heads P^f, P^r
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.core.moments import greedy_suppression, iou
from lib.datasets.batch import Batch
from lib.losses.overlap import remaining_mass, scaled_iou_bce
from lib.losses.reconstruction import candidate_nll, rank_by_reconstruction
from lib.losses.similarity import distill, info_nce, triplet
from lib.models.interface import DataDims, Encoded, Losses, Proposals
from lib.models.layers.proposal_map import MaskedConvStack, ProposalGrid
from lib.models.layers.reconstructor import Reconstructor
from lib.models.layers.text import SentenceEncoder, draw_masked_words
from lib.models.layers.transformer import ClassToken, transformer_encoder
from lib.models.layers.video import ClipEncoder

TEMPORAL = ("both", "forward", "reverse", "none")
RETRIEVAL = ("class_token", "mean")
GROUNDING_TERMS = frozenset(
    {"reconstruction", "rank", "global_triplet", "global_nce", "distillation", "temporal",
     "temporal_rank"}
)  # fmt: skip
GLOBAL_TERMS = frozenset({"global_triplet", "global_nce", "distillation"})
RECONSTRUCTION_TERMS = frozenset({"reconstruction", "rank", "temporal_rank"})


@dataclass(frozen=True)
class DMRJRGOutput:
    """What the losses read. A field is None when no active term asks for it."""

    similarity: Float[Tensor, "B B"]  # S^r, paragraphs x videos
    scale: Float[Tensor, ""]  # λ of S^r
    spans: Float[Tensor, "P 2"]
    logits: Float[Tensor, "M P"] | None = None  # of P
    candidates: Int[Tensor, "M Q"] | None = None
    nll: Float[Tensor, "M Q"] | None = None  # of the hidden words, by candidate
    global_similarity: Float[Tensor, "B B"] | None = None  # S^g
    global_scale: Float[Tensor, ""] | None = None  # λ of S^g
    temporal_logits: tuple[Float[Tensor, "M P"], ...] = ()  # of P^f and P^r, as far as built


class DMRJRG(nn.Module):
    """The method whole; every part can be left out by a keyword.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, the paper's d_s and d_v.
        lstm_layers: depth of the Bi-LSTM.
        density: ``sparse`` (2D-TAN's rule) or ``dense``: which spans are proposals.
        kernel_size, conv_layers, conv_norm: of the TAN; 0 layers score every cell alone.
        num_candidates: Q.
        candidate_weights: w of Eq. 14, best candidate first.
        learn_candidate_weights: start from them and train them (Table V).
        candidate_iou: two candidates of a sentence overlap by at most this; 1 takes the plain top Q.
        candidate_frames: rows of the video that the reconstructor sees of a candidate.
        retrieval: ``class_token`` (VPCMR) or ``mean`` of clips and sentences (the ablation's base).
        grounded_retrieval: build the global branch, VTFA-GD.
        temporal: which of the heads of BTSE-TD to build: both, forward, reverse or none.
        encoder_layers, heads, feedforward, dropout: of the encoders E1 and E2.
        reconstructor_layers: of its encoder and decoder.
        reconstruct: ``masked`` words only, or ``all`` words of the sentence.
        label_smoothing: of the reconstruction.
        initial_scale, learn_scale: λ of Eq. 3 and 4; bounded above by 100.
    """

    supervision = "weak"
    temporal_rows: tuple[bool, ...]

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 512,
        lstm_layers: int = 1,
        density: str = "sparse",
        kernel_size: int = 5,
        conv_layers: int = 4,
        conv_norm: str = "relative",
        num_candidates: int = 3,
        candidate_weights: Sequence[float] = (0.4, 0.3, 0.3),
        learn_candidate_weights: bool = False,
        candidate_iou: float = 1.0,
        candidate_frames: int = 16,
        retrieval: str = "class_token",
        grounded_retrieval: bool = True,
        temporal: str = "both",
        encoder_layers: int = 6,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
        reconstructor_layers: int = 2,
        reconstruct: str = "masked",
        label_smoothing: float = 0.1,
        initial_scale: float = 1 / 0.07,
        learn_scale: bool = True,
    ) -> None:
        super().__init__()
        if len(candidate_weights) != num_candidates:
            raise ValueError(f"{num_candidates} candidates, {len(candidate_weights)} weights")
        if temporal not in TEMPORAL:
            raise ValueError(f"temporal must be one of {TEMPORAL}, found {temporal!r}")
        if retrieval not in RETRIEVAL:
            raise ValueError(f"retrieval must be one of {RETRIEVAL}, found {retrieval!r}")
        if reconstruct not in ("masked", "all"):
            raise ValueError(f"reconstruct must be 'masked' or 'all', found {reconstruct!r}")
        self.num_candidates = num_candidates
        self.candidate_iou = candidate_iou
        self.reconstruct = reconstruct
        self.label_smoothing = label_smoothing
        D, N = hidden_size, dims.num_clips

        self.text = SentenceEncoder(dims.word_dim, D, num_layers=lstm_layers)
        self.hidden_word = nn.Parameter(torch.randn(dims.word_dim) * 0.02)
        self.clips = ClipEncoder(dims.video_dim, D, dims.num_frames, N)

        self.grid = ProposalGrid(N, density)
        self.register_buffer(
            "frame_rows", self.grid.frames(dims.num_frames, candidate_frames), persistent=False
        )
        self.query = nn.Linear(D, D)  # W_s
        self.cell = nn.Linear(D, D)  # W_v
        self.context = MaskedConvStack(
            D, self.grid, kernel_size=kernel_size, num_layers=conv_layers, norm=conv_norm
        )
        self.score = nn.Linear(D, 1)  # PL
        self.reconstructor = Reconstructor(
            dims.video_dim,
            D,
            dims.vocab_size,
            num_layers=reconstructor_layers,
            heads=heads,
            feedforward=feedforward,
            dropout=dropout,
            num_frames=candidate_frames,
        )
        self.directions = {"both": (False, True), "forward": (False,), "reverse": (True,)}.get(
            temporal, ()
        )
        self.temporal_scores = nn.ModuleList(nn.Linear(D, 1) for _ in self.directions)  # PL^f, PL^r

        sizes = dict(num_layers=encoder_layers, heads=heads, feedforward=feedforward)
        self.retrieval = retrieval
        if retrieval == "class_token":
            self.video_encoder = transformer_encoder(D, dropout=dropout, **sizes)  # E1 = E3
            self.text_encoder = transformer_encoder(D, dropout=dropout, **sizes)  # E2
            self.video_token = ClassToken(N, D)
            self.text_token = ClassToken(dims.max_sentences, D)
        log_scale = torch.tensor(float(initial_scale)).log()
        self.log_scale = nn.Parameter(log_scale.clone(), requires_grad=learn_scale)
        self.grounded_retrieval = grounded_retrieval
        if grounded_retrieval:
            if retrieval != "class_token":
                raise ValueError("grounded_retrieval needs retrieval: class_token (E3 is E1)")
            self.candidate_weights = nn.Parameter(
                torch.tensor(list(candidate_weights)), requires_grad=learn_candidate_weights
            )
            self.grounded_token = ClassToken(dims.max_sentences, D)
            self.merge = nn.Linear(2 * D, D)  # the 1x1 convolution of Eq. 16
            self.global_log_scale = nn.Parameter(log_scale.clone(), requires_grad=learn_scale)

    # Retrieval branch (III-D). Neither side reads the other.

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``token``: unit features of the videos, (B, D)."""
        return {"token": nn.functional.normalize(self._video_state(self.clips(video)), dim=-1)}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``token``: unit features of the paragraphs, (B, D)."""
        _, sentences = self.text(batch.flat(batch.words), batch.word_counts)
        return {"token": self._text_feature(batch, sentences)}

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        return paragraphs["token"] @ videos["token"].T

    def _video_state(self, clips: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        if self.retrieval == "mean":
            return clips.mean(dim=1)
        return self.video_token(self.video_encoder, clips)

    def _text_feature(self, batch: Batch, sentences: Float[Tensor, "M D"]) -> Float[Tensor, "B D"]:
        items = batch.padded(sentences)
        if self.retrieval == "mean":
            state = items.sum(dim=1)  # the length does not matter to a direction
        else:
            state = self.text_token(self.text_encoder, items, batch.sentence_mask)
        return nn.functional.normalize(state, dim=-1)

    # Grounding branch.

    def _map(
        self,
        clips: Float[Tensor, "B N D"],
        sentences: Float[Tensor, "M D"],
        owner: Int[Tensor, " M"],
    ) -> Float[Tensor, "M P D"]:
        """F̄: the fused map after the TAN (Eq. 8), valid cells only."""
        cells = self.cell(self.grid.max_pool(clips)).index_select(0, owner)
        fused = nn.functional.normalize(self.query(sentences)[:, None] * cells, dim=-1)
        # Entries of a unit vector shrink with D; the TAN is initialised for entries of variance one.
        return self.context(fused * fused.shape[-1] ** 0.5)

    def _candidates(self, logits: Float[Tensor, "M P"]) -> Int[Tensor, "M Q"]:
        if self.candidate_iou >= 1:
            return logits.topk(self.num_candidates, dim=1).indices
        chosen, _ = greedy_suppression(
            self.grid.spans, logits, keep=self.num_candidates, max_iou=self.candidate_iou
        )
        return chosen

    def _reconstruction(self, batch: Batch, candidates: Int[Tensor, "M Q"]) -> Float[Tensor, "M Q"]:
        words, counts = batch.flat(batch.words), batch.word_counts
        mask, ids = batch.flat(batch.word_mask), batch.flat(batch.word_ids)
        masked = draw_masked_words(batch.flat(batch.word_weights), counts)
        words = torch.where(masked.hidden[..., None], self.hidden_word.to(words.dtype), words)
        states, _ = self.text(words, counts)
        place, sentence = masked.place, masked.sentence
        if self.reconstruct == "all":
            rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
            columns = torch.cat([torch.arange(count) for count in counts.tolist()])
            place = (rows * mask.shape[1] + columns).to(words.device, non_blocking=True)
            sentence = rows.to(words.device, non_blocking=True)
        logits = self.reconstructor(
            batch.video, batch.owner, self.frame_rows[candidates], states, mask, place
        )
        target = ids.flatten().index_select(0, place)
        return candidate_nll(
            logits, target, sentence, len(ids), label_smoothing=self.label_smoothing
        )

    def _global_similarity(
        self,
        batch: Batch,
        text: Float[Tensor, "B D"],
        video_state: Float[Tensor, "B D"],
        features: Float[Tensor, "M P D"],
        candidates: Int[Tensor, "M Q"],
    ) -> Float[Tensor, "B B"]:
        """S^g: paragraphs against videos seen through their own grounded sentences (Eq. 14-16)."""
        rows = torch.arange(len(candidates), device=candidates.device)[:, None]
        fused = torch.einsum("mqd,q->md", features[rows, candidates], self.candidate_weights)
        grounded = self.grounded_token(self.video_encoder, batch.padded(fused), batch.sentence_mask)
        merged = self.merge(torch.cat([video_state, grounded], dim=-1))
        return text @ nn.functional.normalize(merged, dim=-1).T

    def _temporal(
        self, batch: Batch, features: Float[Tensor, "M P D"]
    ) -> tuple[Float[Tensor, "M P"], ...]:
        """Logits of P^f and P^r (Eq. 18 and 19)."""
        maps = []
        for head, reverse in zip(self.temporal_scores, self.directions, strict=True):
            raw = batch.padded(features @ head.weight[0])
            logits = remaining_mass(raw, head.bias, batch.sentence_mask, reverse=reverse)
            maps.append(batch.flat(logits))
        return tuple(maps)

    def forward(self, batch: Batch, terms: frozenset[str] | None = None) -> DMRJRGOutput:
        """Everything the named loss terms read; None stands for all of them."""
        wanted = (GROUNDING_TERMS if terms is None else terms) & GROUNDING_TERMS
        _, sentences = self.text(batch.flat(batch.words), batch.word_counts)
        clips = self.clips(batch.video)
        text, video_state = self._text_feature(batch, sentences), self._video_state(clips)
        similarity = text @ nn.functional.normalize(video_state, dim=-1).T
        scale = self.log_scale.exp().clamp(max=100)
        if not wanted:
            return DMRJRGOutput(similarity, scale, self.grid.spans)

        features = self._map(clips, sentences, batch.owner)
        logits = self.score(features).squeeze(-1)
        candidates = self._candidates(logits.detach())
        nll = global_similarity = global_scale = None
        if wanted & RECONSTRUCTION_TERMS:
            nll = self._reconstruction(batch, candidates)
        if self.grounded_retrieval and wanted & GLOBAL_TERMS:
            global_similarity = self._global_similarity(
                batch, text, video_state, features, candidates
            )
            global_scale = self.global_log_scale.exp().clamp(max=100)
        return DMRJRGOutput(
            similarity=similarity,
            scale=scale,
            spans=self.grid.spans,
            logits=logits,
            candidates=candidates,
            nll=nll,
            global_similarity=global_similarity,
            global_scale=global_scale,
            temporal_logits=self._temporal(batch, features),
        )

    def ground(self, batch: Batch) -> Proposals:
        """P over the valid cells; the global and the temporal heads take no part (III-H)."""
        _, sentences = self.text(batch.flat(batch.words), batch.word_counts)
        features = self._map(self.clips(batch.video), sentences, batch.owner)
        return Proposals(self.grid.spans, self.score(features).squeeze(-1).sigmoid())

    @staticmethod
    def losses(*, margin: float = 0.2, min_iou: float = 0.5, max_iou: float = 1.0) -> Losses:
        """The terms of Eq. 23, one weight each.

        L_cmr is ``retrieval_triplet`` + β1 · ``retrieval_nce``; L_local is ``reconstruction`` +
        ``rank``; L_global is ``global_triplet`` + β2 · ``global_nce``; L_mse is ``distillation``;
        L_time is ``temporal``. ``temporal_rank`` is ours: the candidates' rank loss on P^f and P^r,
        without which no gradient reaches PL^f and PL^r (their arg-max is a label, not a function).

        Args:
            margin: Δ of Eq. 6 and 7.
            min_iou, max_iou: overlap with a pseudo-label at which its soft label is 0 and 1.
        """

        def retrieval_nce(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return info_nce(out.similarity, out.scale, batch.same_video)

        def retrieval_triplet(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return triplet(out.similarity, batch.same_video, margin=margin)

        def reconstruction(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return out.nll.mean()

        def rank(out: DMRJRGOutput, batch: Batch) -> Tensor:
            scores = out.logits.float().sigmoid().gather(1, out.candidates)
            return rank_by_reconstruction(scores, out.nll)

        def global_nce(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return info_nce(out.global_similarity, out.global_scale, batch.same_video)

        def global_triplet(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return triplet(out.global_similarity, batch.same_video, margin=margin)

        def distillation(out: DMRJRGOutput, batch: Batch) -> Tensor:
            return distill(out.similarity, out.global_similarity)

        def temporal(out: DMRJRGOutput, batch: Batch) -> Tensor:
            total = out.logits.new_zeros((), dtype=torch.float32)
            for logits in out.temporal_logits:
                best = out.spans[logits.detach().argmax(dim=1)]
                overlap = iou(best[:, None], out.spans)
                total = total + scaled_iou_bce(
                    out.logits, overlap, min_iou=min_iou, max_iou=max_iou
                )
            return total

        def temporal_rank(out: DMRJRGOutput, batch: Batch) -> Tensor:
            total = out.logits.new_zeros((), dtype=torch.float32)
            for logits in out.temporal_logits:
                scores = logits.float().sigmoid().gather(1, out.candidates)
                total = total + rank_by_reconstruction(scores, out.nll)
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
