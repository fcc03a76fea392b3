"""The page in a real Chromium: a question, an answer that streams, a trace; large and small.

`python tests/serving/test_page.py URL FOLDER QUESTION` takes the pictures of `docs/serving.md`.
"""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from conftest import KEY  # isort: skip

QUESTION = "日本でいちばん高い山は何ですか。"
DESKTOP = {"viewport": {"width": 1100, "height": 760}, "locale": "ja-JP", "color_scheme": "light"}
PHONE = {
    "viewport": {"width": 390, "height": 780},
    "locale": "en-US",
    "color_scheme": "dark",
    "has_touch": True,
    "is_mobile": True,
}
pytestmark = pytest.mark.slow


def chromium() -> str | None:
    """Where a Chromium is, if one is."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def launched(playwright) -> Browser:
    """A Chromium, also for root."""
    return playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])


@pytest.fixture(scope="module")
def browser():
    """A Chromium."""
    if chromium() is None:
        pytest.skip("there is no Chromium here; `apt-get install chromium` brings one")
    with sync_playwright() as playwright:
        browser = launched(playwright)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Open a server's page on a screen; in the end nothing must have gone wrong in it."""
    wrong, contexts = [], []

    def open_page(url: str, screen: dict) -> Page:
        contexts.append(browser.new_context(**screen))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(error))
        page.on("console", lambda told: told.type == "error" and wrong.append(told.text))
        page.goto(url)
        return page

    open_page.wrong = wrong
    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def send(page: Page, text: str) -> None:
    """Type a text and send it by keyboard."""
    page.fill("#said", text)
    page.press("#said", "Enter")


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Wait until something is so. (What Playwright has for it, the page's policy forbids.)"""
    for _ in range(600):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it is not so after a minute")


def ended(page: Page) -> None:
    """Wait until the answer has ended."""
    page.wait_for_selector(".assistant:last-child:not(.busy)", timeout=120_000)


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_question_streams_an_answer_and_a_text_is_traced_by_keyboard(
    server, opened, traced, screen
):
    run, _ = traced
    page = opened(server.url, screen)
    until(page, lambda: page.title() == "small")
    page.evaluate(
        """() => {
          window.lengths = new Set();
          new MutationObserver(() => {
            const shown = document.querySelector('.assistant p');
            if (shown) window.lengths.add(shown.textContent.length);
          }).observe(document.querySelector('#log'), { subtree: true, childList: true });
        }"""
    )
    send(page, QUESTION)
    ended(page)
    assert page.inner_text(".user p") == QUESTION
    assert len(page.evaluate("[...window.lengths]")) > 3  # it came piece by piece
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    # How a text of the training data goes on: its beginning stands there.
    page.select_option("#kind", "text")
    said = run.text(0, 0, 60)[0].decode()
    page.fill("#said", said)
    page.press("#said", "Enter")
    ended(page)
    page.focus("button.trace")
    page.keyboard.press("Enter")
    page.wait_for_selector("mark")
    assert page.inner_text(".assistant p").startswith(said.strip())
    row = run.documents_in(0, 0, 0)[0]
    page.keyboard.press("Enter")  # the first of them has the focus
    page.wait_for_selector("#trace:not([hidden])")
    shown = page.inner_text("#trace")
    assert all(row[name] in shown for name in ("id", "source", "licence"))
    box = page.locator("#trace").bounding_box()
    assert box["width"] == (screen["viewport"]["width"] if screen is PHONE else 384)
    page.keyboard.press("Escape")
    assert page.is_hidden("#trace")
    assert page.evaluate("document.activeElement.tagName") == "MARK"


def test_an_answer_is_stopped_and_its_slot_is_free(server, opened, engine, monkeypatch):
    step = engine.step

    def slow_step() -> list:
        time.sleep(0.1)
        return step()

    monkeypatch.setattr(engine, "step", slow_step)
    page = opened(server.url, DESKTOP)
    page.evaluate("document.querySelector('#length').max = 500")
    page.evaluate("document.querySelector('#length').value = 480")
    send(page, QUESTION)
    page.wait_for_selector(".assistant")
    until(page, lambda: len(page.inner_text(".assistant p")) > 3)
    page.click("#send")
    ended(page)
    assert "停止しました" in page.inner_text(".assistant .below")
    until(page, lambda: engine.busy == 0)
    page.click("#language")
    assert page.inner_text("#send") == "Send"


def test_enter_that_ends_a_composition_sends_nothing(server, opened):
    page = opened(server.url, DESKTOP)
    page.fill("#said", "にほん")
    page.evaluate(
        """() => document.querySelector('#said').dispatchEvent(new KeyboardEvent(
          'keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }))"""
    )
    page.press("#said", "Shift+Enter")
    assert page.query_selector("article") is None
    assert page.input_value("#said") == "にほん\n"


def test_without_a_store_and_without_a_key_the_page_says_what_is_needed(start, opened):
    page = opened(start(api_key=KEY, traces=False).url, DESKTOP)
    send(page, QUESTION)
    page.wait_for_selector(".bad")
    assert "APIキーを設定に入れてください" in page.inner_text(".bad")
    opened.wrong.clear()  # a browser tells of each 401
    page.fill("#key", KEY)
    page.press("#key", "Tab")
    until(page, lambda: page.title() == "small")
    page.click("#anew")
    send(page, QUESTION)
    ended(page)
    page.click("button.trace")
    page.wait_for_selector(".bad")
    assert "学習データのある実行" in page.inner_text(".bad")
    opened.wrong.clear()  # and of the 404


def main() -> None:
    """Take pictures of a server's page on both screens."""
    url, folder, question = sys.argv[1:]
    with sync_playwright() as playwright:
        browser = launched(playwright)
        for name, screen in (("desktop", DESKTOP), ("phone", PHONE)):
            page = browser.new_context(**screen).new_page()
            page.goto(url)
            page.evaluate("document.querySelector('#temperature').value = 0")
            send(page, question)
            ended(page)
            page.click("button.trace")
            page.wait_for_selector("mark")
            page.keyboard.press("Enter")
            page.screenshot(path=Path(folder) / f"serving_{name}.png")


if __name__ == "__main__":
    main()
