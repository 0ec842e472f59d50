"""Encoded videos on disk, and the search for those that fit a query; knows no model.

``Store`` is an index in a folder, ``Snapshot`` what is searched in it, in two stages: a quick score
of every item by a few vectors in eight bits gives a shortlist, and what the shortlist's items hold
is read from the disk for a model to score.
"""

from .layout import Item, Layout
from .places import places_of
from .snapshot import Snapshot
from .store import HEADER, Store, Writer

__all__ = ["HEADER", "Item", "Layout", "Snapshot", "Store", "Writer", "places_of"]
