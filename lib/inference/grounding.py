"""Moments of a paragraph's sentences in one video, short or long."""

from __future__ import annotations

from collections.abc import Sequence

from ..decoding.long import Window, ground_windows
from ..models.interface import Encoded
from .answers import Moment
from .loaded import NMS_IOU, LoadedRun, Query


def moments_in(
    run: LoadedRun, query: Query, encoded: Encoded, parts: Sequence[Window], duration: float
) -> tuple[Moment, ...]:
    """The best moment of each sentence.

    Args:
        encoded: the video's windows as the model has read them.
        parts: where they lie.
    """
    if len(parts) == 1:
        return run.ground_in(query, encoded, [duration])[0]
    run.require_grounding()
    grounded = ground_windows(
        run.evidence(query, encoded),
        parts,
        duration,
        run.decoding,
        run.calibration,
        top=1,
        nms_iou=NMS_IOU,
        fit=run.fit(query, encoded),
    )
    spans, scores = grounded.spans[:, 0].tolist(), grounded.scores[:, 0].tolist()
    return tuple(
        Moment(sentence, start, end, score)
        for sentence, (start, end), score in zip(query.sentences, spans, scores, strict=True)
    )
