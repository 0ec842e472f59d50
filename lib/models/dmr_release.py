"""The network of the authors' DMR-JRG release, as far as it is used at test time.

It is not the paper's model (``dmr_jrg`` is); it serves to score the published checkpoints. Parts
of the release that are only used in training are left out: the grounded video token, the temporal
heads, the reconstruction. Its training is not reproduced; the two loss terms here can fine-tune it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..datasets.vocabulary import UNKNOWN
from ..decoding import Evidence
from ..losses import Losses
from ..losses.overlap import overlap_with_truth, scaled_iou_bce
from ..losses.similarity import info_nce
from .interface import Encoded, Model
from .layers.fusion import fused_cells
from .layers.proposal_map import BoundaryMap, ProposalGrid
from .layers.text import SentenceEncoder
from .layers.transformer import encode_positioned, transformer_encoder
from .layers.video import ClipEncoder


@dataclass(frozen=True)
class DMRReleaseOutput:
    """Paragraph-video cosines, and scores of the valid cells before the sigmoid."""

    similarity: Float[Tensor, "B B"]
    logits: Float[Tensor, "M P"]
    spans: Float[Tensor, "P 2"]


class DMRRelease(Model):
    """The released assembly.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D.
        lstm_layers: of the sentence encoder, one direction.
        position_size: of each of the three sinusoids (sentence, start, end) beside a cell.
        slots: sentences with a position of their own; further ones share the last.
        encoder_layers, heads, feedforward, dropout: of the one encoder of both tokens.
    """

    supervision = "full"  # of the terms below

    positions: Float[Tensor, "P E2"]

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 512,
        lstm_layers: int = 3,
        position_size: int = 128,
        slots: int = 8,
        encoder_layers: int = 6,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        D, N = hidden_size, dims.num_clips
        self.clips = ClipEncoder(dims.video_dim, D, dims.num_frames, N)
        self.sentence = SentenceEncoder(
            dims.word_dim, D, num_layers=lstm_layers, bidirectional=False
        )
        self.grid = ProposalGrid(N)
        self.proposals = BoundaryMap(D, self.grid)
        self.cell = nn.Linear(D, D)
        self.context = nn.Linear(3 * position_size + D, D)
        self.score = nn.Linear(D, 1)
        self.encoder = transformer_encoder(
            D, num_layers=encoder_layers, heads=heads, feedforward=feedforward, dropout=dropout
        )
        self.video_token, self.text_token = (
            nn.Parameter(torch.randn(1, D) * 0.02) for _ in range(2)
        )
        self.video_places = nn.Parameter(torch.randn(N + 1, D) * 0.02)
        self.text_places = nn.Parameter(torch.randn(slots + 1, D) * 0.02)
        self.position_size = position_size
        start, end = (self.grid.spans * N).round().long().unbind(dim=1)
        ends = [_sinusoid(start + 1, position_size), _sinusoid(end, position_size)]
        self.register_buffer("positions", torch.cat(ends, dim=1), persistent=False)

    @property
    def embeddings(self) -> tuple[str, str] | None:
        return "token", "token"

    @property
    def compares_embeddings(self) -> bool:
        return True

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``token``: unit features, (B, D); ``clips``: (B, N, D)."""
        clips = self.clips(video)
        return {"token": self._token(clips, self.video_token, self.video_places), "clips": clips}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``token``: unit features, (B, D); ``sentences``: (B, S, D), and ``mask``: which exist."""
        items, mask = batch.padded(self._sentences(batch)), batch.sentence_mask
        token = self._token(items, self.text_token, self.text_places, mask)
        return {"token": token, "sentences": items, "mask": mask}

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        return paragraphs["token"] @ videos["token"].T

    def _token(
        self,
        items: Float[Tensor, "B L D"],
        token: Float[Tensor, "1 D"],
        positions: Float[Tensor, "L1 D"],
        mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B D"]:
        x = torch.cat([token.expand(len(items), 1, -1), items], dim=1)
        index = torch.arange(x.shape[1], device=x.device).clamp(max=len(positions) - 1)
        if mask is not None:
            mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        state = encode_positioned(self.encoder, x, positions[index], mask)[:, 0]
        return nn.functional.normalize(state, dim=-1)

    def _sentences(self, batch: Batch) -> Float[Tensor, "M D"]:
        """Sentence features from the words in the vocabulary, with the first word repeated, as the
        release computes them."""
        words, mask = batch.flat(batch.words), batch.flat(batch.word_mask)
        known = mask & (batch.flat(batch.word_ids) != UNKNOWN)
        known = torch.where(known.any(dim=1, keepdim=True), known, mask)  # else an empty sentence
        order = (~known).int().argsort(dim=1, stable=True)
        words = words.gather(1, order[..., None].expand_as(words))
        counts = known.sum(dim=1).cpu() + 1
        return self.sentence(torch.cat([words[:, :1], words], dim=1), counts)[1]

    def _logits(
        self, clips: Float[Tensor, "B N D"], sentences: Float[Tensor, "M D"], batch: Layout
    ) -> Float[Tensor, "M P"]:
        fused = fused_cells(sentences, self.cell(self.proposals(clips)), batch.owner)
        sentence_positions = _sinusoid(batch.sentence_position + 1, self.position_size)[
            :, None
        ].expand(-1, len(self.grid), -1)
        span_positions = self.positions.expand(len(fused), -1, -1)
        context = self.context(
            torch.cat([sentence_positions, span_positions, fused], dim=-1)
        ).relu()
        return self.score(context).squeeze(-1)

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        sentences, clips = self._sentences(batch), self.clips(batch.video)
        items = batch.padded(sentences)
        text = self._token(items, self.text_token, self.text_places, batch.sentence_mask)
        video = self._token(clips, self.video_token, self.video_places)
        return {
            "text": text,
            "video": video,
            "logits": self._logits(clips, sentences, batch),
        }

    def compare(self, parts: Encoded, batch: Batch) -> DMRReleaseOutput:
        similarity = parts["text"] @ parts["video"].T
        return DMRReleaseOutput(similarity, parts["logits"], self.grid.spans)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        pairs = Layout.of(paragraphs["mask"])
        logits = self._logits(videos["clips"], pairs.flat(paragraphs["sentences"]), pairs)
        return Evidence(pairs, self.grid.spans, self.grid.num_clips, logits.sigmoid())

    @staticmethod
    def losses(*, scale: float = 1 / 0.07, min_iou: float = 0.5, max_iou: float = 1.0) -> Losses:
        """``retrieval_nce``: the partner among the batch; ``overlap`` as in 2D-TAN.

        Args:
            scale: λ of the former.
            min_iou, max_iou: overlap at which the target of the latter is 0 and 1.
        """

        def retrieval_nce(out: DMRReleaseOutput, batch: Batch) -> Tensor:
            return info_nce(out.similarity, out.similarity.new_full((), scale), batch.same_video)

        def overlap(out: DMRReleaseOutput, batch: Batch) -> Tensor:
            target = overlap_with_truth(out.spans, batch)
            return scaled_iou_bce(out.logits, target, min_iou=min_iou, max_iou=max_iou)

        return {"retrieval_nce": retrieval_nce, "overlap": overlap}


def _sinusoid(number: Int[Tensor, " n"], size: int) -> Float[Tensor, "n E"]:
    """Sines on even and cosines on odd channels, a frequency for each pair."""
    even = torch.arange(0, size, 2, device=number.device)
    angle = number[:, None] * (even * (-math.log(10_000) / size)).exp()
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
