"""Vitreous: train a small Vision Transformer in the minutes you have, and see what it looks at.

``import vitreous`` costs nothing: a name is imported from its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "Classifier": "vitreous.classifier",
    "Wish": "vitreous.recipes",
    "evaluate_run": "vitreous.evaluate",
    "heatmap_run": "vitreous.heatmaps",
    "load": "vitreous.data",
    "train_on": "vitreous.jobs",
}

__all__ = ["Classifier", "Wish", "__version__", "evaluate_run", "heatmap_run", "load", "train_on"]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
