"""What a run depends on beside its config: its pictures, the machine, the versions; and what differs between two times.

Resuming, repeating (``train --like``) and verifying a run all ask the same questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import vitreous
from vitreous.data import Images
from vitreous.device import hardware


def pictures(images: Images) -> dict[str, Any]:
    """What training pictures are known by."""
    return {"pictures": len(images), "classes": list(images.classes), "fingerprint": images.fingerprint()}


def machine() -> dict[str, Any]:
    """What the last bits of a result depend on: processor and versions. Threads are a choice, not a fact."""
    return {"vitreous": vitreous.__version__, **{k: v for k, v in hardware().items() if k != "threads"}}


def of(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The :func:`machine` that a classifier's provenance speaks of."""
    return {name: provenance.get(name) for name in machine()}


def same_processor(before: Mapping[str, Any]) -> bool:
    """Whether a :func:`machine` of before had the processor that is here."""
    here = hardware()
    return all(before.get(kind) == here.get(kind) for kind in ("cpu", "gpu"))


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, as ``name before -> now``; of lists, what came and what went."""
    return [
        f"{name} {_change(before.get(name), now.get(name))}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _change(before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list):
        gone = [f"without {item!r}" for item in before if item not in now]
        come = [f"with {item!r}" for item in now if item not in before]
        return ", ".join([*gone, *come]) or "in another order"
    return f"{before} -> {now}"
