"""Vitreous: train a small Vision Transformer in the minutes you have, and see what it looks at.

``import vitreous`` costs nothing: a name is imported from its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = {"load": "vitreous.data", "Classifier": "vitreous.classifier"}

__all__ = ["Classifier", "__version__", "load"]  # noqa: F822 (given by __getattr__)


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
