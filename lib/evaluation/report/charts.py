"""Small drawings for a page: inline SVG, and a map as a PNG inside it.

Colours are CSS classes of ``page``, so that a drawing follows the page into the dark. Text that a
drawing carries by position is in its label as well.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from ..examples import best_cell, true_cell

# Viridis at nine steps: even in lightness, and readable without red and green.
_COLOURS = np.array(
    [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ]
)


@dataclass(frozen=True)
class Line:
    """One curve: a name, its points, and whether it is a level to compare with."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: str  # a CSS class: run0, run1, … or floor


def bar(
    score: float,
    *,
    interval: Sequence[float] | None,
    baseline: float | None,
    ceiling: float | None,
    label: str,
) -> str:
    """A score on a line from 0 to 100, with its interval, the best baseline and the ceiling."""
    parts = ['<rect class="rail" x="0" y="9" width="1000" height="6" rx="3"/>']
    if ceiling is not None:
        parts.append(f'<rect class="reach" x="0" y="9" width="{10 * ceiling:.1f}" height="6"/>')
    parts.append(f'<rect class="score" x="0" y="9" width="{10 * score:.1f}" height="6" rx="3"/>')
    if interval is not None:
        low, high = (10 * bound for bound in interval)
        parts.append(
            f'<path class="interval" d="M{low:.1f} 12H{high:.1f}M{low:.1f} 5V19M{high:.1f} 5V19"/>'
        )
    if baseline is not None:
        parts.append(f'<path class="floor" d="M{10 * baseline:.1f} 1V23"/>')
    inside = "".join(parts)
    return (
        f'<svg class="bar" viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{inside}</svg>'
    )


def timeline(
    truth: Sequence[float] | None,
    predicted: Sequence[tuple[int, Sequence[tuple[float, float]]]],
    *,
    label: str,
) -> str:
    """One sentence on the video's time: the truth above, below it each run's best spans.

    Spans are fractions; of a run's, the first is solid and the rest are thin. Runs are given as
    (place of the colour, spans).
    """
    lines = len(predicted) + (truth is not None)
    rows = [f'<rect class="rail" x="0" y="2" width="1000" height="{12 * lines}"/>']
    if truth is not None:
        rows.append(_span(truth, 3, 10, "truth"))
    for r, (place, spans) in enumerate(predicted):
        top = 3 + 12 * (r + (truth is not None))
        rows += [_span(span, top + 7, 3, f"run{place} other") for span in spans[1:]]
        rows += [_span(span, top, 7 if len(spans) > 1 else 10, f"run{place}") for span in spans[:1]]
    return (
        f'<svg class="timeline" style="--rows:{lines}" '
        f'viewBox="0 0 1000 {12 * lines + 4}" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(label)}">{"".join(rows)}</svg>'
    )


def _span(span: Sequence[float], y: int, height: int, kind: str) -> str:
    left, width = 1000 * span[0], max(1000 * (span[1] - span[0]), 2)
    box = f'x="{left:.1f}" y="{y}" width="{width:.1f}" height="{height}"'
    return f'<rect class="{kind}" {box}/>'


def nice_ticks(duration: float, most: int = 5) -> list[float]:
    """Round numbers of seconds from 0 to a duration, at most ``most`` after the first."""
    steps = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
    fitting = [step for step in steps if step * most >= duration]
    step = fitting[0] if fitting else 3600.0 * np.ceil(duration / most / 3600)
    return [float(f"{step * i:.6g}") for i in range(int(duration / step + 1e-9) + 1)]


_LEFT, _TOP, _SIDE = 40, 8, 150  # of the square of a map, in units of its drawing
_BAR = 204  # where the bar of its colours begins


def score_map(
    scores: NDArray[np.floating],
    moment: NDArray[np.float64],
    *,
    duration: float,
    label: str,
    best: bool = True,
) -> str:
    """A map of scores over the start (downwards) and the end (to the right) of spans, with seconds
    on both axes and the scale of its colours. The best cell and the one nearest to the true moment
    are marked.

    Args:
        scores: (N, N) start clip x end clip, NaN where there is no proposal.
        moment: (2,) as fractions of the video.
        duration: of the video, in seconds.
        best: False for a map of the truth, whose scores are overlaps: there the two are one.
    """
    N = len(scores)
    cell = _SIDE / N
    parts = [
        f'<rect class="rail" x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>',
        f'<image href="{_png(scores)}" x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>',
    ]
    quantity = "score" if best else "IoU"
    marked = [("truth", "nearest to the truth", true_cell(scores, moment), 0.0)]
    marked += [("best", "best", best_cell(scores), 0.22)] if best else []
    for kind, _, (start, end), inset in marked:
        side = f"{cell * (1 - 2 * inset):.2f}"
        box = (
            f'x="{_LEFT + (end + inset) * cell:.2f}" y="{_TOP + (start + inset) * cell:.2f}" '
            f'width="{side}" height="{side}"'
        )
        parts.append(f'<rect class="mark under" {box}/><rect class="mark {kind}" {box}/>')
    bottom = _TOP + _SIDE
    for at in nice_ticks(duration, 4):
        place = _SIDE * at / duration
        x, y = _LEFT + place, _TOP + place
        parts.append(f'<path class="axis" d="M{_LEFT - 4} {y:.1f}H{_LEFT}M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{at:g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{at:g}</text>')
    middle = _TOP + _SIDE / 2
    parts.append(
        f'<text x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 30}" text-anchor="middle">end, s</text>'
        f'<text transform="translate(9 {middle}) rotate(-90)" text-anchor="middle">start, s</text>'
    )
    low, high = float(np.nanmin(scores)), float(np.nanmax(scores))
    ramp = np.linspace(1, 0, 32)[:, None] if high > low else np.zeros((1, 1))
    parts.append(
        f'<image href="{_png(ramp)}" x="{_BAR}" y="{_TOP}" width="10" height="{_SIDE}" '
        f'preserveAspectRatio="none"/><text x="{_BAR + 14}" y="{_TOP + 9}">{high:.3g}</text>'
        f'<text x="{_BAR + 14}" y="{_TOP + _SIDE}">{low:.3g}</text>'
        f'<text x="{_BAR + 14}" y="{middle + 4}">{quantity}</text>'
    )
    said = []
    for _, what, (start, end), _ in reversed(marked):
        first, last = (bound * duration / N for bound in (start, end + 1))
        said.append(f"{what} {first:.1f} to {last:.1f} s")
    description = f"{label}: {'; '.join(said)}; {quantity} {low:.3g} to {high:.3g}"
    return (
        f'<svg class="map" viewBox="0 0 274 194" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg>"
    )


def _png(scores: NDArray[np.floating]) -> str:
    """A data address of a picture with one pixel a cell; cells without a score are clear."""
    valid = ~np.isnan(scores)
    low, high = scores[valid].min(), scores[valid].max()
    level = np.where(valid, (scores - low) / max(high - low, 1e-12), 0) * (len(_COLOURS) - 1)
    step = np.clip(level.astype(int), 0, len(_COLOURS) - 2)
    part = (level - step)[..., None]
    colour = _COLOURS[step] * (1 - part) + _COLOURS[step + 1] * part
    pixels = np.concatenate([colour, np.where(valid, 255, 0)[..., None]], axis=-1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    height, width = scores.shape
    header = struct.pack(">2I5B", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def curve(title: str, lines: Sequence[Line]) -> str:
    """Values over epochs, from the lowest to the highest that occur."""
    points = [point for line in lines for point in line.points]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
    if top == bottom:  # a level lies in the middle
        bottom, top = bottom - 0.5, top + 0.5
    width, height = max(right - left, 1e-9), top - bottom

    def coordinates(x: float, y: float) -> str:
        return f"{50 + 262 * (x - left) / width:.1f},{118 - 104 * (y - bottom) / height:.1f}"

    drawn = []
    for line in lines:
        joined = " ".join(coordinates(x, y) for x, y in line.points)
        drawn.append(f'<polyline class="curve {line.kind}" points="{joined}"/>')
        if line.kind != "floor":
            x, y = coordinates(*line.points[-1]).split(",")
            drawn.append(f'<circle class="dot {line.kind}" cx="{x}" cy="{y}" r="3"/>')
    ticks = (
        f'<text x="45" y="18" text-anchor="end">{top:.3g}</text>'
        f'<text x="45" y="121" text-anchor="end">{bottom:.3g}</text>'
        f'<text x="50" y="136">epoch {left + 1:g}</text>'
        f'<text x="312" y="136" text-anchor="end">{right + 1:g}</text>'
    )
    summary = "; ".join(f"{line.name} ends at {line.points[-1][1]:.4g}" for line in lines)
    return (
        f'<svg class="chart" viewBox="0 0 320 142" role="img" '
        f'aria-label="{escape(title)}: {escape(summary)}"><path class="axis" d="M50 14V118H312"/>'
        f"{ticks}{''.join(drawn)}</svg>"
    )
