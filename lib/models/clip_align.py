"""The simple thing: clips and sentences in one space, and a span read off their similarity.

No map, no reconstruction, no pseudo-labels. It is the baseline that every weakly supervised model
of this project has to beat: a sentence attends to the clips of a video; the right video among those
of the batch must be found, by sentences and by paragraphs; and a clip must find its sentence among
those of its own paragraph.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from lib.datasets.batch import Batch, Layout
from lib.losses.similarity import info_nce, sentence_nce, within_paragraph_nce
from lib.models.interface import DataDims, Encoded, Losses, Proposals
from lib.models.layers.alignment import Alignment, ClipAlignment, separation
from lib.models.layers.ordering import decode_in_order
from lib.models.layers.proposal_map import ProposalGrid
from lib.models.layers.text import SentenceEncoder
from lib.models.layers.video import ClipEncoder


class ClipAlign(nn.Module):
    """Clip-sentence alignment.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D.
        lstm_layers: depth of the Bi-LSTM.
        words: add the mean of a sentence's words to its feature.
        density: which spans are proposals.
        attention: inverse temperature of the attention over clips.
        decoder: ``evidence`` takes the span that best separates inside from outside; ``order`` adds
            the position prior and decodes the sentences of a paragraph jointly.
        balance: of ``separation``, how much a span's length counts; 1/2: correlation.
        prior: weight of the position prior against the evidence.
        order: what it costs a sentence to lie before its predecessor, per length of the video.
        initial_scale: λ of the contrastive terms at the start; learned.
    """

    supervision = "weak"

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        lstm_layers: int = 1,
        words: bool = True,
        density: Literal["sparse", "dense"] = "sparse",
        attention: float = 10.0,
        decoder: Literal["evidence", "order"] = "evidence",
        balance: float = 0.5,
        prior: float = 0.3,
        order: float = 2.0,
        initial_scale: float = 1 / 0.07,
    ) -> None:
        super().__init__()
        self.decoder, self.balance, self.prior, self.order = decoder, balance, prior, order
        self.text = SentenceEncoder(dims.word_dim, hidden_size, num_layers=lstm_layers, words=words)
        self.clips = ClipEncoder(dims.video_dim, hidden_size, dims.num_frames, dims.num_clips)
        self.alignment = ClipAlignment(
            hidden_size, attention=attention, in_order=0.0, initial_scale=initial_scale
        )
        self.grid = ProposalGrid(dims.num_clips, density)

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

    def forward(self, batch: Batch, terms: frozenset[str] | None = None) -> Alignment:
        return self.compare(self.encode(batch, terms), batch)

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        _, sentences = self.text(batch.flat(batch.words), batch.word_counts)
        return {"sentences": sentences, "clips": self.clips(batch.video)}

    def compare(self, parts: Encoded, batch: Batch) -> Alignment:
        return self.alignment(parts["sentences"], parts["clips"], batch)

    def ground_pairs(self, paragraphs: Encoded, videos: Encoded) -> Proposals:
        pairs = Layout.of(paragraphs["mask"])
        sentences = pairs.flat(paragraphs["sentences"])
        evidence = self.alignment.evidence(sentences, videos["clips"], pairs)
        scores = separation(evidence, self.grid.spans, balance=self.balance)
        if self.decoder == "order":
            scores = decode_in_order(scores, pairs, self.grid, prior=self.prior, order=self.order)
        return Proposals(self.grid.spans, scores)

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
