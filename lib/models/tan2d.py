"""2D-TAN: every span of a video scored against one sentence.

Zhang, Peng, Fu and Luo, "Learning 2D Temporal Adjacent Networks for Moment Localization with
Natural Language", AAAI 2020. Fully supervised; here on paragraphs, one sentence at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from lib.datasets.batch import Batch
from lib.losses.overlap import overlap_with_truth, scaled_iou_bce
from lib.models.interface import DataDims, Losses, Proposals
from lib.models.layers.proposal_map import PROPOSAL_MAPS, MaskedConvStack, ProposalGrid
from lib.models.layers.text import SentenceEncoder
from lib.models.layers.video import ClipEncoder


@dataclass(frozen=True)
class TAN2DOutput:
    """Scores of the valid cells, before the sigmoid, and the cells' spans."""

    logits: Float[Tensor, "M P"]
    spans: Float[Tensor, "P 2"]


class TAN2D(nn.Module):
    """Both published variants: the max-pooled map, and the map made by convolutions.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, everywhere.
        lstm_layers, bidirectional: of the sentence encoder.
        proposal_map: ``pool`` or ``conv``: how a proposal's feature is made of its clips.
        density: ``sparse`` (the paper) or ``dense``: which spans are proposals.
        kernel_size, conv_layers, padding, conv_norm: of the map stack, see ``MaskedConvStack``.
        mask_fused: nothing enters the map stack from cells that are no proposals (the original).
            Off for weights of the ChenJoya port, which were trained with the unit vectors that the
            bias of the fusion leaves there.
    """

    supervision = "full"

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 512,
        lstm_layers: int = 3,
        bidirectional: bool = False,
        proposal_map: Literal["pool", "conv"] = "pool",
        density: Literal["sparse", "dense"] = "sparse",
        kernel_size: int = 9,
        conv_layers: int = 4,
        padding: Literal["first", "same"] = "first",
        conv_norm: Literal["count", "relative"] = "count",
        mask_fused: bool = True,
    ) -> None:
        super().__init__()
        self.clips = ClipEncoder(dims.video_dim, hidden_size, dims.num_frames, dims.num_clips)
        self.sentence = SentenceEncoder(
            dims.word_dim, hidden_size, num_layers=lstm_layers, bidirectional=bidirectional
        )
        self.grid = ProposalGrid(dims.num_clips, density)
        self.proposals = PROPOSAL_MAPS[proposal_map](hidden_size, self.grid)
        self.cell = nn.Linear(hidden_size, hidden_size)
        self.mask_fused = mask_fused
        self.context = MaskedConvStack(
            hidden_size,
            self.grid,
            kernel_size=kernel_size,
            num_layers=conv_layers,
            padding=padding,
            norm=conv_norm,
        )
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, batch: Batch, terms: frozenset[str] | None = None) -> TAN2DOutput:
        cells = self.cell(self.proposals(self.clips(batch.video)))  # (B, P, D)
        _, query = self.sentence(batch.flat(batch.words), batch.word_counts)
        fused = query[:, None] * cells.index_select(0, batch.owner)
        outside = None
        if not self.mask_fused:
            outside = nn.functional.normalize(query * self.cell.bias, dim=-1)
        context = self.context(nn.functional.normalize(fused, dim=-1), outside)
        return TAN2DOutput(self.score(context).squeeze(-1), self.grid.spans)

    def ground(self, batch: Batch) -> Proposals:
        return Proposals(self.grid.spans, self(batch).logits.sigmoid())

    @staticmethod
    def losses(*, min_iou: float = 0.5, max_iou: float = 1.0) -> Losses:
        """``overlap``: cross-entropy against the rescaled overlap with the annotated moment."""

        def overlap(out: TAN2DOutput, batch: Batch) -> Tensor:
            target = overlap_with_truth(out.spans, batch)
            return scaled_iou_bce(out.logits, target, min_iou=min_iou, max_iou=max_iou)

        return {"overlap": overlap}
