"""SCN: proposals are ranked by how well a sentence's words can be reconstructed from them.

Lin, Zhao, Zhang, Wang and Liu, "Weakly-Supervised Video Moment Retrieval via Semantic Completion
Network", AAAI 2020. Weakly supervised, one sentence at a time; it grounds and does not retrieve.
Where the release differs from the paper, and we from both, ``docs/deviations.md`` says.

    words ─ word decoder ─┐
    frames ───────────────┴─ frame decoder ─ scores of the spans that end at each frame
                                                │ a few that lie apart, or drawn while exploring
    frames inside ─ frame decoder ─┐            ▼
    words, a third masked ─────────┴─ word decoder ─ likelihood of the words: its reward

The keywords' defaults are the published reading; those from ``mask_ratio`` on are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..base.moments import greedy_suppression
from ..decoding import Evidence
from ..losses import Losses
from ..losses.reconstruction import rank_by_reconstruction
from .interface import Encoded, Model, Plan
from .layers.dual_decoder import DualDecoder, ReadWords
from .layers.proposal_map import frames_inside
from .layers.text import word_logits


@dataclass(frozen=True)
class SCNOutput:
    """Scores and likelihoods of the selected proposals of every sentence."""

    scores: Float[Tensor, "M Q"]  # after the sigmoid
    nll: Float[Tensor, "M Q"]  # of the sentence's words


class SCN(Model):
    """Both modules: proposal generation and semantic completion.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, everywhere.
        heads, layers: of each of the two decoders.
        widths: lengths of the spans that end at each frame, as parts of the video.
        num_candidates: K, how many proposals of a sentence compete.
        candidate_iou: two of them overlap at most this much.
        candidate_frames: rows of the video that the reconstruction sees of a proposal.
        mask_ratio: share of the words that are masked in the reconstruction; 1: each word is
            predicted from the frames and its position alone.
        reranked: ground by the likelihood of the words from each of so many spans, the best ones
            that lie apart, and not by score; 0: by score.
        tied_embeddings: the output layer predicts words by their input vectors, not by learned
            rows.
    """

    cells: Int[Tensor, " P"]
    spans: Float[Tensor, "P 2"]
    frame_rows: Int[Tensor, "P F"]
    exploration: Float[Tensor, ""]

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        heads: int = 4,
        layers: int = 3,
        widths: Sequence[float] = (0.167, 0.333, 0.5, 0.667, 0.834, 1.0),
        num_candidates: int = 3,
        candidate_iou: float = 0.65,
        candidate_frames: int = 16,
        mask_ratio: float = 1 / 3,
        reranked: int = 0,
        tied_embeddings: bool = False,
    ) -> None:
        super().__init__()
        D, T = hidden_size, dims.num_frames
        self.num_frames = T
        self.num_candidates, self.candidate_iou = num_candidates, candidate_iou
        self.mask_ratio, self.reranked = mask_ratio, reranked
        self.decoders = DualDecoder(dims, D, heads=heads, layers=layers)
        self.score = nn.Linear(D, len(widths))
        self.vocabulary = word_logits(dims, D, tied=tied_embeddings)
        cells, spans = spans_by_end(T, widths)
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("spans", spans, persistent=False)
        rows = frames_inside(spans, T, candidate_frames)
        self.register_buffer("frame_rows", rows, persistent=False)
        # The chance that a proposal is drawn and not the best one left; see ``plan``.
        self.register_buffer("exploration", torch.zeros(()), persistent=False)

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``frames``: (B, T, D)."""
        return {"frames": self.decoders.frames(video)}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``ReadWords.encoded``."""
        return self._read(batch, hide=False).encoded(batch)

    def _read(self, batch: Batch, *, hide: bool) -> ReadWords:
        words = batch.flat(batch.words)
        return self.decoders.read(words, batch, hide=hide, ratio=self.mask_ratio)

    def _scores(
        self,
        text: ReadWords,
        frames: Float[Tensor, "B T D"],
        owner: Int[Tensor, " M"],
    ) -> Float[Tensor, "M P"]:
        states = self.decoders.frame_decoder(
            frames.index_select(0, owner), memory=text.memory, memory_mask=text.mask
        )
        return self.score(states).flatten(1).index_select(1, self.cells).float().sigmoid()

    def _select(self, scores: Float[Tensor, "M P"], keep: int) -> Int[Tensor, "M Q"]:
        chosen, _ = greedy_suppression(
            self.spans,
            scores,
            keep=keep,
            max_iou=self.candidate_iou,
            explore=self.exploration if self.training else None,
        )
        return chosen

    def _nll(
        self,
        text: ReadWords,
        frames: Float[Tensor, "B T D"],
        owner: Int[Tensor, " M"],
        chosen: Int[Tensor, "M Q"],
    ) -> Float[Tensor, "M Q"]:
        rows = owner[:, None, None] * frames.shape[1] + self.frame_rows[chosen]
        inside = frames.flatten(0, 1).index_select(0, rows.flatten())
        inside = inside.unflatten(0, (-1, self.frame_rows.shape[1]))  # (MQ, F, D)
        return self.decoders.nll(text, inside, self.vocabulary)[0]

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        text, frames = self._read(batch, hide=self.training), self.decoders.frames(batch.video)
        scores = self._scores(text, frames, batch.owner)
        chosen = self._select(scores, self.num_candidates)
        return {
            "scores": scores.gather(1, chosen),
            "nll": self._nll(text, frames, batch.owner, chosen),
        }

    def compare(self, parts: Encoded, batch: Batch) -> SCNOutput:
        return SCNOutput(**parts)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """The score of every span, or with ``reranked`` the likelihoods of the best spans."""
        pairs = Layout.of(paragraphs["mask"])
        text, frames = ReadWords.of(paragraphs, pairs), videos["frames"]
        scores = self._scores(text, frames, pairs.owner)
        if not self.reranked:
            return Evidence(pairs, self.spans, self.num_frames, scores)
        chosen = self._select(scores, self.reranked)
        likelihood = -self._nll(text, frames, pairs.owner, chosen)
        return Evidence(pairs, self.spans[chosen], self.num_frames, likelihood)

    def inspect(self, batch: Batch) -> dict[str, Tensor]:
        """``reconstruction_gap``: by how many nats a word is likelier given the frames of the
        sentence's own proposals than given those of the next video of the batch. At 0 the
        reconstruction uses the words and not the video."""
        text, frames = self._read(batch, hide=True), self.decoders.frames(batch.video)
        scores = self._scores(text, frames, batch.owner)
        chosen = self._select(scores, self.num_candidates)
        own, other = (
            self._nll(text, frames.roll(shift, dims=0), batch.owner, chosen).mean()
            for shift in (0, 1)
        )
        return {"reconstruction_gap": other - own}

    @staticmethod
    def losses() -> Losses:
        """``reconstruction``: all words of a sentence from each selected proposal. ``rank``: the
        likelier they are given a proposal, the higher it should score."""
        return {
            "reconstruction": lambda out, batch: out.nll.mean(),
            "rank": lambda out, batch: rank_by_reconstruction(out.scores, out.nll),
        }

    @staticmethod
    def plan(*, exploration: float = 0.5, exploration_epochs: float = 6.8) -> Plan:
        """One step per batch, all terms; proposals are drawn more often at first.

        Args:
            exploration: the chance that a selected proposal is any one, in the first epoch.
            exploration_epochs: after so many it has fallen to 1/e of that. Published are 2,000
                steps, 6.8 epochs of ActivityNet Captions in batches of 128 sentences.
        """
        return Plan(
            settings=lambda epoch: {
                "exploration": exploration * math.exp(-epoch / exploration_epochs)
            }
        )


def spans_by_end(
    num_frames: int, widths: Sequence[float]
) -> tuple[Int[Tensor, " P"], Float[Tensor, "P 2"]]:
    """The spans that end with each frame and do not begin before the video.

    Args:
        widths: as parts of the video; rounded down to frames, at least one.

    Returns:
        The index of each span in the flattened (frame, width) axis, and the spans as fractions.

    Raises:
        ValueError: a width outside (0, 1], or two that are the same number of frames.
    """
    frames = [max(1, math.floor(width * num_frames + 1e-9)) for width in widths]
    if not all(0 < width <= 1 for width in widths) or len(set(frames)) < len(frames):
        raise ValueError(f"widths {list(widths)} must be from 0 to 1 and differ, are {frames}")
    end = torch.arange(1, num_frames + 1)[:, None].expand(-1, len(frames)).flatten()
    start = end - torch.tensor(frames).repeat(num_frames)
    cells = (start >= 0).nonzero().squeeze(1)
    return cells, torch.stack([start, end], dim=1)[cells].to(torch.float32) / num_frames
