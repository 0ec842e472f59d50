"""PPS: each proposal a mixture of Gaussians, from one to K of them, weighed by what a sentence's
masked words say of each.

Kim et al., "Gaussian Mixture Proposals with Pull-Push Learning Scheme to Capture Diverse Events for
Weakly Supervised Temporal Video Grounding", AAAI 2024; CPL's successor. Weakly supervised, one
sentence at a time; it grounds and does not retrieve. Built from the release, of which this is not
repeated (``docs/deviations.md``):

- a mixture has the width of its own first Gaussian (there: of a Gaussian of any sentence of the
  batch);
- the class word is a word vector (there: one number for all its entries, another for each row of a
  batch);
- parts that no loss reaches are not built: a third transformer, a linear layer, and the attention
  to a memory in the two decoders that never have one.

    words ─ word generator ─┐
    frames, one more ───────┴─ frame generator ─ of the last: the Gaussians of K proposals
    50 frames ─ frame decoder, weighed by each Gaussian ─┐
    words, a third masked, and the class word ───────────┴─ word decoder ─ of that: its importance
    the same, weighed by each proposal's mixture ─ likelihood of the words

The published settings are the keywords' defaults, ActivityNet Captions' where corpora differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..base.batch import Batch, DataDims
from ..losses import Losses
from ..losses.diversity import gram_distance
from ..losses.reconstruction import better_than, reconstruct_best
from .interface import Encoded, require
from .layers.dual_decoder import ReadWords
from .layers.gaussian import proposal_windows
from .layers.gaussian_grounding import MaskedGrounder, parameters_of
from .layers.votes import Vote

CONTRASTED = frozenset({"reconstruction", "rank"})  # terms that read more than the proposals


@dataclass(frozen=True)
class PPSOutput:
    """What is said of every sentence. Its J Gaussians lie proposal after proposal."""

    spans: Float[Tensor, "M K 2"]  # fractions of the video
    windows: Float[Tensor, "M K F"]
    centers: Float[Tensor, "M J"]
    gaussians: Float[Tensor, "M J F"]
    nll: Float[Tensor, "M K"]  # of the sentence's words
    # from the whole video, and from the negative of the best proposal; None if no term asks
    other_nll: Float[Tensor, "M 2"] | None = None


@dataclass(frozen=True)
class Mixtures:
    """The proposals of every sentence, and what they are made of."""

    spans: Float[Tensor, "M K 2"]
    windows: Float[Tensor, "M K F"]
    centers: Float[Tensor, "M J"]
    gaussians: Float[Tensor, "M J F"]
    state: Float[Tensor, "M D"]  # that proposed them


class PPS(MaskedGrounder):
    """The whole network.

    Args:
        dims: the sizes that the data decides.
        hidden_size: D, everywhere.
        heads, layers: of each of the four decoders.
        proposals: K; the k-th is a mixture of k Gaussians. 7 on Charades-STA.
        deviations: so many standard deviations make a Gaussian's width; 9 on Charades-STA.
        negatives: Gaussians of each proposal's negative window; 3 on Charades-STA.
        negative_deviations: as ``deviations``, of the negatives; 9 on Charades-STA.
        shrink: gamma, the part of a proposal's span that is taken from it; 0 on Charades-STA.
        sampled_frames: F, rows of the video that the reconstruction reads.
        mask_ratio: part of the words that the reconstruction does not see.
        end_word: the end of a sentence is predicted like a word, as released (there not that of the
            longest sentence of a batch).
        vote: how proposals are ranked: ``none``, by the likelihood of the words; ``plain``, by
            their overlap with each other; ``likelihood`` (Charades-STA), the same, where the
            likelier a voter the more its vote counts.
        tied_embeddings: words are named by their vectors, not by rows of their own (ours).
    """

    place: Int[Tensor, "K K"]
    exists: Bool[Tensor, "K K"]
    window: nn.ModuleList

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        heads: int = 4,
        layers: int = 3,
        proposals: int = 5,
        deviations: float = 4.0,
        negatives: int = 2,
        negative_deviations: float = 3.0,
        shrink: float = 0.15,
        sampled_frames: int = 50,
        mask_ratio: float = 1 / 3,
        end_word: bool = False,
        vote: Vote = "plain",
        tied_embeddings: bool = False,
    ) -> None:
        D, K = hidden_size, proposals
        super().__init__(
            dims,
            nn.ModuleList(nn.Linear(D, 2 * k) for k in range(1, K + 1)),
            hidden_size=D,
            heads=heads,
            layers=layers,
            sampled_frames=sampled_frames,
            mask_ratio=mask_ratio,
            end_word=end_word,
            tied_embeddings=tied_embeddings,
            vote=vote,
            separate=True,
            class_word=True,
        )
        self.deviations, self.negative_deviations = deviations, negative_deviations
        self.negatives, self.shrink = negatives, shrink
        self.negative = nn.Linear(D, 2 * K * negatives)
        self.importance = nn.Sequential(
            nn.Linear(D, D, bias=False), nn.Tanh(), nn.Linear(D, 1, bias=False)
        )
        place, exists = mixtures(K)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("exists", exists, persistent=False)

    def proposed(self, text: ReadWords, x: Float[Tensor, "M T1 D"]) -> Mixtures:
        state = self.proposing(text, x)
        raw = torch.cat([head(state) for head in self.window], dim=1)  # of another width each
        centers, widths = parameters_of(raw)
        width = self.own_width(widths)  # (M, K)
        per_gaussian = width.repeat_interleave(  # the size known, so that no device is waited for
            self.exists.sum(dim=1), dim=1, output_size=centers.shape[1]
        )
        steps = len(self.sampled)
        gaussians = proposal_windows(centers, per_gaussian, steps, deviations=self.deviations)

        frames = self.sample(x).repeat_interleave(gaussians.shape[1], dim=0)
        read = self.decoders.of_class_word(text, frames, gaussians.flatten(0, 1))
        score = self.importance(read).squeeze(-1).float()[:, self.place]
        share = score.masked_fill(~self.exists, -torch.inf).softmax(dim=-1)  # (M, K, K)
        windows = torch.einsum("mkj,mkjf->mkf", share, gaussians[:, self.place])
        center = (share * centers[:, self.place]).sum(dim=-1)
        half = width * (1 - self.shrink) / 2
        # The same as to take the weighed ends, and then the part of what lies between them.
        spans = torch.stack([center - half, center + half], dim=-1).clamp(0, 1)
        return Mixtures(spans, windows, centers, gaussians, state)

    def own_width(self, widths: Float[Tensor, "M J"]) -> Float[Tensor, "M K"]:
        """Of each mixture that of its first Gaussian; the others' are not read."""
        return widths[:, self.place[:, 0]]

    def negative_windows(self, state: Float[Tensor, "M D"]) -> Float[Tensor, "M K F"]:
        """Of each proposal the sum of a few Gaussians, of height 1."""
        center, width = parameters_of(self.negative(state))
        each = proposal_windows(
            center, width, len(self.sampled), deviations=self.negative_deviations
        )
        total = each.unflatten(1, (-1, self.negatives)).sum(dim=2)
        return total / total.amax(dim=-1, keepdim=True)

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        """The negative is that of the best proposal alone, which is all that the loss reads."""
        text, x = self.read_both(batch)
        found, sampled = self.proposed(text, x), self.sample(x)
        nll, _ = self.reconstruct(text, sampled, found.windows)
        names = ("spans", "windows", "centers", "gaussians")
        parts = {**{name: getattr(found, name) for name in names}, "nll": nll}
        if terms is None or terms & CONTRASTED:
            rows = torch.arange(len(nll), device=nll.device)
            negative = self.negative_windows(found.state)[rows, nll.argmin(dim=1)]
            others = torch.stack([torch.ones_like(negative), negative], dim=1)
            parts["other_nll"], _ = self.reconstruct(text, sampled, others)
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> PPSOutput:
        return PPSOutput(**parts)

    @staticmethod
    def losses(
        *, reference_margin: float = 0.1, negative_margin: float = 0.15, spread: float = 0.15
    ) -> Losses:
        """``reconstruction``: the words, from the best proposal and from the whole video.
        ``rank``: the best should predict them better than the whole and than its negative.
        ``push``: proposals unlike each other, and of one size. ``push_inside``: the same of the
        Gaussians of each. ``pull``: their centres near each other.

        Args:
            reference_margin, negative_margin: of the hinges.
            spread: lambda, the squared length asked of a window's weights, which sum to 1; the same
                for proposals and Gaussians.
        """

        def rank(out: PPSOutput, batch: Batch) -> Tensor:
            whole, negative = require(out.other_nll).split(1, dim=1)
            return better_than(out.nll, whole, margin=reference_margin) + better_than(
                out.nll, negative, margin=negative_margin
            )

        def push(out: PPSOutput, batch: Batch) -> Tensor:
            return gram_distance(out.windows / out.windows.sum(dim=-1, keepdim=True), spread)

        def push_inside(out: PPSOutput, batch: Batch) -> Tensor:
            place, exists = mixtures(out.nll.shape[1], out.nll.device)
            rows = out.gaussians / out.gaussians.sum(dim=-1, keepdim=True)
            rows = rows[:, place] * exists[..., None]  # (M, K, K, F)
            # A sum over mixtures; the first has nothing to keep apart.
            return gram_distance(rows[:, 1:], spread, exists[1:]) * (len(place) - 1)

        def pull(out: PPSOutput, batch: Batch) -> Tensor:
            place, exists = mixtures(out.nll.shape[1], out.nll.device)
            center = out.centers[:, place]
            first = center.masked_fill(~exists, torch.inf).amin(dim=-1)
            last = center.masked_fill(~exists, -torch.inf).amax(dim=-1)
            return (last - first).square().mean(dim=0).sum()

        return {
            "reconstruction": lambda out, batch: reconstruct_best(
                out.nll, require(out.other_nll)[:, 0]
            ),
            "rank": rank,
            "push": push,
            "push_inside": push_inside,
            "pull": pull,
        }


def mixtures(
    proposals: int, device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "K K"], Bool[Tensor, "K K"]]:
    """Of mixtures of 1, 2, … K Gaussians: where each one's Gaussians lie in the list of all, and
    which of these places exist (the others say 0)."""
    size = torch.arange(1, proposals + 1, device=device)[:, None]
    number = torch.arange(proposals, device=device)
    exists = number < size
    return torch.where(exists, size * (size - 1) // 2 + number, 0), exists
