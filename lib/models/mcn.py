"""MCN: a moment and a sentence as two points, close to each other where they belong together.

Hendricks, Wang, Shechtman, Sivic, Darrell and Russell, "Localizing Moments in Video with Natural
Language" (Moment Context Network), ICCV 2017. Fully supervised. A moment is the mean of its clips
beside the mean of the video, which is its context, and beside its endpoints; an LSTM reads the
sentence. The squared distance of a sentence and its moment shall be smaller than that to another
span of the video, and than that to a span of another video.

The layers, the loss and the drawing of negatives are those of CAL's authors, who published MCN for
search in a corpus (Escorcia et al., 2019) with its constants for Charades-STA and ActivityNet
Captions. Candidates are spans of a grid over the video, where they slide windows of fixed seconds;
a paragraph's similarity is the mean over its sentences (both ours; docs/deviations.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..base import draws
from ..base.batch import Batch, DataDims, Layout
from ..base.moments import cell_spans, iou
from ..decoding import Evidence
from ..losses import Losses
from ..losses.boundaries import boundary_clips
from ..losses.similarity import draw_one
from .interface import Encoded, Model, Plan
from .layers.precision import in_full
from .layers.proposal_map import valid_cells
from .layers.retrieval_branch import unit
from .layers.text import SentenceEncoder

GALLERY_BLOCK = 32  # videos scored at once against all queries; bounds memory only
TRIES = 24  # at 0.35 nearly every second span will do: one row in 10^6 has none among so many


@dataclass(frozen=True)
class MCNOutput:
    """Squared distances of each sentence."""

    own: Float[Tensor, " M"]  # from its moment
    intra: Float[Tensor, " M"]  # from another span of its video
    inter: Float[Tensor, " M"]  # from a span of another video …
    has_other: Bool[Tensor, " M"]  # … where the batch has one


class MCN(Model):
    """Moment Context Network.

    Args:
        dims: the sizes that the data decides.
        hidden_size: of the layer that reads clips, context and endpoints.
        joint_size: J, of the space of moments and sentences.
        lstm_size: of the sentence's LSTM.
        dropout: of the embeddings of moments.
        endpoints: read where in the video a moment begins and ends.
        negative_iou: other spans of a sentence's video overlap its moment by less than this.
        density: which spans are proposals …
        min_clips: … of those that are at least so many clips long.

    Raises:
        ValueError: the clips do not divide the frames, or no proposal is as long.
    """

    supervision = "full"
    spans: Float[Tensor, "P 2"]

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 500,
        joint_size: int = 100,
        lstm_size: int = 1000,
        dropout: float = 0.3,
        endpoints: bool = True,
        negative_iou: float = 0.35,
        density: Literal["sparse", "dense"] = "sparse",
        min_clips: int = 1,
    ) -> None:
        super().__init__()
        if dims.num_frames % dims.num_clips:
            raise ValueError(f"{dims.num_clips} clips do not divide {dims.num_frames} frames")
        if not 1 <= min_clips <= dims.num_clips:
            raise ValueError(f"min_clips {min_clips} is not from 1 to {dims.num_clips}, all clips")
        self.negative_iou, self.num_clips = negative_iou, dims.num_clips
        cells = valid_cells(dims.num_clips, density).triu(min_clips - 1)
        self.register_buffer("spans", cell_spans(dims.num_clips, cells), persistent=False)
        # One layer on clips, context and endpoints side by side; what moments share of it is
        # computed once.
        self.clip = nn.Linear(dims.video_dim, hidden_size, bias=False)
        self.context = nn.Linear(dims.video_dim, hidden_size)
        self.endpoints = nn.Linear(2, hidden_size, bias=False) if endpoints else None
        self.moment = nn.Linear(hidden_size, joint_size)
        self.dropout = nn.Dropout(dropout)
        self.words = SentenceEncoder(dims.word_dim, lstm_size, bidirectional=False, readout=False)
        self.sentence = nn.Linear(lstm_size, joint_size)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.uniform_(parameter, -0.08, 0.08)
            else:
                nn.init.zeros_(parameter)

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``points``: (B, P, J), the embeddings of all proposals."""
        every = torch.arange(len(video), device=video.device)[:, None]
        return {"points": self._moments(self._video_parts(video), every, self.spans[None])}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences``: (B, S, J), and ``mask``: which exist."""
        return {"sentences": batch.padded(self._sentences(batch)), "mask": batch.sentence_mask}

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """Minus the distance from each sentence to its closest proposal, mean over sentences."""
        queries = Layout.of(paragraphs["mask"])
        sentences = queries.flat(paragraphs["sentences"])[None]
        closest = [
            self._distances(sentences, points).amin(dim=-1)
            for points in videos["points"].split(GALLERY_BLOCK)
        ]
        return queries.mean(-torch.cat(closest).T)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """``scores``: minus the squared distances from the proposals."""
        pairs = Layout.of(paragraphs["mask"])
        scores = pairs.flat(-self._distances(paragraphs["sentences"], videos["points"]))
        return Evidence(pairs, self.spans, self.num_clips, scores)

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        sentences = self._sentences(batch)
        drawn = draw_spans(sentences, 1 + TRIES)
        return {
            "sentences": sentences,
            "apart": first_apart(_moments_of(batch), drawn[:, 1:], self.negative_iou),
            "anywhere": drawn[:, 0],
            **self._video_parts(batch.video),
            **self._dropped(sentences),
        }

    def compare(self, parts: Encoded, batch: Batch) -> MCNOutput:
        """Another video is drawn for each sentence. There the negative lies at the seconds of the
        sentence's own moment, or anywhere if that video is shorter than the own one."""
        owner, moments = batch.owner, _moments_of(batch)
        others = ~batch.same_video.index_select(0, owner)
        has_other = others.any(dim=1)
        other = draw_one(torch.where(has_other[:, None], others.float(), 1.0), None)[:, 0]
        stretch = batch.duration[owner] / batch.duration[other]
        elsewhere = torch.where(
            (stretch <= 1)[:, None], moments * stretch[:, None], parts["anywhere"]
        )
        video = torch.stack([owner, owner, other], dim=1)
        spans = torch.stack([moments, parts["apart"], elsewhere], dim=1)  # (M, 3, 2)
        own, intra, inter = self._drawn_distances(parts, video, spans).unbind(dim=1)
        return MCNOutput(own, intra, inter, has_other)

    def _sentences(self, batch: Batch) -> Float[Tensor, "M J"]:
        return self.sentence(self.words(batch.flat(batch.words), batch.word_counts)[1])

    def _clips(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B N C"]:
        return video.unflatten(1, (self.num_clips, -1)).mean(dim=2)

    def _video_parts(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """What the first layer makes of each clip and of the context, before anything is summed,
        and the lengths by which sums of clips are divided."""
        clips = self._clips(video)
        return {
            "hidden": self.clip(clips),
            "context": self.context(unit(clips.mean(dim=1))),
            "lengths": window_lengths(clips),
        }

    def _dropped(self, sentences: Float[Tensor, "M J"]) -> Encoded:
        """Factors of the embeddings of the three spans that a sentence is compared with."""
        return {"kept": self.dropout(torch.ones_like(sentences)[:, None].repeat(1, 3, 1))}

    def _moments(
        self, videos: Encoded, video: Int[Tensor, "*#s"], spans: Float[Tensor, "*#s 2"]
    ) -> Float[Tensor, "*s J"]:
        """Embeddings of spans, each in the video of this number.

        The first layer is linear: of the mean of a span's clips, scaled to length one, it makes the
        sum of what it makes of them, divided by the length of their sum.
        """
        start, stop = touched(spans, self.num_clips)
        sums = running_sum(videos["hidden"])
        pooled = sums[video, stop] - sums[video, start]
        length = videos["lengths"][video, start, stop].clamp(min=1e-6)
        hidden = pooled / length[..., None] + videos["context"][video]
        if self.endpoints is not None:
            hidden = hidden + self.endpoints(spans)
        return self.moment(hidden.relu())

    def _drawn_distances(
        self, parts: Encoded, video: Int[Tensor, "M K"], spans: Float[Tensor, "M K 2"]
    ) -> Float[Tensor, "M K"]:
        moments = self._moments(parts, video, spans) * parts["kept"]
        return (moments - parts["sentences"][:, None]).square().sum(dim=-1)

    def _distances(
        self, sentences: Float[Tensor, "#B Q J"], points: Float[Tensor, "B R J"]
    ) -> Float[Tensor, "B Q P"]:
        """From all proposals of each video."""
        return squared_distances(sentences, points)

    @staticmethod
    def losses(*, margin: float = 0.1) -> Losses:
        """``intra`` and ``inter``: hinges of the distance from the own moment and that from a span
        of the same video, or of another one; a sentence without another video counts zero."""

        def hinge(own: Tensor, other: Tensor) -> Tensor:
            return (margin + own - other).clamp(min=0)

        def intra(out: MCNOutput, batch: Batch) -> Tensor:
            return hinge(out.own, out.intra).mean()

        def inter(out: MCNOutput, batch: Batch) -> Tensor:
            return torch.where(out.has_other, hinge(out.own, out.inter), 0.0).mean()

        return {"intra": intra, "inter": inter}

    @staticmethod
    def plan(*, lstm_rate: float = 10.0) -> Plan:
        """The LSTM has a learning rate of its own.

        Args:
            lstm_rate: factor on the learning rate (the authors', for ``sgd``).
        """
        return Plan(rates={"words.": lstm_rate})


def draw_spans(rows: Float[Tensor, "M D"], count: int) -> Float[Tensor, "M K 2"]:
    """For each row ``count`` spans between two points that are drawn evenly in a video, as
    fractions of it."""
    return draws.uniform(rows.new_empty(len(rows), count, 2)).sort(dim=-1).values


def first_apart(
    moments: Float[Tensor, "M 2"], drawn: Float[Tensor, "M K 2"], below: float
) -> Float[Tensor, "M 2"]:
    """The first of the drawn spans that overlaps the moment by less than ``below``, or, where none
    does, the one that overlaps it least."""
    shared = iou(moments[:, None], drawn)
    chosen = torch.where(shared < below, 0.0, 1 + shared).argmin(dim=1)
    return drawn[torch.arange(len(drawn), device=drawn.device), chosen]


def touched(
    spans: Float[Tensor, "*s 2"], num_clips: int
) -> tuple[Int[Tensor, "*s"], Int[Tensor, "*s"]]:
    """First clip that a span touches and the one behind the last."""
    first, last = boundary_clips(spans, num_clips)
    return first, last + 1


def running_sum(rows: Float[Tensor, "B N D"]) -> Float[Tensor, "B N_1 D"]:
    """The sum of the rows before each, and of all: that of a span is a difference of two."""
    return nn.functional.pad(rows.float().cumsum(dim=1), (0, 0, 1, 0))


def window_lengths(clips: Float[Tensor, "B N C"]) -> Float[Tensor, "B N_1 N_1"]:
    """Norm of the sum of the clips from each one up to each other: of sums before i and before j,
    ‖b - a‖² = ‖a‖² + ‖b‖² - 2 a·b, from the N² products of clips whatever their width."""
    with in_full(clips):
        products = (clips @ clips.mT).double()  # differences of sums of N² of them
        sums = nn.functional.pad(products.cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0))
        squares = sums.diagonal(dim1=1, dim2=2)
        squared = squares[:, :, None] + squares[:, None] - 2 * sums
        return squared.clamp(min=0).sqrt().to(clips.dtype)


def squared_distances(
    sentences: Float[Tensor, "#B Q J"], points: Float[Tensor, "B R J"]
) -> Float[Tensor, "B Q R"]:
    """Squared distances of each video's points from sentences: of its own, or one list for all."""
    with in_full(points):
        squares = sentences.square().sum(dim=-1)[..., None] + points.square().sum(dim=-1)[:, None]
        return squares - 2 * sentences @ points.mT


def _moments_of(batch: Batch) -> Float[Tensor, "M 2"]:
    """As fractions of the video."""
    return batch.flat(batch.moments / batch.duration[:, None, None])
