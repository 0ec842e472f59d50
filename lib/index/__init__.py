"""Encoded videos on disk, and the search for those that fit a query; knows no model."""
