"""From what a model knows of a sentence in a video to scored moments.

A model answers with ``Evidence``: scores of spans, numbers for clips, or both. ``decode`` turns
them into ``Proposals`` by the options of ``Decoding``, the ``DECODE`` section of an experiment;
``long`` does so for a video that is read in many windows.
Nothing here has weights, so the same checkpoint can be decoded in many ways.
"""

from .decode import decode, decode_prior
from .options import Decoding
from .records import Evidence, Proposals

__all__ = ["Decoding", "Evidence", "Proposals", "decode", "decode_prior"]
