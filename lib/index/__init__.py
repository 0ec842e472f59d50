"""Encoded videos on disk, and the search for those that fit a query; knows no model.

``Store`` is an index in a folder, ``Snapshot`` what is searched in it, in two stages: a quick score
of every item by a few vectors in eight bits gives a shortlist, and what the shortlist's items hold
is read from the disk for a model to score.
"""

from lib.index.layout import Item, Layout
from lib.index.places import places_of
from lib.index.snapshot import Snapshot
from lib.index.store import HEADER, Store, Writer

__all__ = ["HEADER", "Item", "Layout", "Snapshot", "Store", "Writer", "places_of"]
