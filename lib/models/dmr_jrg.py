"""DMR-JRG: dual-task mutual reinforcing embedded joint video paragraph retrieval and grounding.

Wang, Li, Zhang, Li, Xie and Tao. Weakly supervised: it is told which paragraph belongs to which
video, and no timestamp. Names and equation numbers are the paper's; ``docs/deviations.md`` lists
where we differ from the paper and from the authors' release.

    text encoder ─┬─ retrieval branch (VPCMR) ──────────────── S^r ──┐
                  │                                                  ├─ distillation (GRRM)
    clips ─ map ──┴─ TAN ─ P ─┬─ candidates ─ global branch ── S^g ──┘
                              ├─ candidates ─ reconstructor
                              └─ temporal heads P^f, P^r

The keywords' defaults are the paper's reading. Those from ``words`` on are ours, off by default;
``experiments/*/…_plus.yaml`` turns them on, and ``docs/results.md`` says what each is worth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lib.core.moments import greedy_suppression
from lib.datasets.batch import Batch, Layout
from lib.losses.overlap import remaining_mass
from lib.losses.reconstruction import candidate_nll
from lib.models.dmr_jrg_losses import (
    ALIGNMENT_TERMS,
    GLOBAL_TERMS,
    MAP_TERMS,
    RECONSTRUCTION_TERMS,
    TEMPORAL_TERMS,
    DMRJRGOutput,
    losses,
)
from lib.models.interface import DataDims, Encoded, Plan, Proposals
from lib.models.layers.alignment import (
    ClipAlignment,
    against_siblings,
    among_siblings,
    separation,
)
from lib.models.layers.ordering import PlaceCells, decode_in_order
from lib.models.layers.precision import in_full
from lib.models.layers.proposal_map import MaskedConvStack, ProposalGrid
from lib.models.layers.reconstructor import Reconstructor
from lib.models.layers.text import (
    AskedWords,
    SentenceEncoder,
    SentenceFeatures,
    ask_all_words,
    draw_masked_words,
)
from lib.models.layers.transformer import ClassToken, transformer_encoder
from lib.models.layers.video import ClipEncoder

DIRECTIONS: dict[str, tuple[bool, ...]] = {
    "both": (False, True),
    "forward": (False,),
    "reverse": (True,),
    "none": (),
}
CLIPS_AT_ONCE = 4  # that tell the words of all sentences: bounds the memory of their logits
TEMPORAL_PARTS = ("temporal_forward", "temporal_reverse")


class DMRJRG(nn.Module):
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
        retrieval: ``class_token`` (VPCMR), ``mean`` of clips and sentences (the ablation's base),
            or ``alignment``: a paragraph's sentences against the clips they attend to.
        grounded_retrieval: build the global branch, VTFA-GD.
        temporal: which of the heads of BTSE-TD to build: both, forward, reverse or none.
        encoder_layers, heads, feedforward, dropout: of the encoders E1 and E2.
        reconstructor_layers: of its encoder and decoder.
        reconstruct: ``masked`` words only, or ``all`` words of the sentence.
        label_smoothing: of the reconstruction.
        initial_scale, learn_scale: λ of Eq. 3 and 4; bounded above by 100.
        words: add the mean of a sentence's words to its feature.
        tied_words: the reconstructor tells hidden words by their vectors, not by rows of its own.
        hidden_share: part of a sentence's words that are hidden and told; 1: each is told from the
            frames and its place alone.
        told: weight, in ordered decoding, of how well each clip tells the sentence's words (nats a
            word) beside the alignment's cosines.
        told_teaches: training reads it too, as it reads the alignment: the map, the candidates, and
            by its ordered decoding the temporal heads.
        alignment: align clips and sentences directly; the map reads the evidence, candidates are
            drawn by it, and its ordered decoding teaches the temporal heads.
        attention: inverse temperature of the alignment's attention over clips.
        in_order: how strongly that attention looks where the sentence's place suggests.
        isolate: the grounding branch reads the encoders' features and does not teach them.
        siblings: how a sentence's evidence counts against that of its paragraph's other sentences:
            ``ignore`` them, subtract their ``mean``, or ``compete`` for every clip by a soft-max.
        competition: inverse temperature of that soft-max.
        own: weight of the evidence as it is beside that against the siblings.
        balance: how much the length of a span counts when it separates evidence; 1/2: correlation.
        place_features: tell the map where in the paragraph a sentence stands.
        decoder: ``map`` grounds by P alone (the paper); ``order`` by P, the alignment and a
            position prior, all sentences of a paragraph jointly.
        map_weight: weight of P beside the alignment's separation, for candidates and ``order``.
        prior: weight of the position prior in ordered decoding.
        order: what it costs a sentence to lie before its predecessor, per length of the video.
    """

    supervision = "weak"
    frame_rows: Int[Tensor, "P F"]
    clip_cells: Int[Tensor, " N"]
    trust: Float[Tensor, ""]

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
        retrieval: Literal["class_token", "mean", "alignment"] = "class_token",
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
        words: bool = False,
        tied_words: bool = False,
        hidden_share: float = 1 / 3,
        told: float = 0.0,
        told_teaches: bool = False,
        alignment: bool = False,
        attention: float = 10.0,
        in_order: float = 0.0,
        isolate: bool = False,
        siblings: Literal["ignore", "mean", "compete"] = "mean",
        competition: float = 5.0,
        own: float = 0.0,
        balance: float = 0.5,
        place_features: bool = False,
        decoder: Literal["map", "order"] = "map",
        map_weight: float = 0.5,
        prior: float = 0.3,
        order: float = 2.0,
    ) -> None:
        super().__init__()
        if len(candidate_weights) != num_candidates:
            raise ValueError(f"{num_candidates} candidates, {len(candidate_weights)} weights")
        if grounded_retrieval and retrieval == "mean":
            raise ValueError("grounded_retrieval needs an encoder to share: retrieval is 'mean'")
        if words and text_encoder != "lstm":
            raise ValueError("words adds to the LSTM's sentences: text_encoder is not 'lstm'")
        if retrieval == "alignment" and not alignment:
            raise ValueError("retrieval 'alignment' needs alignment: true")
        if told and hidden_share < 1:
            raise ValueError("told needs hidden_share: 1, or words tell words")
        read = told_teaches or decoder == "order"
        if (told and not read) or (told_teaches and not told):
            raise ValueError("told is read by decoder: order or told_teaches, which needs it")
        self.num_candidates, self.candidate_iou = num_candidates, candidate_iou
        self.reconstruct, self.label_smoothing = reconstruct, label_smoothing
        self.hidden_share, self.told, self.told_teaches = hidden_share, told, told_teaches
        self.isolate = isolate
        self.siblings, self.competition = siblings, competition
        self.own, self.balance = own, balance
        self.decoder, self.map_weight = decoder, map_weight
        self.prior, self.order = prior, order
        D, N = hidden_size, dims.num_clips

        own_text = text_encoder == "lstm"
        self.text = SentenceEncoder(
            dims.word_dim, D, num_layers=lstm_layers, words=words, readout=own_text
        )
        self.sentence = None if own_text else SentenceFeatures(dims, text_encoder, hidden_size=D)
        if self.sentence is not None:
            self.from_pretrained = nn.Linear(self.sentence.width, D)
        self.hidden_word = nn.Parameter(torch.randn(dims.word_dim) * 0.02)
        self.clips = ClipEncoder(dims.video_dim, D, dims.num_frames, N)

        self.grid = ProposalGrid(N, density)
        rows = self.grid.frames(dims.num_frames, candidate_frames)
        self.register_buffer("frame_rows", rows, persistent=False)
        single = (self.grid.spans.diff(dim=1)[:, 0] * N).round() == 1
        self.register_buffer("clip_cells", single.nonzero()[:, 0], persistent=False)
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
            tied_words=tied_words,
        )
        self.directions = DIRECTIONS[temporal]
        self.temporal_scores = nn.ModuleList(nn.Linear(D, 1) for _ in self.directions)  # PL^f, PL^r
        self.alignment = None
        if alignment:
            self.alignment = ClipAlignment(
                D,
                attention=attention,
                in_order=in_order,
                initial_scale=initial_scale,
                learn_scale=learn_scale,
            )
        self.evident = alignment or told_teaches
        if self.evident:
            self.evidence_cell = nn.Linear(1, D)
        self.place_cell = PlaceCells(D) if place_features else None
        # How far the evidence is to be believed in ordered decoding; see ``calibrate``.
        self.register_buffer("trust", torch.ones(()))

        self.retrieval, self.grounded_retrieval = retrieval, grounded_retrieval
        log_scale = torch.tensor(float(initial_scale)).log()
        if retrieval != "alignment":
            self.log_scale = nn.Parameter(log_scale.clone(), requires_grad=learn_scale)
        if retrieval == "class_token" or grounded_retrieval:
            sizes = {"num_layers": encoder_layers, "heads": heads, "feedforward": feedforward}
            self.video_encoder = transformer_encoder(D, dropout=dropout, **sizes)  # E1 = E3
            self.text_encoder = transformer_encoder(D, dropout=dropout, **sizes)  # E2
            self.video_token = ClassToken(N, D)
            self.text_token = ClassToken(dims.max_sentences, D)
        if grounded_retrieval:
            self.candidate_weights = nn.Parameter(
                torch.tensor(list(candidate_weights)), requires_grad=learn_candidate_weights
            )
            self.grounded_token = ClassToken(dims.max_sentences, D)
            self.merge = nn.Linear(2 * D, D)  # the 1x1 convolution of Eq. 16
            self.global_log_scale = nn.Parameter(log_scale.clone(), requires_grad=learn_scale)

    @property
    def unserved(self) -> frozenset[str]:
        """Loss terms of parts that this instance does not have."""
        terms: frozenset[str] = frozenset()
        if not self.grounded_retrieval:
            terms |= GLOBAL_TERMS
        if not self.directions:
            terms |= TEMPORAL_TERMS
        if self.alignment is None:
            terms |= ALIGNMENT_TERMS
        if not self.evident:
            terms |= {"temporal_teacher"}
        return terms

    # Retrieval branch (III-D). Neither side reads the other.

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips`` (B, N, D), ``aligned`` for the alignment, ``token``: unit features (B, D);
        ``frames`` (B, T, D) for the reconstructor."""
        found = {"clips": self.clips(video)}
        if self.alignment is not None:
            found["aligned"] = self.alignment.clip(found["clips"])
        if self.told:
            found["frames"] = self.reconstructor.frames(video)
        if self.retrieval != "alignment":
            state = self._video_state(found["clips"])
            found["token"] = nn.functional.normalize(state, dim=-1)
        return found

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` (B, S, D), ``mask``: which exist, ``token``: unit features (B, D); to be
        told, ``word_ids`` (B, S, W) and ``word_counts`` (B, S)."""
        sentences = self._sentences(batch)
        found = {"sentences": batch.padded(sentences), "mask": batch.sentence_mask}
        if self.retrieval != "alignment":
            found["token"] = self._text_feature(batch, sentences)
        if self.told:
            found |= {"word_ids": batch.word_ids, "word_counts": batch.word_mask.sum(dim=2)}
        return found

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        if self.retrieval == "alignment":
            assert self.alignment is not None
            return self.alignment.paragraph_similarity(
                paragraphs["sentences"], paragraphs["mask"], videos["aligned"]
            )
        return paragraphs["token"] @ videos["token"].T

    def _sentences(self, batch: Batch) -> Float[Tensor, "M D"]:
        if self.sentence is None:
            return self.text(batch.flat(batch.words), batch.word_counts)[1]
        return self.from_pretrained(self.sentence(batch))

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
        return nn.functional.normalize(state.float(), dim=-1)

    # Grounding branch.

    def _separation(self, evidence: Float[Tensor, "M N"], batch: Layout) -> Float[Tensor, "M P"]:
        """What the alignment says of each span; no gradient, it is read by arg-max and as input."""
        evidence = found = evidence.detach()
        if self.siblings == "mean":
            found = against_siblings(evidence, batch)
        elif self.siblings == "compete":
            found = among_siblings(evidence, batch, scale=self.competition)
        found = separation(found, self.grid.spans, balance=self.balance)
        if self.own:
            alone = separation(evidence, self.grid.spans, balance=self.balance)
            found = found + self.own * alone
        return found

    def _found(
        self, batch: Layout, *evidence: Float[Tensor, "M N"] | None
    ) -> Float[Tensor, "M P"] | None:
        """``_separation`` of the evidence that there is, all of it together."""
        found = [each for each in evidence if each is not None]
        return self._separation(sum(found[1:], found[0]), batch) if found else None

    def _found_in_training(
        self, sentences: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], batch: Batch
    ) -> Float[Tensor, "M P"] | None:
        """``_found`` of the sentences in their own video, as far as training reads it."""
        if not self.evident:
            return None
        aligned = told = None
        with torch.no_grad(), in_full(clips):
            if self.alignment is not None:
                clips = self.alignment.clip(clips.float())
                aligned = self.alignment.evidence(sentences.float(), clips, batch)
            if self.told_teaches:
                frames, ids = self.reconstructor.frames(batch.video), batch.flat(batch.word_ids)
                told = self.told * self._told_by_clips(frames, ids, batch.word_counts, batch)
            return self._found(batch, aligned, told)

    def _map(
        self,
        clips: Float[Tensor, "B N D"],
        sentences: Float[Tensor, "M D"],
        batch: Layout,
        found: Float[Tensor, "M P"] | None,
    ) -> Float[Tensor, "M P D"]:
        """F̄: the fused map after the TAN (Eq. 8), valid cells only."""
        cells = self.cell(self.grid.max_pool(clips)).index_select(0, batch.owner)
        fused = self.query(sentences)[:, None] * cells
        # A unit vector's entries shrink with D; the TAN is initialised for entries of variance 1.
        norm = fused.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        fused = fused * (fused.shape[-1] ** 0.5 / norm)
        if found is not None:
            found = found[..., None].to(self.evidence_cell.weight.dtype)
            fused = fused + self.evidence_cell(found)
        if self.place_cell is not None:
            fused = fused + self.place_cell(self.grid, batch)
        return self.context(fused)

    def _candidates(self, scores: Float[Tensor, "M P"]) -> Int[Tensor, "M Q"]:
        if self.candidate_iou >= 1:
            return scores.topk(self.num_candidates, dim=1).indices
        chosen, _ = greedy_suppression(
            self.grid.spans, scores, keep=self.num_candidates, max_iou=self.candidate_iou
        )
        return chosen

    def _reconstruction(
        self,
        batch: Batch,
        candidates: Int[Tensor, "M Q"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "M Q"]:
        words, counts = batch.flat(batch.words), batch.word_counts
        asked = draw_masked_words(
            batch.flat(batch.word_weights), counts, share=self.hidden_share, generator=generator
        )
        hidden = asked.marked(words.shape[1])[..., None]
        states, _ = self.text(torch.where(hidden, self.hidden_word.to(words.dtype), words), counts)
        if self.reconstruct == "all":
            asked = ask_all_words(counts, words.device)
        frames = self.reconstructor.frames(batch.video)
        ids = batch.flat(batch.word_ids)
        return self._nll(frames, batch.owner, candidates, states, ids, counts, asked)

    def _nll(
        self,
        frames: Float[Tensor, "B T D"],
        owner: Int[Tensor, " M"],
        candidates: Int[Tensor, "M Q"],
        states: Float[Tensor, "M W D"],
        ids: Int[Tensor, "M W"],
        counts: Int[Tensor, " M"],
        asked: AskedWords,
    ) -> Float[Tensor, "M Q"]:
        rows = self.frame_rows[candidates]
        logits = self.reconstructor(frames, owner, rows, states, counts, asked)
        target = ids.flatten().index_select(0, asked.place(ids.shape[1]))
        return candidate_nll(
            logits, target, asked.sentence, len(ids), label_smoothing=self.label_smoothing
        )

    def _told_by_clips(
        self,
        frames: Float[Tensor, "B T D"],
        ids: Int[Tensor, "M W"],
        counts: Int[Tensor, " M"],
        batch: Layout,
    ) -> Float[Tensor, "M N"]:
        """By how many nats a word each clip tells a sentence better than the clips of its video do
        on average, all words hidden."""
        states, _ = self.text(self.hidden_word.expand(*ids.shape, -1), counts)
        asked = ask_all_words(counts, ids.device)
        nll = [
            self._nll(frames, batch.owner, cells.expand(len(ids), -1), states, ids, counts, asked)
            for cells in self.clip_cells.split(CLIPS_AT_ONCE)
        ]
        found = torch.cat(nll, dim=1)
        return found.mean(dim=1, keepdim=True) - found

    def _merged(
        self,
        batch: Batch,
        video_state: Float[Tensor, "B D"],
        features: Float[Tensor, "M P D"],
        candidates: Int[Tensor, "M Q"],
    ) -> Float[Tensor, "B D"]:
        """Videos seen through their own grounded sentences (Eq. 14-16); against them, paragraphs
        have the similarity S^g."""
        rows = torch.arange(len(candidates), device=candidates.device)[:, None]
        fused = torch.einsum("mqd,q->md", features[rows, candidates], self.candidate_weights)
        grounded = self.grounded_token(self.video_encoder, batch.padded(fused), batch.sentence_mask)
        merged = self.merge(torch.cat([video_state, grounded], dim=-1))
        return nn.functional.normalize(merged.float(), dim=-1)

    def _scores(
        self, features: Float[Tensor, "M P D"], *, temporal: bool
    ) -> tuple[Float[Tensor, "M P"], ...]:
        """Logits of P, and what the temporal heads make of the features, without their bias; one
        product, since features are large and heads small."""
        heads = [self.score, *self.temporal_scores] if temporal else [self.score]
        weights = torch.cat([cast(nn.Linear, head).weight for head in heads])
        logits, *raw = (features @ weights.T).float().unbind(dim=-1)
        return logits + self.score.bias, *raw

    def _temporal(self, batch: Batch, scores: Sequence[Float[Tensor, "M P"]]) -> Encoded:
        """Logits of P^f and P^r (Eq. 18 and 19), (M, P) each."""
        maps = {}
        for raw, head, reverse in zip(scores, self.temporal_scores, self.directions, strict=True):
            bias = cast(nn.Linear, head).bias
            logits = remaining_mass(batch.padded(raw), bias, batch.sentence_mask, reverse=reverse)
            maps[TEMPORAL_PARTS[reverse]] = batch.flat(logits)
        return maps

    def forward(self, batch: Batch, terms: frozenset[str] | None = None) -> DMRJRGOutput:
        """Everything the named loss terms read; None stands for all of them."""
        return self.compare(self.encode(batch, terms), batch)

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        wanted = MAP_TERMS if terms is None else terms & MAP_TERMS
        globally = self.grounded_retrieval and bool(wanted & GLOBAL_TERMS)
        sentences, clips = self._sentences(batch), self.clips(batch.video)
        parts: Encoded = {}
        if self.alignment is not None:
            parts |= {"sentences": sentences, "clips": clips}
        if self.retrieval != "alignment" or globally:
            parts["text"], video_state = (
                self._text_feature(batch, sentences),
                self._video_state(clips),
            )
        if self.retrieval != "alignment":
            parts["video"] = nn.functional.normalize(video_state.float(), dim=-1)
        if not wanted:
            return parts

        found = self._found_in_training(sentences, clips, batch)
        if self.isolate:
            clips, sentences = clips.detach(), sentences.detach()
        features = self._map(clips, sentences, batch, found)
        logits, *temporal = self._scores(features, temporal=bool(wanted & TEMPORAL_TERMS))
        candidates = self._candidates(self._belief(logits.detach(), found))
        parts |= {"logits": logits, "candidates": candidates}
        if wanted & RECONSTRUCTION_TERMS:
            parts["nll"] = self._reconstruction(batch, candidates)
        if globally:
            parts["merged"] = self._merged(batch, video_state, features, candidates)
        if wanted & TEMPORAL_TERMS:
            parts |= self._temporal(batch, temporal)
        if found is not None and "temporal_teacher" in wanted:
            parts["teacher"] = self._decode(found, batch).argmax(dim=1)
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> DMRJRGOutput:
        aligned = global_similarity = global_scale = None
        if self.alignment is not None:
            aligned = self.alignment(parts["sentences"], parts["clips"], batch)
        if self.retrieval == "alignment":
            assert aligned is not None
            similarity, scale = aligned.similarity, aligned.scale
        else:
            similarity = parts["text"] @ parts["video"].T
            scale = self.log_scale.exp().clamp(max=100)
        if "merged" in parts:
            global_similarity = parts["text"] @ parts["merged"].T
            global_scale = self.global_log_scale.exp().clamp(max=100)
        return DMRJRGOutput(
            similarity=similarity,
            scale=scale,
            spans=self.grid.spans,
            alignment=aligned,
            logits=parts.get("logits"),
            candidates=parts.get("candidates"),
            nll=parts.get("nll"),
            global_similarity=global_similarity,
            global_scale=global_scale,
            temporal_logits=tuple(parts[name] for name in TEMPORAL_PARTS if name in parts),
            teacher=parts.get("teacher"),
        )

    # Inference (III-H): the global and the temporal heads take no part.

    def _belief(
        self, logits: Float[Tensor, "M P"], found: Float[Tensor, "M P"] | None
    ) -> Float[Tensor, "M P"]:
        """A span's score from the sentence alone: P, or the alignment with P beside it."""
        if found is None:
            return logits.sigmoid()
        return found + self.map_weight * logits.sigmoid()

    def _decode(self, scores: Float[Tensor, "M P"], batch: Layout) -> Float[Tensor, "M P"]:
        return decode_in_order(scores, batch, self.grid, prior=self.prior, order=self.order)

    def ground_pairs(self, paragraphs: Encoded, videos: Encoded) -> Proposals:
        """Every valid cell's score, by P or by decoding the paragraph in order."""
        pairs = Layout.of(paragraphs["mask"])
        sentences = pairs.flat(paragraphs["sentences"])
        aligned = told = None
        if self.alignment is not None:
            aligned = self.alignment.evidence(sentences, videos["aligned"], pairs)
        if self.told:
            ids, counts = (pairs.flat(paragraphs[name]) for name in ("word_ids", "word_counts"))
            told = self.told * self._told_by_clips(videos["frames"], ids, counts.cpu(), pairs)
        found = belief = self._found(pairs, aligned, told)
        if self.decoder == "map" or self.map_weight or belief is None:  # else P has no vote
            if told is not None and not self.told_teaches:
                found = self._found(pairs, aligned)  # what the map has learnt to read
            logits = self.score(self._map(videos["clips"], sentences, pairs, found)).squeeze(-1)
            if self.decoder == "map":
                return Proposals(self.grid.spans, logits.sigmoid())
            belief = self._belief(logits, belief)
        return Proposals(self.grid.spans, self._decode(self.trust * belief, pairs))

    def inspect(self, batch: Batch) -> dict[str, Tensor]:
        """``reconstruction_gap``: by how many nats a hidden word is likelier with the frames of the
        sentence's own candidates than with those of the next video of the batch. At 0 the
        reconstructor reads the words around it and not the video."""
        out = self(batch, terms=frozenset({"rank"}))
        own, other = (
            self._reconstruction(
                dataclasses.replace(batch, video=batch.video.roll(shift, dims=0)),
                out.candidates,
                torch.Generator(batch.video.device).manual_seed(0),
            ).mean()
            for shift in (0, 1)
        )
        return {"reconstruction_gap": other - own}

    def calibrate(self, skill: float) -> None:
        """Believe the evidence as far as it tells videos apart.

        Args:
            skill: 0 (pairs on validation are found no better than by chance) to 1 (always found);
                no timestamp is needed to know it. At 0 ordered decoding is left with the prior.
        """
        self.trust.fill_(skill)

    @staticmethod
    def plan(*, pretrained_rate: float = 0.1) -> Plan:
        """One step per batch, all terms.

        Args:
            pretrained_rate: factor on the learning rate of a pretrained text encoder (as in MMN;
                the paper does not say).
        """
        return Plan(rates={"sentence.pretrained.": pretrained_rate})

    losses = staticmethod(losses)
