"""REST of a live server, where turns run: a client of it, and flows and chats to try it with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.conftest import Live
from tests.waiting import until

HELLO = {
    "schema": 1,
    "nodes": [
        {"id": "start", "kind": "start"},
        {"id": "hello", "kind": "message", "fields": {"text": "Hello {{ input.text }}"}},
        {"id": "end", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "hello"}, {"from": "hello", "to": "end"}],
}
ASK = {
    "schema": 1,
    "nodes": [
        {"id": "start", "kind": "start"},
        {"id": "ask", "kind": "question", "fields": {"text": "Your name?"}},
        {"id": "hello", "kind": "message", "fields": {"text": "Hello {{ ask.value }}"}},
        {"id": "end", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "ask"}, {"from": "ask", "to": "hello"}, {"from": "hello", "to": "end"}],
}


class Remote:
    """REST of a live server, as one user."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http, self.url = http, url

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, f"{self.url}/api/{path}", json=body or {}, headers=sent) as response:
            text = await response.read()
            return response.status, await response.json() if text else None, response.headers


@asynccontextmanager
async def remote(live: Live, token: str) -> AsyncIterator[Remote]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
        yield Remote(http, live.url)


async def online(anna: Remote, draft: dict[str, Any], **fields: Any) -> str:
    _, flow, _ = await anna("POST", "flows/", {"name": "Flow", "draft": draft, **fields})
    status, published, _ = await anna("POST", f"flows/{flow['id']}/publish/")
    assert status == 200, published
    return flow["id"]


async def chat_with(anna: Remote, draft: dict[str, Any], **fields: Any) -> str:
    status, chat, _ = await anna("POST", "chats/", {"flow": await online(anna, draft, **fields)})
    assert status == 201, chat
    return chat["id"]


async def in_state(anna: Remote, turn: str, state: str) -> dict[str, Any]:
    async def reached() -> Any:
        _, shown, _ = await anna("GET", f"turns/{turn}/")
        return shown if shown["state"] == state else None

    return await until(reached, 10, f"the turn is {state}")
