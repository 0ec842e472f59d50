"""Every model, small, as the tests build it: by itself once it is in ``MODELS``.

``SMALL`` shrinks a model by the names of its keywords, so that a new one is tested without a word
here. ``MORE`` are further constellations of single models, for those who want them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lib.config.options import keywords
from lib.decoding import Decoding
from lib.models import MODELS, build_model
from lib.models.interface import Model
from tests.properties import DIMS

# What to build a model with, whichever it is, where its constructor has a keyword of this name.
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "joint_size": 8,
    "lstm_size": 16,
    "alignment_size": 16,
    "retrieval_size": 16,
    "grounding_size": 8,
    "position_size": 8,
    "slots": 4,
    "heads": 2,
    "feedforward": 24,
    "layers": 1,
    "lstm_layers": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "reconstructor_layers": 1,
    "dynamic_layers": 1,
    "conv_layers": 2,
    "kernel_size": 3,
    "base_kernels": 3,
    "attention_steps": 2,
    "candidate_frames": 6,
    "sampled_frames": 8,
    "proposals": 3,
    "max_words": 6,
    "num_centers": 5,
    "num_widths": 4,
    "gaze_widths": 3,
}
PARAGRAPH_SOFTMAX = Decoding(
    source="both",
    normalization="paragraph_softmax",
    raw_weight=0.3,
    position_prior_weight=0.3,
    order_penalty=1.0,
)
ALIGNED = {
    "words": True,
    "alignment": True,
    "rank_by": "alignment",
    "sentence_position": True,
    "candidate_iou": 0.5,
}
VECTORS_ONLY = {"tied_embeddings": True, "mask_ratio": 1.0, "reconstruction_evidence": True}
# "name, what is different" -> keywords beside or over the small ones; how a model decodes while it
# trains stands under ``decoding``.
MORE: dict[str, dict[str, Any]] = {
    "dmr_jrg, mean retrieval, no TAN": {
        "retrieval": "mean",
        "grounded_retrieval": False,
        "conv_layers": 0,
        "temporal": "none",
    },
    "dmr_jrg, spread candidates, learned weights, all words": {
        "candidate_iou": 0.5,
        "learn_candidate_weights": True,
        "reconstruct": "all",
        "density": "dense",
        "temporal": "reverse",
    },
    "dmr_jrg, pretrained text": {"text_encoder": "folder"},
    "dmr_jrg_evidence, aligned": {**ALIGNED, "decoding": PARAGRAPH_SOFTMAX},
    "dmr_jrg_evidence, alignment beside the class tokens": {
        "alignment": True,
        "temporal": "forward",
        "tied_embeddings": True,
    },
    "dmr_jrg_evidence, reconstruction by vectors alone": {
        **VECTORS_ONLY,
        "decoding": PARAGRAPH_SOFTMAX,
    },
    "dmr_jrg_evidence, reconstruction in training": {
        "mask_ratio": 1.0,
        "reconstruction_evidence": True,
        "reconstruction_evidence_in_training": True,
        "decoding": Decoding(evidence={"reconstruction": 2.0}, raw_weight=0.3),
    },
    "dmr_jrg_linear, all parts": {
        "position_bias": 1.0,
        "grounded_retrieval": True,
        "tied_embeddings": True,
        "mask_ratio": 1.0,
        "reconstruction_evidence": True,
        "candidate_iou": 0.5,
        "density": "dense",
        "decoding": Decoding(method="posterior", ordered=True, alike=0.7),
    },
    "dmr_jrg_linear, placed means": {"retrieval": "placed_mean", "places": 2},
    "dmr_jrg_linear, no tokens, no heads": {
        "retrieval": "mean",
        "temporal": "none",
        "sentence_position": False,
    },
    "clip_align, position bias": {"position_bias": 2.0, "words": False, "density": "dense"},
    "tan2d, same padding": {
        "padding": "same",
        "conv_norm": "relative",
        "words": True,
        "sentence_position": True,
    },
    "tan2d, convolved map, unmasked": {
        "proposal_map": "conv",
        "mask_fused": False,
        "conv_norm": "relative",
    },
    "tan2d, two layers of LSTM": {"lstm_layers": 2},
    "cdn, convolved map, all dynamic": {
        "lstm_layers": 2,
        "attention_steps": 1,
        "dynamic_layers": 2,
        "base_kernels": 2,
        "proposal_map": "conv",
    },
    "dciml, tied embeddings": {"tied_embeddings": True},
    "jsg, for ranking videos": {
        "kernel": 2,
        "num_centers": 4,
        "num_widths": 3,
        "gaze_widths": 2,
        "video_level": True,
    },
    "scn, reranked, all words masked": {
        "layers": 2,
        "widths": (0.2, 0.5),
        "num_candidates": 5,
        "candidate_iou": 0.5,
        "mask_ratio": 1.0,
        "reranked": 5,
        "tied_embeddings": True,
    },
    "cnm, no wider than half, with the end": {
        "layers": 2,
        "sampled_frames": 5,
        "sharpness": 5.5,
        "max_width": 0.5,
        "end_word": True,
    },
    "cpl, voting, with the end, tied embeddings": {
        "layers": 2,
        "proposals": 5,
        "sampled_frames": 6,
        "vote": "leader",
        "end_word": True,
        "tied_embeddings": True,
    },
    "pps, by likelihood, with the end": {
        "proposals": 5,
        "sampled_frames": 6,
        "deviations": 9,
        "negatives": 1,
        "shrink": 0.0,
        "vote": "likelihood",
        "end_word": True,
    },
    "prvg, all sentences, no dropout": {
        "hidden_size": 32,
        "feedforward": 64,
        "dropout": 0.0,
        "drawn_sentences": 0,
    },
    "xml, released ends, with endpoints": {
        "kernel_size": 5,
        "min_clips": 2,
        "max_clips": 6,
        "ends": "released",
        "tef": True,
    },
    "reloclnet, released ends": {"kernel_size": 5, "ends": "released"},
    "mmn, convolved map, pretrained text": {
        "conv_layers": 1,
        "proposal_map": "conv",
        "text_encoder": "folder",
    },
}


def small(kind: type[Model], decoding: Decoding | None = None, **more: Any) -> Model:
    """A model of a few thousand weights for ``DIMS``."""
    known = {name: value for name, value in SMALL.items() if name in keywords(kind)}
    return build_model(kind, DIMS, decoding, **{**known, **more})


VARIANTS: dict[str, Callable[[], Model]] = {
    name: partial(small, kind) for name, kind in MODELS.items()
} | {name: partial(small, MODELS[name.split(",")[0]], **more) for name, more in MORE.items()}
