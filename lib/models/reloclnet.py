"""ReLoCLNet: XML a block deeper, ranked and located by the deepest clips, with two contrasts.

Zhang, Sun, Jing, Nan, Zhen, Zhou and Goh, "Video Corpus Moment Retrieval with Contrastive
Learning", SIGIR 2021. Fully supervised. A sentence has a second block of attention, and clips are
compared with it behind their third. Of the second, one loss parts the clips of a moment from the
others of its video, and one the right video from the others of the batch.

The release has no form without subtitles; this one is our reading: where it averages over two
streams there is one, and the attention between them is left out, as XML itself does without them.
Where the release reads moments otherwise than they are, docs/deviations.md says what it does.
What is left without moments is in ``xml_weak``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ..base.batch import Batch, DataDims
from ..losses import Losses
from ..losses.boundaries import frame_contrast, inside
from ..losses.sentences import joint_nce
from .interface import Encoded, require
from .xml import XML, XMLOutput, best_products, own_products, sentence_matrix


@dataclass(frozen=True)
class ReLoCLNetOutput(XMLOutput):
    """What the losses read, beside XML's: inner products of sentences with the middle clips."""

    product: Float[Tensor, "M B"] | None = None  # with the best one of a video
    own_product: Float[Tensor, "M N"] | None = None  # with all of the own video


class ReLoCLNet(XML):
    """Retrieval and localisation with contrastive learning.

    Args:
        dims, hidden_size, heads, max_words, kernel_size, min_clips, max_clips, ends, tef: as
            ``XML``. (The release has moments of 2 to 15 clips of 1.5 seconds.)

    Raises:
        ValueError: as ``XML``.
    """

    query_blocks = 2
    scored = 3
    released_reading = 0

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 384,
        heads: int = 8,
        max_words: int = 30,
        kernel_size: int = 5,
        min_clips: int = 1,
        max_clips: int | None = None,
        ends: Literal["right", "released"] = "right",
        tef: bool = False,
    ) -> None:
        super().__init__(
            dims,
            hidden_size=hidden_size,
            heads=heads,
            max_words=max_words,
            kernel_size=kernel_size,
            min_clips=min_clips,
            max_clips=max_clips,
            ends=ends,
            tef=tef,
        )

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        wanted = self._computed(terms)
        q, (_, middle, deep) = self._queries(batch), self._states(batch.video)
        parts: Encoded = {"sentences": q, "clips": deep}
        if "video_contrast" in wanted:
            parts["middle"] = middle
        if "frame_contrast" in wanted:
            parts["own_product"] = own_products(q, middle, batch)
        if "span" in wanted:
            parts["boundaries"] = self._logits(q, deep, batch)
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> ReLoCLNetOutput:
        found = self._compared(parts, batch)
        if "middle" in parts:
            found["product"] = best_products(parts["sentences"], parts["middle"])
        if "own_product" in parts:
            found["own_product"] = parts["own_product"]
            found["first"], found["last"] = self._annotated(batch)
        return ReLoCLNetOutput(**found)

    @staticmethod
    def losses(*, margin: float = 0.1, pool: int = 20) -> Losses:
        """XML's, and ``frame_contrast`` and ``video_contrast`` (FrameCL and VideoCL).

        Args:
            margin, pool: as ``XML.losses``.
        """

        def frames(out: ReLoCLNetOutput, batch: Batch) -> Tensor:
            products = require(out.own_product)
            moment = inside(require(out.first), require(out.last), products.shape[1])
            return frame_contrast(products, moment)

        def videos(out: ReLoCLNetOutput, batch: Batch) -> Tensor:
            return joint_nce(*sentence_matrix(require(out.product), batch))

        return {
            **XML.losses(margin=margin, pool=pool),
            "frame_contrast": frames,
            "video_contrast": videos,
        }
