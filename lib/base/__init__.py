"""What all other packages build on: errors, spans of time, the batch, device and processes."""
