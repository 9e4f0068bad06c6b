"""Drawing: a blank figure, text that cannot break it, pixels the right way up; a gallery of pictures and their maps.

Matplotlib is imported inside the functions (it takes half a second) and through its objects alone: no window, no
backend to choose, no state that two threads could share.

Shapes: C channels (1 or 3), H W pixels, R rows and K columns of patches.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1f2430"
FAINT = "#7a8194"
RIGHT = "#1b6ca8"
"""A prediction that is right. With :data:`WRONG`, a pair that colour-blind readers tell apart."""
WRONG = "#c2410c"


def blank(width: float, height: float, layout: Literal["constrained"] | None = None) -> Figure:
    """An empty white figure of ``width`` x ``height`` inches that draws into memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, dpi: int = 150) -> Path:
    """Write a figure as PNG; the file appears whole or not at all. Returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with warnings.catch_warnings():
        # A class may be named in a script or an emoji that the font lacks: a box in the picture is enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        try:
            figure.savefig(partial, dpi=dpi, format="png")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def shorten(name: str, limit: int = 18) -> str:
    """A name on one line of at most ``limit`` characters, cut in its middle where it is longer."""
    line = " ".join(name.split())
    if len(line) <= limit:
        return line
    head = (limit - 1) // 2
    return line[:head] + "…" + line[len(line) - (limit - 1 - head) :]


def upright(pixels: Tensor) -> np.ndarray:
    """A picture as drawing wants it, grey repeated over the colours: uint8 (C, H, W) -> uint8 (H, W, 3)."""
    picture = pixels.detach().cpu().numpy().transpose(1, 2, 0)
    if picture.shape[-1] not in (1, 3):
        raise ValueError(f"a picture of {picture.shape[-1]} channels cannot be drawn: give 1 (grey) or 3 (colour)")
    return np.broadcast_to(picture, (*picture.shape[:2], 3))


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of the gallery with its map and what the classifier said."""

    source: str
    pixels: Tensor
    """uint8 (C, H, W)."""
    map: np.ndarray
    """Raw shares, float32 (R, K)."""
    patch: int
    """Side in pixels of a patch of the map."""
    true: str | None
    predicted: str
    probability: float

    def to_json(self) -> dict[str, Any]:
        """What was predicted of which picture, without the pixels and the map."""
        return {name: getattr(self, name) for name in ("source", "true", "predicted", "probability")}


DISPLAY = 256
"""Pixels of the longer side that small pictures are enlarged to, by whole factors, so that their pixels stay square."""


def _enlarge(picture: np.ndarray) -> np.ndarray:
    """Repeat pixels, (H, W, 3) -> (f*H, f*W, 3)."""
    factor = max(1, DISPLAY // max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def overlay(pixels: Tensor, heat: np.ndarray, scale: tuple[float, float], patch: int) -> np.ndarray:
    """A map over the grey picture: uint8 (C, H, W), (R, K) -> float (f*H, f*W, 3) in 0..1.

    The map is stretched bicubically, patch middles on patch middles; ``scale`` gives the heats of the coldest and the
    hottest colour, ``patch`` the side of a patch in pixels. A last patch that sticks out is cut off, and a border that
    no patch reaches has the heat beside it.
    """
    from matplotlib import colormaps

    picture = _enlarge(upright(pixels)) / 255.0
    grey = picture @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
    height, width = grey.shape
    side = patch * height // pixels.shape[1]  # of a patch, as it is drawn
    field = torch.from_numpy(np.ascontiguousarray(heat, dtype=np.float32))[None, None]
    reach = (heat.shape[0] * side, heat.shape[1] * side)
    field = F.interpolate(field, size=reach, mode="bicubic", align_corners=False)[..., :height, :width]
    field = F.pad(field, (0, width - field.shape[3], 0, height - field.shape[2]), mode="replicate")[0, 0]
    warmth = ((field.numpy() - scale[0]) / (scale[1] - scale[0])).clip(0, 1)
    return 0.62 * colormaps["inferno"](warmth)[..., :3] + 0.38 * grey[..., None]


MOST_PANELS = 200
"""Pictures in one gallery: beyond that the file grows past what viewers open."""
COLUMNS = 5
SIDE, SEAM, BETWEEN, TITLE, TOP, FOOT = 1.3, 0.05, 0.3, 0.46, 0.1, 0.62
"""Inches: a picture's width, the seam to its map, the space between pairs, above them, at the top and at the bottom."""


def gallery(panels: Sequence[Panel], path: Path, caption: str = "", of: str = "attention") -> Path:
    """Draw pictures, each beside its map laid over it, with true and predicted class; all of one size. PNG.

    Colours show attention, or ``of`` what else it is, over an even share and mean the same in every map; they span at
    least 0.5 to 1.5.
    """
    if not 1 <= len(panels) <= MOST_PANELS:
        raise ValueError(f"a gallery of {len(panels)} pictures: give 1 to {MOST_PANELS}")
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    tall = SIDE * panels[0].pixels.shape[1] / panels[0].pixels.shape[2]
    step = 2 * SIDE + SEAM + BETWEEN
    width, height = columns * step + BETWEEN, TOP + lines * (tall + TITLE) + FOOT
    figure = blank(width, height)
    heats = [panel.map * panel.map.size / max(float(panel.map.sum()), 1e-12) for panel in panels]  # 1 is an even share
    low, high = np.quantile(np.stack(heats), (0.02, 0.98))  # one stray patch must not turn all the others dark
    scale = (float(min(low, 0.5)), float(max(high, 1.5)))  # never so narrow that nearly even maps look dramatic
    for number, (panel, heat) in enumerate(zip(panels, heats, strict=True)):
        left = BETWEEN + (number % columns) * step
        bottom = height - TOP - (number // columns + 1) * (tall + TITLE)
        pair = (_enlarge(upright(panel.pixels)), overlay(panel.pixels, heat, scale, panel.patch))
        for i, picture in enumerate(pair):
            x = (left + i * (SIDE + SEAM)) / width
            axes = figure.add_axes((x, bottom / height, SIDE / width, tall / height))
            axes.imshow(picture, aspect="auto")
            axes.set_axis_off()
        _name(figure, panel, left, bottom + tall)
    _legend(figure, scale, f"the {of} of each patch, in multiples of an even share. {caption}")
    return save(figure, path)


def _name(figure: Figure, panel: Panel, left: float, bottom: float) -> None:
    """True and predicted class above a pair that starts at (left, bottom) inches."""
    width, height = figure.get_size_inches()
    verdict = f"{shorten(panel.predicted)} {panel.probability:.0%}"
    lines = [(verdict, INK)]
    if panel.true is not None:
        mark, colour = ("✓", RIGHT) if panel.true == panel.predicted else ("✗", WRONG)
        lines = [(f"true {shorten(panel.true)}", INK), (f"{mark} {verdict}", colour)]
    for i, (text, colour) in enumerate(reversed(lines)):
        figure.text(
            left / width, (bottom + 0.06 + 0.17 * i) / height, text, color=colour, fontsize=8.5, parse_math=False
        )


def _legend(figure: Figure, scale: tuple[float, float], caption: str) -> None:
    """What the colours mean, along the bottom, and the caption."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    width, height = figure.get_size_inches()
    bar = figure.add_axes((BETWEEN / width, 0.3 / height, 1.6 / width, 0.09 / height))
    figure.colorbar(ScalarMappable(Normalize(*scale), "inferno"), cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7, colors=FAINT, length=2)
    words = f"Right of each picture: {caption}"
    left = (BETWEEN + 1.75) / width
    figure.text(left, 0.345 / height, words, color=FAINT, fontsize=7.5, va="center", wrap=True, parse_math=False)
