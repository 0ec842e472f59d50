"""DCIML: a retrieval branch and a grounding branch that learn from each other, batch by batch.

Weakly supervised. Only an abstract, figures and a release are public (the training loop in its
history alone). The retrieval branch is GMMFormer's without Gaussian windows, the grounding branch
CPL's. Faults of the release are corrected here:

- clips for the modulation are those of the sentence's own video (release: of the video before it);
- containment takes the best clip of the own video (release: of the runner-up of the batch), and
  its middle (release: its beginning);
- the span of the grounding branch is a target for the similarities of the clips themselves
  (release: for thresholded ones, through which no gradient flows);
- the hinges between guided and unguided scores give no gradient to the unguided side;
- a third of the words is masked in the reconstruction, as in CPL (release: none, so that the
  decoder reads the words it is to predict); the start vector is inserted before the first word
  (release: it is written over the batch's first token, which the retrieval branch then reads too);
- padding is never a word to be predicted, and enters no average;
- weights of normalisation layers do not decay.

The evaluation joins retrieval and grounding by sentence, not by position in two loaders. A
paragraph's similarity is the mean over its sentences (ours).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base.batch import Batch, DataDims, Layout
from ..decoding import Evidence
from ..losses import Losses
from ..losses.diversity import gram_distance
from ..losses.mutual import clips_of_span, containment, improvement, pull
from ..losses.reconstruction import better_than, reconstruct_best
from ..losses.sentences import multi_positive_nce, sentence_triplet
from .interface import Encoded, Model, Plan, Stage, require, switch_terms_at
from .layers.dual_decoder import ReadWords
from .layers.grounding_branch import Grounded, GroundingBranch
from .layers.retrieval_branch import RetrievalBranch, Retrieved, compare, own_scores, unit

GROUNDED = ("spans", "windows", "nll", "best")  # fields of ``Grounded`` that the losses read
MATCHING = frozenset({"clip_nce", "frame_nce", "triplet", "hard_triplet"})
TO_RETRIEVAL = frozenset({"span", "retrieval_margin", "retrieval_pull"})
RECONSTRUCTION = frozenset({"reconstruction", "rank", "diversity"})
TO_GROUNDING = frozenset({"containment", "grounding_margin", "grounding_pull"})


@dataclass(frozen=True)
class GuidedRetrieval:
    """Clip and frame score with the own video, with and without modulation by the grounding
    branch."""

    scores: Float[Tensor, "M 2"]
    alone: Float[Tensor, "M 2"]
    distance: Float[Tensor, " M"]


@dataclass(frozen=True)
class GuidedGrounding:
    """Negative log-likelihoods of the words given frames that the retrieval branch modulates."""

    nll: Float[Tensor, "M Q"]
    distance: Float[Tensor, " M"]


@dataclass(frozen=True)
class DCIMLOutput:
    """What the losses read. A part is None when no active term needs it."""

    retrieved: Retrieved | None = None
    grounded: Grounded | None = None
    guided_retrieval: GuidedRetrieval | None = None
    guided_grounding: GuidedGrounding | None = None


class DCIML(Model):
    """Both branches.

    Args:
        dims: the sizes that the data decides.
        retrieval_size, grounding_size: D of each branch.
        heads: of all attention.
        decoder_layers: of each of the two decoders of the grounding branch.
        proposals: Q.
        sampled_frames: that the reconstruction reads.
        large_start: begin with weights up to 1, not 1/√C, where the grounding branch reads frames
            and words. These are rows of length one, no larger than the bias otherwise (the
            release), and a small branch then learns to predict words without frames.
        tied_embeddings: the output layer predicts words by their input vectors, not by learned
            rows (ours).
        max_words: with a position of their own in the retrieval branch.
        clip_share: of the clip score in the similarity; the rest is the frame score's.
    """

    def __init__(
        self,
        dims: DataDims,
        *,
        retrieval_size: int = 384,
        grounding_size: int = 256,
        heads: int = 4,
        decoder_layers: int = 3,
        proposals: int = 10,
        sampled_frames: int = 32,
        large_start: bool = False,
        tied_embeddings: bool = False,
        max_words: int = 30,
        clip_share: float = 0.7,
    ) -> None:
        super().__init__()
        self.clip_share, self.num_clips = clip_share, dims.num_clips
        self.retrieval = RetrievalBranch(dims, retrieval_size, grounding_size, heads, max_words)
        self.grounding = GroundingBranch(
            dims,
            grounding_size,
            retrieval_size,
            heads,
            decoder_layers,
            proposals,
            sampled_frames,
            large_start,
            tied_embeddings,
        )

    def encode_videos(self, video: Float[Tensor, "B T C"]) -> Encoded:
        """``clips`` (B, N, D) and ``frame`` (B, D), unit length; ``frames`` to ground in."""
        clips, frame = self.retrieval.videos(video)
        frames = self.grounding.videos(video)
        return {"clips": unit(clips), "frame": unit(frame), "frames": frames}

    def encode_paragraphs(self, batch: Batch) -> Encoded:
        """``sentences`` (B, S, D) of unit length, and to ground them ``ReadWords.encoded``."""
        sentences = batch.padded(unit(self._queries(batch)))
        return {"sentences": sentences, **self.grounding.read(batch).encoded(batch)}

    def similarity(self, paragraphs: Encoded, videos: Encoded) -> Float[Tensor, "Q G"]:
        """Mean over a paragraph's sentences of the weighed clip and frame scores."""
        mask = paragraphs["mask"]
        sentences = paragraphs["sentences"][mask]
        clip = torch.einsum("md,bnd->mbn", sentences, videos["clips"]).amax(dim=-1)
        scores = self.clip_share * clip + (1 - self.clip_share) * sentences @ videos["frame"].T
        return Layout.of(mask).mean(scores)

    def _queries(self, batch: Batch) -> Float[Tensor, "M D"]:
        return self.retrieval.query(batch.flat(batch.words), batch.flat(batch.word_mask))

    def encode(self, batch: Batch, terms: frozenset[str] | None = None) -> Encoded:
        if terms is None:
            terms = MATCHING | TO_RETRIEVAL | RECONSTRUCTION | TO_GROUNDING
        parts: Encoded = {}
        if terms & (TO_RETRIEVAL | RECONSTRUCTION | TO_GROUNDING):
            frames = self.grounding.videos(batch.video).index_select(0, batch.owner)
            others = bool(terms & {"rank", "reconstruction"})
            grounded = self.grounding(self.grounding.read(batch), frames, others=others)
            parts |= {name: getattr(grounded, name) for name in GROUNDED}
            if others:
                parts["other_nll"] = grounded.other_nll
        if not terms & (MATCHING | TO_RETRIEVAL | TO_GROUNDING):
            return parts

        q = self._queries(batch)
        clips, frame = self.retrieval.videos(batch.video)
        parts |= {"sentences": q, "clips": clips, "frame": frame}
        v, f = clips.index_select(0, batch.owner), frame.index_select(0, batch.owner)
        if terms & {"retrieval_margin", "retrieval_pull"}:
            guidance = self.retrieval.from_grounding(require(grounded.encoded).detach()).mean(dim=1)
            guided_v = self.retrieval.guide_clips(v, guidance)
            guided_f = self.retrieval.guide_frame(f, guidance)
            parts |= {
                "guided_scores": own_scores(q, guided_v, guided_f),
                "alone_scores": own_scores(q, v, f),
                "retrieval_distance": (pull(f, guided_f) + pull(v, guided_v)) / 2,
            }
        if terms & {"grounding_margin", "grounding_pull"}:
            cosine = torch.einsum("md,mnd->mn", unit(q), unit(v))
            best = clips[batch.owner, cosine.argmax(dim=1)].detach()
            guided = self.grounding.guide(frames, self.grounding.from_retrieval(best))
            again = self.grounding(self.grounding.read(batch), guided)
            distance = pull(require(grounded.states), require(again.states))
            parts |= {"guided_nll": again.nll, "grounding_distance": distance}
        return parts

    def compare(self, parts: Encoded, batch: Batch) -> DCIMLOutput:
        retrieved = grounded = guided_retrieval = guided_grounding = None
        if "sentences" in parts:
            retrieved = compare(parts["sentences"], parts["clips"], parts["frame"], batch.owner)
        if "nll" in parts:
            grounded = Grounded(
                **{name: parts[name] for name in GROUNDED}, other_nll=parts.get("other_nll")
            )
        if "guided_scores" in parts:
            guided_retrieval = GuidedRetrieval(
                parts["guided_scores"], parts["alone_scores"], parts["retrieval_distance"]
            )
        if "guided_nll" in parts:
            guided_grounding = GuidedGrounding(parts["guided_nll"], parts["grounding_distance"])
        return DCIMLOutput(retrieved, grounded, guided_retrieval, guided_grounding)

    def ground_pairs(
        self, paragraphs: Encoded, videos: Encoded, read: frozenset[str] | None = None
    ) -> Evidence:
        """The proposals; the one from which the words are likeliest comes first."""
        pairs = Layout.of(paragraphs["mask"])
        text = ReadWords.of(paragraphs, pairs)
        grounded = self.grounding(text, videos["frames"].index_select(0, pairs.owner))
        return Evidence(pairs, grounded.spans, self.num_clips, -grounded.nll)

    @staticmethod
    def losses(
        *,
        margin: float = 0.2,
        guided_margin: float = 0.2,
        reference_margin: float = 0.1,
        outside_margin: float = 0.15,
        guided_nll_margin: float = 0.15,
        spread: float = 0.13,
    ) -> Losses:
        """Retrieval: ``clip_nce``, ``frame_nce``, ``triplet`` or ``hard_triplet``; with targets
        from the grounding branch ``span``, ``retrieval_margin``, ``retrieval_pull``. Grounding:
        ``reconstruction``, ``rank``, ``diversity``; with targets from the retrieval branch
        ``containment``, ``grounding_margin``, ``grounding_pull``.

        Args:
            margin: of the triplets.
            guided_margin, guided_nll_margin: by which guidance should help a score or a likelihood.
            reference_margin, outside_margin: by how many nats a word should be likelier from the
                best proposal than from the whole video, and than from what lies before and after
                the proposal.
            spread: λ: squared length of a proposal's weights, small for long ones.
        """

        def nce(out: DCIMLOutput, batch: Batch, name: str) -> Tensor:
            product = getattr(require(out.retrieved), name)
            return multi_positive_nce(product, batch.owner, batch.same_video)

        def triplets(out: DCIMLOutput, batch: Batch, pool: int | None) -> Tensor:
            retrieved = require(out.retrieved)
            clip, frame = (
                sentence_triplet(
                    x, batch.owner, batch.same_video, margin=margin, sentence_pool=pool
                )
                for x in (retrieved.clip, retrieved.frame)
            )
            return clip + frame

        def span(out: DCIMLOutput, batch: Batch) -> Tensor:
            grounded, own_clips = require(out.grounded), require(out.retrieved).own_clips
            best = grounded.spans.gather(1, grounded.best[..., None].expand(-1, -1, 2))[:, 0]
            inside = clips_of_span(best.detach(), own_clips.shape[1]).float()
            return nn.functional.binary_cross_entropy_with_logits(own_clips.float(), inside)

        def retrieval_margin(out: DCIMLOutput, batch: Batch) -> Tensor:
            guided = require(out.guided_retrieval)
            hinge = improvement(guided.scores, guided.alone, margin=guided_margin)
            return hinge.mean(dim=0).sum()

        def reconstruction(out: DCIMLOutput, batch: Batch) -> Tensor:
            found = require(out.grounded)
            return reconstruct_best(found.nll, require(found.other_nll)[:, 0])

        def rank(out: DCIMLOutput, batch: Batch) -> Tensor:
            found = require(out.grounded)
            whole, outside = require(found.other_nll).split([1, 2], dim=1)
            return better_than(found.nll, whole, margin=reference_margin) + better_than(
                found.nll, outside, margin=outside_margin
            )

        def diversity(out: DCIMLOutput, batch: Batch) -> Tensor:
            windows = require(out.grounded).windows
            return gram_distance(windows / windows.sum(dim=-1, keepdim=True), spread)

        def inside(out: DCIMLOutput, batch: Batch) -> Tensor:
            own_clips = require(out.retrieved).own_clips
            middle = (own_clips.argmax(dim=1) + 0.5) / own_clips.shape[1]
            return containment(require(out.grounded).spans, middle)

        def grounding_margin(out: DCIMLOutput, batch: Batch) -> Tensor:
            guided, alone = require(out.guided_grounding).nll, require(out.grounded).nll
            return improvement(-guided.mean(), -alone.mean(), margin=guided_nll_margin)

        return {
            "clip_nce": lambda out, batch: nce(out, batch, "clip_product"),
            "frame_nce": lambda out, batch: nce(out, batch, "frame_product"),
            "triplet": lambda out, batch: triplets(out, batch, pool=None),
            "hard_triplet": lambda out, batch: triplets(out, batch, pool=1),
            "span": span,
            "retrieval_margin": retrieval_margin,
            "retrieval_pull": lambda out, batch: require(out.guided_retrieval).distance.mean(),
            "reconstruction": reconstruction,
            "rank": rank,
            "diversity": diversity,
            "containment": inside,
            "grounding_margin": grounding_margin,
            "grounding_pull": lambda out, batch: require(out.guided_grounding).distance.mean(),
        }

    @staticmethod
    def plan(*, mutual_after: int = 15, hard_after: int = 20, grounding_rate: float = 1.6) -> Plan:
        """Every batch trains the retrieval branch and then the grounding branch, the other frozen.

        Args:
            mutual_after: epochs without the terms by which the branches learn from each other.
            hard_after: epochs with random negatives (``triplet``); then ``hard_triplet``.
            grounding_rate: factor on the learning rate of the grounding branch.
        """

        def stages(epoch: int) -> tuple[Stage, ...]:
            learn_retrieval = {
                **dict.fromkeys(RECONSTRUCTION | TO_GROUNDING, 0.0),
                **switch_terms_at(epoch, mutual_after, after=TO_RETRIEVAL),
                **switch_terms_at(epoch, hard_after, before={"triplet"}, after={"hard_triplet"}),
            }
            learn_grounding = {
                **dict.fromkeys(MATCHING | TO_RETRIEVAL, 0.0),
                **switch_terms_at(epoch, mutual_after, after=TO_GROUNDING),
            }
            return (
                Stage(learn_retrieval, frozen=("grounding.",)),
                Stage(learn_grounding, frozen=("retrieval.",)),
            )

        return Plan(stages, rates={"grounding.": grounding_rate})
