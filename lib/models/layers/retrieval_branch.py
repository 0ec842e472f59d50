"""The retrieval side of DCIML: GMMFormer's encoders without their Gaussian windows. JSG and
MS-SL are built from the same parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...base.batch import DataDims
from .precision import in_full
from .transformer import AttentionBlock, AttentivePool, FiLM, small_normal


class RetrievalBranch(nn.Module):
    """Sentences against the clips of a video and against the video as a whole."""

    def __init__(
        self, dims: DataDims, hidden_size: int, grounding_size: int, heads: int, max_words: int
    ) -> None:
        super().__init__()
        D, T, drop = hidden_size, dims.num_frames, 0.2
        self.num_clips = dims.num_clips
        block = {"heads": heads, "dropout": drop}
        self.query = SentenceVector(dims.word_dim, D, heads, drop, max_words)
        self.clip = Projection(dims.video_dim, D, drop)
        self.clip_positions = Positions(T, D, drop)  # of which N are used, as released
        self.frame = Projection(dims.video_dim, D, drop)
        self.frame_positions = Positions(T, D, drop)
        self.clip_encoder, self.frame_encoder = (
            nn.ModuleList(AttentionBlock(D, copies=4, **block) for _ in range(2))  # type: ignore
            for _ in range(2)
        )
        self.frame_pool = AttentivePool(D)
        self.apply(small_normal)
        self.from_grounding = nn.Linear(grounding_size, D)
        self.guide_clips = FiLM(D, D)
        self.guide_frame = FiLM(D, D)

    def videos(
        self, video: Float[Tensor, "B T C"]
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B D"]]:
        rows = video.unflatten(1, (self.num_clips, -1)).mean(dim=2)
        clips = self.clip_positions(self.clip(nn.functional.normalize(rows, dim=-1)))
        frames = self.frame_positions(self.frame(nn.functional.normalize(video, dim=-1)))
        for block in self.clip_encoder:
            clips = block(clips)
        for block in self.frame_encoder:
            frames = block(frames)
        return clips, self.frame_pool(frames)


class SentenceVector(nn.Module):
    """A sentence as one vector: words projected, with positions, attention blocks (one, unless
    ``blocks`` says otherwise), and attentive pooling. Word vectors are scaled to length one; the
    values of padding do not matter."""

    def __init__(
        self,
        word_dim: int,
        hidden_size: int,
        heads: int,
        dropout: float,
        max_words: int,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.project = Projection(word_dim, hidden_size, dropout)
        self.positions = Positions(max_words, hidden_size, dropout)
        self.encoder = AttentionBlock(hidden_size, heads=heads, dropout=dropout)
        self.further = nn.ModuleList(
            AttentionBlock(hidden_size, heads=heads, dropout=dropout) for _ in range(blocks - 1)
        )
        self.pool = AttentivePool(hidden_size)

    def forward(
        self, words: Float[Tensor, "M W E"], mask: Bool[Tensor, "M W"]
    ) -> Float[Tensor, "M D"]:
        rows = unit(torch.where(mask[..., None], words, 0.0))
        states = self.encoder(self.positions(self.project(rows)), mask)
        for block in self.further:
            states = block(states, mask)
        with in_full(states):
            return self.pool(states, mask)


class Projection(nn.Sequential):
    """Layer norm, dropout, linear map, ReLU."""

    def __init__(self, inputs: int, hidden_size: int, dropout: float) -> None:
        linear = nn.Linear(inputs, hidden_size)
        super().__init__(nn.LayerNorm(inputs), nn.Dropout(dropout), linear, nn.ReLU())


class Positions(nn.Module):
    """Learned positions, added and normalised; items beyond the last share its position."""

    def __init__(self, length: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(length, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: Float[Tensor, "M L D"]) -> Float[Tensor, "M L D"]:
        index = torch.arange(items.shape[1], device=items.device)
        index = index.clamp(max=self.table.num_embeddings - 1)
        return self.dropout(self.norm(items + self.table(index)))


@dataclass(frozen=True)
class Retrieved:
    """Similarities of sentences with the videos of the batch, as cosines and as products."""

    clip: Float[Tensor, "M B"]  # with the best clip
    clip_product: Float[Tensor, "M B"]
    frame: Float[Tensor, "M B"]  # with the video as a whole
    frame_product: Float[Tensor, "M B"]
    own_clips: Float[Tensor, "M N"]  # cosine with the clips of the own video


def compare(
    q: Float[Tensor, "M D"],
    clips: Float[Tensor, "B N D"],
    frame: Float[Tensor, "B D"],
    owner: Int[Tensor, " M"],
) -> Retrieved:
    """Every sentence with every video of the batch."""
    cosine = torch.einsum("md,bnd->mbn", unit(q), unit(clips))
    rows = torch.arange(len(q), device=q.device)
    return Retrieved(
        clip=cosine.amax(dim=-1),
        clip_product=torch.einsum("md,bnd->mbn", q, clips).amax(dim=-1),
        frame=unit(q) @ unit(frame).T,
        frame_product=q @ frame.T,
        own_clips=cosine[rows, owner],
    )


def own_scores(
    q: Float[Tensor, "M D"], clips: Float[Tensor, "M N D"], frame: Float[Tensor, "M D"]
) -> Float[Tensor, "M 2"]:
    """Cosines of each sentence with its own video: with the best clip, and with the video as a
    whole."""
    clip = torch.einsum("md,mnd->mn", unit(q), unit(clips)).amax(dim=-1)
    return torch.stack([clip, (unit(q) * unit(frame)).sum(dim=-1)], dim=1)


def unit(x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    """The vectors scaled to length one."""
    return nn.functional.normalize(x, dim=-1)
