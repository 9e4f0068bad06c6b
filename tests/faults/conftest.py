"""Pictures for the children, and the sums that are told at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import VARIANTS, Child, outcome, train
from PIL import Image

TALLY: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _no_orphans() -> Iterator[None]:
    """Whatever happens to a test, its children end with it."""
    yield
    for child in Child.begun:
        if child.process.poll() is None:
            child.strike()
            child.end()
    Child.begun.clear()


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether everything is asked for (``--faults full``), or a sample of half a minute."""
    return request.config.getoption("--faults") == "full"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class: 4 classes of 30 pictures of 16 x 16 pixels, whose colour is the class."""
    folder, random = tmp_path_factory.mktemp("data") / "colours", np.random.default_rng(0)
    for number, colour in enumerate(((200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120))):
        (folder / f"colour-{number}").mkdir(parents=True)
        for index in range(30):
            pixels = np.clip(random.normal(colour, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"colour-{number}" / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def uninterrupted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What an uninterrupted run of a variant comes to."""
    known: dict[str, dict[str, Any]] = {}

    def of(variant: str) -> dict[str, Any]:
        if variant not in known:
            run = tmp_path_factory.mktemp("whole") / "run"
            child = train(pictures, run, *VARIANTS[variant], save_always=True)
            assert child.end() == 0, child.said
            known[variant] = {**outcome(run), "heard": [word for word in child.heard if word]}
        return known[variant]

    return of


@pytest.fixture(scope="session")
def tally() -> Counter[str]:
    """Figures for docs/reliability.md."""
    return TALLY


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if TALLY:
        terminalreporter.section("faults")
        for name, count in TALLY.items():
            terminalreporter.line(f"{name}: {count:g}")
