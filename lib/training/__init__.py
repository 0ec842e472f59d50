"""Training, scoring, and what a run leaves on the disk."""
