"""2D-TAN: every span of a video scored against one sentence.

Zhang, Peng, Fu and Luo, "Learning 2D Temporal Adjacent Networks for Moment Localization with
Natural Language", AAAI 2020. Fully supervised; here on paragraphs, one sentence at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..decoding import Evidence
from ..losses import Losses
from ..losses.overlap import overlap_with_truth, scaled_iou_bce
from .interface import Encoded, Model
from .layers.fusion import fused_cells
from .layers.position import PositionCells
from .layers.proposal_map import PROPOSAL_MAPS, MaskedConvStack, ProposalGrid
from .layers.text import SentenceEncoder
from .layers.video import ClipEncoder


@dataclass(frozen=True)
class TAN2DOutput:
    """Scores of the valid cells, before the sigmoid, and the cells' spans."""

    logits: Float[Tensor, "M P"]
    spans: Float[Tensor, "P 2"]


class TAN2D(Model):
    """Both published variants: the max-pooled map, and the map built by convolutions.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, everywhere.
        lstm_layers, bidirectional, words: of the sentence encoder, see ``SentenceEncoder``.
        proposal_map: ``pool`` or ``conv``: how a proposal's feature is computed from its clips.
        density: ``sparse`` (the paper) or ``dense``: which spans are proposals.
        kernel_size, conv_layers, padding, conv_norm: of the map stack, see ``MaskedConvStack``.
        mask_fused: nothing enters the map stack from cells that are no proposals (the original).
            Off for weights of the ChenJoya port, which were trained with the unit vectors that the
            bias of the fusion leaves there.
        sentence_position: give the map each sentence's position in the paragraph (ours): 2D-TAN
            grounds each sentence alone, without what its order says of its time.
    """

    supervision = "full"

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 512,
        lstm_layers: int = 3,
        bidirectional: bool = False,
        words: bool = False,
        proposal_map: Literal["pool", "conv"] = "pool",
        density: Literal["sparse", "dense"] = "sparse",
        kernel_size: int = 9,
        conv_layers: int = 4,
        padding: Literal["first", "same"] = "first",
        conv_norm: Literal["count", "relative"] = "count",
        mask_fused: bool = True,
        sentence_position: bool = False,
    ) -> None:
        super().__init__()
        self.clips = ClipEncoder(dims.video_dim, hidden_size, dims.num_frames, dims.num_clips)
        self.sentence = SentenceEncoder(
            dims.word_dim,
            hidden_size,
            num_layers=lstm_layers,
            bidirectional=bidirectional,
            words=words,
        )
        self.grid = ProposalGrid(dims.num_clips, density)
        self.proposals = PROPOSAL_MAPS[proposal_map](hidden_size, self.grid)
        self.cell = nn.Linear(hidden_size, hidden_size)
        self.mask_fused = mask_fused
        self.position_cell = PositionCells(hidden_size) if sentence_position else None
        self.context = MaskedConvStack(
            hidden_size,
            self.grid,
            kernel_size=kernel_size,
            num_layers=conv_layers,
            padding=padding,
            norm=conv_norm,
        )
        self.score = nn.Linear(hidden_size, 1)

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips``: (B, N, D). The map has many times more cells, and is cheap to compute anew."""
        return {"clips": self.clips(video)}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences``: (B, S, D), and ``mask``: which exist."""
        _, query = self.sentence(batch.flat(batch.words), batch.word_counts)
        return {"sentences": batch.padded(query), "mask": batch.sentence_mask}

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        _, query = self.sentence(batch.flat(batch.words), batch.word_counts)
        return {"logits": self._logits(query, self.clips(batch.video), batch)}

    def _logits(
        self, query: Float[Tensor, "M D"], clips: Float[Tensor, "B N D"], batch: Layout
    ) -> Float[Tensor, "M P"]:
        cells = self.cell(self.proposals(clips))  # (B, P, D)
        outside = None
        if not self.mask_fused:
            outside = nn.functional.normalize(query * self.cell.bias, dim=-1)
        fused = fused_cells(query, cells, batch.owner)
        if self.position_cell is not None:
            fused = fused + self.position_cell(self.grid, batch)
        context = self.context(fused, outside)
        return self.score(context).squeeze(-1)

    def compare(self, parts: Encoded, batch: Batch) -> TAN2DOutput:
        return TAN2DOutput(parts["logits"], self.grid.spans)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        pairs = Layout.of(paragraphs["mask"])
        query = pairs.flat(paragraphs["sentences"])
        return Evidence(
            pairs,
            self.grid.spans,
            self.grid.num_clips,
            self._logits(query, videos["clips"], pairs).sigmoid(),
        )

    @staticmethod
    def losses(*, min_iou: float = 0.5, max_iou: float = 1.0) -> Losses:
        """``overlap``: cross-entropy against the rescaled overlap with the annotated moment."""

        def overlap(out: TAN2DOutput, batch: Batch) -> Tensor:
            target = overlap_with_truth(out.spans, batch)
            return scaled_iou_bce(out.logits, target, min_iou=min_iou, max_iou=max_iou)

        return {"overlap": overlap}
