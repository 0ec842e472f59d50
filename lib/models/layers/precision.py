"""Where a model keeps float32, whatever precision its matrices are multiplied in."""

from __future__ import annotations

import torch
from torch import Tensor


def in_full(like: Tensor) -> torch.autocast:
    """A context in which nothing is computed in less precision than its operands have.

    Cosines, soft-maxes and sums whose small differences decide need it: bfloat16 has three digits.
    """
    return torch.autocast(like.device.type, enabled=False)
