"""PRVG: the sentences of a paragraph regress their spans at once, from the frames they attend to.

Shi, Wang, Li, Wang and Wang, "End-to-End Dense Video Grounding via Parallel Regression", CVIU 2024
(arXiv 2109.11265). Fully supervised; it grounds and does not retrieve. Built from the release;
where we differ ``docs/deviations.md`` says.

    words ─ LSTM ─ sentence, + its place ─ encoder over the paragraph ─┐
    frames ─ linear, + their place ─ encoder over the video ───────────┴─ attention ─ start, end

There are no proposals and no candidates: one span a sentence. The place of a sentence is all that
the network knows of order. The published settings are the keywords' defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..base import draws
from ..base.batch import Batch, DataDims, Layout
from ..decoding import Evidence
from ..losses import Losses
from ..losses.regression import attention_inside, span_distance, span_overlap_loss
from .interface import Encoded, Model
from .layers.text import SentenceEncoder
from .layers.transformer import interleaved_sinusoids, transformer_encoder

PLACES = 512  # of the table of places; beyond it all share the last


@dataclass(frozen=True)
class PRVGOutput:
    """What is said of every sentence."""

    spans: Float[Tensor, "M 2"]  # fractions of the video; the end may come before the start
    attention: Float[Tensor, "M T"]  # on the frames, mean over heads
    kept: Float[Tensor, " M"]  # 1 where the sentence was among those drawn for this step


class PRVG(Model):
    """The whole network.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, everywhere.
        heads, feedforward, dropout: of all attention layers.
        lstm_layers: depth of the sentence encoder.
        drawn_sentences: in training every paragraph is seen by 1 to so many of its sentences, as
            many as a draw says, in order, and by other ones each time; 0: by all of them.
    """

    supervision = "full"
    positions: Float[Tensor, "L D"]

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 512,
        heads: int = 8,
        feedforward: int = 4096,
        dropout: float = 0.1,
        lstm_layers: int = 3,
        drawn_sentences: int = 8,
    ) -> None:
        super().__init__()
        D = hidden_size
        self.drawn_sentences, self.num_clips = drawn_sentences, dims.num_clips
        self.sentence = SentenceEncoder(
            dims.word_dim, D, num_layers=lstm_layers, bidirectional=False, readout=False
        )
        self.frame = nn.Linear(dims.video_dim, D)
        self.encode_text, self.encode_frames = (
            _normed_encoder(D, heads, feedforward, dropout) for _ in range(2)
        )
        self.read = CrossLayer(D, heads=heads, feedforward=feedforward, dropout=dropout)
        self.read_norm = nn.LayerNorm(D)
        for part in (self.encode_text, self.encode_frames, self.read):
            for weight in part.parameters():
                if weight.dim() > 1:
                    nn.init.xavier_uniform_(weight)
        self.box = nn.Sequential(
            *(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 2))
        )
        table = interleaved_sinusoids(max(PLACES, dims.num_frames), D)
        self.register_buffer("positions", table, persistent=False)

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``frames``: (B, T, D)."""
        return {"frames": self.encode_frames(self.frame(video) + self.positions[: video.shape[1]])}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences``: (B, S, D), each having read its paragraph; ``mask`` (B, S)."""
        return {
            "sentences": self._sentences(batch, batch.sentence_mask),
            "mask": batch.sentence_mask,
        }

    def _sentences(self, batch: Batch, kept: Bool[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """The ``kept`` sentences, at their places among each other, having read one another. (The
        others hold nothing of use.)"""
        _, states = self.sentence(batch.flat(batch.words), batch.word_counts)
        place = (kept.cumsum(dim=1) - 1).clamp(min=0, max=len(self.positions) - 1)
        x = batch.padded(states) + self.positions[place]
        return self.encode_text(x, src_key_padding_mask=~kept)

    def _boxes(
        self, sentences: Float[Tensor, "B S D"], frames: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B S 2"], Float[Tensor, "B S T"]]:
        states, attention = self.read(sentences, frames)
        return self.box(self.read_norm(states)).float().sigmoid(), attention

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        kept = batch.sentence_mask
        if self.training and self.drawn_sentences:
            kept = draw_sentences(kept, self.drawn_sentences)
        frames = self.encode_videos(batch.video)["frames"]
        spans, attention = self._boxes(self._sentences(batch, kept), frames)
        return {
            "spans": batch.flat(spans),
            "attention": batch.flat(attention),
            "kept": batch.flat(kept).to(spans.dtype),
        }

    def compare(self, parts: Encoded, batch: Batch) -> PRVGOutput:
        return PRVGOutput(**parts)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """One span of every sentence, its ends in order (there: as they come); its score says
        nothing."""
        spans, _ = self._boxes(paragraphs["sentences"], videos["frames"])
        pairs = Layout.of(paragraphs["mask"])
        spans = pairs.flat(spans).sort(dim=1).values[:, None]
        return Evidence(pairs, spans, self.num_clips, torch.ones_like(spans[..., 0]))

    @staticmethod
    def losses(*, generalised: bool = False) -> Losses:
        """``attention``: it should lie inside the moment. ``distance``: of the two ends from those
        of the moment. ``overlap``: of the span with the moment. All are means over sentences.

        Args:
            generalised: of a span that misses the moment, by the gap between them too, so that it
                can learn from it. (Published is the plain overlap, under the other's name.)
        """

        def each(out: PRVGOutput, value: Float[Tensor, " M"]) -> Tensor:
            return (out.kept * value).sum() / out.kept.sum()

        return {
            "attention": lambda out, batch: each(
                out, attention_inside(out.attention, _moments(batch))
            ),
            "distance": lambda out, batch: each(out, span_distance(out.spans, _moments(batch))),
            "overlap": lambda out, batch: each(
                out, span_overlap_loss(out.spans, _moments(batch), generalised=generalised)
            ),
        }


class CrossLayer(nn.Module):
    """Queries read a memory; a feed-forward part; each added to its input and normalised.

    Returns, with the states, the attention, mean over heads, as it was used: after its dropout.
    """

    def __init__(self, hidden_size: int, *, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        D = hidden_size
        self.multihead_attn = nn.MultiheadAttention(D, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(D, feedforward), nn.Linear(feedforward, D)
        self.norm2, self.norm3 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B S D"], memory: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S T"]]:
        found, attention = self.multihead_attn(x, memory, memory)
        x = self.norm2(x + self.dropout(found))
        inner = self.dropout(self.linear1(x).relu())
        return self.norm3(x + self.dropout(self.linear2(inner))), attention


def draw_sentences(real: Bool[Tensor, "B S"], most: int) -> Bool[Tensor, "B S"]:
    """Of each paragraph's sentences so many as a draw of 1 to ``most``, or to as many as there are,
    says; each subset of that size as likely as another.

    Source: DepNet, and PRVG after it.
    """
    count = real.sum(dim=1, keepdim=True)
    number = draws.uniform(count) * count.clamp(max=most)  # rounded up
    key = draws.uniform(real).masked_fill(~real, 2.0)
    rank = key.argsort(dim=1).argsort(dim=1)
    return real & (rank < number.ceil().clamp(min=1))


def _normed_encoder(
    hidden_size: int, heads: int, feedforward: int, dropout: float
) -> nn.TransformerEncoder:
    """One layer, and a normalisation more."""
    encoder = transformer_encoder(
        hidden_size, num_layers=1, heads=heads, feedforward=feedforward, dropout=dropout
    )
    encoder.norm = nn.LayerNorm(hidden_size)
    return encoder


def _moments(batch: Batch) -> Float[Tensor, "M 2"]:
    """As fractions of the video, not cut at its end."""
    return batch.flat(batch.moments / batch.duration[:, None, None])
