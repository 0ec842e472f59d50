"""Blocks that the models share. They know sizes and tensors, nothing else."""
