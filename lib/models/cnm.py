"""CNM: one Gaussian proposal, whose frames should predict a sentence's masked words better than all
frames do, and these better than the frames outside it.

Zheng, Huang, Chen and Liu, "Weakly Supervised Video Moment Localization with Contrastive Negative
Sample Mining", AAAI 2022; CPL's predecessor. Weakly supervised, one sentence at a time; it grounds
and does not retrieve. Built from the release; where we differ ``docs/deviations.md`` says.

The last frame proposes, having read all frames and words, by one window that is not brought up to a
height of 1. Every batch makes two steps: of everything but the map to the window, and of that map.
The published settings are the keywords' defaults, ActivityNet Captions' where corpora differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base.batch import Batch, DataDims
from ..losses import Losses
from ..losses.reconstruction import better_than
from .interface import Encoded, Plan, Stage
from .layers.dual_decoder import ReadWords
from .layers.gaussian import spans_of, unscaled_windows
from .layers.gaussian_grounding import MaskedGrounder, parameters_of


@dataclass(frozen=True)
class CNMOutput:
    """What is said of every sentence."""

    spans: Float[Tensor, "M 1 2"]  # fractions of the video
    windows: Float[Tensor, "M 1 F"]
    nll: Float[Tensor, "M 1"]  # of the sentence's words
    other_nll: Float[Tensor, "M 2"]  # from all frames, and from those outside the window


@dataclass(frozen=True)
class GaussianProposal:
    """The window of every sentence."""

    spans: Float[Tensor, "M 1 2"]
    windows: Float[Tensor, "M 1 F"]


class CNM(MaskedGrounder):
    """The whole network.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, everywhere.
        heads, layers: of each of the two decoders.
        sampled_frames: F, rows of the video that the reconstruction reads.
        sharpness: alpha of the window, 5.5 on Charades-STA.
        max_width: of a proposal, as a fraction of the video. 0.45 on Charades-STA, where moments
            are 0.27 on average: knowledge of the corpus.
        mask_ratio: part of the words that the reconstruction does not see.
        end_word: the end of a sentence is predicted like a word, as released (there not that of the
            longest sentence of a batch).
        tied_embeddings: words are named by their vectors, not by rows of their own (ours).
    """

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        heads: int = 4,
        layers: int = 3,
        sampled_frames: int = 50,
        sharpness: float = 5.0,
        max_width: float = 1.0,
        mask_ratio: float = 1 / 3,
        end_word: bool = False,
        tied_embeddings: bool = False,
    ) -> None:
        super().__init__(
            dims,
            nn.Linear(hidden_size, 2),
            hidden_size=hidden_size,
            heads=heads,
            layers=layers,
            sampled_frames=sampled_frames,
            mask_ratio=mask_ratio,
            end_word=end_word,
            tied_embeddings=tied_embeddings,
            vote=None,
            prediction_frame=False,
        )
        self.sharpness, self.max_width = sharpness, max_width

    def proposed(self, text: ReadWords, x: Float[Tensor, "M T D"]) -> GaussianProposal:
        center, width = parameters_of(self.window(self.proposing(text, x)))
        width = width * self.max_width
        windows = unscaled_windows(center, width, len(self.sampled), sharpness=self.sharpness)
        return GaussianProposal(spans_of(center, width), windows)

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        text, x = self.read_both(batch)
        found = self.proposed(text, x)
        window = found.windows
        every = torch.cat([window, torch.ones_like(window), 1 - window], dim=1)
        nll, _ = self.reconstruct(text, self.sample(x), every)
        parts = {"spans": found.spans, "windows": window}
        return {**parts, "nll": nll[:, :1], "other_nll": nll[:, 1:]}

    def compare(self, parts: Encoded, batch: Batch) -> CNMOutput:
        return CNMOutput(**parts)

    @staticmethod
    def losses(*, whole_margin: float = 0.1, outside_margin: float = 0.15) -> Losses:
        """``reconstruction``: the words, from the proposal and from all frames. ``rank``: the
        proposal should predict them better than all frames and than those outside it.

        Args:
            whole_margin, outside_margin: of these hinges.
        """

        def rank(out: CNMOutput, batch: Batch) -> Tensor:
            whole, outside = out.other_nll.split(1, dim=1)
            return better_than(out.nll, whole, margin=whole_margin) + better_than(
                out.nll, outside, margin=outside_margin
            )

        return {
            "reconstruction": lambda out, batch: out.nll.mean() + out.other_nll[:, 0].mean(),
            "rank": rank,
        }

    @staticmethod
    def plan() -> Plan:
        """Every batch makes two steps, each with draws of its own: ``reconstruction`` trains all
        but the map to the window, through which its gradient goes, and ``rank`` that map alone.
        Each step's gradient has a norm of its own (released: both count in either)."""
        return Plan(
            lambda epoch: (
                Stage({"rank": 0.0}, frozen=("window.",)),
                Stage({"reconstruction": 0.0}, frozen=("decoders.", "vocabulary.")),
            )
        )
