"""The admin in Chromium: figures that move, and a live socket that is closed from it."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.server import HeadraceServer, manage
from tests.web.conftest import Watch

CHAT = "0d9c8f3e-7b1a-4e52-9a44-6f0b2d1c5e77"


@pytest.fixture
def admin(browser: Browser, web_server: HeadraceServer) -> Iterator[BrowserContext]:
    """Signed in as `admin`. At its end: nothing but our own server was asked, nothing was thrown or refused."""
    watch = Watch(web_server.host)
    context = browser.new_context(base_url=web_server.url, viewport={"width": 1300, "height": 850})
    context.on("request", lambda request: watch.request(request.url))
    context.on("page", watch.page)
    page = context.new_page()
    page.goto("/admin/")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(web_server.passwords["admin"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(".figures")).to_be_visible()
    page.close()
    yield context
    context.close()
    assert watch.faults == []


@pytest.fixture
def socket(web_server: HeadraceServer) -> Iterator[ClientConnection]:
    token = manage("token", "demo", env=web_server.env).stdout.strip()
    url = f"ws://{web_server.host}/chat/guide?chat_id={CHAT}"
    with connect(url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as opened:
        yield opened


def frame(socket: ClientConnection, *types: str) -> dict:
    while True:
        found = json.loads(socket.recv(timeout=30))
        if found["type"] in types:
            return found


def row_of(page: Page, session: str) -> Locator:
    return page.locator("#result_list tr", has=page.locator(f"[data-session='{session}']"))


def test_an_operator_watches_a_socket_and_closes_it(admin: BrowserContext, socket: ClientConnection) -> None:
    session = frame(socket, "welcome")["session"]
    page = admin.new_page()
    page.goto("/admin/streams/streamsession/?state=live")
    sent = row_of(page, session).locator(".field-sent")
    before = sent.inner_text()
    socket.send(json.dumps({"type": "say", "id": "one", "text": "What is Headrace?"}))
    frame(socket, "turn_end")
    expect(sent).not_to_have_text(before)  # while one looks

    row_of(page, session).locator("th a").click()
    expect(page.locator(".plot canvas").first).to_be_visible()
    page.get_by_role("button", name="Close the connection").click()
    page.get_by_label("Reason").fill("A look at how it is done.")
    page.get_by_role("button", name="Close the connection").click()
    expect(page.get_by_text("the connection is being closed.")).to_be_visible()

    assert frame(socket, "error")["code"] == "session_closed"
    with pytest.raises(ConnectionClosed) as closed:
        frame(socket, "none")
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "session_closed")

    page.goto(f"/admin/streams/streamsession/{session}/change/")
    expect(
        page.locator(".field-closed, .fieldBox", has_text="An operator has closed this connection (1008)").first
    ).to_be_visible()
    page.goto(f"/admin/streams/streamsession/{session}/history/")
    expect(page.get_by_text("Close the connection: A look at how it is done.")).to_be_visible()


def test_the_way_from_a_chat_to_its_turns_and_sessions(admin: BrowserContext, socket: ClientConnection) -> None:
    frame(socket, "welcome")
    socket.send(json.dumps({"type": "say", "id": "two", "text": "What is a flow?"}))
    frame(socket, "turn_end")
    page = admin.new_page()
    page.goto(f"/admin/chat/chat/{CHAT}/change/")
    expect(page.locator(".said.user .text").last).to_have_text("What is a flow?")
    expect(page.locator(".said.assistant .timeline").last).to_contain_text("ms")
    page.locator(".field-turns a, .fieldBox.field-turns a").first.click()
    page.locator("#result_list tbody th a").first.click()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    page.get_by_role("link", name="sessions of this chat").click()
    expect(page.locator("#result_list tbody tr").first).to_be_visible()


@pytest.mark.parametrize("path", ["", "streams/streamsession/", "chat/turn/", "chat/chat/", "flows/flow/"])
def test_pages_fit_a_phone(admin: BrowserContext, path: str) -> None:
    page = admin.new_page()
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"/admin/{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_list_of_sessions_fits_its_window(admin: BrowserContext, socket: ClientConnection, language: str) -> None:
    frame(socket, "welcome")
    page = admin.new_page()
    page.set_extra_http_headers({"Accept-Language": language})
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto("/admin/streams/streamsession/")
    results = page.locator("#changelist .results")
    assert results.evaluate("list => list.scrollWidth - list.clientWidth") <= 0
