"""XML: videos are found by their most similar clip, and moments by where they start and end.

Lei, Yu, Berg and Bansal, "TVR: A Large-Scale Dataset for Video-Subtitle Moment Retrieval", ECCV
2020: the video stream alone, since the corpora here have no subtitles. Fully supervised. Behind the
first block of attention clips are compared with sentences, which ranks videos; two blocks further
the products with a sentence are convolved to the logits of its start and of its end.

The formulas are those of the release, but for two mistakes: it reads the end of a moment one clip
too late, and has the sentences of one video as negatives of each other (docs/deviations.md). A
paragraph's similarity is the mean over its sentences (ours). What is left of it without moments is
in ``xml_weak``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..decoding import Evidence
from ..losses import Losses
from ..losses.boundaries import boundary_clips
from ..losses.sentences import sentence_columns, sentence_triplet
from .interface import Encoded, Model, Plan, Stage, require, switch_terms_at
from .layers.precision import in_full
from .layers.retrieval_branch import Positions, Projection, SentenceVector, unit
from .layers.transformer import AttentionBlock, small_normal

GALLERY_BLOCK = 32  # videos scored at once against all queries; bounds memory only


@dataclass(frozen=True)
class XMLOutput:
    """What the losses read. A part is None when no active term needs it."""

    similarity: Float[Tensor, "M B"]  # cosine of a sentence with the best clip of a video
    start: Float[Tensor, "M N"] | None = None  # logits
    end: Float[Tensor, "M N"] | None = None
    first: Int[Tensor, " M"] | None = None  # clips of the annotated moment
    last: Int[Tensor, " M"] | None = None


class XML(Model):
    """Cross-modal moment localisation.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D.
        heads: of all attention.
        max_words: with a position of their own.
        kernel_size: of the convolutions of start and end; odd.
        min_clips, max_clips: lengths of the moments to choose from; None: up to the whole video.
            (The release has 3 to 16 clips of 1.5 seconds, which suits TVR.)
        ends: ``right``, or the label of the end and its reading of the release.
        tef: give each clip its start and end as fractions of the video (temporal endpoint features,
            as in the published runs on TVR).

    Raises:
        ValueError: an even ``kernel_size``, or lengths that no moment has.
    """

    supervision: ClassVar[Literal["weak", "full"]] = "full"
    grounds_from = frozenset({"scores", "clips"})
    query_blocks: ClassVar[int] = 1
    scored: ClassVar[int] = 1  # behind so many blocks clips are compared with sentences
    blocks: ClassVar[int] = 3  # in all
    released_reading: ClassVar[int] = 1  # clips from the released label of the end to the end read
    spans: Float[Tensor, "P 2"]
    span_first: Int[Tensor, " P"]  # the clips whose logits make up a span's score
    span_last: Int[Tensor, " P"]

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        heads: int = 4,
        max_words: int = 30,
        kernel_size: int = 5,
        min_clips: int = 1,
        max_clips: int | None = None,
        ends: Literal["right", "released"] = "right",
        tef: bool = False,
    ) -> None:
        super().__init__()
        D, N, drop = hidden_size, dims.num_clips, 0.1
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {kernel_size}")
        self.num_clips, self.tef, self.exclusive_ends = N, tef, ends == "released"
        self.query = SentenceVector(dims.word_dim, D, heads, drop, max_words, self.query_blocks)
        self.clip = Projection(dims.video_dim + 2 * tef, D, drop)
        self.clip_positions = Positions(N, D, drop)
        self.video_encoder = nn.ModuleList(
            AttentionBlock(D, heads=heads, dropout=drop) for _ in range(self.blocks)
        )
        if self.supervision == "full":
            self.locate = nn.Linear(D, D)
            self.boundaries = nn.Conv1d(1, 2, kernel_size, padding=kernel_size // 2, bias=False)
        self.apply(small_normal)

        after = self.released_reading if self.exclusive_ends else 1
        first, last = torch.ones(N, N).triu().nonzero().unbind(dim=1)
        length = last + after - first
        longest = N if max_clips is None else max_clips
        kept = (length >= max(min_clips, 1)) & (length <= longest)
        if not kept.any():
            raise ValueError(
                f"no moment of {N} clips has min_clips {min_clips} to max_clips {longest}"
            )
        spans = torch.stack([first, last + after], dim=1)[kept] / N
        self.register_buffer("spans", spans, persistent=False)
        self.register_buffer("span_first", first[kept], persistent=False)
        self.register_buffer("span_last", last[kept], persistent=False)

    @property
    def embeddings(self) -> tuple[str, str] | None:
        return "clips", "sentences"

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips`` (B, N, D), which sentences are compared with, and, where those are others,
        ``deep`` (B, N, D), in which moments are found."""
        states = self._states(video)
        rows = {"clips": states[self.scored - 1]}
        return rows if self.scored == self.blocks else rows | {"deep": states[-1]}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` (B, S, D), and ``mask``: which exist."""
        return {"sentences": batch.padded(self._queries(batch)), "mask": batch.sentence_mask}

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """The cosine of each sentence with the best clip of a video, mean over sentences."""
        queries = Layout.of(paragraphs["mask"])
        q = unit(queries.flat(paragraphs["sentences"]))
        blocks = videos["clips"].split(GALLERY_BLOCK)
        return queries.mean(torch.cat([best_products(q, unit(rows)) for rows in blocks], dim=1))

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """``scores``: the logarithm of the probability of start and end, so that its sum with a
        weighted similarity ranks as the published product does. ``clip_cosine`` (ours): with the
        clips that rank videos."""
        pairs, read = Layout.of(paragraphs["mask"]), self.grounds_from if read is None else read
        q, clips = pairs.flat(paragraphs["sentences"]), videos["clips"]
        scores, rows = None, {}
        if "scores" in read:
            logits = self._logits(q, videos.get("deep", clips), pairs)
            start, end = logits.log_softmax(dim=2).unbind(dim=1)
            scores = start.index_select(1, self.span_first) + end.index_select(1, self.span_last)
        if "clips" in read:
            rows["clip_cosine"] = own_products(unit(q), unit(clips), pairs)
        return Evidence(pairs, self.spans, self.num_clips, scores, rows)

    def _queries(self, batch: Batch) -> Float[Tensor, "M D"]:
        return self.query(batch.flat(batch.words), batch.flat(batch.word_mask))

    def _states(
        self, video: Float[Tensor, "B T C"], blocks: int | None = None
    ) -> list[Float[Tensor, "B N D"]]:
        """The clips behind each block of attention, or behind the first ``blocks``."""
        rows = unit(video.unflatten(1, (self.num_clips, -1)).mean(dim=2))
        if self.tef:
            border = torch.arange(self.num_clips + 1, device=rows.device) / self.num_clips
            ends = torch.stack([border[:-1], border[1:]], dim=1).to(rows.dtype)
            rows = torch.cat([rows, ends.expand(len(rows), -1, -1)], dim=2)
        states = [self.clip_positions(self.clip(rows))]
        for block in self.video_encoder[:blocks]:
            states.append(block(states[-1]))
        return states[1:]

    def _logits(
        self, q: Float[Tensor, "M D"], deep: Float[Tensor, "B N D"], layout: Layout
    ) -> Float[Tensor, "M 2 N"]:
        """Of start and end, in each sentence's own video."""
        with in_full(q):
            return self.boundaries(own_products(self.locate(q), deep, layout)[:, None])

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        located = "span" in self._computed(terms)
        q, states = (
            self._queries(batch),
            self._states(batch.video, None if located else self.scored),
        )
        parts: Encoded = {"sentences": q, "clips": states[self.scored - 1]}
        if located:
            parts["boundaries"] = self._logits(q, states[-1], batch)
        return parts

    def _computed(self, terms: frozenset[str] | None) -> frozenset[str]:
        wanted = frozenset(self.losses()) if terms is None else terms
        return wanted - self.unavailable_terms

    def compare(self, parts: Encoded, batch: Batch) -> XMLOutput:
        return XMLOutput(**self._compared(parts, batch))

    def _compared(self, parts: Encoded, batch: Batch) -> dict[str, Tensor]:
        q, clips = parts["sentences"], parts["clips"]
        found = {"similarity": best_products(unit(q), unit(clips))}
        if "boundaries" in parts:
            found["start"], found["end"] = parts["boundaries"].unbind(dim=1)
            found["first"], found["last"] = self._annotated(batch)
        return found

    def _annotated(self, batch: Batch) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
        moments = batch.flat(batch.moments / batch.duration[:, None, None])
        return boundary_clips(moments, self.num_clips, exclusive=self.exclusive_ends)

    @staticmethod
    def losses(*, margin: float = 0.1, pool: int = 20) -> Losses:
        """``triplet`` with a random negative and ``hard_triplet`` with a hard one: a sentence with
        its video against another video, and against another sentence. ``span``: cross-entropies of
        the moment's first and last clip.

        Args:
            margin: of the triplets.
            pool: so many of the hardest are what a hard negative is drawn from.
        """

        def triplet(out: XMLOutput, batch: Batch, pool: int | None = None) -> Tensor:
            return sentence_triplet(
                *sentence_matrix(out.similarity, batch),
                margin=margin,
                video_pool=pool,
                sentence_pool=pool,
            )

        def span(out: XMLOutput, batch: Batch) -> Tensor:
            start = nn.functional.cross_entropy(require(out.start).float(), require(out.first))
            return start + nn.functional.cross_entropy(require(out.end).float(), require(out.last))

        return {"triplet": triplet, "hard_triplet": partial(triplet, pool=pool), "span": span}

    @staticmethod
    def plan(*, hard_after: int = 20) -> Plan:
        """From random negatives to hard ones.

        Args:
            hard_after: epochs with random negatives (``triplet``); then ``hard_triplet``.
        """
        switch = partial(switch_terms_at, at=hard_after, before={"triplet"}, after={"hard_triplet"})
        return Plan(lambda epoch: (Stage(switch(epoch)),))


def sentence_matrix(
    similarity: Float[Tensor, "M B"], batch: Batch
) -> tuple[Float[Tensor, "M M"], Int[Tensor, " M"], Bool[Tensor, "M M"]]:
    """The same with a column for each sentence's video, its own column, and which columns are of
    one video: so a video of many sentences is as often a negative as in the releases, where each
    sentence is a row of the batch, with its video."""
    columns, shared = sentence_columns(batch.owner, batch.same_video)
    return similarity.index_select(1, batch.owner), columns, shared


def best_products(q: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"]) -> Float[Tensor, "M B"]:
    """The inner product of each sentence with the best clip of each video."""
    with in_full(q):
        return torch.einsum("md,bnd->mbn", q, clips).amax(dim=2)


def own_products(
    q: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], layout: Layout
) -> Float[Tensor, "M N"]:
    """The inner products of each sentence with the clips of its own video."""
    with in_full(q):
        return layout.flat(layout.padded(q) @ clips.mT)
