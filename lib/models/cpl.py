"""CPL: Gaussian proposals, the one whose frames predict a sentence's masked words best, and
windows beside it whose frames should not.

Zheng, Huang, Chen, Peng and Liu, "Weakly Supervised Temporal Sentence Grounding with Gaussian-based
Contrastive Proposal Learning", CVPR 2022. Weakly supervised, one sentence at a time; it grounds and
does not retrieve. Built from the release; where we differ ``docs/deviations.md`` says.

    words ─ word decoder ─┐
    frames, one more ─────┴─ frame decoder ─ of the last: centres and widths
                                                │ a window each
    50 frames ─ frame decoder, weighed ─┐       ▼
    words, a third masked ──────────────┴─ word decoder, weighed ─ likelihood of the words

The published settings are the keywords' defaults, ActivityNet Captions' where corpora differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base.batch import Batch, DataDims
from ..losses import Losses
from ..losses.diversity import gram_distance
from ..losses.reconstruction import better_than, reconstruct_best
from .interface import Encoded, Plan, require
from .layers.dual_decoder import ReadWords
from .layers.gaussian import outside_windows, proposal_windows, spans_of
from .layers.gaussian_grounding import MaskedGrounder, parameters_of
from .layers.votes import Vote

CONTRASTED = frozenset({"reconstruction", "rank"})  # terms that read more than the proposals


@dataclass(frozen=True)
class CPLOutput:
    """What is said of every sentence."""

    spans: Float[Tensor, "M P 2"]  # fractions of the video
    windows: Float[Tensor, "M P F"]
    nll: Float[Tensor, "M P"]  # of the sentence's words
    # from the whole video, and from before and after the best proposal; None if no term asks
    other_nll: Float[Tensor, "M 3"] | None = None


@dataclass(frozen=True)
class GaussianProposals:
    """P windows of every sentence."""

    center: Float[Tensor, "M P"]
    width: Float[Tensor, "M P"]
    spans: Float[Tensor, "M P 2"]
    windows: Float[Tensor, "M P F"]


class CPL(MaskedGrounder):
    """The whole network.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, everywhere.
        heads, layers: of each of the two decoders.
        proposals: P.
        sampled_frames: F, rows of the video that the reconstruction reads.
        mask_ratio: part of the words that the reconstruction does not see.
        end_word: the end of a sentence is predicted like a word, as released (there not that of the
            longest sentence of a batch).
        vote: how proposals are ranked: ``none``, by the likelihood of the words; ``plain``, by
            their overlap with each other; ``leader``, the same, where a vote counts as much as the
            voter overlaps with the likeliest.
        tied_embeddings: words are named by their vectors, not by rows of their own (ours).
    """

    extent: Float[Tensor, ""]

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        heads: int = 4,
        layers: int = 3,
        proposals: int = 8,
        sampled_frames: int = 50,
        mask_ratio: float = 1 / 3,
        end_word: bool = False,
        vote: Vote = "none",
        tied_embeddings: bool = False,
    ) -> None:
        super().__init__(
            dims,
            nn.Linear(hidden_size, 2 * proposals),
            hidden_size=hidden_size,
            heads=heads,
            layers=layers,
            sampled_frames=sampled_frames,
            mask_ratio=mask_ratio,
            end_word=end_word,
            tied_embeddings=tied_embeddings,
            vote=vote,
        )
        # The part of what lies beside the best proposal that negatives stand for; see ``plan``.
        self.register_buffer("extent", torch.ones(()), persistent=False)

    def proposed(self, text: ReadWords, x: Float[Tensor, "M T1 D"]) -> GaussianProposals:
        center, width = parameters_of(self.window(self.proposing(text, x)))
        windows = proposal_windows(center, width, len(self.sampled))
        return GaussianProposals(center, width, spans_of(center, width), windows)

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        """Negatives are those of the best proposal alone, which are all that the loss reads."""
        text, x = self.read_both(batch)
        found, sampled = self.proposed(text, x), self.sample(x)
        nll, _ = self.reconstruct(text, sampled, found.windows)
        parts = {"spans": found.spans, "windows": found.windows, "nll": nll}
        if terms is None or terms & CONTRASTED:
            best = nll.argmin(dim=1, keepdim=True)
            center, width = found.center.gather(1, best), found.width.gather(1, best)
            sides = outside_windows(center, width, len(self.sampled), extent=self.extent)
            others = torch.cat([torch.ones_like(sides[0]), *sides], dim=1)
            parts["other_nll"], _ = self.reconstruct(text, sampled, others)
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> CPLOutput:
        return CPLOutput(**parts)

    @staticmethod
    def losses(
        *, reference_margin: float = 0.1, outside_margin: float = 0.15, spread: float = 0.13
    ) -> Losses:
        """``reconstruction``: the words, from the best proposal and from the whole video.
        ``rank``: the best should predict them better than the whole and than what lies beside it.
        ``diversity``: windows unlike each other, and of one size.

        Args:
            reference_margin, outside_margin: of these hinges.
            spread: lambda, the squared length asked of a window's weights, which sum to 1: for F
                sampled frames 9 / (2 sqrt(pi) (F - 1) width). 0.13 of 50 frames asks for a width of
                0.4; for other F times 49 / (F - 1).
        """

        def rank(out: CPLOutput, batch: Batch) -> Tensor:
            whole, sides = require(out.other_nll).split([1, 2], dim=1)
            return better_than(out.nll, whole, margin=reference_margin) + better_than(
                out.nll, sides, margin=outside_margin
            )

        def diversity(out: CPLOutput, batch: Batch) -> Tensor:
            return gram_distance(out.windows / out.windows.sum(dim=-1, keepdim=True), spread)

        return {
            "reconstruction": lambda out, batch: reconstruct_best(
                out.nll, require(out.other_nll)[:, 0]
            ),
            "rank": rank,
            "diversity": diversity,
        }

    @staticmethod
    def plan(*, curriculum: float = 0.0, curriculum_epochs: int = 30) -> Plan:
        """Negatives from easy, narrow and at the ends of the video, to hard.

        Args:
            curriculum: gamma: in epoch e, from 1, they stand for the part (e / E) ** gamma of what
                lies beside the best proposal. 0: all of it from the first epoch on (ActivityNet
                Captions); 0.5 on Charades-STA.
            curriculum_epochs: E, after which they stand for all of it.
        """
        return Plan(
            settings=lambda epoch: {
                "extent": min((epoch + 1) / curriculum_epochs, 1.0) ** curriculum
            }
        )
