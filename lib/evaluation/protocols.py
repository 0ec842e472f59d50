"""Every protocol by name: what it ranks, what K counts, which overlap passes, what it may look at.

A number of this field means nothing without one of these names. Each is frozen; a variant is
another name.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """One way to count."""

    name: str
    ranked: Literal["videos", "moments", "pairs", "videos, then moments"]
    definition: str
    source: str
    unit: Literal["paragraph", "sentence"] = "sentence"  # what is counted
    strict: bool | None = None  # True: IoU > m; False: IoU >= m; None: no overlap is required
    moments_per_video: int | None = None
    before: int | None = None  # pairs that enter suppression
    nms_iou: float | None = None  # per video; suppresses what overlaps by more
    after: int = 100  # pairs in the final list
    mixed: bool = False  # pair score = alpha · video score + moment score; else the moment's alone
    annotators: int = 1  # that must agree with a hit
    discounted: bool = False
    windows: Literal["first", "any"] = "first"  # of a sentence that has several true moments
    average_precision: bool = False  # of the list, instead of the recall of its first
    # Which scores rank the videos: the similarity, the vectors that shortlist them, the shortlist
    # ranked by the similarity, or the similarity against that of other paragraphs.
    ranked_by: Literal["similarity", "first stage", "two stages", "querybank"] = "similarity"
    missing: Literal["miss", "refuse"] = "miss"  # a query without an answer

    @property
    def sign(self) -> str:
        """The comparison at the threshold."""
        return {None: "none", True: "IoU > m", False: "IoU >= m"}[self.strict]

    @property
    def k_counts(self) -> str:
        """What the K of R@K counts."""
        return {"videos, then moments": "videos", "moments": "moments of the right video"}.get(
            self.ranked, self.ranked
        )

    @property
    def meets_any(self) -> bool:
        """Whether any of a sentence's true moments may be met; else the first alone."""
        return self.windows == "any" or self.ranked == "pairs"

    def moment_budget(self, k: int) -> int:
        """How many moments a query may show at R@k."""
        if self.ranked == "videos":
            return 0
        if self.ranked == "videos, then moments":
            return k * (self.moments_per_video or 1)
        return min(k, self.after) if self.ranked == "pairs" else k

    def counts(self, metric: str) -> bool:
        """Whether it has a metric of this name."""
        if self.ranked == "videos":
            return re.fullmatch(r"R@[1-9]\d*|MRR|MedR|SumR", metric) is not None
        if self.average_precision:
            return metric in ("mAP", "mAP@0.5", "mAP@0.75")
        recall = rf"{'d' if self.discounted else ''}R@[1-9]\d*,IoU=(0(\.\d+)?|1)"
        mean = self.ranked == "moments" and not self.discounted
        return re.fullmatch(f"{recall}|mIoU" if mean else recall, metric) is not None

    def describe(self) -> str:
        """The definition and its settings, for a terminal."""
        indent = {"width": 96, "initial_indent": "  ", "subsequent_indent": "  "}
        lines = [
            f"{self.name}",
            *textwrap.wrap(self.definition, **indent),  # type: ignore[arg-type]
            f"  K counts: {self.k_counts}; counted unit: {self.unit}; comparison: {self.sign}",
        ]
        answer = {"miss": "counts as a miss", "refuse": "is refused"}[self.missing]
        lines.append(f"  a query that the predictions leave out {answer}")
        if self.ranked != "videos":
            which = "any of them may be met" if self.meets_any else "the first alone is right"
            lines.append(f"  a query with several true moments: {which}")
        if self.ranked != "videos":
            budget = ", ".join(f"{self.moment_budget(k)} at K={k}" for k in (1, 5, 10, 100))
            lines.append(f"  moments a query may show: {budget}")
        return "\n".join([*lines, f"  source: {self.source}"])


_RIGHT_VIDEO = "Moments of the right video, ranked; one of the first n must overlap the truth"
_PAIRS = (
    "One list of (video, moment) pairs per sentence; one of the first K must be the right video "
    "and overlap the truth"
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "vr",
            "videos",
            "The corpus is ranked for each paragraph; the right video is among the first K. Also "
            "the median rank and the mean reciprocal rank; SumR is the sum of the recalls.",
            "JSG and XML (per sentence), COOT (per paragraph)",
            unit="paragraph",
        ),
        Protocol(
            "vr_sentences",
            "videos",
            "As vr, but every sentence counts once, with the rank of its paragraph: the retrieval "
            "that bounds the joint numbers. Equal to vr where each query is one sentence.",
            "the retrieval factor of the released DMR-JRG script",
        ),
        Protocol(
            "vr_first_stage",
            "videos",
            "As vr, with the corpus ranked by the first stage of a search alone: a few vectors for "
            "each video, whose cosines are compared.",
            "ours; S^r of DMR-JRG where these vectors are its class tokens",
            unit="paragraph",
            ranked_by="first stage",
        ),
        Protocol(
            "vr_two_stages",
            "videos",
            "As vr, with the twentieth of the corpus that the first stage puts first ranked by the "
            "model's similarity, and the other videos behind them as the first stage ranks them.",
            "ours",
            unit="paragraph",
            ranked_by="two stages",
        ),
        Protocol(
            "vr_querybank",
            "videos",
            "As vr, with similarities normalised by a bank of training paragraphs: a video that "
            "many of them are near to has to be nearer. The scale of the soft-max is chosen on "
            "validation, without timestamps.",
            "QB-Norm, dynamic inverted soft-max (Bogolin et al. 2022)",
            unit="paragraph",
            ranked_by="querybank",
        ),
        Protocol(
            "svmr_2dtan",
            "moments",
            f"{_RIGHT_VIDEO} by more than m. mIoU is the mean overlap of the first.",
            "2D-TAN, CDN: strict, suppression before the cut",
            strict=True,
        ),
        Protocol(
            "svmr",
            "moments",
            f"{_RIGHT_VIDEO} by m or more. mIoU is the mean overlap of the first.",
            "TVR, MMN, Moment-DETR: not strict",
            strict=False,
        ),
        Protocol(
            "svmr_any",
            "moments",
            "As svmr, where a sentence has several true moments: one of the first n must overlap "
            "any of them by m or more. mIoU is the mean overlap of the first with the nearest.",
            "Moment-DETR on QVHighlights: R1 at the best window",
            strict=False,
            windows="any",
        ),
        Protocol(
            "svmr_map",
            "moments",
            "The first ten moments, by score, against all true moments of the sentence, each of "
            "which can be found once, by an overlap of m or more. The average precision is the "
            "area under the precision that is the best at this recall or a higher one; mAP is its "
            "mean over m = 0.5, 0.55, …, 0.95 and over sentences.",
            "Moment-DETR on QVHighlights: mAP",
            strict=False,
            windows="any",
            average_precision=True,
        ),
        Protocol(
            "svmr_discounted",
            "moments",
            f"{_RIGHT_VIDEO} by more than m, and the best hit counts (1 - |start error|)"
            "(1 - |end error|), errors as fractions of the duration: a long guess that barely "
            "passes no longer counts in full.",
            "dR@n,IoU=m of Yuan et al. 2023",
            strict=True,
            discounted=True,
        ),
        Protocol(
            "vcmr_tvr",
            "pairs",
            f"{_PAIRS} by m or more. Pair score from video and moment; best 200 pairs, no "
            "suppression, 100 kept.",
            "XML and ReLoCLNet as published",
            strict=False,
            before=200,
            mixed=True,
            missing="refuse",
        ),
        Protocol(
            "vcmr_tvr_nms",
            "pairs",
            f"{_PAIRS} by m or more. Pair score from video and moment; best 200 pairs, suppression "
            "in each video above 0.5, 100 kept.",
            "TVR's optional suppression",
            strict=False,
            before=200,
            nms_iou=0.5,
            mixed=True,
            missing="refuse",
        ),
        Protocol(
            "vcmr_jsg",
            "pairs",
            f"{_PAIRS} by m or more. The moment's score alone; 10 moments a video, best 1000 "
            "pairs, suppression in each video above 0.5, 100 kept.",
            "JSG's evaluation",
            strict=False,
            moments_per_video=10,
            before=1000,
            nms_iou=0.5,
            missing="refuse",
        ),
        Protocol(
            "vcmr_didemo",
            "pairs",
            f"{_PAIRS} by m or more with at least two annotators. Otherwise as vcmr_jsg.",
            "JSG's evaluation on DiDeMo, four annotators or more",
            strict=False,
            moments_per_video=10,
            before=1000,
            nms_iou=0.5,
            missing="refuse",
            annotators=2,
        ),
        Protocol(
            "jrg_video_topk",
            "videos, then moments",
            "The right video is among the first K of the paragraph's ranking, and one of ten "
            "moments grounded in the right video overlaps the truth by more than m. Wrong "
            "videos cost no moment its rank: R@10 may show 100 moments.",
            "the released test script of DMR-JRG; the numbers of its tables",
            strict=True,
            moments_per_video=10,
        ),
        Protocol(
            "jrg_video_topk_n1",
            "videos, then moments",
            "As jrg_video_topk with one moment instead of ten: the strict reading of the paper's "
            "sentence.",
            "DMR-JRG, read strictly",
            strict=True,
            moments_per_video=1,
        ),
        Protocol(
            "jrg_joint",
            "pairs",
            f"{_PAIRS} by m or more. Videos from the top of the paragraph's ranking, each sentence "
            "grounded in every one of them; pair score = alpha · video score + moment score, alpha "
            "chosen on validation; 10 moments a video, suppression in each video above 0.5, 100 "
            "kept. Comparable with the vcmr numbers.",
            "this project's primary joint number",
            strict=False,
            moments_per_video=10,
            nms_iou=0.5,
            mixed=True,
        ),
    )
}
