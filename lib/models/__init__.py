"""Every model by the name that an experiment gives it."""

from __future__ import annotations

import inspect

from lib.base.batch import DataDims
from lib.decoding import Decoding
from lib.models.cdn import CDN
from lib.models.clip_align import ClipAlign
from lib.models.cnm import CNM
from lib.models.cpl import CPL
from lib.models.dciml import DCIML
from lib.models.dmr_jrg import DMRJRG
from lib.models.dmr_jrg_evidence import DMRJRGEvidence
from lib.models.dmr_jrg_linear import DMRJRGLinear
from lib.models.dmr_release import DMRRelease
from lib.models.interface import Model
from lib.models.jsg import JSG
from lib.models.linear_align import LinearAlign
from lib.models.mmn import MMN
from lib.models.pps import PPS
from lib.models.prvg import PRVG
from lib.models.scn import SCN
from lib.models.tan2d import TAN2D

MODELS: dict[str, type[Model]] = {
    "cdn": CDN,
    "clip_align": ClipAlign,
    "cnm": CNM,
    "cpl": CPL,
    "dciml": DCIML,
    "dmr_jrg": DMRJRG,
    "dmr_jrg_evidence": DMRJRGEvidence,
    "dmr_jrg_linear": DMRJRGLinear,
    "dmr_release": DMRRelease,
    "jsg": JSG,
    "linear_align": LinearAlign,
    "mmn": MMN,
    "pps": PPS,
    "prvg": PRVG,
    "scn": SCN,
    "tan2d": TAN2D,
}


def build_model(
    kind: type[Model], dims: DataDims, decoding: Decoding | None = None, **keywords: object
) -> Model:
    """A model with its constructor's keywords; one that decodes in training gets ``decoding``.

    Raises:
        ValueError: keywords that do not go together.
    """
    if "decoding" in inspect.signature(kind).parameters:
        return kind(dims, decoding or Decoding(), **keywords)
    return kind(dims, **keywords)
