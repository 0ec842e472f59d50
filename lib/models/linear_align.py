"""Rare words and clips in one space, by one linear map for each side.

Ours: the smallest weakly supervised system that holds on real features. A sentence is the mean of
its words' vectors beside the bag of its words, both weighted by how rare a word is among the
training sentences; a clip is the mean of its standardised rows and their neighbours. A few thousand
sentences teach a linear map what they cannot teach a recurrent network. A video that has a sentence
like the one at hand is no negative of it ("a person closes the door" is true of many videos), and
sentences that are alike count once in a paragraph.

Moments come from the cosines by the decoding (``DECODE``). ``experiments/real`` has it on CLIP
features; ``docs/findings.md`` says what each choice is worth.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ..base.batch import Batch, DataDims, Layout
from ..decoding import Evidence
from ..losses import Losses
from .interface import Encoded, Model
from .layers.linear_alignment import (
    LinearAlignment,
    LinearAlignOutput,
    sentence_loss,
    within_loss,
)
from .layers.proposal_map import ProposalGrid


class LinearAlign(LinearAlignment, Model):
    """Linear clip-sentence alignment.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, of the common space.
        dropout: of both inputs.
        smoothing: clips on each side that are averaged into a clip.
        attention: inverse temperature of the attention over clips.
        position_bias: how strongly that attention looks where the sentence's position suggests.
        alike: cosine of text features above which sentences of a paragraph count once in the
            similarity of the paragraph with a video.
        density: which spans are proposals.
    """

    grounds_from = frozenset({"clips"})

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        dropout: float = 0.5,
        smoothing: int = 2,
        attention: float = 5.0,
        position_bias: float = 0.0,
        alike: float = 0.7,
        density: Literal["sparse", "dense"] = "dense",
    ) -> None:
        super().__init__(
            dims,
            hidden_size=hidden_size,
            dropout=dropout,
            smoothing=smoothing,
            attention=attention,
            position_bias=position_bias,
            alike=alike,
        )
        self.grid = ProposalGrid(dims.num_clips, density)

    @property
    def embeddings(self) -> tuple[str, str] | None:
        return "clips", "sentences"

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips``: (B, N, D), of unit length."""
        return {"clips": self.clips_of(video)}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences``: (B, S, D) of unit length, ``text``: (B, S, F), ``mask``: which exist."""
        text = self.words(batch)
        return {
            "sentences": batch.padded(self.sentences_of(text)),
            "text": batch.padded(text),
            "mask": batch.sentence_mask,
        }

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """Mean over a paragraph's sentences, those that are alike counting once together."""
        return self.paragraph_similarity(
            paragraphs["sentences"], paragraphs["text"], paragraphs["mask"], videos["clips"]
        )

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        text = self.words(batch)
        return {
            "sentences": self.sentences_of(text),
            "text": text,
            "clips": self.clips_of(batch.video),
        }

    def compare(self, parts: Encoded, batch: Batch) -> LinearAlignOutput:
        return self.compared(parts["sentences"], parts["text"], parts["clips"], batch)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """``alignment``: the cosine of each sentence with each clip."""
        pairs = Layout.of(paragraphs["mask"])
        cosines = pairs.flat(paragraphs["sentences"] @ videos["clips"].mT)
        return Evidence(
            pairs,
            self.grid.spans,
            self.grid.num_clips,
            clips={"alignment": cosines},
            text=pairs.flat(paragraphs["text"]),
        )

    @staticmethod
    def losses(*, scale: float = 5.0, alike: float = 0.8) -> Losses:
        """``sentence``: the right video for a sentence, and the right sentence for a video.
        ``within``: the attended clips find their sentence among those of the paragraph.

        Args:
            scale: λ, on the similarities.
            alike: cosine of text features above which a sentence of another video is like the one
                at hand, so that the pair is no negative; 1: all are.
        """

        options = {"scale": scale, "alike": alike}
        return {
            "sentence": lambda out, batch: sentence_loss(out, batch, **options),
            "within": lambda out, batch: within_loss(out, batch, **options),
        }
