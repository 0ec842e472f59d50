"""Video files to feature rows, by a stated recipe."""
