"""From the rows of a feature file to the clips of a map axis."""

from __future__ import annotations

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
