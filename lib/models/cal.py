"""CAL: a sentence close to each single clip of its moment, on average.

Escorcia, Soldan, Sivic, Ghanem and Russell, "Temporal Localization of Moments in Video Collections
with Natural Language" (Clip Alignment with Language), arXiv 2019. Fully supervised. MCN's layers
and losses, but each clip is embedded for itself, beside the mean of the video, and the distance of
a sentence and a moment is the mean over the moment's clips. So a video is N vectors, and all of its
moments follow from their distances; the published variant that gives every clip the endpoints of
the moment as well needs a vector for each pair of these, and is not built.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..base.batch import DataDims, Layout
from ..decoding import Evidence
from .interface import Encoded
from .layers.retrieval_branch import unit
from .mcn import MCN, running_sum, squared_distances, touched


class CAL(MCN):
    """Clip alignment with language.

    Args:
        dims, hidden_size, joint_size, lstm_size, negative_iou, density, min_clips: see ``MCN``.
        dropout: of the embeddings of clips.
    """

    grounds_from = frozenset({"scores", "clips"})

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 500,
        joint_size: int = 100,
        lstm_size: int = 1000,
        dropout: float = 0.3,
        negative_iou: float = 0.35,
        density: Literal["sparse", "dense"] = "sparse",
        min_clips: int = 1,
    ) -> None:
        super().__init__(
            dims,
            hidden_size=hidden_size,
            joint_size=joint_size,
            lstm_size=lstm_size,
            dropout=dropout,
            endpoints=False,
            negative_iou=negative_iou,
            density=density,
            min_clips=min_clips,
        )

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``points``: (B, N, J), the embeddings of the clips."""
        return self._video_parts(video)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """``scores``: minus the mean distances from the clips of the proposals. No mean is closer
        than the closest clip, so that the best-scored proposal is one of the shortest.
        ``closeness`` (ours): minus the distances from single clips, which have no such bias."""
        pairs = Layout.of(paragraphs["mask"])
        distances = squared_distances(paragraphs["sentences"], videos["points"])
        read = self.grounds_from if read is None else read
        scores = pairs.flat(-self._means(distances)) if "scores" in read else None
        clips = {"closeness": pairs.flat(-distances)} if "clips" in read else {}
        return Evidence(pairs, self.spans, self.num_clips, scores, clips)

    def _video_parts(self, video: Float[Tensor, "B T C"]) -> Encoded:
        clips = self._clips(video)
        context = self.context(unit(clips.mean(dim=1)))[:, None]
        hidden = (self.clip(unit(clips)) + context).relu()
        return {"points": self.dropout(self.moment(hidden))}

    def _dropped(self, sentences: Float[Tensor, "M J"]) -> Encoded:
        return {}  # of the clips, once for all spans

    def _drawn_distances(
        self, parts: Encoded, video: Int[Tensor, "M K"], spans: Float[Tensor, "M K 2"]
    ) -> Float[Tensor, "M K"]:
        """The mean distance from points is that from their mean, plus their mean squared length,
        minus that of their mean: sums of them are enough, whatever the span and the sentence."""
        start, stop = touched(spans, self.num_clips)
        points = parts["points"]
        sums = running_sum(torch.cat([points, points.square().sum(dim=-1, keepdim=True)], dim=-1))
        mean = (sums[video, stop] - sums[video, start]) / (stop - start)[..., None]
        sentences = parts["sentences"][:, None]
        return mean[..., -1] - (mean[..., :-1] * 2 * sentences - sentences.square()).sum(dim=-1)

    def _distances(
        self, sentences: Float[Tensor, "#B Q J"], points: Float[Tensor, "B R J"]
    ) -> Float[Tensor, "B Q P"]:
        return self._means(squared_distances(sentences, points))

    def _means(self, distances: Float[Tensor, "B Q N"]) -> Float[Tensor, "B Q P"]:
        """Over the clips of all proposals."""
        start, stop = touched(self.spans, self.num_clips)
        sums = nn.functional.pad(distances.cumsum(dim=-1), (1, 0))
        return (sums[..., stop] - sums[..., start]) / (stop - start)
