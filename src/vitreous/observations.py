"""What heatmaps say: concentration, centre and border, right and wrong, in numbers and in sentences made from them.

Shapes: n pictures, R rows and K columns of patches.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitreous.models import ModelConfig


@dataclass(frozen=True, eq=False)
class Observed:
    """What maps say, one number a picture: arrays (n,)."""

    entropy: np.ndarray
    """Of the map's shares among the patches, over log(R*K): 1 for an even map, 0 for a single patch."""
    peak: np.ndarray
    """Share of the attention to patches that the most looked-at 10 % of them (rounded up) hold."""
    centre: np.ndarray
    """Attention to a patch of the middle half (of height and width), over an even share."""
    border: np.ndarray
    """Attention to a patch of the outermost ring, over an even share."""
    special: np.ndarray
    """Share of the attention that went to the class token and registers and is in none of the above."""
    even_peak: float
    """What ``peak`` would be for an even map."""
    correct: np.ndarray | None
    """Whether the prediction is right, bool (n,); None where that is not known of every picture."""

    def to_json(self) -> dict[str, Any]:
        """Means, the difference of right and wrong predictions with its standard error, and the number of pictures."""
        values: dict[str, Any] = {"n": len(self.entropy), "even_peak": self.even_peak}
        for name in ("entropy", "peak", "centre", "border", "special"):
            values[name] = float(getattr(self, name).mean())
        if self.correct is not None:
            values["right"] = int(self.correct.sum())
            for name in COMPARED:
                gap = right_and_wrong(getattr(self, name), self.correct)
                values[f"{name}_right_wrong"] = None if gap is None else dataclasses.asdict(gap)
        return values


def observe(maps: np.ndarray, correct: np.ndarray | None = None) -> Observed:
    """Measure maps of raw shares (n, R, K), each summing to at most 1; ``correct`` is bool (n,) where known."""
    n, rows, columns = maps.shape
    if not n:
        raise ValueError("0 maps say nothing: give at least one")
    flat = maps.reshape(n, -1).astype(np.float64)
    total = flat.sum(axis=1)
    shares = flat / np.maximum(total, np.finfo(np.float64).tiny)[:, None]
    count = rows * columns
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    entropy = -(shares * logs).sum(axis=1) / math.log(count) if count > 1 else np.ones(n)
    top = math.ceil(count / 10)
    down = np.abs((np.arange(rows) + 0.5) / rows - 0.5)  # distance of each row from the middle, 0 to 0.5
    across = np.abs((np.arange(columns) + 0.5) / columns - 0.5)
    centre = (np.maximum.outer(down, across) <= 0.25).ravel()
    if not centre.any():  # no patch has its middle there: take the innermost
        centre = np.logical_and.outer(down == down.min(), across == across.min()).ravel()
    border = np.logical_or.outer(down == down.max(), across == across.max()).ravel()
    return Observed(
        entropy=entropy,
        peak=np.sort(shares, axis=1)[:, -top:].sum(axis=1),
        centre=shares[:, centre].mean(axis=1) * count,
        border=shares[:, border].mean(axis=1) * count,
        special=np.maximum(1 - total, 0),
        even_peak=top / count,
        correct=None if correct is None else np.asarray(correct, dtype=bool),
    )


COMPARED = {"entropy": "entropy", "peak": "share of the most looked-at patches", "centre": "weight of the centre"}
"""Measures that are compared between right and wrong predictions, and how a sentence names them."""
FEWEST = 5
"""Pictures that a group must have to be compared: a spread of fewer is a guess."""


@dataclass(frozen=True)
class Words:
    """How a sentence names a measure, and how it writes its numbers."""

    name: str
    form: str


STANDING_OUT = {
    "entropy": Words("How evenly they look, 100% being alike everywhere", ".1%"),
    "centre": Words("A patch of the centre, over an even share", ".2f"),
    "border": Words("A patch of the border, over an even share", ".2f"),
    "special": Words("What goes to {special}", ".1%"),
}
"""Measures by which heads are told apart."""
SPECIAL = "the class token and registers"
"""What a share that is in no patch may have gone to."""


def special_tokens(config: ModelConfig) -> str:
    """The same of one model."""
    there = ["the class token"] * (getattr(config, "pool", "class") == "class")
    return " and ".join(there + ["registers"] * bool(getattr(config, "registers", 0)))


@dataclass(frozen=True)
class Gap:
    """A difference of two means with its standard error."""

    first: float
    second: float
    error: float

    @property
    def clear(self) -> bool:
        """Larger than two standard errors: more than noise would usually make it."""
        return abs(self.first - self.second) > 2 * self.error


def right_and_wrong(values: np.ndarray, correct: np.ndarray) -> Gap | None:
    """Mean over right (first) against wrong (second) predictions, unpaired (Welch); None where a group is too small."""
    groups = values[correct], values[~correct]
    if min(map(len, groups)) < FEWEST:
        return None
    error = math.sqrt(sum(group.var(ddof=1) / len(group) for group in groups))
    return Gap(float(groups[0].mean()), float(groups[1].mean()), error)


def observations(seen: Observed, of: str = "attention", special: str = SPECIAL) -> list[str]:
    """Sentences that put the numbers into words; a difference within two standard errors is called no difference.

    ``of`` says what the maps share out, ``special`` what else than patches gets some of it.
    """
    low, high = np.quantile(seen.entropy, (0.1, 0.9))
    sentences = [
        f"Concentration over {len(seen.entropy)} pictures: the entropy is {seen.entropy.mean():.1%} of an even map's "
        f"({low:.1%} to {high:.1%} for the middle 80% of pictures); the most looked-at tenth of the patches holds "
        f"{seen.peak.mean():.1%} of the {of}, where an even map gives it {seen.even_peak:.1%}.",
        _centre_and_border(seen),
    ]
    if seen.special.mean() > 1e-4:
        sentences.append(
            f"Outside the picture: {seen.special.mean():.1%} of the {of} goes to {special}; the other numbers are "
            f"about the rest."
        )
    if seen.correct is not None:
        sentences += _right_and_wrong(seen, seen.correct)
    return sentences


def _centre_and_border(seen: Observed) -> str:
    gaps = seen.centre - seen.border  # paired: both are of the same map
    numbers = (
        f"a patch of the centre gets {seen.centre.mean():.2f} times an even share, one of the border "
        f"{seen.border.mean():.2f} times"
    )
    if len(gaps) < FEWEST:
        return f"Centre and border: {numbers}; {len(gaps)} pictures are too few to tell that from noise."
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    size = f"difference {gaps.mean():+.2f}, standard error {error:.2f}"
    if abs(gaps.mean()) <= 2 * error:
        return f"Centre and border: no difference beyond noise; {numbers} ({size})."
    return f"Centre and border: the {'centre' if gaps.mean() > 0 else 'border'} is preferred; {numbers} ({size})."


def _right_and_wrong(seen: Observed, correct: np.ndarray) -> list[str]:
    right, wrong = int(correct.sum()), int((~correct).sum())
    if min(right, wrong) < FEWEST:
        return [
            f"Right and wrong: {right} right and {wrong} wrong predictions; maps are compared from {FEWEST} of each on."
        ]
    sentences = []
    for name, words in COMPARED.items():
        gap = right_and_wrong(getattr(seen, name), correct)
        assert gap is not None
        numbers = (
            f"{gap.first:.3f} over {right} right against {gap.second:.3f} over {wrong} wrong predictions "
            f"(difference {gap.first - gap.second:+.2g}, standard error {gap.error:.2g})"
        )
        if gap.clear:
            verdict = f"the {words} is {'higher' if gap.first > gap.second else 'lower'} where the prediction is right"
        else:
            verdict = f"no difference beyond noise in the {words}"
        sentences.append(f"Right and wrong: {verdict}: {numbers}.")
    return sentences


def about_heads(maps: np.ndarray, special: str = SPECIAL) -> list[str]:
    """Which head stands out in what: maps of raw shares by layer and head (n, L, A, R, K).

    ``special`` says what else than patches gets a share.
    """
    _, layers, heads, _, _ = maps.shape
    seen = {(layer, head): observe(maps[:, layer, head]) for layer in range(layers) for head in range(heads)}
    sentences = []
    for name, words in STANDING_OUT.items():
        means = {place: float(getattr(own, name).mean()) for place, own in seen.items()}
        (low_layer, low_head), (high_layer, high_head) = (pick(means, key=means.__getitem__) for pick in (min, max))
        low, high = means[low_layer, low_head], means[high_layer, high_head]
        if f"{high:{words.form}}" != f"{low:{words.form}}":
            sentences.append(
                f"{words.name.format(special=special)}: most in head {high_head + 1} of layer {high_layer + 1} "
                f"({high:{words.form}}), least in head {low_head + 1} of layer {low_layer + 1} ({low:{words.form}})."
            )
    return sentences
