"""Protocols and metrics in words, for readers who do not know the names."""

from __future__ import annotations

from ..headline import HeadlineNumber
from ..protocols import PROTOCOLS

_PAIRS = "Moments from the whole corpus"
TITLES = {
    "vr": "Retrieval, by paragraph",
    "vr_sentences": "Retrieval, by sentence",
    "vr_first_stage": "Retrieval by the first stage of a search alone",
    "vr_two_stages": "Retrieval in two stages",
    "vr_querybank": "Retrieval, normalised by training paragraphs",
    "svmr_2dtan": "Grounding in the right video, overlap above m",
    "svmr": "Grounding in the right video, overlap of m or more",
    "svmr_any": "Grounding in the right video, any of several right moments",
    "svmr_map": "Average precision over all right moments in the right video",
    "svmr_discounted": "Grounding in the right video, discounted by the errors of both ends",
    "vcmr_tvr": f"{_PAIRS}, as TVR counts them",
    "vcmr_tvr_nms": f"{_PAIRS}, as TVR counts them, with suppression",
    "vcmr_jsg": f"{_PAIRS}, as JSG counts them",
    "vcmr_didemo": f"{_PAIRS}, where two annotators agree",
    "jrg_video_topk": "Video among the first K, one of ten moments in it right",
    "jrg_video_topk_n1": "Video among the first K, the best moment in it right",
    "jrg_joint": "Retrieval and grounding together, in one list of pairs",
}


def protocol_title(name: str) -> str:
    """What a protocol counts, in words; its name where there are none."""
    return TITLES.get(name, name)


def metric_title(name: str, metric: str) -> str:
    """A metric in words: of ``R@10,IoU=0.5``, "right among the first 10, overlap 0.5"."""
    known = {
        "mIoU": "mean overlap",
        "MRR": "mean reciprocal rank",
        "MedR": "median rank",
        "SumR": "sum of the recalls",
    }
    if metric in known:
        return known[metric]
    recall, _, threshold = metric.partition(",IoU=")
    kind, _, count = recall.partition("@")
    if kind not in ("R", "dR") or not count.isdigit():
        return metric
    counted = PROTOCOLS[name].k_counts if name in PROTOCOLS else ""
    place = f"first {count} {counted}" if count != "1" else "first"
    words = "right first" if count == "1" else f"right among the {place}"
    words += f", overlap {threshold}" if threshold else ""
    return words + (", discounted" if kind == "dR" else "")


def headline_words(number: HeadlineNumber) -> tuple[str, str]:
    """A number of the headline in words: a title, and what the number says, in a sentence."""
    protocol = PROTOCOLS[number.protocol]
    recall, _, threshold = number.metric.partition(",IoU=")
    k = recall.partition("@")[2]
    over = f"more than {threshold}" if protocol.strict else f"{threshold} or more"
    place = "first" if k == "1" else f"among the first {k}"
    if number.metric == "mIoU":
        return "Mean overlap", (
            "Overlap (intersection over union) of the best-ranked moment in the right video with "
            "the true one, mean over sentences."
        )
    if protocol.ranked == "videos":
        return f"Right video {place}", (
            f"{protocol.unit.capitalize()}s that rank their own video {place} of all videos."
        )
    if protocol.ranked == "moments":
        best = "the best moment" if k == "1" else f"one of the {k} best moments"
        return f"{best.removeprefix('the ').capitalize()} right", (
            f"Sentences of which {best} in the right video overlaps the true one by {over}."
        )
    if protocol.ranked == "pairs":
        return "Video and moment together", (
            f"Sentences of which one of the first {k} pairs of a video and a moment is the right "
            f"video, and overlaps the true moment by {over}."
        )
    shown = protocol.moments_per_video or 1
    moments = f"one of {shown} moments" if shown > 1 else "the best moment"
    return f"Right video {place}, {moments} in it right", (
        f"Sentences whose paragraph ranks their video {place}, where {moments} in it overlaps the "
        f"true one by {over}: {protocol.moment_budget(int(k)):,} moments may be shown."
    )
