"""The reader's own picture: a file, or what the webcam sees.

The webcam is a widget of anywidget's; where that is absent the lessons go without.

Shapes: H W pixels, S the side that is wanted.
"""

from __future__ import annotations

import base64
import importlib.util
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitreous.data import decode, fit
from vitreous.lessons.samples import sample

FILES = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"]
INK = 0.4
"""The share of the strongest stroke from which a pixel is ink."""
MARGIN = 0.1
"""Of a digit's larger side, left free around it."""


def camera_script() -> str:
    """The webcam button: an ES module that exports ``camera(place, give)``."""
    return (resources.files("vitreous.lessons") / "camera.js").read_text(encoding="utf-8")


def webcam() -> Any:
    """A marimo control that takes a picture with the webcam, or None where anywidget is absent."""
    if importlib.util.find_spec("anywidget") is None:
        return None
    import anywidget
    import marimo as mo
    import traitlets

    class Camera(anywidget.AnyWidget):
        """``picture`` is the data URL of a PNG, empty until one is taken."""

        _esm = camera_script() + (
            "export default { render: ({ model, el }) => {"
            " const give = (picture) => { model.set('picture', picture); model.save_changes(); };"
            " const { stop, forget } = camera(el, give);"
            " model.on('change:picture', () => { if (!model.get('picture')) forget(); });"
            " return stop; } };"
        )
        picture = traitlets.Unicode("").tag(sync=True)

    return mo.ui.anywidget(Camera())


def file(label: str, camera: Any) -> Any:
    """A marimo control that takes a file, which is then shown in place of what the webcam took before it."""
    import marimo as mo

    def chosen(files: Any) -> None:
        if files and camera is not None:
            camera.widget.picture = ""

    return mo.ui.file(filetypes=FILES, label=label, on_change=chosen)


def taken(upload: Any, camera: Any) -> Any:
    """The encoded picture of the webcam, else of the upload, as bytes; else None."""
    if camera is not None and camera.value.get("picture"):
        return base64.b64decode(camera.value["picture"].partition(",")[2])
    return upload.contents() if upload.value else None


def picture(name: str, side: int, upload: Any, camera: Any) -> tuple[np.ndarray, str]:
    """The reader's own picture or the sample of this name, uint8 (S, S, C), and what went wrong, in words."""
    try:
        return sample(name, side, taken(upload, camera)), ""
    except ValueError as problem:
        return sample(name, side), f"That file cannot be shown: {problem}. Here is the {name} in its place."


def digit(side: int, upload: Any, camera: Any) -> tuple[Tensor | None, str]:
    """A digit that the reader has written, as the embedded ones are: uint8 (1, 1, S, S), bright on black, filling it.

    None where there is none, with what went wrong in words.
    """
    encoded = taken(upload, camera)
    if encoded is None:
        return None, ""
    try:
        grey = decode(encoded, channels=1)[..., 0].astype(np.float32)  # (H, W)
    except ValueError as problem:
        return None, f"That file cannot be shown: {problem}."
    strength = np.abs(grey - np.median(grey))  # most of the picture is paper, whatever its colour
    rows, columns = np.nonzero(strength > INK * strength.max())
    if not len(rows):
        return None, "There is nothing on that picture but one colour."
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    room = round(max(bottom - top, right - left) * (1 + 2 * MARGIN))
    square = np.zeros((room, room), np.float32)
    down, along = (room - (bottom - top)) // 2, (room - (right - left)) // 2
    square[down : down + bottom - top, along : along + right - left] = strength[top:bottom, left:right]
    square = np.where(square < INK / 2 * strength.max(), 0, square / strength.max() * 255)
    return torch.from_numpy(fit(square.astype(np.uint8)[..., None], (side, side))).permute(2, 0, 1)[None], ""
