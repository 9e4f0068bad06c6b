"""Checks of the exercises, which answer in words: right, almost, or not yet, and why.

A check takes the reader's answer (a number, a choice, or a function) and returns a :class:`Verdict`; it never raises
because of what the answer does. The answers themselves are in answers.py, which no lesson imports.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitreous.arrays import block_mean, downsample, flatten_patches, patchify

COLOURS = {"right": "#2f855a", "almost": "#a1712b", "not yet": "#64748b"}
MARKS = {"right": "✓", "almost": "≈", "not yet": "…"}
Function = Callable[..., Any]


@dataclass(frozen=True)
class Verdict:
    """What is said of an answer. ``kind`` is a key of COLOURS."""

    kind: str
    words: str

    def _repr_html_(self) -> str:
        colour = COLOURS[self.kind]
        return (
            f'<div role="status" style="border-left:5px solid {colour};padding:0.5em 0.9em;margin:0.5em 0;'
            f'background:{colour}1c"><strong>{MARKS[self.kind]} {self.kind.capitalize()}.'
            f"</strong> {html.escape(self.words)}</div>"
        )

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}"


def right(words: str) -> Verdict:
    return Verdict("right", words)


def almost(words: str) -> Verdict:
    return Verdict("almost", words)


def not_yet(words: str) -> Verdict:
    return Verdict("not yet", words)


def _ask(function: Function, *arguments: Any) -> Any:
    """What the reader's function returns, or a Verdict where it returns nothing or fails; inputs cannot be spoilt."""
    try:
        value = function(*(a.copy() if isinstance(a, np.ndarray) else a for a in arguments))
    except Exception as problem:  # whatever a beginner's function does, the page goes on
        return not_yet(f"The function stops with {type(problem).__name__}: {problem}")
    if value is None or value is Ellipsis:
        return not_yet("The function returns nothing so far. In the notebook, write your line in place of the dots.")
    try:
        answer = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        answer = np.asarray("ragged")
    if answer.dtype.kind in "biuf":
        return answer
    return not_yet(f"The function returns a {type(value).__name__}; numbers are wanted.")


def _shape(answer: np.ndarray, wanted: tuple[int, ...]) -> Verdict | None:
    if answer.shape == wanted:
        return None
    return not_yet(f"The shape is {answer.shape}; {wanted} is wanted.")


def _same(answer: np.ndarray, wanted: np.ndarray) -> bool:
    return answer.shape == wanted.shape and bool(np.allclose(answer, wanted, atol=1e-5))


def _image(height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Images as arrays


def count_numbers(answer: float | None, shape: tuple[int, int, int]) -> Verdict:
    """How many numbers an image of this shape (H, W, C) holds."""
    height, width, channels = shape
    if not answer:
        return not_yet("Type a number. Think: how many pixels, and how many numbers does each hold?")
    if answer == height * width * channels:
        return right(f"{height} x {width} pixels with {channels} numbers each.")
    if answer == height * width:
        return almost(f"That is how many pixels there are. Each of them holds {channels} numbers.")
    if answer == height + width + channels:
        return almost("You added the three sides. A box of cubes is counted by multiplying them.")
    return not_yet(f"Multiply the three sides of the shape: {height}, {width} and {channels}.")


def invert(function: Function) -> Verdict:
    """A negative of a uint8 image: black becomes white."""
    image = _image()
    image[0, 0], image[0, 1] = 0, 255
    answer = _ask(function, image)
    if isinstance(answer, Verdict):
        return answer
    if wrong := _shape(answer, image.shape):
        return wrong
    wanted = 255 - image
    if _same(answer, wanted):
        return right("Every number is now its distance from 255.")
    if _same(answer, -image):
        return almost("You are off by one everywhere: in uint8, -x wraps around to 256 - x. And black stayed black!")
    if _same(answer.astype(float), 256.0 - image):
        return almost("Off by one: the largest value is 255, not 256.")
    if _same(answer, image):
        return not_yet("The picture comes back as it was.")
    return not_yet(f"Black (0) must become 255; yours became {answer[0, 0, 0]}.")


def mirror(function: Function) -> Verdict:
    """The image as a mirror shows it: left and right swapped."""
    image = _image()
    answer = _ask(function, image)
    if isinstance(answer, Verdict):
        return answer
    if _same(answer, image[:, ::-1]):
        return right("The columns run backwards, the rows and the colours stay.")
    if _same(answer, image[::-1]):
        return almost("That is upside down: you turned the first axis, the rows. Columns are the second.")
    if _same(answer, image[::-1, ::-1]):
        return almost("You turned rows and columns both, which is half a turn. Leave the rows alone.")
    if _same(answer, image[..., ::-1]):
        return almost("You turned the last axis: red and blue changed places. Columns are the second axis.")
    if answer.shape == image.swapaxes(0, 1).shape and _same(answer, image.swapaxes(0, 1)):
        return not_yet("You swapped rows with columns. A mirror keeps rows as rows.")
    return _shape(answer, image.shape) or not_yet("Slice the columns with a step of -1.")


def shrink(function: Function) -> Verdict:
    """Half the sides, every new pixel the mean of a block of 2 x 2."""
    image = _image()
    answer = _ask(function, image)
    if isinstance(answer, Verdict):
        return answer
    wanted = block_mean(image, 2)
    if _same(answer, wanted):
        return right("Every new pixel has heard all four old ones.")
    if wrong := _shape(answer, wanted.shape):
        return wrong
    if _same(answer, downsample(image, 2)):
        return almost(
            "That is every second pixel: right in shape, but three of four pixels are not heard. Average them."
        )
    if _same(answer, np.floor(wanted)) or _same(answer, np.rint(wanted)):
        return almost("Right up to rounding. Keep the fractions: do not go back to uint8.")
    if answer.dtype == np.uint8:
        return almost("Adding four uint8 numbers wraps around at 256. Make them float first, or use .mean().")
    return not_yet(f"The first block has the mean {wanted[0, 0, 0]:.2f} in red; yours says {answer[0, 0, 0]:.2f}.")


# Patches


def count_tokens(answer: float | None, side: int, patch: int) -> Verdict:
    """How many patches of ``patch`` pixels a picture of ``side`` pixels has."""
    along = side // patch
    if not answer:
        return not_yet("Type a number. How many patches fit along one side?")
    if answer == along * along:
        return right(f"{along} along each side, {along} x {along} in all.")
    if answer == along:
        return almost("That many fit along one side. A grid has two.")
    if answer == along * along + 1:
        return almost("You counted the class token too. It is no patch; it comes in the next lesson.")
    if answer == side * side // patch:
        return almost("You divided by the patch side once. A patch takes away on both sides.")
    return not_yet(f"{side} divided by {patch} is how many fit along one side.")


def cut(function: Function) -> Verdict:
    """``cut(image, patch)`` gives the grid of patches: (H, W, C) -> (R, K, P, P, C)."""
    image = _image(6, 8)
    answer = _ask(function, image, 2)
    if isinstance(answer, Verdict):
        return answer
    wanted = patchify(image, 2)  # (3, 4, 2, 2, C)
    if _same(answer, wanted):
        return right("Cut the long axes in two, then bring the two grid axes to the front.")
    if _same(answer, image.reshape(3, 2, 4, 2, 3)):
        return almost("The axes are cut, but the middle two still have to change places: now it is (R, P, K, P, C).")
    if _same(answer, wanted.reshape(12, 2, 2, 3)):
        return almost("The right patches, in one long list. Keep the grid: rows and columns as two axes.")
    if wrong := _shape(answer, wanted.shape):
        return wrong
    if _same(answer, image.reshape(wanted.shape)):
        return almost("The right shape with the wrong pixels: reshape alone reads on along a row. Swap axes first.")
    if _same(answer, wanted.swapaxes(2, 3)):
        return almost("Each patch lies on its side: rows and columns inside it changed places.")
    return not_yet("With patches of 2, the patch [0, 1] should be image[0:2, 2:4].")


def embed(function: Function) -> Verdict:
    """``embed(flat, weight, bias)``: (N, P*P*C), (D, P*P*C), (D,) -> tokens (N, D)."""
    rng = np.random.default_rng(0)
    flat = flatten_patches(_image(8, 8).astype(np.float64) / 255, 4)
    weight, bias = rng.normal(size=(5, 48)), rng.normal(size=5)
    answer = _ask(function, flat, weight, bias)
    if isinstance(answer, Verdict):
        if "broadcast" in answer.words:
            return not_yet(
                f"{answer.words.rstrip()}. + and * take numbers one by one: matrices are multiplied with @, and the "
                f"bias is added to rows of as many numbers as it has."
            )
        if "matmul" in answer.words or "not aligned" in answer.words:
            return almost("The sides do not meet: a row of 48 times (5, 48). Turn the weight with .T first.")
        return answer
    wanted = flat @ weight.T + bias
    if _same(answer, wanted):
        return right("One matrix product: that is the whole patch embedding.")
    if _same(answer, wanted - bias):
        return almost("The bias is missing.")
    if _same(answer.T, wanted):
        return almost("All numbers are there, on their side: one row a token, please.")
    return _shape(answer, wanted.shape) or not_yet(
        "Each token is its row of flat times the turned weight, plus the bias."
    )


# Tokens


def order_matters(answer: str | None) -> Verdict:
    """What shuffled patches change in a model without positions."""
    if not answer:
        return not_yet("Choose an answer, then move the slider above and see.")
    if answer == "nothing":
        return right("Attention is a weighted sum, and a sum does not know the order of its terms.")
    if answer == "only the positions of the tokens":
        return almost(
            "The patch tokens do come out in another order. But the class token, which the answer is read from, "
            "is a sum over all of them: for the class nothing changes."
        )
    return not_yet("Look at the largest difference between the two scores without positions.")


def softmax(function: Function) -> Verdict:
    """``softmax(scores)`` over the last axis: (N, N) -> rows that sum to 1."""
    scores = np.random.default_rng(0).normal(size=(4, 4)) * 2
    answer = _ask(function, scores)
    if isinstance(answer, Verdict):
        return answer
    wanted = _softmax(scores)
    if wrong := _shape(answer, wanted.shape):
        return wrong
    if _same(answer, wanted):
        with np.errstate(all="ignore"):
            large = _ask(function, scores * 1000)
        if isinstance(large, Verdict) or not np.isfinite(large).all():
            return almost("Right, until a score is large: exp(1000) is infinite. Subtract each row's maximum first.")
        return right("Positive, and each row sums to 1: shares of attention.")
    if _same(answer, _softmax(scores.T).T):
        return almost("Your columns sum to 1. Rows look, so rows must sum to 1: use axis=-1.")
    if _same(answer, np.exp(scores)):
        return almost("Positive, yes. Now divide each row by its sum.")
    if _same(answer, np.exp(scores) / np.exp(scores).sum()):
        return almost("The whole matrix sums to 1; each row should. Sum over axis=-1 with keepdims=True.")
    return not_yet(f"exp of each score, divided by the sum of its row. Your first row sums to {answer[0].sum():.2f}.")


def attention(function: Function) -> Verdict:
    """``attention(q, k, v)`` of one head: 3 x (N, E) -> (N, E)."""
    q, k, v = np.random.default_rng(0).normal(size=(3, 5, 4))
    answer = _ask(function, q, k, v)
    if isinstance(answer, Verdict):
        return answer
    wanted = _softmax(q @ k.T / math.sqrt(4)) @ v
    if _same(answer, wanted):
        return right("Compare, share out, collect. That is attention, all of it.")
    if _same(answer, _softmax(q @ k.T) @ v):
        return almost("The scale is missing: divide the scores by the root of E, or softmax gets too sure of itself.")
    if _same(answer, _softmax(q @ k.T / 4) @ v):
        return almost("You divided by E; the root of E is wanted.")
    if _same(answer, _softmax(q @ k.T / math.sqrt(4))):
        return almost("These are the weights. Now collect the values with them: weights @ v.")
    if _same(answer, q @ k.T / math.sqrt(4) @ v):
        return almost("The softmax is missing: scores are not yet shares.")
    return _shape(answer, wanted.shape) or not_yet("Scores q @ k.T over the root of E, softmax over rows, times v.")


# Training


def first_loss(answer: float | None, classes: int) -> Verdict:
    """Cross entropy of a model that has not learned: every class equally likely."""
    if not answer:
        return not_yet("Type a number. The loss is minus the log of the probability given to the true class.")
    wanted = math.log(classes)
    if abs(answer - wanted) < 0.02:
        return right(
            f"-log(1/{classes}) = {wanted:.2f}. If a first loss is far above, something is wrong before training."
        )
    if abs(answer - math.log2(classes)) < 0.02 or abs(answer - math.log10(classes)) < 0.001:
        return almost("The right idea with another logarithm: take the natural one.")
    if abs(answer - 1 / classes) < 0.005:
        return almost("That is the probability. The loss is minus its logarithm.")
    if abs(answer + wanted) < 0.02:
        return almost("The sign: log of a probability is negative, the loss is minus that.")
    return not_yet(f"An untrained model gives each of {classes} classes the probability 1/{classes}.")


def accuracy(function: Function) -> Verdict:
    """``accuracy(scores, labels)``: the share of rows (N, classes) whose largest score is at the label."""
    scores = np.random.default_rng(0).normal(size=(50, 10))
    labels = np.where(np.arange(50) % 3 == 0, scores.argmax(axis=1), (scores.argmax(axis=1) + 1) % 10)
    answer = _ask(function, scores, labels)
    if isinstance(answer, Verdict):
        return answer
    hits = scores.argmax(axis=1) == labels
    if answer.shape == hits.shape and answer.dtype == bool and (answer == hits).all():
        return almost("You know which are right. How large is their share? .mean() of them.")
    if answer.shape != ():
        return not_yet(f"One number is wanted; yours has the shape {answer.shape}.")
    if _same(answer, np.asarray(hits.mean())):
        return right("The share of pictures whose highest score is the true class.")
    if _same(answer, np.asarray(float(hits.sum()))):
        return almost("That is how many are right. Divide by how many there are.")
    if _same(answer, np.asarray(100 * hits.mean())):
        return almost("That is a percentage; a share from 0 to 1 is wanted.")
    return not_yet("For each row: is the position of the largest score the label? Then the mean of that.")


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Independent of the model's own, for the checks to compare with."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return shares
