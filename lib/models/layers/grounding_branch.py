"""The grounding side of DCIML: CPL's Gaussian proposals, judged by reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lib.base.batch import Batch, DataDims
from lib.models.layers.dual_decoder import DualDecoder, ReadWords
from lib.models.layers.gaussian import outside_windows, proposal_windows
from lib.models.layers.text import word_logits
from lib.models.layers.transformer import FiLM


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


class GroundingBranch(nn.Module):
    """Proposals for a sentence as Gaussian windows, ranked by how well its words can be
    reconstructed from them."""

    sampled: Int[Tensor, " F"]

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
        super().__init__()
        D, T = hidden_size, dims.num_frames
        self.num_proposals = proposals
        self.decoders = DualDecoder(
            dims, D, heads=heads, layers=layers, small_start=True, large_start=large_start
        )
        self.last_frame = nn.Parameter(torch.zeros(dims.video_dim))  # its state gives the proposals
        self.window = nn.Linear(D, 2 * proposals)
        self.vocabulary = word_logits(dims, D, tied=tied_embeddings)
        self.from_retrieval = nn.Linear(retrieval_size, D)
        self.guide = FiLM(D, D)
        rows = torch.linspace(0, T - 1, sampled_frames).floor().long()
        self.register_buffer("sampled", rows, persistent=False)

    def videos(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B T1 D"]:
        """Frames, followed by the learned last frame whose state gives the proposals."""
        video = nn.functional.normalize(video, dim=-1)
        last = self.last_frame.expand(len(video), 1, -1)
        return self.decoders.frames(torch.cat([video, last], dim=1))

    def read(self, batch: Batch) -> ReadWords:
        """The sentences alone. In training a third of the words is masked in ``inputs``."""
        words = nn.functional.normalize(batch.flat(batch.words), dim=-1)
        return self.decoders.read(words, batch, hide=self.training)

    def forward(
        self, text: ReadWords, x: Float[Tensor, "M T1 D"], *, others: bool = False
    ) -> Grounded:
        """Proposals on every sentence's frames; with ``others`` also the likelihood of the words
        given the whole video, and what lies before and after the best proposal."""
        real = torch.ones_like(x[0, :, 0], dtype=torch.bool)
        real[-1] = False  # no frame attends to the last one
        read = self.decoders.frame_decoder(
            x, real.expand(x.shape[:2]), memory=text.memory, memory_mask=text.mask
        )
        raw = self.window(read[:, -1]).float().sigmoid().unflatten(1, (self.num_proposals, 2))
        center, width = raw.unbind(dim=-1)  # (M, Q)

        steps = len(self.sampled)
        sampled = x.index_select(1, self.sampled)
        windows = proposal_windows(center, width, steps)
        nll, encoded = self._reconstruct(text, sampled, windows)
        best = nll.argmin(dim=1, keepdim=True)
        other_nll = None
        if others:
            sides = outside_windows(center.gather(1, best), width.gather(1, best), steps)
            everything = torch.cat([torch.ones_like(sides[0]), *sides], dim=1)
            other_nll, _ = self._reconstruct(text, sampled, everything)
        rows = torch.arange(len(best), device=best.device)
        spans = torch.stack([center - width / 2, center + width / 2], dim=-1).clamp(0, 1)
        states = x.mean(dim=1)
        return Grounded(spans, windows, nll, best, other_nll, encoded[rows, best[:, 0]], states)

    def _reconstruct(
        self,
        text: ReadWords,
        sampled: Float[Tensor, "M F D"],
        windows: Float[Tensor, "M Q F"],
    ) -> tuple[Float[Tensor, "M Q"], Float[Tensor, "M Q F D"]]:
        """Negative log-likelihood of a sentence's words given each window, in nats, mean over
        words, and the frames encoded under the window."""
        frames = sampled.repeat_interleave(windows.shape[1], dim=0)
        return self.decoders.nll(text, frames, self.vocabulary, windows.flatten(0, 1))
