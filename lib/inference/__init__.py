"""A trained run that answers: loads, grounds, indexes and searches."""
