"""The grounding side of DCIML: CPL's Gaussian proposals, judged by reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.datasets.batch import Batch
from lib.losses.reconstruction import candidate_nll
from lib.models.interface import DataDims
from lib.models.layers.gaussian import outside_windows, proposal_windows
from lib.models.layers.text import draw_masked_words, word_places
from lib.models.layers.transformer import FiLM, WeighedDecoder, sinusoids, small_normal


@dataclass(frozen=True)
class ReadWords:
    """Sentences as the grounding branch reads them, the start vector in front of the words."""

    memory: Float[Tensor, "M W1 D"]  # what the proposals are made from
    mask: Bool[Tensor, "M W1"]
    inputs: Float[Tensor, "M W D"]  # from which each word's successor is to be told
    ids: Int[Tensor, "M W"]
    counts: Int[Tensor, " M"]  # on the CPU


@dataclass(frozen=True)
class Grounded:
    """What the grounding branch says of every sentence."""

    spans: Float[Tensor, "M Q 2"]  # fractions of the video
    windows: Float[Tensor, "M Q F"]
    nll: Float[Tensor, "M Q"]
    best: Int[Tensor, "M 1"]  # the proposal that reconstructs best
    other_nll: Float[Tensor, "M 3"] | None = None  # whole video, before, after the best proposal
    encoded: Float[Tensor, "M F D"] | None = None  # frames under the best proposal's window
    states: Float[Tensor, "M D"] | None = None  # mean over frames, before any proposal


class GroundingBranch(nn.Module):
    """Proposals for a sentence as Gaussian windows, judged by how well they tell its words."""

    positions: Float[Tensor, "W D"]
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
    ) -> None:
        super().__init__()
        D, T = hidden_size, dims.num_frames
        self.num_proposals = proposals
        decoder = {"num_layers": layers, "heads": heads, "feedforward": 2 * D, "dropout": 0.1}
        self.frame_decoder = WeighedDecoder(D, **decoder)  # type: ignore[arg-type]
        self.word_decoder = WeighedDecoder(D, **decoder)  # type: ignore[arg-type]
        self.apply(small_normal)
        for part in (*self.frame_decoder.modules(), *self.word_decoder.modules()):
            if isinstance(part, nn.MultiheadAttention):
                nn.init.xavier_uniform_(part.in_proj_weight)
        self.dropout = nn.Dropout(0.1)
        self.frame = nn.Linear(dims.video_dim, D)
        self.word = nn.Linear(dims.word_dim, D)
        if large_start:
            for part in (self.frame, self.word):
                nn.init.uniform_(part.weight, -1, 1)
        self.last_frame = nn.Parameter(torch.zeros(dims.video_dim))  # reads all, makes proposals
        self.first_word = nn.Parameter(torch.zeros(dims.word_dim))
        self.hidden_word = nn.Parameter(torch.zeros(D))
        self.window = nn.Linear(D, 2 * proposals)
        self.vocabulary = nn.Linear(D, dims.vocab_size)
        self.from_retrieval = nn.Linear(retrieval_size, D)
        self.guide = FiLM(D, D)
        rows = torch.linspace(0, T - 1, sampled_frames).floor().long()
        self.register_buffer("sampled", rows, persistent=False)
        self.register_buffer("positions", sinusoids(256, D), persistent=False)

    def videos(self, video: Float[Tensor, "B T C"]) -> Float[Tensor, "B T1 D"]:
        """Frames with the proposing one behind them."""
        video = nn.functional.normalize(video, dim=-1)
        last = self.last_frame.expand(len(video), 1, -1)
        return self.frame(self.dropout(torch.cat([video, last], dim=1)))

    def read(self, batch: Batch) -> ReadWords:
        """The sentences alone. In training a third of the words is hidden from ``inputs``."""
        words = nn.functional.normalize(batch.flat(batch.words), dim=-1)
        mask = batch.flat(batch.word_mask)
        words = torch.where(mask[..., None], words, 0.0)
        first = self.first_word.expand(len(words), 1, -1)
        w = self.word(self.dropout(torch.cat([first, words], dim=1)))  # (M, 1 + W, D)
        place = torch.arange(w.shape[1], device=w.device).clamp(max=len(self.positions) - 1)
        positions = self.positions[place]
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)

        memory = self.word_decoder(w + positions, mask)
        if self.training:
            drawn = draw_masked_words(batch.flat(batch.word_weights), batch.word_counts)
            hidden = torch.cat([torch.zeros_like(mask[:, :1]), drawn.marked(words.shape[1])], dim=1)
            w = torch.where(hidden[..., None], self.hidden_word, w)
        ids = batch.flat(batch.word_ids)
        return ReadWords(memory, mask, (w + positions)[:, :-1], ids, batch.word_counts)

    def forward(
        self, text: ReadWords, x: Float[Tensor, "M T1 D"], *, others: bool = False
    ) -> Grounded:
        """Proposals on every sentence's frames; with ``others`` also worse windows."""
        real = torch.ones_like(x[0, :, 0], dtype=torch.bool)
        real[-1] = False  # nobody reads the proposing frame
        read = self.frame_decoder(
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
        """Mean negative log-likelihood of a sentence's words under each window, and its frames."""
        M, Q, _ = windows.shape
        weights = windows.flatten(0, 1)
        frames = sampled.repeat_interleave(Q, dim=0)
        encoded = self.frame_decoder(frames, weights=weights)
        decoded = self.word_decoder(
            text.inputs.repeat_interleave(Q, dim=0),
            text.mask[:, :-1].repeat_interleave(Q, dim=0),
            memory=encoded,
            memory_weights=weights,
        )
        sentence, word = word_places(text.counts)
        place = (sentence * text.ids.shape[1] + word).to(windows.device, non_blocking=True)
        told = decoded.unflatten(0, (M, Q)).transpose(0, 1).flatten(1, 2).index_select(1, place)
        target = text.ids.flatten().index_select(0, place)
        nll = candidate_nll(
            self.vocabulary(told), target, sentence.to(place.device), M, label_smoothing=0.1
        )
        return nll, encoded.unflatten(0, (M, Q))
