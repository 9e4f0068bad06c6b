"""The token of a server in a real browser: asked for, or brought by a link."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsing import PATIENCE, Browser, Page, chromium
from serving import digits_run, serving

pytest.importorskip("fastapi", reason="needs the serve extra: pip install 'vitreous[serve]'")

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with a token."""
    with serving(digits_run(tmp_path_factory.mktemp("token") / "digits"), token=TOKEN, deadline=60.0) as client:
        yield f"http://127.0.0.1:{client.port}/"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()


def look_at_a_sample(page: Page) -> None:
    """Opens a sample, and waits for the answer."""
    page.locator(".samples button").nth(1).click()
    page.locator("#copy-json:not([disabled])").wait_for()


def test_a_token_is_asked_for_once(home: str, page: Page) -> None:
    page.goto(home)
    page.get_by_label("This server needs its token").fill(TOKEN)
    page.get_by_role("button", name="Go on").click()
    look_at_a_sample(page)
    page.reload()
    look_at_a_sample(page)


@pytest.mark.parametrize("wrong", ["correct-horse-batterie", "пароль-🐈"])
def test_a_wrong_token_is_called_so_and_the_right_one_still_opens_the_page(wrong: str, home: str, page: Page) -> None:
    page.goto(home)
    box, complaint = page.get_by_label("This server needs its token"), page.get_by_text("That was not the token.")
    box.wait_for()
    assert complaint.is_hidden()
    box.fill(wrong)
    page.get_by_role("button", name="Go on").click()
    complaint.wait_for()
    assert box.input_value() == ""
    box.fill(TOKEN)
    page.get_by_role("button", name="Go on").click()
    look_at_a_sample(page)


@pytest.mark.parametrize("begun", ["", "half a tok"])
def test_a_link_with_the_token_answers_the_dialog_that_asks_for_it(begun: str, home: str, page: Page) -> None:
    page.goto(home)
    box = page.get_by_label("This server needs its token")
    box.fill(begun)
    page.goto(f"{home}#sample=2")  # no picture can be opened yet
    page.goto(f"{home}#token={TOKEN}")
    look_at_a_sample(page)
    assert box.is_hidden()
    assert page.url == home
    assert page.locator("#status.wrong").count() == 0


def test_a_link_to_a_sample_waits_for_the_token(home: str, page: Page) -> None:
    page.goto(home)
    box = page.get_by_label("This server needs its token")
    box.wait_for()
    page.goto(f"{home}#sample=2")
    assert page.locator("#status.wrong").count() == 0
    box.fill(TOKEN)
    page.get_by_role("button", name="Go on").click()
    page.locator("#copy-json:not([disabled])").wait_for()
    assert page.locator(".samples [aria-pressed=true]").get_attribute("data-id") == "2"


def test_leaving_the_dialog_keeps_the_token_that_there_was(home: str, page: Page) -> None:
    refusal = '{"error": "this server needs its token"}'
    page.route("**/v1/model", lambda route: route.fulfill(status=401, body=refusal), times=1)
    page.goto(f"{home}#token={TOKEN}")
    page.get_by_text("That was not the token.").wait_for()
    page.keyboard.press("Escape")
    look_at_a_sample(page)
