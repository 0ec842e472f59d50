"""The grounding side of DCIML: CPL's Gaussian proposals, judged by reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...base.batch import Batch, DataDims
from .dual_decoder import DualDecoder, ReadWords
from .gaussian import outside_windows, proposal_windows, spans_of
from .gaussian_grounding import GaussianGrounding, parameters_of
from .transformer import FiLM


@dataclass(frozen=True)
class Grounded:
    """The proposals of the grounding branch for every sentence, and their likelihoods."""

    spans: Float[Tensor, "M Q 2"]  # fractions of the video
    windows: Float[Tensor, "M Q F"]
    nll: Float[Tensor, "M Q"]
    best: Int[Tensor, "M 1"]  # the proposal that reconstructs best
    other_nll: Float[Tensor, "M 3"] | None = None  # whole video, before, after the best proposal
    encoded: Float[Tensor, "M F D"] | None = None  # frames under the best proposal's window
    states: Float[Tensor, "M D"] | None = None  # mean over frames, before any proposal


class GroundingBranch(GaussianGrounding):
    """Gaussian windows as proposals, judged by how well they reconstruct a sentence's words."""

    def __init__(
        self,
        dims: DataDims,
        hidden_size: int,
        retrieval_size: int,
        heads: int,
        layers: int,
        proposals: int,
        sampled_frames: int,
        large_start: bool,
        tied_embeddings: bool,
    ) -> None:
        D = hidden_size
        decoders = DualDecoder(
            dims, D, heads=heads, layers=layers, small_start=True, large_start=large_start
        )
        window = nn.Linear(D, 2 * proposals)
        super().__init__(
            dims, decoders, window, sampled_frames=sampled_frames, tied_embeddings=tied_embeddings
        )
        self.from_retrieval = nn.Linear(retrieval_size, D)
        self.guide = FiLM(D, D)

    def videos(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B T1 D"]:
        """Frames with the proposing one behind them."""
        return super().videos(nn.functional.normalize(video, dim=-1))

    def read(self, batch: Batch) -> ReadWords:
        """The sentences alone. In training a third of the words is masked in ``inputs``."""
        words = nn.functional.normalize(batch.flat(batch.words), dim=-1)
        return self.decoders.read(words, batch, hide=self.training)

    def forward(
        self, text: ReadWords, x: Float[Tensor, "M T1 D"], *, others: bool = False
    ) -> Grounded:
        """Proposals on every sentence's frames; with ``others`` also worse windows."""
        center, width = parameters_of(self.window(self.proposing(text, x)))  # (M, Q)
        steps = len(self.sampled)
        sampled = self.sample(x)
        windows = proposal_windows(center, width, steps)
        nll, encoded = self.reconstruct(text, sampled, windows)
        best = nll.argmin(dim=1, keepdim=True)
        other_nll = None
        if others:
            sides = outside_windows(center.gather(1, best), width.gather(1, best), steps)
            everything = torch.cat([torch.ones_like(sides[0]), *sides], dim=1)
            other_nll, _ = self.reconstruct(text, sampled, everything)
        rows = torch.arange(len(best), device=best.device)
        states = x.mean(dim=1)
        return Grounded(
            spans_of(center, width),
            windows,
            nll,
            best,
            other_nll,
            encoded[rows, best[:, 0]],
            states,
        )
