"""What a user has used of his budgets, on the chat page; and that there is no more, in his own zone's time."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.server import HeadraceServer, manage
from tests.web.chatting import answers, open_new, say, words


@pytest.fixture
def limited(web_server: HeadraceServer) -> Iterator[Callable[..., None]]:
    """`limited("day", limit_tokens=5)`: a budget of `demo`, until the test ends."""

    def ask(user: str, method: str, path: str, body: Any = None) -> Any:
        token = manage("token", user, env=web_server.env).stdout.strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{web_server.url}/api/{path}", data, headers, method=method)) as answer:
            return json.load(answer)

    demo = ask("demo", "GET", "me/")["id"]

    @contextmanager
    def budget(period: str, limits: dict[str, int]) -> Iterator[None]:
        body = {"of": "user", "id": demo, "period": period}
        ask("admin", "PUT", "budgets/", body | limits)
        yield
        ask("admin", "PUT", "budgets/", body)

    with ExitStack() as budgets:
        yield lambda period, **limits: budgets.enter_context(budget(period, limits))


def shown(page: Page) -> Any:
    return page.locator("[data-budgets]")


def test_who_has_no_budget_sees_none(page: Page):
    open_new(page, "assistant")
    expect(shown(page)).to_be_hidden()


def test_what_was_used_is_shown_and_grows_with_each_answer(page: Page, limited: Callable[..., None]):
    limited("day", limit_tokens=5000)
    limited("month", limit_cost_micros=2_500_000)
    open_new(page, "assistant")
    expect(shown(page).get_by_role("listitem")).to_have_text(
        ["Today 0 of 5,000 tokens", "This month a cost of 0.00 of 2.50"]
    )
    say(page, words(20))
    expect(answers(page, "done")).to_be_visible()
    expect(shown(page)).to_contain_text(re.compile(r"Today [1-9]\d* of 5,000 tokens"))


def test_a_refusal_says_when_it_ends_by_the_reader_s_clock(
    browser: Browser, web_server: HeadraceServer, cookies: list, limited: Callable[..., None]
):
    limited("day", limit_tokens=1)
    with browser.new_context(base_url=web_server.url, timezone_id="Asia/Tokyo", locale="en-US") as context:
        context.add_cookies(cookies)
        page = context.new_page()
        open_new(page, "assistant")
        say(page, "one")
        expect(answers(page, "done")).to_be_visible()
        expect(shown(page).locator(".used-up")).to_be_visible()
        say(page, "two")
        refusal = page.locator(".problem-text")
        expect(refusal).to_have_text(re.compile(r"^Your budget is used up until .* 9:00\sAM\.$"))
        expect(page.get_by_text("You can try again in")).to_have_count(0)
