"""What a person does on the chat page."""

import time
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect


def open_new(page: Page, flow: str) -> None:
    page.goto(f"/f/{flow}/")
    expect_live(page)


def expect_live(page: Page) -> None:
    expect(page.locator("[data-connection]")).to_have_attribute("data-state", "good")


def composer(page: Page) -> Locator:
    return page.get_by_label("Your message")


def say(page: Page, text: str) -> None:
    composer(page).fill(text)
    composer(page).press("Enter")


def answers(page: Page, status: str | None = None) -> Locator:
    return page.locator(".message.assistant" + (f"[data-status={status}]" if status else ""))


def prose(page: Page) -> Locator:
    return answers(page).last.locator(".prose")


def words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


def until(page: Page, check: Callable[[], bool], within_s: float = 20.0) -> None:
    """Waits for what the test itself counts. Playwright's events only come while one of its own calls waits."""
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        page.wait_for_timeout(20)
