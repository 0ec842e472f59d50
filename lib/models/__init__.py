"""Every model by the name that an experiment gives it."""

from __future__ import annotations

import inspect

from ..base.batch import DataDims
from ..decoding import Decoding
from .cal import CAL
from .cdn import CDN
from .clip_align import ClipAlign
from .cnm import CNM
from .cpl import CPL
from .dciml import DCIML
from .dmr_jrg import DMRJRG
from .dmr_jrg_evidence import DMRJRGEvidence
from .dmr_jrg_linear import DMRJRGLinear
from .dmr_release import DMRRelease
from .interface import Model
from .jsg import JSG
from .linear_align import LinearAlign
from .mcn import MCN
from .mmn import MMN
from .ms_sl import MSSL
from .pps import PPS
from .prvg import PRVG
from .reloclnet import ReLoCLNet
from .scn import SCN
from .tan2d import TAN2D
from .xml import XML
from .xml_weak import ReLoCLNetWeak, XMLWeak

MODELS: dict[str, type[Model]] = {
    "cal": CAL,
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
    "mcn": MCN,
    "mmn": MMN,
    "ms_sl": MSSL,
    "pps": PPS,
    "prvg": PRVG,
    "reloclnet": ReLoCLNet,
    "reloclnet_weak": ReLoCLNetWeak,
    "scn": SCN,
    "tan2d": TAN2D,
    "xml": XML,
    "xml_weak": XMLWeak,
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
