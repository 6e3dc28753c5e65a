"""Requests that cost much are done by turns."""

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from flows import build
from tests.rest.remote import HELLO, Remote
from tests.waiting import until


async def test_so_many_graphs_are_checked_at_once(anna: Remote, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, checks_at_once=1, request_wait_s=0.05)
    _, flow, _ = await anna("POST", "flows/", {"name": "Flow", "draft": HELLO})
    entered, leave = threading.Event(), threading.Event()

    def slow(raw: Any) -> list[Any]:
        entered.set()
        assert leave.wait(20)
        return []

    monkeypatch.setattr(build, "faults_of", slow)
    check = ("POST", f"flows/{flow['id']}/check/", {"graph": HELLO})
    first = asyncio.create_task(anna(*check))
    await until(entered.is_set, what="the first is checked")
    status, body, _ = await anna(*check)
    assert (status, body["error"]["code"], body["error"]["retryable"]) == (429, "busy", True)
    leave.set()
    assert (await first)[0] == 200
