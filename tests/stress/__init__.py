"""Fuzzing, random kills and timings: by hand, as long as one likes. CI runs a little of each."""
