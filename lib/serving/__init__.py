"""A web page over an index."""
