"""MS-SL: windows of a video's clips find a sentence's key clip, which guides attention over frames.

"Partially Relevant Video Retrieval", ACM MM 2022. Weakly supervised: it ranks videos for a sentence
that describes a part of one. A proposal is every run of consecutive clips, its feature their mean.
The best proposal, the key clip, attends over all frames, and the sentence is compared with both.

Its release ranks videos only. JSG's comparison takes the windows of highest cosine as moments,
which are ``scores`` here. Sentences of one video are no negatives of each other (in the release
they are, over the frames), and a paragraph's similarity is the mean over its sentences (ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
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
FRAME = frozenset({"frame_nce", "frame_triplet", "frame_hard_triplet"})


@dataclass(frozen=True)
class MSSLOutput:
    """What the losses read.

    Columns of ``clip`` are the videos of the batch. Columns of ``frame`` are the sentences, that is
    each sentence's own video as its key clip sees it; None when no active term needs it.
    """

    clip: Matched
    frame: Matched | None = None


class MSSL(Model):
    """Multi-scale similarity learning.

    Args:
        dims: the sizes that the data decides. Published are 32 clips and 128 frames.
        hidden_size: D.
        heads: of all attention.
        max_words: with a position of their own.
        clip_share: of the clips in the similarity, the rest is the frames'. Published are 0.7, and
            0.5 on Charades-STA.
    """

    grounds_from = frozenset({"scores", "clips"})
    spans: Float[Tensor, "P 2"]
    windows: Float[Tensor, "P N"]

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 384,
        heads: int = 4,
        max_words: int = 30,
        clip_share: float = 0.7,
    ) -> None:
        super().__init__()
        D, T, drop = hidden_size, dims.num_frames, 0.1
        self.num_clips, self.clip_share = dims.num_clips, clip_share
        self.query = SentenceVector(dims.word_dim, D, heads, drop, max_words)
        self.clip = Projection(dims.video_dim, D, drop)
        self.clip_positions = Positions(T, D, drop)  # of which N are used, as released
        self.clip_encoder = AttentionBlock(D, heads=heads, dropout=drop)
        self.frame = Projection(dims.video_dim, D, drop)
        self.frame_positions = Positions(T, D, drop)
        self.frame_encoder = AttentionBlock(D, heads=heads, dropout=drop)
        # It maps the key, not the frames as in the release, whose weight is this one transposed.
        self.attended_by = nn.Linear(D, D, bias=False)
        self.attended = nn.Linear(D, D, bias=False)
        self.apply(small_normal)
        spans, windows = uniform_windows(dims.num_clips)
        self.register_buffer("spans", spans, persistent=False)
        self.register_buffer("windows", windows, persistent=False)

    @property
    def embeddings(self) -> tuple[str, str] | None:
        return "clips", "sentences"

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips`` (B, N, D), and ``values`` (B, T, D), the frames as the attention passes them
        on. What a key clip attends to depends on the video alone, and not on the sentence that
        chose it, so that three small tables replace an attention for each pair: ``logits``
        (B, N, T) of the attention, which are linear in the key; the norms of the proposals'
        features, ``clip_lengths`` (B, P); and of what they attend to, ``attended_lengths``."""
        clips, frames = self._clips(video), self._frames(video)
        with in_full(clips):
            keys, values = self.attended_by(clips), self.attended(frames)
            attended = attend(self.windows @ keys, frames, values)
            return {
                "clips": clips,
                "clip_lengths": lengths(clips, self.windows),
                "values": values,
                "logits": keys @ frames.mT,
                "attended_lengths": attended.norm(dim=-1),
            }

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` (B, S, D) of unit length, and ``mask``: which exist."""
        return {
            "sentences": batch.padded(unit(self._queries(batch))),
            "mask": batch.sentence_mask,
        }

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """Mean over a paragraph's sentences of the cosines with the key clip and with the frames
        that it attends to, weighed. Each pair has a key clip of its own."""
        queries = Layout.of(paragraphs["mask"])
        sentences = queries.flat(paragraphs["sentences"])
        names = ("clips", "clip_lengths", "values", "logits", "attended_lengths")
        blocks = zip(*(videos[name].split(GALLERY_BLOCK) for name in names), strict=True)
        return queries.mean(torch.cat([self._block(sentences, *block) for block in blocks], dim=1))

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """``scores``: the cosines with all proposals, as in JSG's comparison. ``row_cosine``
        (ours): the fused cosines with single clips and single frames. The best-scored of many
        proposals is one of the narrowest, whose scores vary most; evidence over rows has no such
        bias."""
        pairs = Layout.of(paragraphs["mask"])
        sentences, clips, values = paragraphs["sentences"], videos["clips"], videos["values"]
        read = self.grounds_from if read is None else read
        scores, rows = None, {}
        with in_full(clips):
            if "scores" in read:
                product = sentences @ clips.mT @ self.windows.T
                scores = pairs.flat(product / videos["clip_lengths"][:, None])
            if "clips" in read:
                clip, frame = sentences @ unit(clips).mT, sentences @ unit(values).mT
                clip = clip.repeat_interleave(frame.shape[-1] // self.num_clips, dim=-1)
                rows["row_cosine"] = pairs.flat(self._fused(clip, frame))
        return Evidence(pairs, self.spans, self.num_clips, scores, rows)

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        q, clips = self._queries(batch), self._clips(batch.video)
        parts: Encoded = {"sentences": q, "clips": clips}
        if terms is not None and not terms & FRAME:
            return parts
        frames = self._frames(batch.video).index_select(0, batch.owner)  # (M, T, D)
        own_clips = clips.index_select(0, batch.owner)
        with in_full(q):
            own_lengths = lengths(clips, self.windows).index_select(0, batch.owner)
            best = best_windows(q, own_clips, own_lengths, self.windows)
            key = torch.einsum("mn,mnd->md", self.windows.index_select(0, best), own_clips)
            key = self.attended_by(key)
            parts["attended"] = self.attended(attend(key[:, None], frames, frames)[:, 0])
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> MSSLOutput:
        q, clips = parts["sentences"], parts["clips"]
        product = products(q, clips, self.windows)
        clip = matched(q, product, lengths(clips, self.windows))
        if "attended" not in parts:
            return MSSLOutput(clip)
        return MSSLOutput(clip, matched_features(q, parts["attended"][:, None]))

    def _queries(self, batch: Batch) -> Float[Tensor, "M D"]:
        return self.query(batch.flat(batch.words), batch.flat(batch.word_mask))

    def _clips(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B N D"]:
        rows = unit(video.unflatten(1, (self.num_clips, -1)).mean(dim=2))
        return self.clip_encoder(self.clip_positions(self.clip(rows)))

    def _frames(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B T D"]:
        return self.frame_encoder(self.frame_positions(self.frame(unit(video))))

    def _fused(self, clip: Tensor, frame: Tensor) -> Tensor:
        return self.clip_share * clip + (1 - self.clip_share) * frame

    def _block(
        self,
        sentences: Float[Tensor, "M D"],
        clips: Float[Tensor, "G N D"],
        clip_lengths: Float[Tensor, "G P"],
        values: Float[Tensor, "G T D"],
        logits: Float[Tensor, "G N T"],
        attended_lengths: Float[Tensor, "G P"],
    ) -> Float[Tensor, "M G"]:
        """The fused cosines of sentences with a few videos."""
        with in_full(sentences):
            clip, best = (products(sentences, clips, self.windows) / clip_lengths).max(dim=-1)
            share = torch.einsum("mgn,gnt->mgt", self.windows[best], logits).softmax(dim=-1)
            product = torch.einsum("md,gtd->mgt", sentences, values)
            length = attended_lengths.expand(len(best), -1, -1).gather(2, best[..., None])
            return self._fused(clip, (share * product).sum(dim=-1) / length[..., 0])

    @staticmethod
    def losses(*, margin: float = 0.2, pool: int = 20) -> Losses:
        """For each of ``clip`` and ``frame``: ``…_nce``, ``…_triplet`` with a random negative and
        ``…_hard_triplet`` with a hard one. Over the clips a video's sentences are its positives
        together; over the frames each sentence has a column of its own.

        Args:
            margin: of the triplets.
            pool: so many of the hardest are what a hard negative is drawn from; the sentence for a
                video over the clips is the hardest of all, as published.
        """

        def clip_nce(out: MSSLOutput, batch: Batch) -> Tensor:
            return multi_positive_nce(out.clip.product, batch.owner, batch.same_video)

        def clip_triplet(out: MSSLOutput, batch: Batch, **pools: Any) -> Tensor:
            return sentence_triplet(
                out.clip.cosine, batch.owner, batch.same_video, margin=margin, **pools
            )

        def frame_nce(out: MSSLOutput, batch: Batch) -> Tensor:
            columns = sentence_columns(batch.owner, batch.same_video)
            return joint_nce(require(out.frame).product, *columns)

        def frame_triplet(out: MSSLOutput, batch: Batch, **pools: Any) -> Tensor:
            columns = sentence_columns(batch.owner, batch.same_video)
            return sentence_triplet(require(out.frame).cosine, *columns, margin=margin, **pools)

        return {
            "clip_nce": clip_nce,
            "clip_triplet": clip_triplet,
            "clip_hard_triplet": partial(clip_triplet, video_pool=pool, sentence_pool=1),
            "frame_nce": frame_nce,
            "frame_triplet": frame_triplet,
            "frame_hard_triplet": partial(frame_triplet, video_pool=pool, sentence_pool=pool),
        }

    @staticmethod
    def plan(*, hard_after: int = 20) -> Plan:
        """From random negatives to hard ones.

        Args:
            hard_after: epochs with random negatives (``…_triplet``); then ``…_hard_triplet``.
        """
        before = ("clip_triplet", "frame_triplet")
        after = ("clip_hard_triplet", "frame_hard_triplet")
        return Plan(
            lambda epoch: (Stage(switch_terms_at(epoch, hard_after, before=before, after=after)),)
        )


def uniform_windows(num_clips: int) -> tuple[Float[Tensor, "P 2"], Float[Tensor, "P N"]]:
    """All N (N + 1) / 2 runs of consecutive clips, by width and then by start: their spans in
    fractions of the video, and the clips' shares in their means."""
    place = torch.arange(num_clips)
    fits = place[:, None] + 1 + place <= num_clips
    width, start = fits.nonzero().unbind(dim=1)
    end = start + width + 1
    inside = (start[:, None] <= place) & (place < end[:, None])
    spans = torch.stack([start, end], dim=1) / num_clips
    return spans, inside / inside.sum(dim=1, keepdim=True)
