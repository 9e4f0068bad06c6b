"""What the tests in a real browser share: Chromium, and pages that may neither fail nor ask anybody else.

A test waits for what it expects to see and never for a time: PATIENCE only says when a machine is given up as too slow.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

driver = pytest.importorskip("playwright.sync_api", reason="needs the browser extra: pip install 'vitreous[browser]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)

PATIENCE = 120_000
"""Milliseconds."""
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]

Browser = Any  # of playwright, which need not be installed
Page = Any


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, closed at the end."""
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


class Watched:
    """Opens pages, and afterwards says whether one failed or asked anybody but its own server."""

    def __init__(self, browser: Browser) -> None:
        self.browser, self.contexts, self.errors = browser, [], []
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def page(self, own: tuple[str, ...], **options: Any) -> Page:
        """A new page that may ask only for what begins with one of ``own``."""
        context = self.browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 900}), **options)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.asked.append((request.url, own)))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        assert self.errors == []
        for url, own in self.asked:
            assert url.startswith(own), url


@contextmanager
def photographs(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where to put screenshots under the name they have in the docs, each as ``NAME.png``.

    Afterwards each must show more than an empty page. With ``--screenshots FOLDER`` they are kept there.
    """
    folder: Path = request.config.getoption("--screenshots") or request.getfixturevalue("tmp_path")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    yield folder
    made = [path for path in folder.glob("*.png") if before.get(path) != path.stat().st_mtime_ns]
    assert made
    for path in made:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 10, f"{path.name} is nearly empty"


SLOW_WEBCAM = """() => {
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  window.streams = [];
  navigator.mediaDevices.getUserMedia = (wanted) => new Promise((done) => {
    window.allow = async () => done(streams[streams.push(await ask(wanted)) - 1]);
  });
}"""
"""Gives the webcam only when ``allow()`` is called, and keeps the streams."""
LIVE = "streams.filter((stream) => stream.getTracks().some((track) => track.readyState === 'live')).length"
"""How many of those are on."""


def contrast(page: Page, selector: str) -> float:
    """Of an element's text to the card or page it stands on, as WCAG computes it."""
    pair = page.evaluate(
        """(selector) => {
          let element = document.querySelector(selector);
          const text = getComputedStyle(element).color;
          while (getComputedStyle(element).backgroundColor === "rgba(0, 0, 0, 0)") element = element.parentElement;
          const ground = getComputedStyle(element).backgroundColor;
          const canvas = document.createElement("canvas").getContext("2d");  // knows every way to write a colour
          return [text, ground].map((colour) => {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
          });
        }""",
        selector,
    )

    def luminance(colour: list[float]) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour[:3])]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, pair))
    return (high + 0.05) / (low + 0.05)
