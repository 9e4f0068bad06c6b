"""The report in a real browser: opened from disk, moved through, on a phone, in the dark, and on paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import Browser, Page, Watched, chromium, contrast
from serving import digits_run
from test_report import DIGITS, made

from vitreous.classifier import Classifier
from vitreous.cnn import CNN, CNNConfig
from vitreous.evaluate import run_images
from vitreous.faithfulness import check_run
from vitreous.heatmaps import as_shares, heat
from vitreous.report import HOTTEST, report_run
from vitreous.vit import ViTConfig


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = digits_run(tmp_path_factory.mktemp("report") / "run")
    check_run(run, ["attention", "occlusion"], n=20)
    return report_run(run)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Any]:
    """Opens the report from disk; afterwards there were no errors, and nothing was asked for."""
    watched = Watched(browser)

    def page_of(**options: Any) -> Page:
        page = watched.page((report.as_uri(), "data:"), **options)
        page.goto(report.as_uri())
        return page

    yield page_of
    watched.close()


def drawn(page: Page) -> str:
    """What the first map of the gallery looks like."""
    return str(page.evaluate("document.querySelector('#gallery canvas').toDataURL()"))


def changed(page: Page, before: str) -> str:
    page.wait_for_function("(before) => document.querySelector('#gallery canvas').toDataURL() !== before", arg=before)
    return drawn(page)


def test_sliders_go_through_layers_and_heads_and_methods_say_what_was_found(opened: Any) -> None:
    page = opened()
    assert page.locator("#gallery figure").count() == 12
    seen = [drawn(page)]
    page.get_by_role("slider", name="layer").press("ArrowRight")
    seen.append(changed(page, seen[-1]))
    assert page.locator("#layer-said").inner_text() == "1 of 3"
    page.get_by_role("slider", name="head").press("ArrowRight")
    seen.append(changed(page, seen[-1]))
    assert page.locator("#head-said").inner_text() == "1 of 2"
    page.get_by_role("combobox", name="method").select_option("occlusion")
    seen.append(changed(page, seen[-1]))
    assert page.locator("#layers").is_hidden()
    assert "aithful" in page.locator("#about").inner_text()
    page.get_by_role("combobox", name="method").select_option("rollout")
    assert "Not checked" in page.locator("#about").inner_text()
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("method", ["attention", "attention-gradient"])
@pytest.mark.parametrize("sharp", [False, True])
def test_a_mean_over_heads_or_layers_is_that_of_the_heatmap_command(
    sharp: bool, method: str, browser: Browser, report: Path, tmp_path: Path
) -> None:
    if sharp:  # the first head of each layer looks at one patch or two
        tool = Classifier.load(report.parent)
        assert isinstance(tool.config, ViTConfig)
        with torch.no_grad():
            for block in tool.model.blocks:
                block.attn.qkv.weight[: tool.config.width // tool.config.heads] *= 32
        report = report_run(made(tmp_path / "sharp", tool, tool.config))
    classifier, images, _ = run_images(report.parent, "val")
    some = images.pixels[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:12]]
    watched = Watched(browser)
    page = watched.page((report.as_uri(), "data:"))
    page.goto(report.as_uri())
    for layer, head in ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (3, 2)):
        shown = page.evaluate(f"figures.map((_, i) => [...one(maps.methods['{method}'], i, {layer}, {head})])")
        maps = heat(classifier, some, method, None, layer or None, head or None)
        expected = 16 * as_shares(maps).flatten(1)
        if (layer, head) == (1, 1):
            assert (expected > HOTTEST).any() == sharp
        if (method, layer, sharp) == ("attention-gradient", 2, False):
            assert not maps.any()  # nothing speaks for the class
        found = torch.tensor(shown, dtype=torch.float32)
        torch.testing.assert_close(found, expected.clamp(max=HOTTEST), rtol=0, atol=0.05)
    watched.close()


@pytest.fixture(scope="module")
def odd_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a CNN whose side of 14 pixels is no multiple of its patch of 4."""
    config = CNNConfig("fastcnn", image_size=14, channels=1, widths=(8, 12))
    tool = Classifier(CNN(config).eval(), config, DIGITS, (0.3,), (0.35,))
    return report_run(made(tmp_path_factory.mktemp("cnn") / "run", tool, config))


def test_maps_of_another_grid_are_drawn_too(browser: Browser, odd_report: Path) -> None:
    watched = Watched(browser)
    page = watched.page((odd_report.as_uri(), "data:"))
    page.goto(odd_report.as_uri())
    sizes = [page.evaluate("one(maps.methods['grad-cam'], 11, 0, 0).length")]
    page.get_by_role("combobox", name="method").select_option("occlusion")
    sizes.append(page.evaluate("one(maps.methods.occlusion, 11, 0, 0).length"))
    assert sizes == [9, 16]
    watched.close()


def test_a_map_lies_on_the_pixels_of_its_patches(browser: Browser, odd_report: Path) -> None:
    watched = Watched(browser)
    page = watched.page((odd_report.as_uri(), "data:"))
    page.goto(odd_report.as_uri())
    page.wait_for_function("figures.every(({ picture }) => picture.complete && picture.naturalWidth)")
    for method, side in (("grad-cam", 3), ("occlusion", 4)):
        page.get_by_role("combobox", name="method").select_option(method)
        cold, hot = (page.evaluate(HEATED, [method, value * (side + 1)]) for value in (0, 1))
        warmth = np.abs(np.array(hot) - np.array(cold)).reshape(192, 192)
        rows, columns = np.nonzero(warmth > warmth.max() / 2)
        middle = 6 / 14 * 192  # of the second patch, 4 pixels wide
        np.testing.assert_allclose((rows.mean() + 0.5, columns.mean() + 0.5), middle, atol=3)
    watched.close()


HEATED = """([method, cell]) => {
  const way = maps.methods[method];
  way.maps.fill(0);
  if (cell) way.maps[cell] = 255;
  paint();
  const data = document.querySelector("#gallery canvas").getContext("2d").getImageData(0, 0, 192, 192).data;
  return [...data].filter((_, i) => i % 4 === 0);
}"""
"""How red the first map is drawn where one cell is hot, or none."""


def test_a_cell_of_the_confusion_matrix_tells_its_numbers(opened: Any) -> None:
    page = opened()
    cell = page.locator("#matrix td:not(:empty)").first
    cell.hover()
    words = page.locator("#tell").inner_text()
    assert words.startswith(f"{cell.inner_text()} of {cell.get_attribute('data-true')} taken for ")
    page.mouse.move(1, 1)
    page.locator("#matrix td:not(:empty)").last.focus()
    assert page.locator("#tell").inner_text() != words


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways(width: int, opened: Any) -> None:
    page = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme: str, opened: Any) -> None:
    page = opened(color_scheme=scheme)
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == (
        scheme == "light"
    )
    for selector in ("h1", ".faint", "nav a", ".headline span", "#about span", ".no", "#gallery figcaption", "summary"):
        assert contrast(page, selector) >= 4.5, selector


def test_paper_is_white_holds_the_maps_and_no_controls(opened: Any) -> None:
    page = opened(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    for hidden in ("nav", "#layer", "#head", "#tell"):
        assert page.locator(hidden).is_hidden(), hidden
    assert page.locator("#gallery canvas").first.is_visible()
    sheets = re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))
    assert 3 <= len(sheets) <= 14
