"""Configuration, runtime, run folder, checkpoints, the two loops, and spans of time."""
