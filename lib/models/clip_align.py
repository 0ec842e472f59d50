"""Clips and sentences in one space, and moments from their similarity.

No map, no reconstruction, no pseudo-labels: a sentence attends to the clips of a video; the right
video among those of the batch must be found, by sentences and by paragraphs; and a clip must find
its sentence among those of its own paragraph. How moments come from the similarities is the
decoding's (``DECODE``).
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ..base.batch import Batch, DataDims, Layout
from ..decoding import Evidence
from ..losses import Losses
from ..losses.similarity import info_nce, sentence_nce, within_paragraph_nce
from .interface import Encoded, Model
from .layers.alignment import Alignment, ClipAlignment
from .layers.proposal_map import ProposalGrid
from .layers.text import SentenceEncoder
from .layers.video import ClipEncoder


class ClipAlign(Model):
    """Clip-sentence alignment.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D.
        lstm_layers: depth of the Bi-LSTM.
        words: add the mean of a sentence's words to its feature.
        density: which spans are proposals.
        attention: inverse temperature of the attention over clips.
        position_bias: how strongly that attention looks where the sentence's position suggests.
        initial_scale: λ of the contrastive terms at the start; learned.
    """

    grounds_from = frozenset({"clips"})

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        lstm_layers: int = 1,
        words: bool = True,
        density: Literal["sparse", "dense"] = "sparse",
        attention: float = 10.0,
        position_bias: float = 0.0,
        initial_scale: float = 1 / 0.07,
    ) -> None:
        super().__init__()
        self.text = SentenceEncoder(dims.word_dim, hidden_size, num_layers=lstm_layers, words=words)
        self.clips = ClipEncoder(dims.video_dim, hidden_size, dims.num_frames, dims.num_clips)
        self.alignment = ClipAlignment(
            hidden_size,
            attention=attention,
            position_bias=position_bias,
            initial_scale=initial_scale,
        )
        self.grid = ProposalGrid(dims.num_clips, density)

    @property
    def embeddings(self) -> tuple[str, str] | None:
        return "clips", "sentences"

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips``: (B, N, D)."""
        return {"clips": self.alignment.clip(self.clips(video))}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences``: (B, S, D), and ``mask``: which exist."""
        _, sentences = self.text(batch.flat(batch.words), batch.word_counts)
        return {"sentences": batch.padded(sentences), "mask": batch.sentence_mask}

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        return self.alignment.paragraph_similarity(
            paragraphs["sentences"], paragraphs["mask"], videos["clips"]
        )

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        _, sentences = self.text(batch.flat(batch.words), batch.word_counts)
        return {"sentences": sentences, "clips": self.clips(batch.video)}

    def compare(self, parts: Encoded, batch: Batch) -> Alignment:
        return self.alignment(parts["sentences"], parts["clips"], batch)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """``alignment``: the cosine of each sentence with each clip."""
        pairs = Layout.of(paragraphs["mask"])
        sentences = pairs.flat(paragraphs["sentences"])
        cosines = self.alignment.evidence(sentences, videos["clips"], pairs)
        return Evidence(pairs, self.grid.spans, self.grid.num_clips, clips={"alignment": cosines})

    @staticmethod
    def losses() -> Losses:
        """``paragraph`` and ``sentence``: the right video among those of the batch; ``within``: the
        attended clips find their sentence among those of the paragraph."""

        def paragraph(out: Alignment, batch: Batch) -> Tensor:
            return info_nce(out.similarity, out.scale, batch.same_video)

        def sentence(out: Alignment, batch: Batch) -> Tensor:
            return sentence_nce(out.sentence_similarity, out.scale, batch.owner, batch.same_video)

        def within(out: Alignment, batch: Batch) -> Tensor:
            return within_paragraph_nce(out.within, out.scale, batch.sentence_mask)

        return {"paragraph": paragraph, "sentence": sentence, "within": within}
