"""DCIML: a retrieval branch and a grounding branch that teach each other, batch by batch.

Weakly supervised. Only an abstract, figures and a release are public (the training loop in its
history alone). The retrieval branch is GMMFormer's without Gaussian windows, the grounding branch
CPL's. Where the release is plainly wrong, this is not:

- clips for the modulation are those of the sentence's own video (there: of the video before it);
- containment asks for the best clip of the own video (there: of the runner-up of the batch), and
  for its middle (there: its beginning);
- the span of the grounding branch is a target for the similarities of the clips themselves (there:
  for thresholded ones, through which no gradient flows);
- the hinges between guided and unguided scores leave the unguided side alone;
- a third of the words is hidden from the reconstruction, as in CPL (there: none, so that what is to
  be guessed is read); the start vector stands before the first word (there: it is written over the
  batch's first token, which the retrieval branch then reads too);
- padding is never a word to be guessed, and reaches no average;
- no normalisation's weight decays.

Retrieval and grounding are joined sentence by sentence, not by position in two loaders; that is the
evaluation's business. Sentences become paragraphs by the mean of their similarities (ours).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.datasets.batch import Batch
from lib.losses.diversity import gram_distance
from lib.losses.mutual import clips_of_span, containment, improvement, pull
from lib.losses.reconstruction import candidate_nll
from lib.losses.sentences import multi_positive_nce, sentence_triplet
from lib.models.interface import DataDims, Encoded, Losses, Plan, Proposals, Stage
from lib.models.layers.gaussian import outside_windows, proposal_windows
from lib.models.layers.text import draw_masked_words
from lib.models.layers.transformer import (
    AttentionBlock,
    AttentivePool,
    FiLM,
    WeighedDecoder,
    sinusoids,
)

MATCHING = frozenset({"clip_nce", "frame_nce", "triplet", "hard_triplet"})
TO_RETRIEVAL = frozenset({"span", "retrieval_margin", "retrieval_pull"})
RECONSTRUCTION = frozenset({"reconstruction", "rank", "diversity"})
TO_GROUNDING = frozenset({"containment", "grounding_margin", "grounding_pull"})


@dataclass(frozen=True)
class Grounded:
    """What the grounding branch says of every sentence."""

    spans: Float[Tensor, "M Q 2"]  # fractions of the video
    windows: Float[Tensor, "M Q F"]
    nll: Float[Tensor, "M Q"]
    best: Int[Tensor, "M 1"]  # the proposal that reconstructs best
    encoded: Float[Tensor, "M F D"]  # frames under the best proposal's window
    states: Float[Tensor, "M D"]  # mean over frames, before any proposal
    other_nll: Float[Tensor, "M R"] | None = None  # whole video, before, after the best proposal


@dataclass(frozen=True)
class DCIMLOutput:
    """What the losses read. A field is None when no active term asks for it."""

    similarities: dict[str, Float[Tensor, "M B"]] = field(default_factory=dict)
    own_clips: Float[Tensor, "M N"] | None = None  # cosine with the clips of the own video
    guided_scores: tuple[Float[Tensor, "M R"], ...] = ()  # clip and frame score, guided and alone
    retrieval_distance: Float[Tensor, ""] | None = None
    spans: Float[Tensor, "M Q 2"] | None = None
    windows: Float[Tensor, "M Q F"] | None = None
    nll: Float[Tensor, "M Q"] | None = None
    other_nll: Float[Tensor, "M R"] | None = None
    guided_nll: Float[Tensor, "M Q"] | None = None
    grounding_distance: Float[Tensor, ""] | None = None
    best: Int[Tensor, "M 1"] | None = None


class Projection(nn.Sequential):
    """Layer norm, dropout, linear map, ReLU."""

    def __init__(self, inputs: int, hidden_size: int, dropout: float) -> None:
        linear = nn.Linear(inputs, hidden_size)
        super().__init__(nn.LayerNorm(inputs), nn.Dropout(dropout), linear, nn.ReLU())


class Positions(nn.Module):
    """Learned positions, added and normalised; items beyond the last share its position."""

    def __init__(self, length: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(length, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: Float[Tensor, "M L D"]) -> Float[Tensor, "M L D"]:
        place = torch.arange(items.shape[1], device=items.device)
        place = place.clamp(max=self.table.num_embeddings - 1)
        return self.dropout(self.norm(items + self.table(place)))


class RetrievalBranch(nn.Module):
    """Sentences against the clips of a video and against the video as a whole."""

    def __init__(
        self, dims: DataDims, hidden_size: int, grounding_size: int, heads: int, max_words: int
    ) -> None:
        super().__init__()
        D, T, drop = hidden_size, dims.num_frames, 0.2
        self.num_clips = dims.num_clips
        block = {"heads": heads, "dropout": drop}
        self.query = Projection(dims.word_dim, D, drop)
        self.query_positions = Positions(max_words, D, drop)
        self.query_encoder = AttentionBlock(D, **block)  # type: ignore[arg-type]
        self.query_pool = AttentivePool(D)
        self.clip = Projection(dims.video_dim, D, drop)
        self.clip_positions = Positions(T, D, drop)  # of which N are used, as released
        self.frame = Projection(dims.video_dim, D, drop)
        self.frame_positions = Positions(T, D, drop)
        self.clip_encoder, self.frame_encoder = (
            nn.ModuleList(AttentionBlock(D, copies=4, **block) for _ in range(2))  # type: ignore
            for _ in range(2)
        )
        self.frame_pool = AttentivePool(D)
        self.apply(_small_normal)
        self.from_grounding = nn.Linear(grounding_size, D)
        self.guide_clips = FiLM(D, D)
        self.guide_frame = FiLM(D, D)

    def sentences(
        self, words: Float[Tensor, "M W E"], mask: Bool[Tensor, "M W"]
    ) -> Float[Tensor, "M D"]:
        x = self.query_positions(self.query(words))
        return self.query_pool(self.query_encoder(x, mask), mask)

    def videos(
        self, video: Float[Tensor, "B T C"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B D"]]:
        rows = video.unflatten(1, (self.num_clips, -1)).mean(dim=2)
        clips = self.clip_positions(self.clip(nn.functional.normalize(rows, dim=-1)))
        frames = self.frame_positions(self.frame(nn.functional.normalize(video, dim=-1)))
        for block in self.clip_encoder:
            clips = block(clips)
        for block in self.frame_encoder:
            frames = block(frames)
        return clips, self.frame_pool(frames)


class GroundingBranch(nn.Module):
    """Proposals for a sentence as Gaussian windows, judged by how well they tell its words."""

    positions: Float[Tensor, "W D"]
    sampled: Int[Tensor, " F"]

    def __init__(
        self,
        dims: DataDims,
        hidden_size: int,
        retrieval_size: int,
        heads: int,
        layers: int,
        proposals: int,
        sampled_frames: int,
    ) -> None:
        super().__init__()
        D, T = hidden_size, dims.num_frames
        self.num_proposals = proposals
        decoder = {"num_layers": layers, "heads": heads, "feedforward": 2 * D, "dropout": 0.1}
        self.frame_decoder = WeighedDecoder(D, **decoder)  # type: ignore[arg-type]
        self.word_decoder = WeighedDecoder(D, **decoder)  # type: ignore[arg-type]
        self.apply(_small_normal)
        for part in (*self.frame_decoder.modules(), *self.word_decoder.modules()):
            if isinstance(part, nn.MultiheadAttention):
                nn.init.xavier_uniform_(part.in_proj_weight)
        self.dropout = nn.Dropout(0.1)
        self.frame = nn.Linear(dims.video_dim, D)
        self.word = nn.Linear(dims.word_dim, D)
        self.last_frame = nn.Parameter(torch.zeros(dims.video_dim))  # reads all, makes proposals
        self.first_word = nn.Parameter(torch.zeros(dims.word_dim))
        self.hidden_word = nn.Parameter(torch.zeros(D))
        self.window = nn.Linear(D, 2 * proposals)
        self.vocabulary = nn.Linear(D, dims.vocab_size)
        self.from_retrieval = nn.Linear(retrieval_size, D)
        self.guide = FiLM(D, D)
        rows = torch.linspace(0, T - 1, sampled_frames).floor().long()
        self.register_buffer("sampled", rows, persistent=False)
        self.register_buffer("positions", sinusoids(256, D), persistent=False)

    def frames(self, batch: Batch) -> Float[Tensor, "M T1 D"]:
        """Each sentence's video with the proposing frame behind it."""
        video = nn.functional.normalize(batch.video, dim=-1)
        last = self.last_frame.expand(len(video), 1, -1)
        x = self.frame(self.dropout(torch.cat([video, last], dim=1)))
        return x.index_select(0, batch.owner)

    def forward(
        self, batch: Batch, x: Float[Tensor, "M T1 D"], *, others: bool = False
    ) -> Grounded:
        """Proposals on the frames ``x``; with ``others`` also the windows that should be worse."""
        words = nn.functional.normalize(batch.flat(batch.words), dim=-1)
        mask = batch.flat(batch.word_mask)
        words = torch.where(mask[..., None], words, 0.0)
        first = self.first_word.expand(len(words), 1, -1)
        w = self.word(self.dropout(torch.cat([first, words], dim=1)))  # (M, 1 + W, D)
        place = torch.arange(w.shape[1], device=w.device).clamp(max=len(self.positions) - 1)
        positions = self.positions[place]
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)

        memory = self.word_decoder(w + positions, mask)
        real = torch.ones_like(x[0, :, 0], dtype=torch.bool)
        real[-1] = False  # nobody reads the proposing frame
        read = self.frame_decoder(x, real.expand(x.shape[:2]), memory=memory, memory_mask=mask)
        raw = self.window(read[:, -1]).sigmoid().unflatten(1, (self.num_proposals, 2))
        center, width = raw.unbind(dim=-1)  # (M, Q)

        if self.training:
            drawn = draw_masked_words(batch.flat(batch.word_weights), batch.word_counts)
            hidden = torch.cat([torch.zeros_like(mask[:, :1]), drawn.hidden], dim=1)
            w = torch.where(hidden[..., None], self.hidden_word, w)
        inputs = (w + positions)[:, :-1]
        steps = len(self.sampled)
        sampled = x.index_select(1, self.sampled)
        windows = proposal_windows(center, width, steps)
        nll, encoded = self._reconstruct(batch, sampled, inputs, mask[:, :-1], windows)
        best = nll.argmin(dim=1, keepdim=True)
        other_nll = None
        if others:
            sides = outside_windows(center.gather(1, best), width.gather(1, best), steps)
            everything = torch.cat([torch.ones_like(sides[0]), *sides], dim=1)
            other_nll, _ = self._reconstruct(batch, sampled, inputs, mask[:, :-1], everything)
        rows = torch.arange(len(best), device=best.device)
        spans = torch.stack([center - width / 2, center + width / 2], dim=-1).clamp(0, 1)
        states = x.mean(dim=1)
        return Grounded(spans, windows, nll, best, encoded[rows, best[:, 0]], states, other_nll)

    def _reconstruct(
        self,
        batch: Batch,
        sampled: Float[Tensor, "M F D"],
        inputs: Float[Tensor, "M W D"],
        mask: Bool[Tensor, "M W"],
        windows: Float[Tensor, "M Q F"],
    ) -> tuple[Float[Tensor, "M Q"], Float[Tensor, "M Q F D"]]:
        """Mean negative log-likelihood of a sentence's words under each window, and its frames."""
        M, Q, _ = windows.shape
        weights = windows.flatten(0, 1)
        frames = sampled.repeat_interleave(Q, dim=0)
        encoded = self.frame_decoder(frames, weights=weights)
        decoded = self.word_decoder(
            inputs.repeat_interleave(Q, dim=0),
            mask.repeat_interleave(Q, dim=0),
            memory=encoded,
            memory_weights=weights,
        )
        counts, W = batch.word_counts, inputs.shape[1]
        sentence = torch.repeat_interleave(torch.arange(M), counts)
        word = torch.cat([torch.arange(count) for count in counts.tolist()])
        place = (sentence * W + word).to(inputs.device, non_blocking=True)
        told = decoded.unflatten(0, (M, Q)).transpose(0, 1).flatten(1, 2).index_select(1, place)
        target = batch.flat(batch.word_ids).flatten().index_select(0, place)
        nll = candidate_nll(
            self.vocabulary(told), target, sentence.to(place.device), M, label_smoothing=0.1
        )
        return nll, encoded.unflatten(0, (M, Q))


def _small_normal(module: nn.Module) -> None:
    """BERT's initialisation of linear maps and tables."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class DCIML(nn.Module):
    """Both branches.

    Args:
        dims: the sizes that the data decides.
        retrieval_size, grounding_size: D of each branch.
        heads: of all attention.
        decoder_layers: of each of the two decoders of the grounding branch.
        proposals: Q.
        sampled_frames: that the reconstruction reads.
        max_words: with a position of their own in the retrieval branch.
        clip_share: of the clip score in the similarity; the rest is the frame score's.
    """

    supervision = "weak"

    def __init__(
        self,
        dims: DataDims,
        *,
        retrieval_size: int = 384,
        grounding_size: int = 256,
        heads: int = 4,
        decoder_layers: int = 3,
        proposals: int = 10,
        sampled_frames: int = 32,
        max_words: int = 30,
        clip_share: float = 0.7,
    ) -> None:
        super().__init__()
        self.clip_share = clip_share
        self.retrieval = RetrievalBranch(dims, retrieval_size, grounding_size, heads, max_words)
        self.grounding = GroundingBranch(
            dims, grounding_size, retrieval_size, heads, decoder_layers, proposals, sampled_frames
        )

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips`` (B, N, D) and ``frame`` (B, D), unit length."""
        clips, frame = self.retrieval.videos(video)
        return {"clips": _unit(clips), "frame": _unit(frame)}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` (B, S, D) of unit length, and ``mask``: which exist."""
        return {
            "sentences": batch.padded(_unit(self._queries(batch))),
            "mask": batch.sentence_mask,
        }

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """Mean over a paragraph's sentences of the weighed clip and frame scores."""
        mask = paragraphs["mask"]
        sentences = paragraphs["sentences"][mask]
        clip = torch.einsum("md,bnd->mbn", sentences, videos["clips"]).amax(dim=-1)
        found = self.clip_share * clip + (1 - self.clip_share) * sentences @ videos["frame"].T
        total = found.new_zeros(len(mask), found.shape[1]).index_add(0, mask.nonzero()[:, 0], found)
        return total / mask.sum(dim=1, keepdim=True)

    def _queries(self, batch: Batch) -> Float[Tensor, "M D"]:
        mask = batch.flat(batch.word_mask)
        words = torch.where(mask[..., None], batch.flat(batch.words), 0.0)
        return self.retrieval.sentences(nn.functional.normalize(words, dim=-1), mask)

    def forward(self, batch: Batch, terms: frozenset[str] | None = None) -> DCIMLOutput:
        """Only what ``terms`` ask for; what one branch tells the other carries no gradient."""
        if terms is None:
            terms = MATCHING | TO_RETRIEVAL | RECONSTRUCTION | TO_GROUNDING
        found: dict[str, object] = {}
        grounded = None
        if terms & (TO_RETRIEVAL | RECONSTRUCTION | TO_GROUNDING):
            frames = self.grounding.frames(batch)
            grounded = self.grounding(batch, frames, others="rank" in terms or "reconstruction" in terms)
            for name in ("spans", "windows", "nll", "other_nll", "best"):
                found[name] = getattr(grounded, name)
        if not terms & (MATCHING | TO_RETRIEVAL | TO_GROUNDING):
            return DCIMLOutput(**found)  # type: ignore[arg-type]

        q = self._queries(batch)
        clips, frame = self.retrieval.videos(batch.video)
        cosine = torch.einsum("md,bnd->mbn", _unit(q), _unit(clips))
        found["similarities"] = {
            "clip": cosine.amax(dim=-1),
            "clip_product": torch.einsum("md,bnd->mbn", q, clips).amax(dim=-1),
            "frame": _unit(q) @ _unit(frame).T,
            "frame_product": q @ frame.T,
        }
        rows = torch.arange(len(q), device=q.device)
        found["own_clips"] = own = cosine[rows, batch.owner]
        if grounded is not None and terms & {"retrieval_margin", "retrieval_pull"}:
            v, f = clips.index_select(0, batch.owner), frame.index_select(0, batch.owner)
            told = self.retrieval.from_grounding(grounded.encoded.detach()).mean(dim=1)
            guided_v = self.retrieval.guide_clips(v, told)
            guided_f = self.retrieval.guide_frame(f, told)
            clip = torch.einsum("md,mnd->mn", _unit(q), _unit(guided_v)).amax(dim=-1)
            whole = torch.einsum("md,md->m", _unit(q), _unit(guided_f))
            alone = torch.einsum("md,md->m", _unit(q), _unit(f))
            found["guided_scores"] = (
                torch.stack([clip, whole], dim=1),
                torch.stack([own.amax(dim=1), alone], dim=1),
            )
            found["retrieval_distance"] = (pull(f, guided_f) + pull(v, guided_v)) / 2
        if grounded is not None and terms & {"grounding_margin", "grounding_pull"}:
            best = clips[batch.owner, own.argmax(dim=1)].detach()
            guided = self.grounding.guide(frames, self.grounding.from_retrieval(best))
            again = self.grounding(batch, guided)
            found["guided_nll"] = again.nll
            found["grounding_distance"] = pull(grounded.states, again.states)
        return DCIMLOutput(**found)  # type: ignore[arg-type]

    def ground(self, batch: Batch) -> Proposals:
        """The proposals; the one that tells the words best comes first."""
        grounded = self.grounding(batch, self.grounding.frames(batch))
        return Proposals(grounded.spans, -grounded.nll)

    @staticmethod
    def losses(
        *,
        margin: float = 0.2,
        guided_margin: float = 0.2,
        reference_margin: float = 0.1,
        outside_margin: float = 0.15,
        guided_nll_margin: float = 0.15,
        spread: float = 0.13,
    ) -> Losses:
        """Retrieval: ``clip_nce``, ``frame_nce``, ``triplet`` or ``hard_triplet``; told by the other
        branch ``span``, ``retrieval_margin``, ``retrieval_pull``. Grounding: ``reconstruction``,
        ``rank``, ``diversity``; told by the other branch ``containment``, ``grounding_margin``,
        ``grounding_pull``.

        Args:
            margin: of the triplets.
            guided_margin, guided_nll_margin: by which guidance should help a score or a likelihood.
            reference_margin, outside_margin: by which the best proposal should tell the words
                better than the whole video, and than what lies before and after it.
            spread: λ: squared length of a proposal's weights, small for long ones.
        """

        def triplets(out: DCIMLOutput, batch: Batch, hardest: bool) -> Tensor:
            clip, frame = (
                sentence_triplet(
                    out.similarities[name],
                    batch.owner,
                    batch.same_video,
                    margin=margin,
                    hardest=hardest,
                )
                for name in ("clip", "frame")
            )
            return clip + frame

        def span(out: DCIMLOutput, batch: Batch) -> Tensor:
            best = out.spans.gather(1, out.best[..., None].expand(-1, -1, 2))[:, 0]
            inside = clips_of_span(best.detach(), out.own_clips.shape[1])
            return nn.functional.binary_cross_entropy_with_logits(
                out.own_clips.float(), inside.float()
            )

        def reconstruction(out: DCIMLOutput, batch: Batch) -> Tensor:
            return (out.nll.amin(dim=1).mean() + out.other_nll[:, 0].mean()) / 2

        def rank(out: DCIMLOutput, batch: Batch) -> Tensor:
            margins = out.nll.new_tensor([reference_margin, outside_margin, outside_margin])
            best = out.nll.amin(dim=1, keepdim=True)
            return (best - out.other_nll + margins).clamp(min=0).mean(dim=0).sum()

        def diversity(out: DCIMLOutput, batch: Batch) -> Tensor:
            return gram_distance(out.windows / out.windows.sum(dim=-1, keepdim=True), spread)

        def inside(out: DCIMLOutput, batch: Batch) -> Tensor:
            place = (out.own_clips.argmax(dim=1) + 0.5) / out.own_clips.shape[1]
            return containment(out.spans, place)

        return {
            "clip_nce": lambda out, batch: multi_positive_nce(
                out.similarities["clip_product"], batch.owner, batch.same_video
            ),
            "frame_nce": lambda out, batch: multi_positive_nce(
                out.similarities["frame_product"], batch.owner, batch.same_video
            ),
            "triplet": lambda out, batch: triplets(out, batch, hardest=False),
            "hard_triplet": lambda out, batch: triplets(out, batch, hardest=True),
            "span": span,
            "retrieval_margin": lambda out, batch: (
                improvement(*out.guided_scores, guided_margin).mean(dim=0).sum()
            ),
            "retrieval_pull": lambda out, batch: out.retrieval_distance,
            "reconstruction": reconstruction,
            "rank": rank,
            "diversity": diversity,
            "containment": inside,
            "grounding_margin": lambda out, batch: improvement(
                -out.guided_nll.mean(), -out.nll.mean(), guided_nll_margin
            ),
            "grounding_pull": lambda out, batch: out.grounding_distance,
        }

    @staticmethod
    def plan(
        *, mutual_after: int = 15, hard_after: int = 20, grounding_rate: float = 1.6
    ) -> Plan:
        """Every batch trains the retrieval branch and then the grounding branch, the other at rest.

        Args:
            mutual_after: epochs without the terms by which the branches teach each other.
            hard_after: epochs with random negatives (``triplet``); then ``hard_triplet``.
            grounding_rate: factor on the learning rate of the grounding branch.
        """

        def stages(epoch: int) -> tuple[Stage, ...]:
            mutual = float(epoch >= mutual_after)
            hard = float(epoch >= hard_after)
            learn_retrieval = {
                **dict.fromkeys(RECONSTRUCTION | TO_GROUNDING, 0.0),
                **dict.fromkeys(TO_RETRIEVAL, mutual),
                "triplet": 1 - hard,
                "hard_triplet": hard,
            }
            learn_grounding = {
                **dict.fromkeys(MATCHING | TO_RETRIEVAL, 0.0),
                **dict.fromkeys(TO_GROUNDING, mutual),
            }
            return (
                Stage(learn_retrieval, frozen=("grounding.",)),
                Stage(learn_grounding, frozen=("retrieval.",)),
            )

        return Plan(stages, rates={"grounding.": grounding_rate})


def _unit(x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    return nn.functional.normalize(x, dim=-1)
