"""The import of torchvision, beside a Torch that its compiled part was not built for.

The package index has torchvision only as built for GPUs. Beside a Torch for CPUs its compiled part
cannot be loaded, and the import fails where it describes two operators of object detection that the
part would have declared. No network here uses them, so declaring them is enough.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch

from .optional import optional

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # they last as long as the library object does


def import_torchvision(purpose: str) -> ModuleType:
    """torchvision, importable by others from now on.

    Raises:
        InputError: it is not installed.
    """
    try:
        return optional("torchvision", "torchvision", purpose)
    except RuntimeError as fault:
        if "torchvision::nms" not in str(fault) or _declared:
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    library = torch.library.Library("torchvision", "DEF")
    for operator in _OPERATORS:
        library.define(operator)
    _declared.append(library)
    return optional("torchvision", "torchvision", purpose)
