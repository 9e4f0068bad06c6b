"""Does what was written answer as the classifier does? Asked on pictures, before anybody else asks.

Shapes: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vitreous.classifier import Classifier

Answers = Callable[[Tensor], Tensor]
"""uint8 pixels (B, C, H, W) -> class scores (B, K), by whatever runs the export."""

BATCHES = (1, 7, 64)
TOLERANCE = 1e-4
"""How far a score may be from the classifier's."""


@dataclass(frozen=True)
class Parity:
    """What the export answered, beside the classifier."""

    pictures: int
    batches: tuple[int, ...]
    """Each picture was asked about in batches of each of these sizes."""
    largest_difference: float
    """Between any two scores."""
    same_top: float
    """Share of pictures with the same most probable class, of the batch size where it is least."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def words(self) -> str:
        """The finding in a sentence."""
        sizes = ", ".join(map(str, self.batches))
        return (
            f"{self.pictures:,} pictures in batches of {sizes}: the same first class for {self.same_top:.2%}, "
            f"scores at most {self.largest_difference:.1e} apart"
        )


def compare(classifier: Classifier, answers: Answers, pixels: Tensor, batches: tuple[int, ...] = BATCHES) -> Parity:
    """Asks both about uint8 pictures (B, C, H, W), in batches of each size."""
    expected = classifier.logits(pixels)
    top, apart, same = expected.argmax(dim=1), 0.0, 1.0
    for size in batches:
        found = torch.cat([answers(part) for part in pixels.split(size)])
        apart = max(apart, (found - expected).abs().max().item())
        same = min(same, (found.argmax(dim=1) == top).float().mean().item())
    return Parity(len(pixels), batches, apart, same)


def check(parity: Parity) -> None:
    """Raises ValueError where an export is not the classifier."""
    if not (parity.same_top == 1.0 and parity.largest_difference <= TOLERANCE):
        raise ValueError(
            f"what was written does not answer as the classifier does, so it was removed: {parity.words}, "
            f"where {TOLERANCE:.0e} is allowed"
        )
