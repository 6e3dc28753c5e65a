"""What a person does on the page of a flow's editor, and the flows that the tests edit."""

import json
import urllib.error
import urllib.request
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.server import HeadraceServer

DRAFT: dict[str, Any] = {
    "schema": 1,
    "nodes": [
        {"id": "start", "kind": "start", "fields": {"greeting": "Tea?", "suggestions": ["Yes, please"]}},
        {
            "id": "ask",
            "kind": "question",
            "title": "Ask for tea",
            "fields": {
                "text": "Which tea?",
                "options": [{"id": "green", "label": "Green"}, {"id": "black", "label": "Black"}],
            },
        },
        {"id": "say", "kind": "message", "fields": {"text": "{{ ask.label }} it is."}},
        {"id": "end", "kind": "end", "fields": {"data": {"ratio": 1.0, "tea": "{{ ask.value }}"}}},
    ],
    "edges": [
        {"from": "start", "to": "ask"},
        {"from": "ask", "to": "say", "branch": "green"},
        {"from": "ask", "to": "end", "branch": "black"},
        {"from": "say", "to": "end"},
    ],
}


class Api:
    """REST as the user `demo`, by token."""

    def __init__(self, server: HeadraceServer) -> None:
        self.url = f"{server.url}/api/"
        self.token = ""
        self.token = self("POST", "auth/token/", {"username": "demo", "password": server.passwords["demo"]})["access"]

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        return json.loads(self.text(method, path, body, **headers))

    def text(self, method: str, path: str, body: Any = None, **headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            named["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {**named, "Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.read().decode()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def flow(self, name: str, draft: Any = None) -> dict[str, Any]:
        return self("POST", "flows/", {"name": name, "draft": draft or DRAFT})

    def draft(self, flow: dict[str, Any]) -> Any:
        return self("GET", f"flows/{flow['id']}/")["draft"]


def open_editor(page: Page, flow: dict[str, Any]) -> None:
    """In a window so high that CodeMirror draws the whole text."""
    if page.viewport_size["width"] > 1000:
        page.set_viewport_size({"width": 1400, "height": 1400})
    page.goto(f"/edit/{flow['id']}/")
    expect_ready(page)


def expect_ready(page: Page) -> None:
    expect(page.locator("body[data-ready]")).to_be_attached()


def card(page: Page, node: str) -> Locator:
    return page.locator(f"[data-cards] > [data-node={node}]")


def open_card(page: Page, node: str) -> Locator:
    head = card(page, node).locator(".card-head")
    if head.get_attribute("aria-expanded") != "true":
        head.click()
    return card(page, node)


def source(page: Page) -> Locator:
    return page.locator("[data-source] .cm-content")


def text_of(page: Page) -> str:
    """The draft's text; the tests' drafts are short enough to be drawn whole."""
    return "\n".join(source(page).locator(".cm-line").all_inner_texts())


def write_text(page: Page, text: str) -> None:
    source(page).click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


def box(page: Page, node: str) -> Locator:
    return page.locator(f"[data-picture] .box[data-node={node}]")


def show(page: Page, panel: str) -> None:
    page.locator(f"[data-show={panel}]").click()


def save(page: Page) -> None:
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("[data-save-state]")).to_have_text("Saved")


def choose(page: Page, button: Locator, item: str) -> None:
    button.click()
    page.locator(".menu").get_by_text(item, exact=True).click()
