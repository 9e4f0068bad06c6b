"""The exercises' checks: the instructor's answer is right, the usual mistakes are almost, and each is told why."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vitreous.lessons import answers, checks

FUNCTIONS = ("invert", "mirror", "shrink", "cut", "embed", "softmax", "attention", "accuracy")


def unstable(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores)
    return powers / powers.sum(axis=-1, keepdims=True)


def means(image: np.ndarray) -> np.ndarray:
    return answers.shrink(image.astype(float))


def shapeless(*arguments: np.ndarray) -> np.ndarray:
    raise ValueError("what shapes have they?")


MISTAKES: list[tuple[str, Callable[..., Any], str, str]] = [
    ("invert", lambda x: -x, "almost", "off by one"),
    ("invert", lambda x: 256 - x.astype(int), "almost", "255, not 256"),
    ("invert", lambda x: x, "not yet", "as it was"),
    ("invert", lambda x: x[0], "not yet", "shape"),
    ("invert", lambda x: x * 0, "not yet", "must become 255"),
    ("mirror", lambda x: x[::-1], "almost", "upside down"),
    ("mirror", lambda x: x[::-1, ::-1], "almost", "half a turn"),
    ("mirror", lambda x: x[..., ::-1], "almost", "red and blue"),
    ("mirror", lambda x: x.swapaxes(0, 1), "not yet", "swapped rows with columns"),
    ("mirror", lambda x: x, "not yet", "step of -1"),
    ("shrink", lambda x: x[::2, ::2], "almost", "not heard"),
    ("shrink", lambda x: means(x).round(), "almost", "rounding"),
    ("shrink", lambda x: x[::2, ::2] + x[1::2, 1::2], "almost", "wraps around"),
    ("shrink", lambda x: x, "not yet", "shape"),
    ("shrink", lambda x: means(x) * 2, "not yet", "first block"),
    ("cut", lambda x, p: x.reshape(6 // p, p, 8 // p, p, 3), "almost", "change places"),
    ("cut", lambda x, p: answers.cut(x, p).reshape(-1, p, p, 3), "almost", "Keep the grid"),
    ("cut", lambda x, p: x.reshape(6 // p, 8 // p, p, p, 3), "almost", "reshape alone"),
    ("cut", lambda x, p: answers.cut(x, p).swapaxes(2, 3), "almost", "on its side"),
    ("cut", lambda x, p: answers.cut(x, p)[::-1], "not yet", "[0, 1]"),
    ("cut", lambda x, p: x, "not yet", "shape"),
    ("embed", lambda f, w, b: f @ w.T, "almost", "bias"),
    ("embed", lambda f, w, b: (f @ w.T + b).T, "almost", "on their side"),
    ("embed", lambda f, w, b: f @ w + b, "almost", ".T"),
    ("embed", lambda f, w, b: f.dot(w) + b, "almost", ".T"),
    ("embed", lambda f, w, b: f * w + b, "not yet", "multiplied with @"),
    ("embed", lambda f, w, b: (f @ w.T).T + b, "not yet", "rows of as many numbers"),
    ("embed", shapeless, "not yet", "stops with ValueError: what shapes"),
    ("embed", lambda f, w, b: f @ w.T - b, "not yet", "plus the bias"),
    ("softmax", unstable, "almost", "infinite"),
    ("softmax", lambda s: answers.softmax(s.T).T, "almost", "columns"),
    ("softmax", np.exp, "almost", "divide each row"),
    ("softmax", lambda s: np.exp(s) / np.exp(s).sum(), "almost", "whole matrix"),
    ("softmax", lambda s: s, "not yet", "first row sums"),
    ("attention", lambda q, k, v: answers.softmax(q @ k.T) @ v, "almost", "scale"),
    ("attention", lambda q, k, v: answers.softmax(q @ k.T / 4) @ v, "almost", "root of E"),
    ("attention", lambda q, k, v: answers.softmax(q @ k.T / 2), "almost", "weights @ v"),
    ("attention", lambda q, k, v: q @ k.T / 2 @ v, "almost", "softmax is missing"),
    ("attention", lambda q, k, v: v, "not yet", "softmax over rows"),
    ("accuracy", lambda s, y: s.argmax(axis=1) == y, "almost", ".mean()"),
    ("accuracy", lambda s, y: (s.argmax(axis=1) == y).sum(), "almost", "Divide"),
    ("accuracy", lambda s, y: 100 * answers.accuracy(s, y), "almost", "percentage"),
    ("accuracy", lambda s, y: s, "not yet", "One number"),
    ("accuracy", lambda s, y: 0.123, "not yet", "For each row"),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_instructors_answer_is_right(name: str) -> None:
    assert getattr(checks, name)(getattr(answers, name)).kind == "right"


@pytest.mark.parametrize(("name", "answer", "kind", "words"), MISTAKES)
def test_a_usual_mistake_is_told_why(name: str, answer: Callable[..., Any], kind: str, words: str) -> None:
    verdict = getattr(checks, name)(answer)
    assert (verdict.kind, words in verdict.words) == (kind, True), str(verdict)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_whatever_a_function_does_the_page_goes_on(name: str) -> None:
    def fails(*arguments: Any) -> None:
        raise RuntimeError("oh <b>no</b>")

    def spoils(*arguments: Any) -> Any:
        for array in arguments:
            if isinstance(array, np.ndarray):
                array[:] = 0
        return arguments[0]

    check = getattr(checks, name)
    for answer in (
        fails,
        spoils,
        lambda *_: ...,
        lambda *_: None,
        lambda *_: "text",
        lambda *_: [[1], [2, 3]],
        lambda: 1,
    ):
        verdict = check(answer)
        assert verdict.kind == "not yet"
        assert "<b>" not in verdict._repr_html_()
    assert "RuntimeError: oh" in check(fails).words


def test_numbers_are_judged() -> None:
    shape = (4, 5, 3)
    assert [checks.count_numbers(n, shape).kind for n in (60, 20, 12, 7, 0, None)] == [
        "right",
        "almost",
        "almost",
        "not yet",
        "not yet",
        "not yet",
    ]
    assert [checks.count_tokens(n, 96, 8).kind for n in (144, 12, 145, 1152, 5, None)] == [
        "right",
        "almost",
        "almost",
        "almost",
        "not yet",
        "not yet",
    ]
    log = math.log(10)
    assert [checks.first_loss(n, 10).kind for n in (2.3, math.log2(10), 1.0, 0.1, -log, 5, None)] == [
        "right",
        "almost",
        "almost",
        "almost",
        "almost",
        "not yet",
        "not yet",
    ]


def test_choices_are_judged() -> None:
    kinds = [
        checks.order_matters(choice).kind
        for choice in ("nothing", "only the positions of the tokens", "everything", None)
    ]
    assert kinds == ["right", "almost", "not yet", "not yet"]


def test_a_verdict_is_read_aloud_and_escaped() -> None:
    text = checks.almost("a < b")._repr_html_()
    assert 'role="status"' in text
    assert "a &lt; b" in text
    assert str(checks.right("yes")) == "right: yes"
