"""The one rule for a true moment that does not lie within its video. Standard library only."""

from __future__ import annotations

# Seconds. Published annotations end up to 1e-9 s after their video where a division was rounded;
# what truly ends after it does so by hundredths of a second or more.
ROUNDING = 1e-6


def clip_moment(start: float, end: float, duration: float) -> tuple[float, float, bool]:
    """A moment within [0, duration], in seconds, and whether more than rounding was cut off.

    What lies wholly outside becomes empty: the start is then not before the end.
    """
    low, high = min(max(start, 0.0), duration), min(max(end, 0.0), duration)
    return low, high, abs(low - start) > ROUNDING or abs(high - end) > ROUNDING
