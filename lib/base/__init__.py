"""The ground floor: errors, spans of time, the batch, and where a run computes."""
