"""Stream sessions and workers by REST: staff and viewers look, staff closes."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.utils import timezone

from streams.database import read, write
from streams.models import StreamSession, Worker
from tests.conftest import Live
from tests.rest.conftest import Api, code_of
from tests.rest.remote import HELLO, Remote, chat_with, online, remote
from tests.waiting import until

Make = Callable[..., Api]


def test_sessions_are_for_staff_and_viewers(api: Make) -> None:

    anna, chief, viewer = api("anna"), api("chief", is_staff=True), api("viewer")
    viewer.user.user_permissions.add(Permission.objects.get(codename="view_streamsession"))
    now = timezone.now()
    row = StreamSession.objects.create(user=anna.user, started=now, last_seen=now, bytes_sent=2048, chunks_sent=7)
    for path in ("sessions/", f"sessions/{row.id}/"):
        assert code_of(anna.get(path)) == (403, "forbidden")
        assert viewer.get(path).status_code == 200
    shown = chief.get(f"sessions/{row.id}/").json()
    assert chief.get("sessions/").json()["results"] == [shown]
    assert (shown["user"]["name"], shown["bytes_sent"], shown["chunks_sent"]) == ("anna", 2048, 7)
    assert code_of(chief.get("sessions/x/")) == (404, "not_found")


def new_session(**fields: Any) -> StreamSession:
    now = timezone.now()
    return StreamSession.objects.create(**{"started": now, "last_seen": now, "state": "connected", **fields})


def test_sessions_are_filtered_and_summed(api: Make) -> None:
    chief = api("chief", is_staff=True)
    new_session(door="chat", bytes_sent=10, chunks_sent=2, user=chief.user)
    new_session(door="sse", bytes_sent=5, chunks_sent=1)
    new_session(door="chat", state="disconnected", ended=timezone.now(), bytes_recv=7, chunks_recv=3)
    new_session(started=timezone.now() - timedelta(days=2), bytes_sent=1000)

    def count(query: str) -> int:
        return len(chief.get(f"sessions/{query}").json()["results"])

    assert [count(query) for query in ("?door=sse", "?state=live", "?state=disconnected")] == [1, 3, 1]
    assert [count(f"?user={chief.user.pk}"), count(f"?chat={uuid4()}")] == [1, 0]
    totals = chief.get("sessions/totals/").json()
    assert (totals["sessions"], totals["live"]) == (3, 3)
    assert [totals[name] for name in ("chunks_sent", "bytes_sent", "chunks_recv", "bytes_recv")] == [3, 15, 3, 7]
    assert totals["doors"] == {"chat": 2, "sse": 1} and totals["states"] == {"connected": 2, "disconnected": 1}
    assert chief.get("sessions/totals/?since=2000-01-01T00:00:00Z").json()["bytes_sent"] == 1015
    assert not totals["is_cut"]


def test_totals_of_too_many_sessions_are_of_the_newest(api: Make, settings: Any) -> None:
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, admin_totalled_rows=2)
    for age_s in range(3):
        new_session(started=timezone.now() - timedelta(seconds=age_s), door="chat", bytes_sent=10**age_s)
    totals = api("chief", is_staff=True).get("sessions/totals/").json()
    assert (totals["is_cut"], totals["sessions"], totals["bytes_sent"]) == (True, 2, 11)
    assert (totals["doors"], totals["states"], totals["live"]) == ({"chat": 2}, {"connected": 2}, 3)


@pytest.mark.parametrize("query", ["state=x", "door=x", "user=x", "user=\u00b2", "flow=x", "chat=1", "worker=%00"])
def test_filters_that_do_not_fit(api: Make, query: str) -> None:
    for path in ("sessions/", "sessions/totals/"):
        assert code_of(api("chief", is_staff=True).get(f"{path}?{query}")) == (400, "validation_error")


@pytest.mark.parametrize("since", ["x", "", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "%00", "9999999999"])
def test_totals_since_no_time(api: Make, since: str) -> None:
    assert code_of(api("chief", is_staff=True).get(f"sessions/totals/?since={since}")) == (400, "validation_error")


def test_workers_are_shown_with_what_they_hold(api: Make) -> None:
    worker = Worker.objects.create(host="one", pid=7, started=timezone.now(), last_seen=timezone.now())
    new_session(worker=worker.id)
    Worker.objects.create(host="dead", pid=8, started="2026-01-01T00:00:00Z", last_seen="2026-01-01T00:00:00Z")
    rows = api("chief", is_staff=True).get("workers/").json()["results"]
    assert [(row["host"], row["alive"], row["sockets"], row["turns"]) for row in rows] == [
        ("one", True, 1, 0),
        ("dead", False, 0, 0),
    ]
    assert code_of(api("anna").get("workers/")) == (403, "forbidden")


async def test_staff_closes_a_session_with_a_reason_that_is_kept(
    anna: Remote, live: Live, make_user: Any, token_of: Any
) -> None:
    flow = await online(anna, HELLO)
    chat = (await anna("POST", "chats/", {"flow": flow}))[1]["id"]
    chief = await write(lambda: make_user("chief", is_staff=True))
    token = anna.http.headers["Authorization"].removeprefix("Bearer ")
    async with live.open(f"/chat/{flow}?chat_id={chat}", token) as socket, remote(live, await token_of(chief)) as staff:
        session = (await socket.until("welcome"))["session"]
        await socket.until("snapshot")
        for body, code in (({}, "validation_error"), ({"reason": ""}, "validation_error"), ({"x": 1}, "unknown_field")):
            assert (await staff("POST", f"sessions/{session}/close/", body))[1]["error"]["code"] == code
        status, _, _ = await anna("POST", f"sessions/{session}/close/", {"reason": "x"})
        assert status == 403
        status, shown, _ = await staff("POST", f"sessions/{session}/close/", {"reason": "<b>too loud</b>"})
        assert (status, shown["id"]) == (202, session)
        closed = await socket.closed()
        assert (closed.code, closed.reason) == (1008, "session_closed")
        await until(lambda: _has_ended(session), what="the row says so")
        assert (await staff("POST", f"sessions/{session}/close/", {"reason": "again"}))[0] == 202
    entry = await read(lambda: LogEntry.objects.get())
    assert (entry.user_id, entry.object_id, "<b>too loud</b>" in entry.change_message) == (chief.pk, session, True)


async def test_a_reader_of_events_is_closed_too(anna: Remote, live: Live, make_user: Any, token_of: Any) -> None:
    from tests.rest.events import reading

    chat = await chat_with(anna, HELLO)
    chief = await write(lambda: make_user("chief", is_staff=True))
    async with reading(anna.http, f"{anna.url}/api/chats/{chat}/events/") as reader:
        await reader.until("snapshot")
        async with remote(live, await token_of(chief)) as staff:
            _, listed, _ = await staff("GET", "sessions/?door=sse&state=live")
            await staff("POST", f"sessions/{listed['results'][0]['id']}/close/", {"reason": "x"})
        told = await reader.to_end()
    assert (told[-1].type, told[-1].data["code"]) == ("error", "session_closed")


async def _has_ended(session: str) -> bool:
    row = await read(lambda: StreamSession.objects.get(id=session))
    return row.state == "error" and row.close_reason == "session_closed"
