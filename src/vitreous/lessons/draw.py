"""Drawings for the lessons: arrays as large pixelated pictures, as numbers, as matrices one can hover, as lines.

A :class:`Drawing` is a piece of HTML that needs no script and no network, so the same one shows in a reactive page, in
an exported one and in Jupyter. Pictures lie in SVG whose unit is one pixel of the array: a mark at (row, column) is
drawn at (row, column).

Shapes: H W pixels, C channels (1 or 3), N tokens, R rows and K columns of patches.
"""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

INK = "currentColor"
MARK = "#ff2d87"
"""Of everything drawn over a picture: a pink that photographs rarely have."""
TINT = 0.62
"""How much of a heatmap is heat; the rest is the picture below."""
SERIES = ("#1b6ca8", "#c2410c", "#2f855a", "#7a4fb5", "#a1712b")
RGB = ("#d92d20", "#2e9e44", "#2563eb")
_serial = itertools.count()


@dataclass(frozen=True)
class Drawing:
    """Something to look at. Marimo and Jupyter show it; ``str`` gives its HTML."""

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __str__(self) -> str:
        return self.html


@dataclass(frozen=True)
class Box:
    """A rectangle over a picture, in pixels of the array."""

    top: float
    left: float
    height: float
    width: float
    colour: str = MARK


def picture(
    image: np.ndarray, width: int = 360, caption: str = "", boxes: Sequence[Box] = (), grid: int | None = None
) -> Drawing:
    """An image, every pixel a sharp square: uint8 or float (H, W, C) -> ``width`` screen pixels wide.

    ``boxes`` and the lines of a ``grid`` of that many pixels are drawn over it. Floats are rounded and kept in 0..255.
    """
    height_px, width_px = image.shape[:2]
    thin = width_px / width  # one screen pixel, in pixels of the array
    marks = [
        f'<rect x="{b.left + thin}" y="{b.top + thin}" width="{b.width - 2 * thin}" height="{b.height - 2 * thin}" '
        f'fill="none" stroke="{b.colour}" stroke-width="{2.5 * thin:.3f}"/>'
        for b in boxes
    ]
    if grid:
        lines = [f"M{x} 0V{height_px}" for x in range(grid, width_px, grid)]
        lines += [f"M0 {y}H{width_px}" for y in range(grid, height_px, grid)]
        marks.append(f'<path d="{"".join(lines)}" stroke="white" stroke-width="{1.5 * thin:.3f}" fill="none"/>')
    edge = (
        f'<rect width="{width_px}" height="{height_px}" fill="none" stroke="{INK}" stroke-opacity="0.25" '
        f'stroke-width="{2 * thin:.3f}"/>'
    )
    body = _pixels(image, 0, 0, width_px, height_px) + edge + "".join(marks)  # the edge keeps white apart from paper
    return _figure(_svg(body, width_px, height_px, width, caption), width, caption)


def beside(*drawings: Drawing, gap: int = 24, width: int | None = None) -> Drawing:
    """Drawings in a row, on the next line where the page, or ``width`` screen pixels, is too narrow."""
    inner = "".join(drawing.html for drawing in drawings)
    style = f"display:flex;flex-wrap:wrap;gap:{gap}px;align-items:flex-start;justify-content:center"
    style += f";width:{width}px;max-width:100%" if width else ""
    return Drawing(f'<div style="{style}">{inner}</div>')


def numbers(values: np.ndarray, cell: int = 44, caption: str = "", digits: int = 0) -> Drawing:
    """A small channel as a table of its own numbers, each on its shade of grey: (H, W), 0..255."""
    height, width = values.shape
    parts = []
    for r, c in np.ndindex(height, width):
        value = float(values[r, c])
        shade = int(np.clip(value, 0, 255))
        ink = "black" if shade > 127 else "white"
        parts.append(
            f'<rect x="{c}" y="{r}" width="1.01" height="1.01" fill="rgb({shade},{shade},{shade})"/>'
            f'<text x="{c + 0.5}" y="{r + 0.62}" font-size="0.34" text-anchor="middle" fill="{ink}" '
            f'font-family="monospace">{value:.{digits}f}</text>'
        )
    return _figure(_svg("".join(parts), width, height, width * cell, caption), width * cell, caption)


def matrix(values: np.ndarray, width: int = 360, caption: str = "", limit: float | None = None) -> Drawing:
    """A matrix of signed numbers: white is 0, red above, blue below; ``limit`` is where the colours end."""
    return picture(signed(values, limit), width, caption)


def signed(values: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Signed numbers as colours, white at 0, red above, blue below: (...) -> uint8 (..., 3)."""
    from matplotlib import colormaps

    end = limit or float(np.abs(values).max()) or 1.0
    return (colormaps["RdBu_r"](np.clip(values / end, -1, 1) / 2 + 0.5)[..., :3] * 255).astype(np.uint8)


def heat(values: np.ndarray, span: tuple[float, float] | None = None) -> np.ndarray:
    """Shares as colours, from black over red to yellow: (...) -> uint8 (..., 3).

    ``span`` is where black and yellow lie; without it, at 0 and at the largest share.
    """
    from matplotlib import colormaps

    low, high = span or (0.0, float(values.max()) or 1.0)
    return (colormaps["inferno"](np.clip((values - low) / (high - low), 0, 1))[..., :3] * 255).astype(np.uint8)


def spread(shares: np.ndarray) -> tuple[float, float]:
    """A span of colours that shows differences, yet at least half to one and a half of an even share, so that an even
    map looks even."""
    even = float(shares.mean()) or 1.0
    return min(float(shares.min()), 0.5 * even), max(float(shares.max()), 1.5 * even)


def heatmap(image: np.ndarray, shares: np.ndarray, width: int = 200, caption: str = "") -> Drawing:
    """How much each patch is looked at, over the grey picture: (H, W, C) and (R, K)."""
    warm = heat(shares, spread(shares))
    warm = warm.repeat(image.shape[0] // shares.shape[0], 0).repeat(image.shape[1] // shares.shape[1], 1)
    return picture(TINT * warm + (1 - TINT) * _grey(image), width, caption)


def attention(weights: np.ndarray, image: np.ndarray, patch: int, special: int, width: int = 420) -> Drawing:
    """The attention of one head as a matrix to hover: row i is who token i looks at.

    weights: (N, N), rows sum to 1; image: (H, W, C), cut into patches of ``patch`` pixels; ``special`` tokens come
    first. Hovering a row (or tapping it, or moving to it with the Tab key) lays its shares over the picture beside it;
    at rest, those of the class token.
    """
    count = len(weights)
    height, columns = image.shape[0], image.shape[1] // patch
    name = f"attention{next(_serial)}"
    left, unit = count * 1.08, patch * count / height  # the picture is drawn as tall as the matrix

    def square(token: int, look: str) -> str:
        r, c = divmod(token, columns)
        return f'<rect x="{left + c * unit:.2f}" y="{r * unit:.2f}" width="{unit:.2f}" height="{unit:.2f}" {look}/>'

    side = columns * unit
    body = _pixels(heat(weights), 0, 0, count, count) + _pixels(_grey(image), left, 0, side, count)
    for i, row in enumerate(weights):
        colours = heat(row[special:], spread(row[special:]))
        over = [square(k, f'fill="rgb({r},{g},{b})" class="tint"') for k, (r, g, b) in enumerate(colours)]
        if i >= special:  # the patch that is looking
            over.append(square(i - special, f'fill="none" stroke="{MARK}" stroke-width="{count / 120:.2f}"'))
        best = int(row.argmax())
        words = f"{_token(i, special)} looks most at {_token(best, special)} ({row[best]:.0%})"
        body += (
            f'<g class="row{"" if i else " first"}" tabindex="0"><rect class="hit" x="0" y="{i}" '
            f'width="{count}" height="1" fill="transparent"/><g class="over">{"".join(over)}</g>'
            f"<title>{words}</title></g>"
        )
    style = (
        f"#{name} .over{{visibility:hidden;pointer-events:none}}#{name} .tint{{opacity:{TINT}}}"
        f"#{name} .row:hover .over,#{name} .row:focus .over{{visibility:visible}}"
        f"#{name} .row:hover .hit,#{name} .row:focus .hit{{stroke:{MARK};stroke-width:{count / 150:.2f}}}"
        f"#{name}:has(.row:hover) .row:not(:hover) .over{{visibility:hidden}}"
        f"#{name} .row:focus{{outline:none}}"
        f"#{name}:not(:hover):not(:focus-within) .first .over{{visibility:visible}}"
    )
    title = "Attention of one head: rows look, columns are looked at"
    drawn = _svg(body, left + side, count, 2 * width, title)
    return _figure(f'<div id="{name}"><style>{style}</style>{drawn}</div>', 2 * width, f"{title}. Hover a row.")


def _token(number: int, special: int) -> str:
    return f"patch {number - special}" if number >= special else "the class token" if number == 0 else "a register"


def _grey(image: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H, W, 3), the same mean three times."""
    return np.broadcast_to(_three(image).mean(axis=2, keepdims=True), (*image.shape[:2], 3))


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str = "",
    y: str = "",
    colours: Sequence[str] | None = None,
    width: int = 680,
    top: float = 1e-9,
) -> Drawing:
    """Curves over a common pair of axes: name -> (x values, y values). The y axis reaches at least from 0 to ``top``;
    each curve is named where there are several."""
    colours = colours or SERIES
    xs = [v for points in series.values() for v in points[0]] or [0.0]
    ys = [v for points in series.values() for v in points[1]] or [0.0]
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)
    low, high = min(0.0, *ys), max(*ys, top)

    def at(a: float, b: float) -> str:
        return f"{60 + 480 * (a - left) / (right - left):.1f},{200 - 180 * (b - low) / (high - low):.1f}"

    body = f'<path d="M60 15V200H545" fill="none" stroke="{INK}" stroke-opacity="0.4"/>'
    for value in (low, (low + high) / 2, high):
        body += _text(54, float(at(left, value).split(",")[1]) + 4, f"{value:.3g}", "end")
    middle = (left + right) / 2
    for value in (left, middle if right - left < 4 else round(middle), right):  # columns and steps are whole
        body += _text(float(at(value, low).split(",")[0]), 217, f"{value:.4g}", "middle")
    body += _text(300, 236, x, "middle") + _text(64, 12, y, "start")
    for i, (name, points) in enumerate(series.items()):
        colour = colours[i % len(colours)]
        path = " ".join(at(a, b) for a, b in zip(*points, strict=True))
        body += f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        if len(points[0]) <= 8:
            body += "".join(
                f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3.5" fill="{colour}"/>' for p in path.split()
            )
        if len(series) > 1:
            body += f'<rect x="552" y="{20 + 22 * i}" width="12" height="4" fill="{colour}"/>'
            body += _text(570, 26 + 22 * i, name, "start")
    return _figure(_svg(body, 680 if len(series) > 1 else 560, 240, width, f"{y} against {x}"), width, "")


def bars(
    values: Mapping[str, float], width: int = 360, form: str = ".1%", highlight: str | None = None, caption: str = ""
) -> Drawing:
    """One horizontal bar a name; the longest bar is the largest value."""
    top = max(values.values(), default=1.0) or 1.0
    body = ""
    for i, (name, value) in enumerate(values.items()):
        colour = SERIES[1] if name == highlight else SERIES[0]
        body += _text(112, 20 * i + 14, name, "end")
        body += (
            f'<rect x="120" y="{20 * i + 3}" width="{max(1.0, 250 * value / top):.1f}" height="14" fill="{colour}"/>'
        )
        body += _text(126 + 250 * value / top, 20 * i + 14, format(value, form), "start")
    return _figure(_svg(body, 440, max(20, 20 * len(values)), width * 1.2, "bars"), width * 1.2, caption)


def _pixels(image: np.ndarray, x: float, y: float, width: float, height: float) -> str:
    """An array as an SVG image whose pixels stay sharp."""
    values = np.clip(np.rint(np.asarray(image, dtype=np.float64)), 0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(_three(values)).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )


def _three(image: np.ndarray) -> np.ndarray:
    """Grey repeated over three channels: (H, W), (H, W, 1) or (H, W, 3) -> (H, W, 3)."""
    image = image[..., None] if image.ndim == 2 else image
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" font-family="sans-serif" '
        f'fill="{INK}">{html.escape(words)}</text>'
    )


def _svg(body: str, width: float, height: float, screen: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(title or "picture")}" '
        f'style="width:100%;max-width:{screen:.0f}px;height:auto;display:block">{body}</svg>'
    )


def _figure(body: str, width: float, caption: str) -> Drawing:
    words = f'<figcaption style="font-size:0.85em;opacity:0.75">{html.escape(caption)}</figcaption>' if caption else ""
    return Drawing(f'<figure style="margin:0.4em 0;width:{width:.0f}px;max-width:100%">{body}{words}</figure>')
