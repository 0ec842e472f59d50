"""Draw the method: ``python docs/draw_method.py`` writes ``docs/method.svg``.

Plain SVG with classes for colours, so that one file serves light and dark pages. Rows from top to
bottom: the grounding branch, the three dimensions that train it, the retrieval branch. What is
dashed exists in training only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

WIDTH, HEIGHT = 1180, 720
# class: (property, on a light page, on a dark page)
COLOURS = {
    "page": ("fill", "#ffffff", "#0d1117"),
    "lane": ("fill", "#f6f8fa", "#161b22"),
    "rim": ("stroke", "#d0d7de", "#30363d"),
    "panel": ("fill", "#ffffff", "#0d1117"),
    "box": ("fill", "#ffffff", "#21262d"),
    "ink": ("fill", "#1f2328", "#e6edf3"),
    "soft": ("fill", "#59636e", "#9198a1"),
    "line": ("stroke", "#6e7781", "#848d97"),
    "tip": ("fill", "#6e7781", "#848d97"),
    "video": ("fill", "#0969da", "#58a6ff"),
    "video-line": ("stroke", "#0969da", "#58a6ff"),
    "text": ("fill", "#bc4c00", "#f0883e"),
    "text-line": ("stroke", "#bc4c00", "#f0883e"),
    "both": ("fill", "#8250df", "#bc8cff"),
    "both-line": ("stroke", "#8250df", "#bc8cff"),
    "loss": ("fill", "#dafbe1", "#12351f"),
    "loss-ink": ("fill", "#116329", "#56d364"),
}
Weight = Callable[[int, int], float]  # of the cell (first clip, last clip) of a map
MOMENTS = ((1, 2), (3, 3), (5, 7))  # first and last clip of each sentence


def draw() -> str:
    """The picture as SVG text."""
    parts = [
        f'<rect class="page rim" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" '
        'rx="12"/>',
        *_rooms(),
        *_inputs(),
        *_grounding(),
        *_reconstruction(),
        *_global_dimension(),
        *_temporal_dimension(),
        *_retrieval(),
        *_legend(),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img" '
            'aria-label="DMR-JRG: a grounding branch with its local, global and temporal terms, '
            'and a retrieval branch that learns from it">',
            _style(),
            *parts,
            "</svg>\n",
        ]
    )


# The parts of the picture.


def _rooms() -> list[str]:
    """What lies behind: two branches, and the three dimensions that train the first."""
    return [
        _lane(366, 20, 794, 200, "Grounding branch", ""),
        _panel(366, 272, 248, 184, "Local", "VTC-LD"),
        _panel(630, 272, 244, 184, "Global", "VTFA-GD"),
        _panel(890, 272, 270, 184, "Temporal", "BTSE-TD"),
        _lane(366, 488, 794, 184, "Retrieval branch", "VPCMR"),
    ]


def _inputs() -> list[str]:
    """Video and paragraph, their encoders, and the two trunks that feed all rows."""
    strip = [
        f'<rect class="video" opacity="{opacity}" x="{34 + 14 * i}" y="106" width="11" height="30" '
        'rx="2"/>'
        for i, opacity in enumerate((0.25, 0.8, 0.8, 0.5, 0.25, 1, 1, 1))
    ]
    lines = [
        f'<rect class="text" opacity="{1 - 0.25 * i}" x="36" y="{584 + 13 * i}" width="{width}" '
        'height="6" rx="3"/>'
        for i, width in enumerate((96, 72, 84))
    ]
    return [
        _box(20, 72, 132, 76, "rim"),
        _label(86, 94, "Video", "strong"),
        *strip,
        _arrow("M152 110H180", "video"),
        _named_box(184, 82, 118, 56, "Clip encoder", "T frames, N clips", "video"),
        _arrow("M302 110H406", "video"),
        _arrow("M324 110V549H390", "video"),
        _dot(324, 110, "video"),
        _box(20, 550, 132, 76, "rim"),
        _label(86, 572, "Paragraph", "strong"),
        *lines,
        _arrow("M152 588H180", "text"),
        _named_box(184, 560, 118, 56, "Bi-LSTM", "S sentences", "text"),
        _arrow("M302 588H346V625H390", "text"),
        _arrow("M346 588V204H558V130", "text"),
        _dot(346, 588, "text"),
        _arrow("M346 397H398", "text"),
        _dot(346, 397, "text"),
    ]


def _grounding() -> list[str]:
    """Row 1: from clips and sentences to a score for every span."""
    return [
        _map(410, 62, 96, lambda start, end: 0.15 + 0.5 * (end - start) / 7, "video"),
        _label(458, 180, "proposal map", "small"),
        _arrow("M506 110H538", "video"),
        '<circle class="box both-line" cx="558" cy="110" r="16"/>',
        '<circle class="both" cx="558" cy="110" r="3.5"/>',
        _arrow("M574 110H600", "both"),
        _named_box(604, 82, 136, 56, "TAN", "masked convolutions", "both"),
        _arrow("M740 110H804", "both"),
        _label(770, 101, "~F", "math"),
        _named_box(808, 86, 46, 48, "PL", "", "both"),
        _arrow("M854 110H878", "both"),
        _map(884, 62, 96, _bump(1), "both", best=3),
        _label(932, 180, "P and its Q best spans", "small"),
        _arrow("M980 110H1008", "both"),
        _named_box(1012, 82, 134, 56, "Spans", "after NMS", "both"),
        # What the training terms read: the map's features, and the best cells.
        _arrow("M770 110V244H490V268", "both"),
        _arrow("M770 244V268", "both"),
        _arrow("M932 188V244H770", "both", tip=False),
        _arrow("M932 244H1025V268", "both"),
        _dot(770, 110, "both"),
        _dot(770, 244, "both"),
        _dot(932, 244, "both"),
    ]


def _reconstruction() -> list[str]:
    """Row 2, left: candidates are judged by the words that can be guessed from them."""
    frames = [
        f'<rect class="video" opacity="0.85" x="{404 + 12 * i}" y="316" width="9" height="22" '
        'rx="2"/>'
        for i in range(6)
    ]
    words = [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="8" rx="4"/>'
        for kind, x, y, width in (
            ("text", 404, 393, 22),
            ("box text-line", 430, 393, 20),
            ("text", 454, 393, 20),
        )
    ]
    return [
        *frames,
        _label(439, 355, "candidate's frames", "small"),
        _arrow("M478 327H502", "video"),
        _named_box(506, 306, 94, 42, "Encoder", "", "video"),
        _arrow("M553 348V372", "video"),
        *words,
        _label(439, 418, "hidden words", "small"),
        _arrow("M478 397H502", "text"),
        _named_box(506, 376, 94, 42, "Decoder", "", "text"),
        _loss(495, 426, 116, "L_rec + L_rank"),
    ]


def _global_dimension() -> list[str]:
    """Row 2, middle: the grounded sentences speak for the video."""
    return [
        _named_box(644, 304, 106, 34, "CMFF: Σ w_q ~F", "", "both", size="small-strong"),
        _arrow("M697 338V354", "both"),
        _named_box(644, 358, 106, 34, "E_3 = E_1", "", "both", size="small-strong"),
        _arrow("M697 392V408", "both"),
        _named_box(644, 412, 106, 32, "1×1 with cls_v", "", "both", size="small-strong"),
        _arrow("M750 428H768V356H782", "both"),
        _matrix(786, 318, 72, "both"),
        _label(822, 409, "S^g", "math"),
        _loss(780, 422, 84, "L_global"),
    ]


def _temporal_dimension() -> list[str]:
    """Row 2, right: sentences take their share of the map in turn, from both ends."""
    parts = []
    for m in range(len(MOMENTS)):
        parts.append(_map(906 + 84 * m, 332, 62, _bump(m), "both"))
        parts.append(_label(916 + 84 * m, 388, str(m + 1), "small"))
    for left in (968, 1052):
        ahead = f"M{left - 22} 326C{left - 8} 310 {left + 14} 310 {left + 30} 324"
        back = f"M{left + 30} 402C{left + 14} 418 {left - 8} 418 {left - 22} 404"
        parts += [_arrow(ahead, "line"), _arrow(back, "line")]
    return [
        *parts,
        _label(1144, 322, "P^f", "math"),
        _label(918, 418, "P^r", "math"),
        _label(906, 442, "each leaves 1 − Σ P", "small left"),
        _loss(1072, 426, 76, "L_time"),
    ]


def _retrieval() -> list[str]:
    """Row 3: class tokens, and what the grounding branch teaches them."""
    return [
        _named_box(394, 524, 150, 50, "Transformer E_1", "cls, clips", "video"),
        _named_box(394, 600, 150, 50, "Transformer E_2", "cls, sentences", "text"),
        _arrow("M544 549H580", "video"),
        _token(602, 549, "video", "v"),
        _arrow("M544 625H580", "text"),
        _token(602, 625, "text", "t"),
        _arrow("M621 549H690V572H780", "video"),
        _arrow("M621 625H690V602H780", "text"),
        _arrow("M602 530V470H697V448", "video"),
        _matrix(786, 551, 72, "line"),
        _label(822, 642, "S^r", "math"),
        _arrow("M822 460V546", "loss-ink", dashed=True),
        _label(834, 477, "GRRM", "small-strong left"),
        _label(878, 477, "(nothing flows back)", "small left"),
        _loss(836, 506, 72, "L_mse"),
        _loss(874, 602, 72, "L_cmr"),
        _arrow("M858 587H1008", "line"),
        _named_box(1012, 559, 134, 56, "Ranked videos", "by cosine", "rim"),
    ]


def _legend() -> list[str]:
    parts, left = [], 24
    for stream, name, width in (("video", "video", 92), ("text", "text", 84), ("both", "both", 88)):
        parts.append(_arrow(f"M{left} 694H{left + 28}", stream, tip=False))
        parts.append(_label(left + 36, 698, name, "small left"))
        left += width
    return [
        *parts,
        '<rect class="panel line" stroke-dasharray="5 4" x="366" y="685" width="28" height="18" '
        'rx="4"/>',
        _label(402, 698, "in training only", "small left"),
        _loss(520, 683, 44, "L"),
        _label(
            572, 698, "a loss: L_cmr + L_local + L_global + L_time + L_mse (Eq. 23)", "small left"
        ),
    ]


# Shapes.


def _lane(x: float, y: float, width: float, height: float, name: str, short: str) -> str:
    return (
        f'<rect class="lane rim" x="{x}" y="{y}" width="{width}" height="{height}" rx="10"/>'
        + _label(x + 18, y + 24, name, "strong left")
        + _label(x + width - 14, y + 24, short, "small right")
    )


def _panel(x: float, y: float, width: float, height: float, name: str, short: str) -> str:
    return (
        f'<rect class="panel line" stroke-dasharray="5 4" x="{x}" y="{y}" width="{width}" '
        f'height="{height}" rx="10"/>'
        + _label(x + 14, y + 20, name, "strong left")
        + _label(x + width - 14, y + 20, short, "small right")
    )


def _box(x: float, y: float, width: float, height: float, rim: str) -> str:
    return f'<rect class="box {rim}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'


def _named_box(
    x: float,
    y: float,
    width: float,
    height: float,
    name: str,
    about: str,
    stream: str,
    size: str = "strong",
) -> str:
    rim = "rim" if stream == "rim" else f"{stream}-line"
    middle, centre = x + width / 2, y + height / 2
    text = _label(middle, centre + (-3 if about else 5), name, size)
    return (
        _box(x, y, width, height, rim)
        + text
        + (about and _label(middle, centre + 15, about, "small"))
    )


def _loss(x: float, y: float, width: float, name: str) -> str:
    return f'<rect class="loss" x="{x}" y="{y}" width="{width}" height="22" rx="11"/>' + _label(
        x + width / 2, y + 15.5, name, "loss-text"
    )


def _token(x: float, y: float, stream: str, side: str) -> str:
    circle = f'<circle class="box {stream}-line" cx="{x}" cy="{y}" r="18"/>'
    return circle + _label(x, y + 4, f"cls_{side}", "small-ink")


def _dot(x: float, y: float, stream: str) -> str:
    return f'<circle class="{stream}" cx="{x}" cy="{y}" r="3"/>'


def _map(x: float, y: float, size: float, weight: Weight, stream: str, best: int = 0) -> str:
    """A map of start x end clips; the diagonal runs from the upper left to the lower right."""
    N = 8
    step = size / N
    cells = [(start, end) for start in range(N) for end in range(start, N)]
    chosen = sorted(cells, key=lambda cell: -weight(*cell))[:best]
    parts = []
    for start, end in cells:
        rim = ' class="ink-line"' if (start, end) in chosen else ""
        parts.append(
            f'<rect{rim} x="{x + end * step + 0.75:.2f}" y="{y + start * step + 0.75:.2f}" '
            f'width="{step - 1.5:.2f}" height="{step - 1.5:.2f}" rx="1.5" '
            f'fill-opacity="{weight(start, end):.2f}"/>'
        )
    return f'<g class="{stream}">' + "".join(parts) + "</g>"


def _bump(sentence: int) -> Weight:
    """A score map that peaks at the sentence's moment."""
    first, last = MOMENTS[sentence]

    def weight(start: int, end: int) -> float:
        return 0.1 + 0.9 * math.exp(-((start - first) ** 2 + (end - last) ** 2) / 2.2)

    return weight


def _matrix(x: float, y: float, size: float, stream: str) -> str:
    """Similarities of the batch, the pairs on the diagonal."""
    count = 5
    step = size / count
    cells = []
    for row in range(count):
        for column in range(count):
            weight = 0.95 if row == column else 0.12 + 0.07 * ((3 * row + 2 * column) % 3)
            cells.append(
                f'<rect x="{x + column * step + 1:.2f}" y="{y + row * step + 1:.2f}" '
                f'width="{step - 2:.2f}" height="{step - 2:.2f}" rx="2" '
                f'fill-opacity="{weight:.2f}"/>'
            )
    fill = "soft" if stream == "line" else stream
    return f'<g class="{fill}">' + "".join(cells) + "</g>"


def _arrow(path: str, stream: str, *, tip: bool = True, dashed: bool = False) -> str:
    """A line along an SVG path, with a head in the direction of its last piece."""
    kind = stream if stream in ("line", "loss-ink") else f"{stream}-line"
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    if kind == "loss-ink":
        kind = "loss-line"
    line = f'<path class="{kind} wire" d="{path}"{dash}/>'
    if not tip:
        return line
    (x0, y0), (x1, y1) = _ends(path)
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    fill = {"line": "tip"}.get(stream, stream)
    return line + (
        f'<path class="{fill}" d="M0 0L-8 -4.2L-6.5 0L-8 4.2Z" '
        f'transform="translate({x1:g} {y1:g}) rotate({angle:.1f})"/>'
    )


def _ends(path: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """The last two points of a path of M, H, V and C commands."""
    points: list[tuple[float, float]] = []
    for command, numbers in re.findall(r"([MHVC])([-\d. ]+)", path):
        values = [float(number) for number in numbers.split()]
        if command == "H":
            points.append((values[0], points[-1][1]))
        elif command == "V":
            points.append((points[-1][0], values[0]))
        else:
            points += list(zip(values[::2], values[1::2], strict=True))
    return points[-2], points[-1]


def _label(x: float, y: float, text: str, kind: str) -> str:
    """Text; ``_x`` and ``^x`` set what follows lower or higher, ``~X`` puts a bar over a letter."""
    anchor = "start" if "left" in kind else "end" if "right" in kind else "middle"
    name = kind.replace(" left", "").replace(" right", "")
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text class="{name}" {place}>{_mathematics(text)}</text>'


def _mathematics(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"~(\w)", "\\1\N{COMBINING MACRON}", text)
    spans, height = [], 0
    for piece in filter(None, re.split(r"([_^]\w+)", text)):
        wanted = {"_": 3, "^": -5}.get(piece[0], 0)
        size = ' font-size="75%"' if wanted else ""
        spans.append(f'<tspan dy="{wanted - height}"{size}>{piece.lstrip("_^")}</tspan>')
        height = wanted
    return "".join(spans)


def _style() -> str:
    def rules(column: int) -> str:
        return "".join(f".{name}{{{rule[0]}:{rule[column]}}}" for name, rule in COLOURS.items())

    def texts(column: int) -> str:
        ink, soft, loss = (COLOURS[name][column] for name in ("ink", "soft", "loss-ink"))
        return (
            f".strong,.small-strong,.small-ink,.math{{fill:{ink}}}.small{{fill:{soft}}}"
            f".loss-text{{fill:{loss}}}.loss-line{{stroke:{loss}}}.ink-line{{stroke:{ink}}}"
        )

    return (
        "<style>"
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,"
        "sans-serif}"
        ".strong{font-size:14px;font-weight:600}.small{font-size:11.5px}"
        ".small-strong{font-size:12px;font-weight:600}.small-ink{font-size:12px}"
        ".math{font-size:15px;font-style:italic;font-family:Georgia,'Times New Roman',serif}"
        ".loss-text{font-size:12px;font-weight:600}"
        ".wire{fill:none;stroke-width:1.6;stroke-linejoin:round}.ink-line{stroke-width:1.4}"
        + rules(1)
        + texts(1)
        + "@media (prefers-color-scheme:dark){"
        + rules(2)
        + texts(2)
        + "}</style>"
    )


if __name__ == "__main__":
    Path(__file__).with_name("method.svg").write_text(draw(), "utf-8")
