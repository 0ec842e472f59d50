"""Options of earlier releases, and what to write instead."""

from __future__ import annotations

EVIDENCE_MODEL = "MODEL.NAME dmr_jrg_evidence"
# (section, old key) -> what replaces it, as the end of a sentence.
RENAMED: dict[tuple[str, str], str] = {
    ("MODEL.PARAMS", "decoder"): "how moments are decoded is the section DECODE: "
    "SOURCE, POSITION_PRIOR_WEIGHT, ORDER_PENALTY",
    ("MODEL.PARAMS", "balance"): "it is DECODE.LENGTH_EXPONENT",
    ("MODEL.PARAMS", "prior"): "it is DECODE.POSITION_PRIOR_WEIGHT",
    ("MODEL.PARAMS", "order"): "it is DECODE.ORDER_PENALTY",
    ("MODEL.PARAMS", "siblings"): "it is DECODE.NORMALIZATION "
    "(ignore: none, mean: paragraph_mean, compete: paragraph_softmax)",
    ("MODEL.PARAMS", "competition"): "it is DECODE.NORMALIZATION_SCALE",
    ("MODEL.PARAMS", "own"): "it is DECODE.RAW_WEIGHT",
    ("MODEL.PARAMS", "map_weight"): "it is DECODE.SCORE_WEIGHT",
    ("MODEL.PARAMS", "in_order"): f"it is position_bias of clip_align and of {EVIDENCE_MODEL}",
    ("MODEL.PARAMS", "place_features"): "it is sentence_position",
    ("MODEL.PARAMS", "hidden_share"): "it is mask_ratio",
    ("MODEL.PARAMS", "tied_words"): "it is tied_embeddings",
    ("MODEL.PARAMS", "isolate"): "it did not do what it said and is gone; leave it out",
    ("MODEL.PARAMS", "told"): f"it is reconstruction_evidence of {EVIDENCE_MODEL}, "
    "its weight DECODE.EVIDENCE: {reconstruction: …}",
    ("MODEL.PARAMS", "told_teaches"): "it is reconstruction_evidence_in_training of "
    f"{EVIDENCE_MODEL}",
    ("MODEL.PARAMS", "alignment"): f"it is a keyword of {EVIDENCE_MODEL}",
    ("MODEL.PARAMS", "words"): f"it is a keyword of clip_align and of {EVIDENCE_MODEL}",
    ("LOSS.WEIGHTS", "temporal_teacher"): f"it is a term of {EVIDENCE_MODEL}",
    ("LOSS.WEIGHTS", "sentence_nce"): f"it is a term of {EVIDENCE_MODEL}",
    ("LOSS.WEIGHTS", "within_nce"): f"it is a term of {EVIDENCE_MODEL}",
}
