"""How far evidence is to be believed, from validation data without timestamps."""

from __future__ import annotations

from lib.decoding.options import Decoding


def calibrate(decoding: Decoding, *, retrieval_skill: float | None) -> dict[str, float]:
    """What the decoding's ``calibration`` chooses, by name: ``trust``, or nothing.

    Args:
        retrieval_skill: how well pairs are found on validation, from 0 (chance) to 1 (always); None
            for a model that does not retrieve.
    """
    if decoding.calibration == "retrieval" and retrieval_skill is not None:
        return {"trust": retrieval_skill}
    return {}
