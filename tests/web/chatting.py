"""What a person does on the chat page."""

import json
import time
from collections.abc import Callable
from typing import Any

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


def fake(**directive: Any) -> str:
    """What the fake model is to do, as it is written into a message."""
    return json.dumps({"fake": directive})


def held(text: str = "", after: int = 3) -> str:
    """An answer that stands still after some tokens, until somebody stops it."""
    return f"{fake(fault='hang', after=after)} {text or words(20)}"


def rest(page: Page, method: str, path: str, body: Any = None) -> Any:
    """REST as the page itself asks it: by its session."""
    return page.evaluate(
        """async ([method, path, body]) => {
            const { csrf } = JSON.parse(document.getElementById("config").textContent);
            const headers = { "X-CSRFToken": csrf, "Content-Type": "application/json", Accept: "application/json" };
            const answer = await fetch(`/api/${path}`, { method, headers, body: body && JSON.stringify(body) });
            return answer.status === 204 ? null : await answer.json();
        }""",
        [method, path, body],
    )


def row_of(page: Page, title: str) -> Locator:
    """A chat in the list."""
    return page.locator("[data-chats] li").filter(has_text=title)


def right_of(page: Page, selector: str) -> float:
    """How far to the right the widest of them reaches."""
    return page.evaluate(
        "what => Math.max(...[...document.querySelectorAll(what)].map(node => node.getBoundingClientRect().right))",
        selector,
    )


def chat_id(page: Page) -> str:
    return page.url.split("/c/")[1].split("/")[0]


def words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


def until(page: Page, check: Callable[[], bool], within_s: float = 60.0) -> None:
    """Waits for what the test itself counts. Playwright's events only come while one of its own calls waits."""
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        page.wait_for_timeout(20)
