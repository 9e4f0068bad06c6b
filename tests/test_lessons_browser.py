"""The lessons in a real browser: moved, answered, with the reader's own picture; and the pages that stand alone."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import LIVE, SLOW_WEBCAM, Browser, Page, Watched, chromium, contrast, photographs
from PIL import Image
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


@contextmanager
def served(name: str, home: Path) -> Iterator[str]:
    """Where a lesson is, as ``vitreous lesson NAME`` serves it, without opening a browser."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", "--headless", "--port", str(port), str(notebook(name))]
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


def opened(watched: Watched, address: str, **options: Any) -> Page:
    page = watched.page((address, address.replace("http", "ws"), "data:", f"blob:{address}"), **options)
    page.context.grant_permissions(["camera"])
    page.goto(address)
    return page


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the first lesson."""
    with served("arrays", tmp_path_factory.mktemp("marimo")) as address:
        yield address


@pytest.fixture
def lesson(watched: Watched, address: str) -> Page:
    page = opened(watched, address)
    page.get_by_text("Not yet.").nth(3).wait_for()  # the last cell has run
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme: str, watched: Watched, address: str) -> None:
    page = opened(watched, address, color_scheme=scheme)
    page.get_by_text("Not yet.").nth(3).wait_for()
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        assert (np.asarray(picture.convert("L")).mean() > 128) == (scheme == "light")
    for selector in ("h1", ".paragraph", "figcaption", "svg text", "code"):
        assert contrast(page, selector) >= 4.5, selector


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


def test_of_the_webcam_and_a_file_the_one_chosen_last_is_shown(lesson: Page) -> None:
    pytest.importorskip("anywidget", reason="the webcam is a widget: pip install 'vitreous[lesson]'")
    shown, files = lesson.locator("svg image").first, lesson.locator("input[type=file]")
    webcam, take = (lesson.get_by_role("button", name=name) for name in ("Webcam", "Take the picture"))
    back = lesson.get_by_role("button", name="Without it again")
    before = shown.get_attribute("href")
    files.set_input_files(FILE)
    lesson.wait_for_function(OTHER, arg=before)
    file = shown.get_attribute("href")
    for _ in range(2):  # with the same file again
        webcam.click()
        take.click()
        lesson.wait_for_function(OTHER, arg=file)
        taken = shown.get_attribute("href")
        back.wait_for()
        files.set_input_files(FILE)
        lesson.wait_for_function(OTHER, arg=taken)
        assert shown.get_attribute("href") == file
        back.wait_for(state="hidden")


def test_tokens_are_shuffled_looked_at_and_walked_through(
    request: pytest.FixtureRequest, watched: Watched, tmp_path: Path
) -> None:
    with served("tokens", tmp_path) as address, photographs(request) as folder:
        page = opened(watched, address)
        page.get_by_text("Not yet.").nth(2).wait_for()  # the model has learned, and the last cell has run
        shown = page.locator("svg image").first.get_attribute("href")
        page.get_by_role("slider").nth(0).press("ArrowRight")  # another digit
        page.wait_for_function(OTHER, arg=shown)

        changes = page.get_by_text("Shuffling changes the model's scores by up to")
        before = changes.inner_text()
        page.get_by_role("slider").nth(1).press("ArrowLeft")
        page.wait_for_function("(before) => !document.body.innerText.includes(before)", arg=before)
        page.get_by_role("radio", name="nothing", exact=True).click()
        page.get_by_text("a sum does not know the order of its terms").wait_for()

        drawing = page.locator("div[id^=attention]").first
        at_rest, row = drawing.locator(".row.first .over"), drawing.locator(".row").nth(6)
        assert at_rest.evaluate("(group) => getComputedStyle(group).visibility") == "visible"
        row.locator(".hit").hover()
        assert row.locator(".over").evaluate("(group) => getComputedStyle(group).visibility") == "visible"
        assert at_rest.evaluate("(group) => getComputedStyle(group).visibility") == "hidden"
        assert row.locator("title").text_content().startswith("patch 5 looks most at")
        drawing.locator(".row").nth(2).focus()
        hidden = drawing.locator(".row").nth(2).locator(".over")
        assert hidden.evaluate("(group) => getComputedStyle(group).visibility") == "hidden"  # one map at a time
        drawing.screenshot(path=folder / "lesson.png")

        page.get_by_text("The tokens come in.").wait_for()
        page.get_by_role("slider").last.press("End")
        page.get_by_text("No block is left: the class token is levelled once more").wait_for()
        page.get_by_role("slider").nth(2).press("Home")
        page.get_by_text("These tokens enter the next block.").wait_for()


def test_a_model_is_trained_as_asked_and_seen_at_any_moment(watched: Watched, tmp_path: Path) -> None:
    with served("training", tmp_path) as address:
        page = opened(watched, address)
        page.get_by_text("Half a minute, once you press.").wait_for()
        whole = page.get_by_text("Step 300 of 300").first
        whole.wait_for()
        first = whole.inner_text()
        page.get_by_label("positions").select_option("none")
        page.get_by_role("button", name="Train", exact=True).click()
        page.wait_for_function("(first) => !document.body.innerText.includes(first)", arg=first)
        whole.wait_for()
        page.get_by_text("Step 150 of 300").wait_for()  # half-way, where the moments open
        page.get_by_role("slider").last.press("Home")
        page.get_by_text("Step 0 of 300").wait_for()

        page.get_by_role("button", name=re.compile("^Train . models and compare$")).click()
        page.get_by_role("row", name=re.compile("^rope ")).wait_for()
        shares = page.get_by_role("row", name=re.compile("^learned ")).inner_text().split()[1:]
        assert len(shares) == 4 and float(shares[0].rstrip("%")) > 80

        answer = page.get_by_role("textbox", name="loss")
        answer.fill("2.30")
        answer.press("Enter")
        page.get_by_text("If a first loss is far above").wait_for()


def test_the_picture_of_the_docs(request: pytest.FixtureRequest, watched: Watched, tmp_path: Path) -> None:
    with served("patches", tmp_path) as address, photographs(request) as folder:
        page = opened(watched, address, viewport={"width": 1000, "height": 1000})
        page.get_by_text("8 x 8 = 64 patches").wait_for()
        page.screenshot(path=folder / "lesson-patches.png")


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
    alone.get_by_label("Patch side").select_option("4")
    assert "no picture that this browser can read" in said.inner_text()  # the picture before it does not come back


def test_a_tap_points_at_a_patch(watched: Watched, exported: Path) -> None:
    address = (exported / "patches.html").as_uri()
    page = watched.page((address, "data:", "blob:null/", "blob:file:"), has_touch=True)
    page.goto(address)
    page.get_by_label("Picture", exact=True).set_input_files(FILE)
    page.get_by_text("patches[0, 0] is 48 numbers").wait_for()
    canvas = page.get_by_label("Your picture.")
    box = canvas.bounding_box()
    canvas.tap(position={"x": 0.55 * box["width"], "y": 0.3 * box["height"]})
    page.get_by_text("patches[3, 6] is 48 numbers").wait_for()


def test_of_two_pictures_the_one_chosen_last_stays(alone: Page) -> None:
    alone.evaluate("""() => {
      const source = Object.getOwnPropertyDescriptor(Image.prototype, "src");
      window.held = [];
      Object.defineProperty(Image.prototype, "src", { set(address) {
        held.push(() => new Promise((done) => {
          this.addEventListener("load", () => done());
          source.set.call(this, address);
        }));
      } });
    }""")
    files = alone.get_by_label("Picture", exact=True)
    files.set_input_files(FILE | {"buffer": picture(2, (60, 40))})
    files.set_input_files(FILE)
    alone.evaluate("held[1]()")
    alone.get_by_text("patches[0, 0] is 48 numbers").wait_for()
    shown = alone.get_by_role("status").last.inner_text()
    alone.evaluate("held[0]()")
    assert alone.get_by_role("status").last.inner_text() == shown


def test_a_page_that_stands_alone_has_a_webcam(alone: Page) -> None:
    alone.get_by_role("button", name="Webcam").click()
    alone.get_by_role("button", name="Take the picture").click()
    alone.get_by_text("is 48 numbers").wait_for()
    alone.get_by_role("button", name="Without it again").click()
    alone.get_by_text("No picture yet.").wait_for()


def test_a_file_takes_the_place_of_the_webcams_picture(alone: Page) -> None:
    back, files = alone.get_by_role("button", name="Without it again"), alone.get_by_label("Picture", exact=True)
    with alone.expect_file_chooser() as chooser:
        files.click()
    chooser.value.set_files([FILE])
    said = alone.get_by_text("patches[0, 0] is 48 numbers")
    said.wait_for()
    file = said.inner_text()
    alone.get_by_role("button", name="Webcam").click()
    alone.get_by_role("button", name="Take the picture").click()
    back.wait_for()
    alone.wait_for_function("(file) => !document.body.innerText.includes(file)", arg=file)
    with alone.expect_file_chooser() as chooser:
        files.click()
    assert files.input_value() == ""  # else the same file would be no change
    chooser.value.set_files([FILE])
    alone.get_by_text(file).wait_for()
    assert back.is_hidden()
    assert files.input_value().endswith(FILE["name"])  # and not "No file chosen"


def test_the_webcam_is_asked_for_once_and_can_be_turned_off_without_a_picture(alone: Page) -> None:
    alone.evaluate(SLOW_WEBCAM)
    webcam, off = alone.get_by_role("button", name="Webcam"), alone.get_by_role("button", name="Turn it off")
    webcam.click()
    assert webcam.is_disabled()
    alone.evaluate("allow()")
    off.click()
    off.wait_for(state="hidden")
    assert (alone.evaluate("streams.length"), alone.evaluate(LIVE)) == (1, 0)
    assert webcam.is_enabled()
    assert alone.get_by_text("No picture yet.").count() == 1
    assert alone.get_by_role("button", name="Without it again").is_hidden()


@pytest.mark.parametrize("name", exporting.OWN)
@pytest.mark.parametrize("width", [320, 1280])
def test_a_page_that_stands_alone_never_scrolls_sideways(
    name: str, width: int, watched: Watched, exported: Path
) -> None:
    address = (exported / f"{name}.html").as_uri()
    page: Any = watched.page((address, "data:"), viewport={"width": width, "height": 800})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
