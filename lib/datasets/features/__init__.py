"""Features of videos, whatever they are stored in -> rows of one video, and T rows of it.

A module for each kind of storage, which ``recognise`` finds by the content of a path;
what reads features knows ``Features`` alone.
"""

from .file import FeatureFile, Features, Found, JoinedFeatures, Stored, open_features
from .names import SentenceNames, VideoNames
from .recognise import holds_features
from .resampling import as_read, normalize_rows, resample
from .store import DAMAGE

__all__ = [
    "DAMAGE",
    "FeatureFile",
    "Features",
    "Found",
    "JoinedFeatures",
    "SentenceNames",
    "Stored",
    "VideoNames",
    "as_read",
    "holds_features",
    "normalize_rows",
    "open_features",
    "resample",
]
