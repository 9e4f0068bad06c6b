"""Charts of a report as SVG that takes its colours from the page, and small pictures as data the page carries itself.

Matplotlib draws them: they open from disk without a script, print sharply, and follow light and dark.

Shapes: n pictures, L depth, A heads, R rows and K columns of patches, H W pixels.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitreous.pictures import FAINT, INK, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = "#c9ced8"
PALETTE = (
    "#3b82c4", "#e07b39", "#3f9d6b", "#c2545d", "#8a6cc2", "#8f6f56", "#d07fb0", "#7a8194", "#a8a23a", "#38a5b0",
)  # fmt: skip
FROM_PAGE = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    LINE: "var(--line)",
}
"""Colours that the page decides, in light and in dark."""
MARKS = "os^DvPX<>*"
REM = 6.4
"""Of a page's letters, how many a chart's inch is wide."""


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, columns))
    for each in axes:
        each.set_facecolor("none")
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(LINE)
        each.tick_params(colors=FAINT, labelsize=9)
        each.grid(color=LINE, linewidth=0.5, alpha=0.6)
        each.set_axisbelow(True)
    return figure, list(axes)


def svg(figure: Figure) -> str:
    """A figure as an SVG element for a page: text stays text, of one size in all of them; colours are the page's."""
    from matplotlib import rc_context

    drawn = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "vitreous"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    most = f'style="max-width: {REM * figure.get_figwidth():.1f}rem"'
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', rf"<svg \1{most}", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    for colour, name in FROM_PAGE.items():
        text = text.replace(colour, name)
    return re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 system-ui, sans-serif", text)


def learning(lines: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy and loss against seconds, from the lines of metrics.jsonl."""
    figure, (left, right) = _figure(8.4, 2.9, 2)
    names = (("val", "validation", PALETTE[0]), ("train", "training", PALETTE[1]))
    for split, name, colour in names:
        rows = [line for line in lines if line.get("split") == split]
        marker = "o" if split == "val" else None
        for axes, key, factor in ((left, "accuracy", 100), (right, "loss", 1)):
            known = [row for row in rows if row.get(key) is not None]
            if known:
                seconds = [row["seconds"] for row in known]
                values = [factor * row[key] for row in known]
                axes.plot(seconds, values, color=colour, marker=marker, markersize=4, label=name)
    for axes, words in ((left, "validation accuracy, %"), (right, "loss")):
        axes.set_xlabel("seconds", color=FAINT, fontsize=9)
        axes.set_title(words, color=INK, fontsize=10, loc="left")
    if right.get_legend_handles_labels()[0]:
        right.legend(frameon=False, fontsize=9, labelcolor=INK)
    return svg(figure)


def calibration(sure: np.ndarray, right: np.ndarray, bins: int) -> str:
    """How often predictions are right, by how sure they are: (n,), (n,)."""
    figure, (axes,) = _figure(4.6, 3.2)
    which = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    share = np.bincount(which, weights=right, minlength=bins) / np.maximum(counts, 1)
    middle = (np.arange(bins) + 0.5) / bins
    there = counts > 0
    axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.bar(100 * middle[there], 100 * share[there], width=92 / bins, color=PALETTE[0])
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.set_xlabel("how sure it was, %", color=FAINT, fontsize=9)
    axes.set_title("how often it was right, %", color=INK, fontsize=10, loc="left")
    return svg(figure)


def distances(by_head: np.ndarray, even: float) -> str:
    """How far heads look, in pixels, by layer: (L, A)."""
    figure, (axes,) = _figure(4.6, 2.9)
    layers = np.arange(1, len(by_head) + 1)
    for head in range(by_head.shape[1]):
        axes.scatter(layers, by_head[:, head], s=34, color=PALETTE[head % 10], zorder=3)
    axes.axhline(even, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(layers[-1] + 0.45, even, "looking everywhere alike", color=FAINT, fontsize=8, ha="right", va="bottom")
    axes.set_xlim(0.5, layers[-1] + 0.5)
    axes.set_ylim(0, 1.2 * max(even, float(by_head.max())))
    axes.set_xticks(layers if len(layers) <= 12 else layers[::2])
    axes.set_xlabel("layer", color=FAINT, fontsize=9)
    axes.set_title("distance looked, pixels; a dot is a head", color=INK, fontsize=10, loc="left")
    return svg(figure)


def heads(maps: np.ndarray) -> str:
    """Where each head of each layer looks, over an even share: (L, A, R, K). A row a layer, a column a head."""
    layers, count, rows, columns = maps.shape
    sheet = np.full((layers, rows + 1, count, columns + 1), np.nan)
    sheet[:, :rows, :, :columns] = maps.transpose(0, 2, 1, 3)
    figure, (axes,) = _figure(min(8.4, 1.4 + 1.1 * count), min(8.4, 0.7 + 1.1 * layers * rows / columns))
    high = max(1.5, float(np.quantile(maps, 0.98)))
    shown = axes.imshow(sheet.reshape(layers * (rows + 1), -1), cmap="inferno", vmin=0, vmax=high, aspect="equal")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks((np.arange(count) + 0.5) * (columns + 1) - 1, [str(i + 1) for i in range(count)])
    axes.set_yticks((np.arange(layers) + 0.5) * (rows + 1) - 1, [str(i + 1) for i in range(layers)])
    axes.tick_params(length=0)
    axes.set_xlabel("head", color=FAINT, fontsize=9)
    axes.set_ylabel("layer", color=FAINT, fontsize=9)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=FAINT, labelsize=8, length=2)
    bar.set_label("× an even share", color=FAINT, fontsize=9)
    return svg(figure)


def cascade(found: Mapping[str, Mapping[str, float]], allowed: Collection[float]) -> str:
    """How alike maps stay as weights are replaced from the head down: method -> stage -> correlation.

    A line stands at each of ``allowed``, which is one where all maps have the same grid.
    """
    figure, (axes,) = _figure(8.4, 3.4)
    stages = ["trained", *next(iter(found.values()))]
    for i, (name, values) in enumerate(found.items()):
        axes.plot(range(len(stages)), [1.0, *values.values()], color=PALETTE[i], marker=MARKS[i], label=name)
    for limit in allowed:
        axes.axhline(limit, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xticks(range(len(stages)), [stages[0], *(f"… {stage}" for stage in stages[1:])])
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("random from the head down to", color=FAINT, fontsize=9)
    axes.set_title("rank correlation with the trained model's maps", color=INK, fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def covering(found: Mapping[str, Mapping[str, Sequence[float]]], fractions: Sequence[float]) -> str:
    """The class's probability as patches go and as they come in: method -> curve -> values at ``fractions``."""
    figure, both = _figure(8.4, 3.4, 2)
    chance = np.mean([curves["at random"] for curves in found.values()], axis=0)
    shares = [100 * fraction for fraction in fractions]
    for axes, key, by_chance in zip(both, ("deletion", "insertion"), (chance, chance[::-1]), strict=True):
        axes.plot(shares, 100 * by_chance, color=FAINT, linestyle=(0, (4, 3)), label="at random")
        for i, (name, curves) in enumerate(found.items()):
            values = [100 * value for value in curves[key]]
            axes.plot(shares, values, color=PALETTE[i], marker=MARKS[i], markersize=4, label=name)
        axes.set_ylim(0, 100)
        words = "covered" if key == "deletion" else "uncovered"
        axes.set_xlabel(f"patches {words}, the map's first ones first, %", color=FAINT, fontsize=9)
        axes.set_title(f"{key}: probability of the class, %", color=INK, fontsize=10, loc="left")
    both[1].legend(frameon=False, fontsize=9, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def scatter(points: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> str:
    """Pictures on a plane by class: (n, 2), (n,). Of more than ten classes, the ten largest have a colour."""
    figure, (axes,) = _figure(6.4, 4.4)
    shown = np.argsort(-np.bincount(labels, minlength=len(classes)), kind="stable")[:10]
    others = ~np.isin(labels, shown)
    axes.scatter(points[others, 0], points[others, 1], s=7, color=LINE, linewidths=0)
    for i, label in enumerate(sorted(shown)):
        own = labels == label
        name = shorten(classes[label]).replace("$", r"\$")
        x, y = points[own].T
        axes.scatter(x, y, s=13, color=PALETTE[i], marker=MARKS[i], linewidths=0, alpha=0.8, label=name)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


LARGEST = 128
"""Pixels of the longer side of a photograph that a page carries."""


def data_uri(picture: np.ndarray, largest: int | None = None) -> str:
    """A picture that a page can carry, shrunk to ``largest``: uint8 (H, W, 3 or 4) or float 0..1 -> PNG as text."""
    if picture.dtype != np.uint8:
        picture = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    file, image = BytesIO(), Image.fromarray(np.ascontiguousarray(picture))
    if largest is not None:
        image.thumbnail((largest, largest))
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def mosaic(tiles: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Tiles (n, h, w, 3) in 0..1 side by side, with seams that are transparent: -> uint8 (H, W, 4)."""
    n, height, width, _ = tiles.shape
    lines = -(-n // columns)
    sheet = np.zeros((lines * (height + gap) - gap, min(n, columns) * (width + gap) - gap, 4), dtype=np.uint8)
    for i, tile in enumerate((tiles.clip(0, 1) * 255).round().astype(np.uint8)):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width, :3] = tile
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet


def as_colours(weights: np.ndarray) -> np.ndarray:
    """Filters (n, h, w, C) as pictures (n, h, w, 3), 0 in the middle grey, each with a scale of its own."""
    size = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    tiles = 0.5 + 0.5 * weights / np.maximum(size, 1e-12)
    return tiles if tiles.shape[-1] == 3 else np.broadcast_to(tiles.mean(axis=-1, keepdims=True), (*tiles.shape[:3], 3))
