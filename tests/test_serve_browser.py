"""The page in a real browser: every way in and out, by mouse, keyboard and phone, and nothing asked of anybody else."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import LIVE, SLOW_WEBCAM, Browser, Page, Watched, chromium, contrast, photographs
from serving import HOSTILE, Client, digits_run, make_run, picture, serving

from vitreous.classifier import Classifier
from vitreous.cnn import CNN, CNNConfig

pytest.importorskip("fastapi", reason="needs the serve extra: pip install 'vitreous[serve]'")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("browser")
    return digits_run(folder / "digits"), make_run(folder / "colour", HOSTILE, image_size=16)


@pytest.fixture(scope="module")
def one(runs: tuple[Path, Path]) -> Iterator[Client]:
    with serving(runs[0], deadline=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def two(runs: tuple[Path, Path]) -> Iterator[Client]:
    with serving(*runs, deadline=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser) -> Iterator[Any]:
    """Opens the page of a server; afterwards there were no errors and no requests to anywhere else."""
    watched = Watched(browser)

    def page_of(client: Client, fragment: str = "", **options: Any) -> Page:
        home = f"http://127.0.0.1:{client.port}/"
        page = watched.page((home, "data:", f"blob:{home}"), **options)
        page.context.grant_permissions(["clipboard-read", "clipboard-write", "camera"])
        page.goto(home + fragment)
        page.locator("article.panel").first.wait_for()
        return page

    yield page_of
    watched.close()


def answered(page: Page) -> None:
    """Waits for the answer to a picture, and to all that was chosen since."""
    page.locator("#copy-json:not([disabled])").wait_for()
    page.locator("article.panel[aria-busy]").first.wait_for(state="detached")


def said(page: Page) -> Any:
    """What the JSON button copies."""
    answered(page)
    page.get_by_role("button", name="Copy JSON").click()
    page.get_by_text("The JSON of the answer is copied.").wait_for()
    return json.loads(page.evaluate("navigator.clipboard.readText()"))


DROP = """([kind, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "a.png", { type: "image/png" }));
  document.body.dispatchEvent(kind === "drop"
    ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
}"""


def test_pick_drop_and_paste_give_the_answer_of_the_interface(one: Client, opened: Any) -> None:
    expected = one.ask("/v1/heatmap", picture(4)).json
    page = opened(one)
    page.get_by_label("Picture file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": picture(4)})
    answered(page)
    (run,) = said(page)["runs"]
    assert (run["logits"], run["map"]) == (expected["logits"], expected["map"])
    for kind, seed in (("drop", 5), ("paste", 6)):
        page.evaluate(DROP, [kind, base64.b64encode(picture(seed)).decode()])
        answered(page)
        assert said(page)["runs"][0]["logits"] == one.ask("/v1/predict", picture(seed)).json["logits"]
    assert page.locator(".classes li").count() == 5


def test_a_bad_file_is_explained_and_the_page_goes_on(one: Client, opened: Any) -> None:
    page = opened(one)
    page.get_by_label("Picture file").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.get_by_text("The picture cannot be read: not a JPEG").wait_for()
    page.evaluate(DROP, ["drop", base64.b64encode(picture()).decode()])
    answered(page)


def test_the_webcam_gives_a_picture(one: Client, opened: Any) -> None:
    page = opened(one)
    page.get_by_role("button", name="Webcam").click()
    page.get_by_role("button", name="Take the picture").click()
    answered(page)
    assert page.locator("#camera").is_hidden()
    page.get_by_role("button", name="Webcam").click()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#camera").wait_for(state="hidden")


def test_the_webcam_is_asked_for_once_and_is_off_after_cancelling(one: Client, opened: Any) -> None:
    page = opened(one)
    page.evaluate(SLOW_WEBCAM)
    webcam = page.get_by_role("button", name="Webcam")
    webcam.click()
    assert webcam.is_disabled()
    page.evaluate("allow()")
    page.get_by_role("button", name="Cancel").click()
    page.locator("#camera").wait_for(state="hidden")
    page.wait_for_function("document.activeElement.id === 'webcam'")
    assert (page.evaluate("streams.length"), page.evaluate(LIVE)) == (1, 0)
    assert webcam.is_enabled()


def test_a_sample_says_what_it_truly_is_and_its_link_opens_the_same(one: Client, opened: Any) -> None:
    page = opened(one)
    page.locator(".samples button").nth(3).click()
    answered(page)
    label = one.get("/v1/samples").json["samples"][3]["label"]
    assert label in page.locator(".truth").inner_text()
    page.get_by_label("Layer").select_option("2")
    page.get_by_label("Head").select_option("1")
    first = said(page)
    assert (first["runs"][0]["layer"], first["runs"][0]["head"], first["true"]) == (2, 1, label)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("The link is copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    again = opened(one, link.split("/", 3)[3])
    answered(again)
    assert in_short(said(again)) == in_short(first)


def in_short(answer: Any) -> Any:
    """Four digits of every number: asked in a group of several, the sixth can differ."""
    return json.loads(json.dumps(answer), parse_float=lambda text: round(float(text), 4))


def test_a_sample_that_comes_late_does_not_replace_a_newer_picture(one: Client, opened: Any) -> None:
    page, held = opened(one), []
    page.locator(".samples img[src]").nth(23).wait_for()
    page.route("**/v1/samples/3.png", lambda route: held.append(route))
    with page.expect_request("**/v1/samples/3.png"):
        page.locator(".samples button").nth(3).click()
    page.locator(".samples button").nth(5).click()
    answered(page)
    first = said(page)
    with page.expect_response("**/v1/samples/3.png"):
        held[0].continue_()
    page.evaluate("fetch('/health').then((response) => response.text())")  # by then the late one has been seen
    answered(page)
    assert said(page) == first
    assert page.locator(".samples [aria-pressed=true]").get_attribute("data-id") == "5"


def test_a_link_holds_an_uploaded_picture(one: Client, opened: Any) -> None:
    page = opened(one)
    page.evaluate(DROP, ["drop", base64.b64encode(picture(9, (300, 200))).decode()])
    answered(page)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("The link is copied").wait_for()
    again = opened(one, page.evaluate("navigator.clipboard.readText()").split("/", 3)[3])
    answered(again)
    assert said(again)["runs"][0]["logits"] == one.ask("/v1/predict", picture(9, (300, 200))).json["logits"]


def test_skipping_to_the_answer_leaves_the_choices_as_they_are(one: Client, opened: Any) -> None:
    page = opened(one, "#sample=0")
    answered(page)
    page.get_by_label("Layer").select_option("2")
    first = said(page)
    page.get_by_role("link", name="Skip to the answer").press("Enter")
    page.wait_for_function("location.hash === '#answers' && document.activeElement.id === 'answers'")
    assert page.get_by_label("Layer").input_value() == "2"
    assert said(page) == first


@pytest.mark.parametrize(
    "fragment", ["#picture=%3Cscript%3E", "#sample=999", "#sample=1&method=x%22]&layer=99", "#%%%"]
)
def test_a_damaged_link_does_no_harm(fragment: str, one: Client, opened: Any) -> None:
    page = opened(one, fragment)
    page.locator(".samples button").nth(2).click()
    answered(page)


def test_every_method_can_be_chosen(one: Client, opened: Any) -> None:
    page = opened(one, "#sample=0")
    answered(page)
    names = [each["name"] for each in one.get("/v1/model").json["runs"][0]["methods"]]
    for name in [*names[1:], names[0]]:
        page.get_by_label("Method").select_option(name)
        assert said(page)["runs"][0]["method"] == name
    page.get_by_label("Method").select_option("occlusion")
    page.get_by_role("combobox", name="Class", exact=True).select_option("7")
    assert said(page)["runs"][0]["target"] == "7"


def test_a_map_lies_on_the_pixels_of_its_patches(opened: Any, tmp_path: Path) -> None:
    config = CNNConfig("fastcnn", image_size=14, channels=1, widths=(8, 12))
    Classifier(CNN(config).eval(), config, tuple("0123456789"), (0.3,), (0.35,)).save(tmp_path / "cnn")
    with serving(tmp_path / "cnn", deadline=60.0) as client:
        assert client.get("/v1/model").json["runs"][0]["patch_size"] == 4
        page = opened(client)

        def with_one_hot(route: Any) -> None:
            answer = route.fetch()
            found = answer.json()
            rows, columns = found["grid"]
            found["map"] = [[float((row, column) == (1, 1)) for column in range(columns)] for row in range(rows)]
            route.fulfill(response=answer, json=found)

        page.route("**/v1/heatmap*", with_one_hot)
        page.evaluate(DROP, ["drop", base64.b64encode(picture()).decode()])
        for method in ("grad-cam", "occlusion"):
            page.get_by_label("Method").select_option(method)
            answered(page)
            assert said(page)["runs"][0]["method"] == method
            drawn = page.locator(".stage .heat").evaluate(RED)
            rows, columns = np.nonzero(np.array(drawn).reshape(512, 512) > 128)
            middle = 6 / 14 * 512  # of the second patch, 4 pixels wide
            np.testing.assert_allclose((rows.mean() + 0.5, columns.mean() + 0.5), middle, atol=6)


RED = """(canvas) => {
  const data = canvas.getContext("2d").getImageData(0, 0, 512, 512).data;
  return [...data].filter((_, i) => i % 4 === 0);
}"""


def test_hovering_shows_what_a_patch_attends_to_and_leaving_ends_it(one: Client, opened: Any) -> None:
    page = opened(one, "#sample=0")
    answered(page)
    box = page.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.3 * box["height"])
    page.get_by_text("The patch in row 2, column 3 looks most at").wait_for()
    shown = page.locator(".patch").inner_text()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.3 * box["height"])  # pinned
    page.mouse.move(5, 5)
    answered(page)
    assert page.locator(".patch").inner_text() == shown
    page.keyboard.press("Escape")
    page.locator(".stage").press("Escape")
    page.get_by_text("The class token looks most at").wait_for()


def test_a_click_where_no_patch_can_be_chosen_does_not_end_hovering(one: Client, opened: Any) -> None:
    page = opened(one, "#sample=0")
    answered(page)
    stage, methods = page.locator(".stage"), one.get("/v1/model").json["runs"][0]["methods"]
    page.get_by_label("Method").select_option(next(each["name"] for each in methods if not each["patch"]))
    answered(page)
    assert "Arrow keys" not in stage.get_attribute("aria-label")
    stage.click()
    page.get_by_label("Method").select_option("attention")
    answered(page)
    assert "Arrow keys" in stage.get_attribute("aria-label")
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.3 * box["height"])
    page.get_by_text("The patch in row 2, column 3 looks most at").wait_for()


def test_everything_works_from_the_keyboard(one: Client, opened: Any) -> None:
    page = opened(one)
    page.locator(".samples button").nth(23).wait_for()
    focused: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.className + '#' + document.activeElement.id"))
        if page.evaluate("document.activeElement.closest('.samples') !== null"):
            page.keyboard.press("Enter")
            break
    answered(page)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('stage')"):
            break
    page.keyboard.press("ArrowRight")
    page.get_by_text("The patch in row 3, column 3 looks most at").wait_for()
    page.keyboard.press("ArrowDown")
    page.get_by_text("The patch in row 4, column 3 looks most at").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("The class token looks most at").wait_for()
    for _ in range(8):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.className + '#' + document.activeElement.id"))
    assert {"primary#pick", "#webcam", "method#", "layer#", "head#", "strength#"} <= set(focused)


def test_names_and_roles_for_a_screen_reader(one: Client, opened: Any) -> None:
    page = opened(one, "#sample=0")
    answered(page)
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, select, input, img, canvas[role], [tabindex='0']")].filter((each) =>
          !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length
            || each.hasAttribute("alt") || each.querySelector("img[alt]")
            || each.closest("dialog, [hidden]"))).map((each) => each.outerHTML)"""
    )
    assert unnamed == []
    assert "looks most at row" in page.get_by_role("img", name="The picture as the model sees it").get_attribute(
        "aria-label"
    )
    assert page.get_by_role("status").inner_text()
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"


def test_two_runs_stand_side_by_side_and_hostile_class_names_are_only_text(two: Client, opened: Any) -> None:
    page = opened(two, "#sample=1")
    answered(page)
    assert page.locator("article.panel").count() == 2
    assert page.locator("#status").inner_text().startswith("They disagree: ")
    assert page.title() == "Vitreous"
    assert page.locator("article script, article img").count() == 0
    shown = page.locator("article.panel").nth(1).locator(".classes bdi").all_text_contents()
    assert set(shown) == set(HOSTILE)
    assert len(said(page)["runs"]) == 2
    page.locator("article.panel").nth(1).get_by_label("Layer").select_option("3")
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("The link is copied").wait_for()
    assert "layer1=3" in page.evaluate("navigator.clipboard.readText()")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways_and_nothing_jumps(width: int, one: Client, two: Client, opened: Any) -> None:
    page = opened(two, "#sample=2", viewport={"width": width, "height": 800})
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page = opened(one, "#sample=2", viewport={"width": width, "height": 800})
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shift = page.evaluate(
        """new Promise((done) => new PerformanceObserver((list) => done(list.getEntries()
             .filter((entry) => !entry.hadRecentInput).reduce((sum, entry) => sum + entry.value, 0)))
             .observe({ type: "layout-shift", buffered: true }) || setTimeout(() => done(0), 300))"""
    )
    assert shift < 0.1  # what Lighthouse calls good


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme: str, one: Client, opened: Any) -> None:
    page = opened(one, "#sample=0", color_scheme=scheme)
    answered(page)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(246, 245, 248)") == (scheme == "light")
    for selector in ("#about", "#status", ".patch", ".explains", ".truth", ".label bdi", "#pick", "#webcam", ".unit"):
        assert contrast(page, selector) >= 4.5, selector


def test_the_pictures_of_the_docs(request: pytest.FixtureRequest, runs: tuple[Path, Path], opened: Any) -> None:
    """A picture that is read right, with its map; and what one patch of it attends to, in the dark."""
    size = {"width": 1240, "height": 740}
    run = request.config.getoption("--run") or runs[0]
    with serving(run, deadline=60.0) as client, photographs(request) as folder:
        count = len(client.get("/v1/samples").json["samples"])
        page, number = opened(client, viewport=size), 0
        for number in range(count):
            page.goto(f"http://127.0.0.1:{client.port}/#sample={number}")
            page.reload()
            answered(page)
            if page.get_by_text("right, it is").count():
                break
        page.locator(".samples img[src]").nth(count - 1).wait_for()
        page.locator(".samples img").evaluate_all("(images) => Promise.all(images.map((each) => each.decode()))")
        page.screenshot(path=folder / "serve.png")
        dark = opened(client, f"#sample={number}", viewport=size, color_scheme="dark")
        answered(dark)
        box = dark.locator(".stage").bounding_box()
        dark.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.55 * box["height"])
        dark.get_by_text(re.compile(r"The patch in row \d+, column \d+ looks most at")).wait_for()
        answered(dark)
        dark.screenshot(path=folder / "serve-dark.png")
