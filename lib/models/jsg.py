"""JSG: clips ("glance") give a focus in a video, and frames ("gaze") are compared around it.

"Joint Searching and Grounding: Multi-Granularity Video Content Retrieval", ACM MM 2023. Weakly
supervised. A proposal is a Gaussian window over the video, its feature a weighed mean of rows. Two
streams of rows are pooled by the same proposals: the glance's few clips and the gaze's many frames.
The centre of the best proposal of the glance is the focus around which the gaze is trained, with
windows of several widths.

The formulas are those of the release, which differ from the paper's (docs/deviations.md); parts of
it that no loss reaches are not built. The release's event model has one sentence per video, here
there are several (ours): they are no negatives of each other, and the video is encoded once for
all. A paragraph's similarity is the mean over its sentences (ours too).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..decoding import Evidence
from ..losses import Losses
from ..losses.sentences import (
    joint_nce,
    multi_positive_nce,
    sentence_columns,
    sentence_triplet,
)
from .interface import Encoded, Model, Plan, Stage, require, switch_terms_at
from .layers.gaussian import outside_windows, proposal_windows
from .layers.pooled import (
    Matched,
    attend,
    best_windows,
    lengths,
    matched,
    matched_features,
    products,
)
from .layers.precision import in_full
from .layers.retrieval_branch import Positions, Projection, SentenceVector, unit
from .layers.transformer import AttentionBlock, small_normal

GALLERY_BLOCK = 32  # videos scored at once against all queries; bounds memory only
PARTS = ("glance", "gaze", "attention")
BESIDE = frozenset({"sides", "whole"})
ATTENTION = frozenset({"attention_nce", "attention_triplet", "attention_hard_triplet"})
GAZE = frozenset({"gaze_nce", "gaze_triplet", "gaze_hard_triplet"})


@dataclass(frozen=True)
class JSGOutput:
    """What the losses read. A part is None when no active term needs it.

    Columns of ``glance`` are the videos of the batch; columns of the others are the sentences, that
    is the focus of each sentence in its own video.
    """

    glance: Matched
    gaze: Matched | None = None
    attention: Matched | None = None
    sides: Float[Tensor, "M 2"] | None = None  # cosine with what lies left and right of the gaze
    whole: Float[Tensor, "M 1"] | None = None  # and with the video as a whole


class JSG(Model):
    """Glance and gaze.

    Args:
        dims: the sizes that the data decides. The glance's clips are computed from T / ``stride``
            rows.
        hidden_size: D.
        heads: of all attention.
        max_words: with a position of their own.
        stride: frames of which the glance sees the maximum.
        kernel: of the convolution behind it, one for all entries of a row.
        num_centers, num_widths: of the proposals, evenly spaced; a proposal is a pair of these.
        narrowest, widest: of these widths, as fractions of the video.
        gaze_widths: around a focus in training, in the same range.
        glance_share: of the glance in the similarity; the rest is the gaze's.
        video_level: the release's second model, for ranking videos only: a key clip guides
            attention over the frames, and no gradient of the gaze reaches the sentences. Weigh
            its losses ``video_nce``, the triplets and ``attention_…``.

    Raises:
        ValueError: too few frames for one clip of the glance.
    """

    grounds_from = frozenset({"scores", "clips"})
    spans: Float[Tensor, "P 2"]
    glance_windows: Float[Tensor, "P N"]
    gaze_windows: Float[Tensor, "P T"]
    focus_windows: Float[Tensor, "F K T"]
    beside_windows: Float[Tensor, "F K 3 T"]

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 384,
        heads: int = 4,
        max_words: int = 30,
        stride: int = 4,
        kernel: int = 4,
        num_centers: int = 16,
        num_widths: int = 10,
        narrowest: float = 0.05,
        widest: float = 1.0,
        gaze_widths: int = 8,
        glance_share: float = 0.4,
        video_level: bool = False,
    ) -> None:
        super().__init__()
        D, T, drop = hidden_size, dims.num_frames, 0.1
        num_clips = T // stride - kernel + 1
        if num_clips < 1:
            raise ValueError(
                f"stride {stride} and kernel {kernel} need {stride * kernel} frames, found {T}"
            )
        self.stride, self.num_widths = stride, num_widths
        self.glance_share, self.video_level = glance_share, video_level
        self.query = SentenceVector(dims.word_dim, D, heads, drop, max_words)
        # Without a bias: what it adds to a whole row, the projection's layer norm takes away.
        self.slide = nn.Conv2d(1, 1, (kernel, 1), bias=False)
        self.clip = Projection(dims.video_dim, D, drop)
        self.clip_positions = Positions(T, D, drop)  # of which N are used, as released
        self.frame = Projection(dims.video_dim, D, drop)
        self.frame_positions = Positions(T, D, drop)
        self.video_encoder = AttentionBlock(D, heads=heads, dropout=drop)  # of both streams
        if video_level:
            self.attended_by = nn.Linear(D, D, bias=False)
            self.attended = nn.Linear(D, D, bias=False)
        self.apply(small_normal)

        centers = torch.linspace(narrowest / 2, 1 - narrowest / 2, num_centers)
        widths = torch.linspace(narrowest, widest, num_widths)
        center, width = torch.cartesian_prod(centers, widths).unbind(dim=1)
        spans = torch.stack([center - width / 2, center + width / 2], dim=1).clamp(0, 1)
        focus = centers[:, None].expand(-1, gaze_widths)
        wide = torch.linspace(narrowest, widest, gaze_widths).expand(num_centers, -1)
        left, right = outside_windows(focus, wide, T, at_ends=True)
        beside = torch.stack([left, right, torch.ones_like(left)], dim=2)
        for name, windows in {
            "glance_windows": proposal_windows(center, width, num_clips),
            "gaze_windows": proposal_windows(center, width, T),
            "focus_windows": proposal_windows(focus, wide, T),
            "beside_windows": beside,
        }.items():
            shares = windows / windows.sum(dim=-1, keepdim=True)
            self.register_buffer(name, shares, persistent=False)
        self.register_buffer("spans", spans, persistent=False)

    @property
    def unavailable_terms(self) -> frozenset[str]:
        return frozenset() if self.video_level else ATTENTION

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips`` (B, N, D) and ``frames`` (B, T, D), and the norms of the proposals' features
        pooled from them, ``clip_lengths`` and ``frame_lengths`` (B, P): pooling is linear, so that
        the inner product with a proposal is the pooled product with its rows, and P features per
        video need not be kept."""
        clips, frames = self._clips(video), self._frames(video)
        return {
            "clips": clips,
            "clip_lengths": lengths(clips, self.glance_windows),
            "frames": frames,
            "frame_lengths": lengths(frames, self.gaze_windows),
        }

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` (B, S, D) of unit length, and ``mask``: which exist."""
        return {
            "sentences": batch.padded(unit(self._queries(batch))),
            "mask": batch.sentence_mask,
        }

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """Mean over a paragraph's sentences of the best cosines of glance and gaze, weighed."""
        queries = Layout.of(paragraphs["mask"])
        sentences = queries.flat(paragraphs["sentences"])
        names = ("clips", "clip_lengths", "frames", "frame_lengths")
        blocks = zip(*(videos[name].split(GALLERY_BLOCK) for name in names), strict=True)
        columns = []
        for clips, clip_lengths, frames, frame_lengths in blocks:
            glance = products(sentences, clips, self.glance_windows) / clip_lengths
            gaze = products(sentences, frames, self.gaze_windows) / frame_lengths
            columns.append(self._fused(glance.amax(dim=-1), gaze.amax(dim=-1)))
        return queries.mean(torch.cat(columns, dim=1))

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """``scores``: the gaze's cosines with all proposals, without the focus, as published.
        ``row_cosine`` (ours): the fused cosines with single rows. The best-scored of many proposals
        is one of the narrowest, whose scores vary most; evidence over rows has no such bias."""
        pairs = Layout.of(paragraphs["mask"])
        sentences, clips, frames = paragraphs["sentences"], videos["clips"], videos["frames"]
        read = self.grounds_from if read is None else read
        scores, rows = None, {}
        with in_full(frames):
            if "scores" in read:
                product = sentences @ frames.mT @ self.gaze_windows.T
                scores = pairs.flat(product / videos["frame_lengths"][:, None])
            if "clips" in read:
                glance, gaze = sentences @ unit(clips).mT, sentences @ unit(frames).mT
                glance = nn.functional.interpolate(
                    glance, gaze.shape[-1], mode="linear", align_corners=True
                )
                rows["row_cosine"] = pairs.flat(self._fused(glance, gaze))
        return Evidence(pairs, self.spans, frames.shape[1], scores, rows)

    def _fused(self, glance: Tensor, gaze: Tensor) -> Tensor:
        return self.glance_share * glance + (1 - self.glance_share) * gaze

    def _gazing(self, q: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        return q.detach() if self.video_level else q

    def _queries(self, batch: Batch) -> Float[Tensor, "M D"]:
        return self.query(batch.flat(batch.words), batch.flat(batch.word_mask))

    def _clips(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B N D"]:
        rows = nn.functional.max_pool2d(unit(video)[:, None], (self.stride, 1))
        return self.video_encoder(self.clip_positions(self.clip(self.slide(rows)[:, 0])))

    def _frames(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B T D"]:
        return self.video_encoder(self.frame_positions(self.frame(unit(video))))

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        if terms is None:
            terms = GAZE | BESIDE | (ATTENTION - self.unavailable_terms)
        q, clips = self._queries(batch), self._clips(batch.video)
        parts: Encoded = {"sentences": q, "clips": clips}
        if not terms & (GAZE | BESIDE | ATTENTION):
            return parts
        frames = self._frames(batch.video).index_select(0, batch.owner)  # (M, T, D)
        own_clips = clips.index_select(0, batch.owner)
        with in_full(q):
            own_lengths = lengths(clips, self.glance_windows).index_select(0, batch.owner)
            best = best_windows(q, own_clips, own_lengths, self.glance_windows)
            focus = best // self.num_widths  # not a number that a gradient could move
            windows = self.focus_windows.index_select(0, focus)
            parts["gaze"] = torch.einsum("mkt,mtd->mkd", windows, frames)
            if terms & BESIDE:
                width = torch.einsum("md,mkd->mk", q, unit(parts["gaze"])).argmax(dim=1)
                beside = torch.einsum("mrt,mtd->mrd", self.beside_windows[focus, width], frames)
                cosine = torch.einsum("md,mrd->mr", unit(self._gazing(q)), unit(beside))
                parts["sides"], parts["whole"] = cosine[:, :2], cosine[:, 2:]
            if terms & ATTENTION:
                windows = self.glance_windows.index_select(0, best)
                key = self.attended_by(torch.einsum("mn,mnd->md", windows, own_clips))
                parts["attended"] = self.attended(attend(key[:, None], frames, frames)[:, 0])
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> JSGOutput:
        q, clips = parts["sentences"], parts["clips"]
        product = products(q, clips, self.glance_windows)
        glance = matched(q, product, lengths(clips, self.glance_windows))
        gaze = attention = None
        if "gaze" in parts:
            gaze = matched_features(self._gazing(q), parts["gaze"])
        if "attended" in parts:
            attention = matched_features(q, parts["attended"][:, None])
        return JSGOutput(glance, gaze, attention, parts.get("sides"), parts.get("whole"))

    @staticmethod
    def losses(
        *,
        margin: float = 0.2,
        sides_margin: float = 0.2,
        whole_margin: float = 0.1,
        pool: int = 20,
        glance_pool: int = 20,
    ) -> Losses:
        """For each of ``glance``, ``gaze`` and ``attention``: ``…_nce``, ``…_triplet`` with a
        random negative and ``…_hard_triplet`` with a hard one. ``sides`` and ``whole``: a gaze
        should score above the rest of its video. ``video_nce``: of the glance, for ranking videos.

        Args:
            margin: of the triplets.
            sides_margin, whole_margin: of the gaze over what lies left and right of it, and over
                the whole video. (The paper has 0.2 for the latter, the release 0.1.)
            pool: so many of the hardest are what a hard negative is drawn from.
            glance_pool: the same of the sentences for a video in the glance (``video_level``: 1).
        """

        def nce(out: JSGOutput, batch: Batch, part: str) -> Tensor:
            return joint_nce(require(getattr(out, part)).product, *_columns(batch, part))

        def triplet(out: JSGOutput, batch: Batch, part: str, **pools: Any) -> Tensor:
            cosine = require(getattr(out, part)).cosine
            return sentence_triplet(cosine, *_columns(batch, part), margin=margin, **pools)

        def hard_triplet(out: JSGOutput, batch: Batch, part: str) -> Tensor:
            sentences = glance_pool if part == "glance" else pool
            return triplet(out, batch, part, video_pool=pool, sentence_pool=sentences)

        def lead(out: JSGOutput, batch: Batch, part: str, margin: float) -> Tensor:
            gaze = require(out.gaze).cosine.diagonal()[:, None]
            return (margin + require(getattr(out, part)) - gaze).clamp(min=0).mean(dim=0).sum()

        def video_nce(out: JSGOutput, batch: Batch) -> Tensor:
            return multi_positive_nce(out.glance.product, batch.owner, batch.same_video)

        return {
            f"{part}_{term.__name__}": partial(term, part=part)
            for part in PARTS
            for term in (nce, triplet, hard_triplet)
        } | {
            "sides": partial(lead, part="sides", margin=sides_margin),
            "whole": partial(lead, part="whole", margin=whole_margin),
            "video_nce": video_nce,
        }

    @staticmethod
    def plan(*, hard_after: int = 20) -> Plan:
        """From random negatives to hard ones.

        Args:
            hard_after: epochs with random negatives (``…_triplet``); then ``…_hard_triplet``.
        """
        before = {f"{part}_triplet" for part in PARTS}
        after = {f"{part}_hard_triplet" for part in PARTS}
        return Plan(
            lambda epoch: (Stage(switch_terms_at(epoch, hard_after, before=before, after=after)),)
        )


def _columns(batch: Batch, part: str) -> tuple[Int[Tensor, " M"], Tensor]:
    """Which column is each sentence's own, and which columns are of one video."""
    if part == "glance":
        return batch.owner, batch.same_video
    return sentence_columns(batch.owner, batch.same_video)
