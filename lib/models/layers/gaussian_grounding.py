"""Proposals as soft windows over the frames, judged by how well they reconstruct the sentence:
what CNM, CPL and PPS share, and DCIML's grounding branch with them."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...base.batch import Batch, DataDims, Layout
from ...decoding import Evidence
from ..interface import Encoded, Model
from .dual_decoder import DualDecoder, ReadWords
from .masked_decoder import MaskedDecoder
from .text import word_logits
from .votes import Vote, scores_of


class GaussianGrounding(nn.Module):
    """The parts: decoders of frames and words, a map from a state to windows, one to the words.

    Args:
        dims: the sizes that the data decides.
        decoders: of D.
        window: from the state that proposes (M, D) to what the windows are made of.
        sampled_frames: F, rows of the video that the reconstruction reads, evenly spread.
        tied_embeddings: words are named by their vectors, not by rows of their own (ours).
        prediction_frame: a learned frame behind the others, read by none, proposes; otherwise the
            last one of the video does.
    """

    sampled: Int[Tensor, " F"]
    last_frame: nn.Parameter | None

    def __init__(
        self,
        dims: DataDims,
        decoders: DualDecoder,
        window: nn.Module,
        *,
        sampled_frames: int,
        tied_embeddings: bool,
        prediction_frame: bool = True,
    ) -> None:
        super().__init__()
        self.num_clips = dims.num_clips
        self.decoders = decoders
        frame = nn.Parameter(torch.zeros(dims.video_dim)) if prediction_frame else None
        self.register_parameter("last_frame", frame)
        self.window = window
        self.vocabulary = word_logits(dims, decoders.hidden_size, tied=tied_embeddings)
        rows = torch.linspace(0, dims.num_frames - 1, sampled_frames).floor().long()
        self.register_buffer("sampled", rows, persistent=False)

    def videos(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B T1 D"]:
        """Frames, with the one that proposes behind them."""
        if self.last_frame is not None:
            last = self.last_frame.expand(len(video), 1, -1)
            video = torch.cat([video, last], dim=1)
        return self.decoders.frames(video)

    def proposing(self, text: ReadWords, x: Float[Tensor, "M T1 D"]) -> Float[Tensor, "M D"]:
        """The state of the frame that proposes, which has read all frames and words."""
        real = None
        if self.last_frame is not None:
            real = torch.ones_like(x[..., 0], dtype=torch.bool)
            real[:, -1] = False  # nobody reads the proposing frame
        return self.decoders.propose(text, x, real)[:, -1]

    def sample(self, x: Float[Tensor, "M T1 D"]) -> Float[Tensor, "M F D"]:
        """The rows that the reconstruction reads."""
        return x.index_select(1, self.sampled)

    def reconstruct(
        self,
        text: ReadWords,
        sampled: Float[Tensor, "M F D"],
        windows: Float[Tensor, "M Q F"],
    ) -> tuple[Float[Tensor, "M Q"], Float[Tensor, "M Q F D"]]:
        """Mean negative log-likelihood of a sentence's words under each window, and its frames."""
        frames = sampled.repeat_interleave(windows.shape[1], dim=0)
        return self.decoders.nll(text, frames, self.vocabulary, windows.flatten(0, 1))


def parameters_of(
    raw: Float[Tensor, "M Q2"],
) -> tuple[Float[Tensor, "M Q"], Float[Tensor, "M Q"]]:
    """Centres and widths of windows, as fractions of the video: two numbers a window, in pairs."""
    center, width = raw.float().sigmoid().unflatten(1, (-1, 2)).unbind(dim=-1)
    return center, width


class Proposed(Protocol):
    """What a model proposes for every sentence."""

    @property
    def spans(self) -> Float[Tensor, "M P 2"]: ...

    @property
    def windows(self) -> Float[Tensor, "M P F"]: ...


class MaskedGrounder(GaussianGrounding, Model):
    """A model of the family: weakly supervised, one sentence at a time, no retrieval.

    Args:
        mask_ratio, end_word, separate, class_word: of MaskedDecoder.
        vote: how proposals are ranked (``scores_of``); None where there is but one.
        The others: of GaussianGrounding and DualDecoder.
    """

    decoders: MaskedDecoder

    def __init__(
        self,
        dims: DataDims,
        window: nn.Module,
        *,
        hidden_size: int,
        heads: int,
        layers: int,
        sampled_frames: int,
        mask_ratio: float,
        end_word: bool,
        tied_embeddings: bool,
        vote: Vote | None,
        prediction_frame: bool = True,
        separate: bool = False,
        class_word: bool = False,
    ) -> None:
        decoders = MaskedDecoder(
            dims,
            hidden_size,
            heads=heads,
            layers=layers,
            mask_ratio=mask_ratio,
            end_word=end_word,
            separate=separate,
            class_word=class_word,
        )
        super().__init__(
            dims,
            decoders,
            window,
            sampled_frames=sampled_frames,
            tied_embeddings=tied_embeddings,
            prediction_frame=prediction_frame,
        )
        self.vote: Vote | None = vote

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``frames``: (B, T, D), with the one that proposes behind them where there is one."""
        return {"frames": self.videos(video)}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``ReadWords.encoded``."""
        return self.decoders.read_masked(batch).encoded(batch)

    def read_both(self, batch: Batch) -> tuple[ReadWords, Float[Tensor, "M T1 D"]]:
        """Every sentence, and the frames of its video."""
        frames = self.videos(batch.video).index_select(0, batch.owner)
        return self.decoders.read_masked(batch), frames

    def proposed(self, text: ReadWords, x: Float[Tensor, "M T1 D"]) -> Proposed:
        """What the model proposes in the frames ``x`` of each sentence."""
        raise NotImplementedError

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """The proposals, by likelihood or by vote. Of a single one the score says nothing, and no
        word is predicted."""
        pairs = Layout.of(paragraphs["mask"])
        text = ReadWords.of(paragraphs, pairs)
        x = videos["frames"].index_select(0, pairs.owner)
        found = self.proposed(text, x)
        if self.vote is None:
            return Evidence(
                pairs, found.spans, self.num_clips, torch.ones_like(found.spans[..., 0])
            )
        nll, _ = self.reconstruct(text, self.sample(x), found.windows)
        scores = scores_of(found.spans, nll, self.vote)
        return Evidence(pairs, found.spans, self.num_clips, scores)

    def inspect(self, batch: Batch) -> dict[str, Tensor]:
        """``reconstruction_gap``: by how many nats a word is likelier with the frames of the
        sentence's own proposals than with those of the next video of the batch. At 0 the
        reconstruction reads the words and not the video."""
        text, frames = self.decoders.read_masked(batch), self.videos(batch.video)
        windows = self.proposed(text, frames.index_select(0, batch.owner)).windows
        own, other = (
            self.reconstruct(
                text, self.sample(frames.roll(shift, dims=0).index_select(0, batch.owner)), windows
            )[0].mean()
            for shift in (0, 1)
        )
        return {"reconstruction_gap": other - own}
