"""CDN: 2D-TAN with attention over frames, and map convolutions that the sentence mixes.

Wang, Wang, Lu, Wu et al., "Cross-modal Dynamic Networks for Video Moment Retrieval with Text
Query". Fully supervised; here on paragraphs, one sentence at a time. The released code does not
run: its training step is another project's, and its attention loss is called nowhere. The loss here
is that of the paper's figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..decoding import Evidence
from ..losses import Losses
from ..losses.diversity import gram_distance
from ..losses.overlap import overlap_with_truth, scaled_iou_bce
from .interface import Encoded, Model
from .layers.dynamic_conv import DynamicConvStack
from .layers.fusion import fused_cells
from .layers.proposal_map import PROPOSAL_MAPS, ProposalGrid
from .layers.text import SentenceEncoder
from .layers.video import FrameAttention


@dataclass(frozen=True)
class CDNOutput:
    """Scores of the valid cells before the sigmoid, the cells' spans, and the frames' attention."""

    logits: Float[Tensor, "M P"]
    spans: Float[Tensor, "P 2"]
    attention: Float[Tensor, "B N F A"]


class CDN(Model):
    """Cross-modal dynamic network.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, everywhere.
        lstm_layers, words: of the sentence encoder, one direction; see ``SentenceEncoder``.
        attention_steps: A, over the frames of a clip.
        proposal_map: ``pool`` or ``conv``.
        density: which spans are proposals.
        kernel_size, conv_layers: of the map stack.
        dynamic_layers: how many of its layers, from the first, are dynamic.
        base_kernels: K, of each dynamic layer.
    """

    supervision = "full"

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 512,
        lstm_layers: int = 3,
        words: bool = False,
        attention_steps: int = 3,
        proposal_map: Literal["pool", "conv"] = "pool",
        density: Literal["sparse", "dense"] = "sparse",
        kernel_size: int = 5,
        conv_layers: int = 8,
        dynamic_layers: int = 4,
        base_kernels: int = 8,
    ) -> None:
        super().__init__()
        D = hidden_size
        self.clips = FrameAttention(
            dims.video_dim, D, dims.num_frames, dims.num_clips, steps=attention_steps
        )
        self.sentence = SentenceEncoder(
            dims.word_dim, D, num_layers=lstm_layers, bidirectional=False, words=words
        )
        self.grid = ProposalGrid(dims.num_clips, density)
        self.proposals = PROPOSAL_MAPS[proposal_map](D, self.grid)
        self.cell = nn.Linear(D, D)
        self.context = DynamicConvStack(
            D,
            self.grid,
            kernel_size=kernel_size,
            num_layers=conv_layers,
            dynamic_layers=dynamic_layers,
            base_kernels=base_kernels,
        )
        self.score = nn.Linear(D, 1)

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips``: (B, N, D); the attention over frames does not depend on the sentence."""
        return {"clips": self.clips(video)[0]}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` and ``last``, see ``_read``: (B, S, D), and ``mask``: which exist."""
        query, last = self._read(batch)
        return {
            "sentences": batch.padded(query),
            "last": batch.padded(last),
            "mask": batch.sentence_mask,
        }

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        clips, attention = self.clips(batch.video)
        logits = self._logits(*self._read(batch), clips, batch.owner)
        return {"logits": logits, "attention": attention}

    def _read(self, batch: Batch) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M D"]]:
        """The sentences, and the states that they are projected from."""
        states, query = self.sentence(batch.flat(batch.words), batch.word_counts)
        rows = torch.arange(len(states), device=states.device)
        return query, states[rows, batch.flat(batch.word_mask).sum(dim=1) - 1]

    def _logits(
        self,
        query: Float[Tensor, "M D"],
        last: Float[Tensor, "M D"],
        clips: Float[Tensor, "B N D"],
        owner: Int[Tensor, " M"],
    ) -> Float[Tensor, "M P"]:
        cells = self.cell(self.proposals(clips))  # (B, P, D)
        context = self.context(fused_cells(query, cells, owner), last)
        return self.score(context).squeeze(-1)

    def compare(self, parts: Encoded, batch: Batch) -> CDNOutput:
        return CDNOutput(parts["logits"], self.grid.spans, parts["attention"])

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        pairs = Layout.of(paragraphs["mask"])
        query, last = (pairs.flat(paragraphs[name]) for name in ("sentences", "last"))
        logits = self._logits(query, last, videos["clips"], pairs.owner)
        return Evidence(pairs, self.grid.spans, self.grid.num_clips, logits.sigmoid())

    @staticmethod
    def losses(
        *, min_iou: float = 0.5, max_iou: float = 0.9, attention_spread: float = 0.3
    ) -> Losses:
        """``overlap`` as in 2D-TAN; ``attention``: the steps of a clip look at different frames.

        Args:
            min_iou, max_iou: overlap at which the target of ``overlap`` is 0 and 1.
            attention_spread: λ: each step is to spread over about 1/λ frames.
        """

        def overlap(out: CDNOutput, batch: Batch) -> Tensor:
            target = overlap_with_truth(out.spans, batch)
            return scaled_iou_bce(out.logits, target, min_iou=min_iou, max_iou=max_iou)

        def attention(out: CDNOutput, batch: Batch) -> Tensor:
            return gram_distance(out.attention, attention_spread)

        return {"overlap": overlap, "attention": attention}
