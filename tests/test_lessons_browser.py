"""The lessons in a real browser: moved, answered, with the reader's own picture; and the pages that stand alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Browser, Page, Watched, chromium
from serving import picture

from vitreous.lessons import page as exporting
from vitreous.lessons.shelf import notebook

pytest.importorskip("marimo", reason="the lessons are marimo notebooks: pip install 'vitreous[lesson]'")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """Opens pages; afterwards there were no errors and no requests to anywhere else."""
    watched = Watched(browser)
    yield watched
    watched.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the first lesson is served, as ``vitreous lesson arrays`` does it, without opening a browser."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("marimo")  # it keeps its settings there
    command = [sys.executable, "-m", "marimo", "run", "--headless", "--port", str(port), str(notebook("arrays"))]
    environment = os.environ | {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def lesson(watched: Watched, address: str) -> Page:
    page = watched.page((address, address.replace("http", "ws"), "data:", f"blob:{address}"))
    page.context.grant_permissions(["camera"])
    page.goto(address)
    page.get_by_text("Not yet.").nth(3).wait_for()  # the last cell has run
    return page


OTHER = "(before) => document.querySelector('svg image').getAttribute('href') !== before"
"""Whether the first drawing shows another picture."""
FILE = {"name": "mine.png", "mimeType": "image/png", "buffer": picture(1, (60, 40))}


def test_a_slider_moves_what_stands_below_it(lesson: Page) -> None:
    lesson.get_by_text("[232, 133, 81]").wait_for()
    lesson.get_by_role("slider").nth(1).press("ArrowRight")
    lesson.get_by_text("image[17, 24]").wait_for()


def test_an_answer_is_judged_in_words(lesson: Page) -> None:
    box = lesson.get_by_role("textbox", name="numbers")
    for number, words in [("50176", "Almost."), ("150528", "Right.")]:
        box.fill(number)
        box.press("Enter")
        lesson.get_by_text(words).wait_for()


def test_ones_own_file_and_a_bad_one(lesson: Page) -> None:
    files = lesson.locator("input[type=file]")
    before = lesson.locator("svg image").first.get_attribute("href")
    files.set_input_files(FILE | {"buffer": b"no picture"})
    lesson.get_by_text("That file cannot be shown: not a JPEG").wait_for()
    files.set_input_files(FILE)
    lesson.get_by_text("That file cannot be shown").wait_for(state="detached")
    lesson.wait_for_function(OTHER, arg=before)


def test_the_webcam_gives_a_picture_and_takes_it_back(lesson: Page) -> None:
    pytest.importorskip("anywidget", reason="the webcam is a widget: pip install 'vitreous[lesson]'")
    before = lesson.locator("svg image").first.get_attribute("href")
    lesson.get_by_role("button", name="Webcam").click()
    lesson.get_by_role("button", name="Take the picture").click()
    lesson.wait_for_function(OTHER, arg=before)
    taken = lesson.locator("svg image").first.get_attribute("href")
    lesson.get_by_role("button", name="Without it again").click()
    lesson.wait_for_function(OTHER, arg=taken)
    assert lesson.locator("svg image").first.get_attribute("href") == before


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the pages of the two lessons that train nothing."""
    folder = tmp_path_factory.mktemp("pages")
    for name in exporting.OWN:
        exporting.export(folder, name)
    return folder


@pytest.fixture
def alone(watched: Watched, exported: Path) -> Page:
    address = (exported / "patches.html").as_uri()
    page = watched.page((address, "data:", "blob:null/", "blob:file:"))
    page.context.grant_permissions(["camera"])
    page.goto(address)
    return page


def test_a_page_that_stands_alone_cuts_ones_own_picture(alone: Page) -> None:
    said = alone.get_by_role("status").last
    assert said.inner_text() == "No picture yet."
    alone.get_by_label("Picture", exact=True).set_input_files(FILE)
    alone.get_by_text("patches[0, 0] is 48 numbers").wait_for()
    alone.get_by_label("Your picture.").press("ArrowDown")
    alone.get_by_text("patches[1, 0] is 48 numbers").wait_for()
    alone.get_by_label("Patch side").select_option("8")
    alone.get_by_text("6 x 6 = 36 patches").wait_for()
    alone.get_by_label("Picture", exact=True).set_input_files(FILE | {"buffer": b"no picture"})
    alone.get_by_text("no picture that this browser can read").wait_for()


def test_a_page_that_stands_alone_has_a_webcam(alone: Page) -> None:
    alone.get_by_role("button", name="Webcam").click()
    alone.get_by_role("button", name="Take the picture").click()
    alone.get_by_text("is 48 numbers").wait_for()
    alone.get_by_role("button", name="Without it again").click()
    alone.get_by_text("No picture yet.").wait_for()


@pytest.mark.parametrize("name", exporting.OWN)
@pytest.mark.parametrize("width", [320, 1280])
def test_a_page_that_stands_alone_never_scrolls_sideways(
    name: str, width: int, watched: Watched, exported: Path
) -> None:
    address = (exported / f"{name}.html").as_uri()
    page: Any = watched.page((address, "data:"), viewport={"width": width, "height": 800})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
