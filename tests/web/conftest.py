"""A browser on a real server, whose `assistant` answers by echo: what is typed is what the model writes."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.server import HeadraceServer

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
expect.set_options(timeout=45_000)


@pytest.fixture(scope="session")
def web_server(make_server: Callable[..., HeadraceServer], fake_openai: str) -> HeadraceServer:
    return make_server(
        OPENAI_API_KEY="key",
        OPENAI_BASE_URL=fake_openai,
        OPENAI_MODEL="fake?echo=true&rate=400",
        HEADRACE_ALLOW_PRIVATE_PROVIDERS="on",
        # an answer that is held in the middle waits for the test, however slow the machine
        HEADRACE_PROVIDER_FIRST_TOKEN_S="600",
        HEADRACE_PROVIDER_BETWEEN_TOKENS_S="600",
    ).start()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module only: Playwright keeps an event loop running, which tests of coroutines cannot share."""
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def cookies(browser: Browser, web_server: HeadraceServer) -> list:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{web_server.url}/login/")
    page.get_by_label("Name").fill("demo")
    page.get_by_label("Password").fill(web_server.passwords["demo"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    kept = context.cookies()
    context.close()
    return kept


class Watch:
    """What a page did that none of ours may: ask another host, open a dialog, break the policy or throw."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.faults: list[str] = []

    def page(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.faults.append(f"threw {error}"))
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda line: self._line(line.type, line.text))

    def request(self, url: str) -> None:
        if f"//{self.host}/" not in url:
            self.faults.append(f"asked {url}")

    def _line(self, kind: str, text: str) -> None:
        is_refusal = "WebSocket" in text or text.startswith("Failed to load resource")  # of ours, and meant
        if kind == "error" and not is_refusal:
            self.faults.append(text)


@pytest.fixture
def context(browser: Browser, web_server: HeadraceServer, cookies: list) -> Iterator[BrowserContext]:
    """Signed in as `demo`. At its end: nothing but our own server was asked, nothing was thrown."""
    watch = Watch(web_server.host)
    context = browser.new_context(base_url=web_server.url, viewport={"width": 1200, "height": 800})
    context.set_default_timeout(60_000)  # a page may come slowly on a busy machine
    context.add_cookies(cookies)
    context.on("request", lambda request: watch.request(request.url))
    context.on("page", watch.page)
    yield context
    context.close()
    assert watch.faults == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()
