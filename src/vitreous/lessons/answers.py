"""For instructors: an answer to every exercise that is a function. No lesson imports this file.

Shapes: H W pixels, C channels, P patch side, R rows and K columns of patches, N tokens, D width, E width of a head.
"""

from __future__ import annotations

import numpy as np


def invert(image: np.ndarray) -> np.ndarray:
    """(H, W, C) -> its negative."""
    return 255 - image


def mirror(image: np.ndarray) -> np.ndarray:
    """(H, W, C) -> left and right swapped."""
    return image[:, ::-1]


def shrink(image: np.ndarray) -> np.ndarray:
    """(H, W, C) -> float (H/2, W/2, C), the mean of blocks of 2 x 2."""
    height, width, channels = image.shape
    means: np.ndarray = image.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))
    return means


def cut(image: np.ndarray, patch: int) -> np.ndarray:
    """(H, W, C) -> (R, K, P, P, C)."""
    height, width, channels = image.shape
    axes = image.reshape(height // patch, patch, width // patch, patch, channels)
    return axes.swapaxes(1, 2)


def embed(flat: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(N, P*P*C), (D, P*P*C), (D,) -> (N, D)."""
    tokens: np.ndarray = flat @ weight.T + bias
    return tokens


def softmax(scores: np.ndarray) -> np.ndarray:
    """(N, N) -> (N, N), each row positive and of sum 1."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """3 x (N, E) -> (N, E)."""
    collected: np.ndarray = softmax(q @ k.T / np.sqrt(q.shape[-1])) @ v
    return collected


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """(N, classes), (N,) -> the share of right answers."""
    return float((scores.argmax(axis=1) == labels).mean())


NUMBERS = {
    "count_numbers": "height * width * channels",
    "count_tokens": "(side / patch) squared",
    "order_matters": "nothing",
    "first_loss": "log(10) = 2.30",
}
"""The answers that are no functions."""
