"""Every model by the name that an experiment gives it."""

from __future__ import annotations

from torch import nn

from lib.models.cdn import CDN
from lib.models.clip_align import ClipAlign
from lib.models.cnm import CNM
from lib.models.cpl import CPL
from lib.models.dciml import DCIML
from lib.models.dmr_jrg import DMRJRG
from lib.models.dmr_release import DMRRelease
from lib.models.interface import DataDims
from lib.models.jsg import JSG
from lib.models.mmn import MMN
from lib.models.pps import PPS
from lib.models.prvg import PRVG
from lib.models.scn import SCN
from lib.models.tan2d import TAN2D

MODELS: dict[str, type[nn.Module]] = {
    "cdn": CDN,
    "clip_align": ClipAlign,
    "cnm": CNM,
    "cpl": CPL,
    "dciml": DCIML,
    "dmr_jrg": DMRJRG,
    "dmr_release": DMRRelease,
    "jsg": JSG,
    "mmn": MMN,
    "pps": PPS,
    "prvg": PRVG,
    "scn": SCN,
    "tan2d": TAN2D,
}


def build_model(name: str, dims: DataDims, **keywords: object) -> nn.Module:
    """The model called ``name``, with its constructor's keywords."""
    return MODELS[name](dims, **keywords)
