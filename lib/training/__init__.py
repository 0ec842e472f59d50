"""Training, scoring, and the files of a run."""
