"""XML and ReLoCLNet without a moment in training: the parts that rank videos.

JSG and systems after it compare themselves with XML and ReLoCLNet trained so. Without the losses of
start and end nothing trains what locates, and XML's second and third block; these are not built.
How moments were found then is not public: here they are what the decoding makes of a sentence's
cosines with the clips, the ones that rank videos.
"""

from __future__ import annotations

from ..base.batch import DataDims
from .reloclnet import ReLoCLNet
from .xml import XML


class XMLWeak(XML):
    """The first block of ``XML`` and its ranking losses.

    Args:
        dims, hidden_size, heads, max_words, tef: as ``XML``.
    """

    supervision = "weak"
    grounds_from = frozenset({"clips"})
    blocks = 1

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 256,
        heads: int = 4,
        max_words: int = 30,
        tef: bool = False,
    ) -> None:
        super().__init__(dims, hidden_size=hidden_size, heads=heads, max_words=max_words, tef=tef)

    @property
    def unavailable_terms(self) -> frozenset[str]:
        return frozenset({"span"})


class ReLoCLNetWeak(ReLoCLNet):
    """All blocks of ``ReLoCLNet``, its ranking losses and the contrast of videos.

    Args:
        dims, hidden_size, heads, max_words, tef: as ``ReLoCLNet``.
    """

    supervision = "weak"
    grounds_from = frozenset({"clips"})

    def __init__(
        self,
        dims: DataDims,
        *,
        hidden_size: int = 384,
        heads: int = 8,
        max_words: int = 30,
        tef: bool = False,
    ) -> None:
        super().__init__(dims, hidden_size=hidden_size, heads=heads, max_words=max_words, tef=tef)

    @property
    def unavailable_terms(self) -> frozenset[str]:
        return frozenset({"span", "frame_contrast"})
