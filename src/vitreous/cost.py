"""What a training step costs, counted from the architecture: operations, numbers moved, bytes kept. No torch, no clock.

Three things take time. Matrix products, which run near the processor's peak. Everything between them (normalisation,
GELU, softmax, sums, changes of number type), which is limited by memory: it is counted as numbers that pass. And
starting an operation at all, which small models feel. A machine is three rates for the three; bench/scaling.py measures
them and says how well the sum predicts the clock.

Symbols as in vit.py: B batch, N tokens, D width, A heads, L depth, r MLP ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitreous.models import ModelConfig
from vitreous.stems import narrowest, stage_widths, whitened
from vitreous.vit import ViTConfig

TRAINING = 3
"""Times the operations of the way forwards: the way back makes two products for each one."""
MOVED_A_TOKEN = 60
"""Numbers that a block moves between its products for each of a token's D numbers: two normalisations, two residual
sums, queries, keys and values cut into heads and joined again, forwards and backwards."""
MOVED_A_HIDDEN = 8
"""Likewise for each hidden number of the MLP: GELU and its gradient."""
MOVED_A_WEIGHT = 12
"""Likewise for each attention weight: scale, softmax and its gradient, read and written."""
MOVED_A_PARAMETER = 12
"""Likewise for each parameter in the update: weight, gradient, moments, and the copy in the lower number type."""
STARTED_A_BLOCK = 90
"""Operations that a block starts in a step, forwards, backwards and in the update."""
NEWTON_SCHULZ = 5
"""Iterations by which Muon makes an update orthogonal, three products each."""


@dataclass(frozen=True)
class Cost:
    """Of one training step."""

    flops: float
    """Of matrix products and convolutions, two a multiplication and addition."""
    moved: float
    """Numbers read or written between them."""
    started: float
    """Operations started."""
    kept: float
    """Bytes that the way forwards keeps for the way back."""
    parameters: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> tuple[float, ...]:
        return (self.flops, self.moved, self.started, self.kept, self.parameters)


@dataclass(frozen=True)
class Machine:
    """What a processor does in a second."""

    flops: float
    moved: float
    started: float

    def seconds(self, cost: Cost) -> float:
        """Of one step."""
        return cost.flops / self.flops + cost.moved / self.moved + cost.started / self.started


def step_cost(config: ModelConfig, batch: int, size: int | None = None, bytes_a_number: int = 2) -> Cost:
    """A training step on ``batch`` pictures of ``size`` pixels, by default the config's own.

    Raises ValueError for a model that is no Vision Transformer.
    """
    if not isinstance(config, ViTConfig):
        raise ValueError(f"the cost of a {config.family} is not modelled: count its operations with count_flops")
    side = size or config.image_size
    patches = (math.ceil(side / config.patch_size)) ** 2
    tokens = patches + config.special
    blocks = _blocks(config, batch, tokens, bytes_a_number)
    return blocks + _stem(config, batch, side, patches, bytes_a_number) + _update(config, blocks.parameters)


def _blocks(config: ViTConfig, batch: int, tokens: int, width_of_number: int) -> Cost:
    """All blocks; where the head reads the class token, the last makes all keys and values but only that token."""
    full = _block(config, batch * tokens, batch * tokens, tokens, width_of_number)
    last = _block(config, batch * tokens, batch, tokens, width_of_number) if config.pool == "class" else full
    total = last
    for _ in range(config.depth - 1):
        total += full
    return total


def _block(config: ViTConfig, every: int, asking: int, tokens: int, width_of_number: int) -> Cost:
    """A block that makes keys and values of ``every`` token and everything else of those that are ``asking``."""
    width, hidden = config.width, config.width * config.mlp_ratio
    weights = asking * config.heads * tokens
    parameters = 4 * width**2 + 2 * width * hidden + 9 * width + hidden
    forward = 4 * every * width**2 + 2 * asking * (2 * width**2 + 2 * width * hidden) + 4 * asking * tokens * width
    moved = MOVED_A_TOKEN * width * (every + 2 * asking) / 3 + MOVED_A_HIDDEN * hidden * asking
    kept = width_of_number * (width * (4 * every + 8 * asking) + 2 * hidden * asking + weights)
    return Cost(TRAINING * forward, moved + MOVED_A_WEIGHT * weights, STARTED_A_BLOCK, kept, parameters)


def _stem(config: ViTConfig, batch: int, side: int, patches: int, width_of_number: int) -> Cost:
    width = config.width
    if config.stem == "patch":
        row = config.channels * config.patch_size**2
        return Cost(
            2 * 2 * batch * patches * row * width,  # no gradient by the pixels
            MOVED_A_TOKEN / 2 * batch * patches * width,
            STARTED_A_BLOCK,
            width_of_number * batch * patches * (row + width),
            row * width,
        )
    total, places, channels = Cost(0, 0, STARTED_A_BLOCK, 0, 0), batch * side**2, config.channels
    if config.stem_whiten:
        values = places * whitened(channels)
        total += Cost(2 * values * 4 * channels, 8 * values, 10, width_of_number * 2 * values, whitened(channels))
        channels = whitened(channels)
    elif config.stem_early:
        total += _convolution(channels, narrowest(width), places, TRAINING - 1, width_of_number)
        channels = narrowest(width)
    widths = stage_widths(config.patch_size, width, config.stem_early)
    for number, after in enumerate(widths, start=1):
        times = TRAINING - (number == 1 and not (config.stem_early or config.stem_whiten))  # no gradient by the pixels
        total += _convolution(channels, after, places, times, width_of_number)
        places, channels = places // (4 if config.patch_size > 1 else 1), after
        values = places * after
        residual = Cost(TRAINING * 2 * values * 9 * after, 24 * values, 25, width_of_number * 4 * values, 9 * after**2)
        for _ in range(config.stem_depth if number == len(widths) else config.stem_early):
            total += residual
    return total


def _convolution(channels: int, out: int, places: int, times: int, width_of_number: int) -> Cost:
    """A 3 x 3 convolution and a normalisation; ``times`` its operations forwards are a whole step's."""
    values = places * out
    return Cost(
        times * 2 * values * 9 * channels,
        16 * values,
        20,
        width_of_number * 3 * values,
        9 * channels * out + 2 * out,
    )


def _update(config: ViTConfig, parameters: float) -> Cost:
    """Muon on every matrix of the blocks, and what any optimiser moves."""
    width, hidden = config.width, config.width * config.mlp_ratio
    flops = 0.0
    for rows, columns in ((3 * width, width), (width, width), (hidden, width), (width, hidden)):
        short, long = min(rows, columns), max(rows, columns)
        flops += NEWTON_SCHULZ * (2 * 2 * short**2 * long + 2 * short**3)
    return Cost(flops * config.depth, MOVED_A_PARAMETER * parameters, 60 * config.depth, 0, 0)
