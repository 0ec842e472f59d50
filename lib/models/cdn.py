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
from jaxtyping import Float
from torch import Tensor, nn

from lib.datasets.batch import Batch
from lib.losses.diversity import gram_distance
from lib.losses.overlap import overlap_with_truth, scaled_iou_bce
from lib.models.interface import DataDims, Losses, Proposals
from lib.models.layers.dynamic_conv import DynamicConvStack
from lib.models.layers.proposal_map import PROPOSAL_MAPS, ProposalGrid
from lib.models.layers.text import SentenceEncoder
from lib.models.layers.video import FrameAttention


@dataclass(frozen=True)
class CDNOutput:
    """Scores of the valid cells before the sigmoid, the cells' spans, and the frames' attention."""

    logits: Float[Tensor, "M P"]
    spans: Float[Tensor, "P 2"]
    attention: Float[Tensor, "B N F A"]


class CDN(nn.Module):
    """Cross-modal dynamic network.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, everywhere.
        lstm_layers: of the sentence encoder, one direction.
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
            dims.word_dim, D, num_layers=lstm_layers, bidirectional=False
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

    def forward(self, batch: Batch, terms: frozenset[str] | None = None) -> CDNOutput:
        clips, attention = self.clips(batch.video)
        cells = self.cell(self.proposals(clips))  # (B, P, D)
        states, query = self.sentence(batch.flat(batch.words), batch.word_counts)
        fused = query[:, None] * cells.index_select(0, batch.owner)
        rows = torch.arange(len(states), device=states.device)
        last = states[rows, batch.flat(batch.word_mask).sum(dim=1) - 1]  # the query, not projected
        context = self.context(nn.functional.normalize(fused, dim=-1), last)
        return CDNOutput(self.score(context).squeeze(-1), self.grid.spans, attention)

    def ground(self, batch: Batch) -> Proposals:
        return Proposals(self.grid.spans, self(batch).logits.sigmoid())

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
