"""From the rows of a feature file to the clips of a map axis."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ClipEncoder(nn.Module):
    """Linear map, ReLU, then the mean of T / N consecutive frames.

    Source: 2D-TAN's frame layer; DMR-JRG III-C.2.
    """

    def __init__(self, video_dim: int, hidden_size: int, num_frames: int, num_clips: int) -> None:
        super().__init__()
        if num_frames % num_clips:
            raise ValueError(f"{num_clips} clips do not divide {num_frames} frames")
        self.project = nn.Linear(video_dim, hidden_size)
        self.num_clips = num_clips

    def forward(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B N D"]:
        frames = self.project(video).relu()
        return frames.unflatten(1, (self.num_clips, -1)).mean(dim=2)


class FrameAttention(nn.Module):
    """Frames to clips by a few attention steps over the frames of each clip, instead of their mean.

    The query of each step is computed from the clip's mean and the frames that the step before
    attended to.

    Args:
        steps: A, attention steps.

    Source: CDN's sequential frame attention, with half of D inside the attention.
    """

    def __init__(
        self, video_dim: int, hidden_size: int, num_frames: int, num_clips: int, *, steps: int
    ) -> None:
        super().__init__()
        if num_frames % num_clips:
            raise ValueError(f"{num_clips} clips do not divide {num_frames} frames")
        self.num_clips = num_clips
        D, inner = hidden_size, hidden_size // 2
        self.project = nn.Linear(video_dim, D)
        self.topic = nn.ModuleList(nn.Linear(D, D) for _ in range(steps))
        self.guide = nn.Linear(2 * D, D)
        self.query = nn.Linear(D, inner)
        self.key = nn.Linear(D, inner)
        self.score = nn.Linear(inner, 1)
        self.merge = nn.Linear(steps * D, D)

    def forward(
        self, video: Float[Tensor, "B T C"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N F A"]]:
        """Clips, and the attention of every step over the F frames of each."""
        frames = self.project(video).relu().unflatten(1, (self.num_clips, -1))  # (B, N, F, D)
        mean, keys = frames.mean(dim=2), self.key(frames)
        summaries, attention = [torch.zeros_like(mean)], []
        for topic in self.topic:  # order is the point: each step reads the one before
            guide = self.guide(torch.cat([topic(mean), summaries[-1]], dim=-1)).relu()
            scores = self.score((self.query(guide)[:, :, None] + keys).tanh())
            attention.append(scores.softmax(dim=2))  # (B, N, F, 1)
            summaries.append((attention[-1] * frames).sum(dim=2))
        return self.merge(torch.cat(summaries[1:], dim=-1)).relu(), torch.cat(attention, dim=-1)
