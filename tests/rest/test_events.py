"""Server-sent events: the same events with the same positions as a socket's, counted, resumed, ended."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from accounts import store as accounts
from chat.turns.manager import manager
from flows import build
from streams.database import read, write
from streams.errors import WireError
from streams.models import StreamSession
from tests.conftest import Live
from tests.rest.events import Reader, reading
from tests.rest.remote import ASK, HELLO, Remote, chat_with, in_state, online
from tests.waiting import until


def events(anna: Remote, chat: str, query: str = "", **headers: str) -> Any:
    return reading(anna.http, f"{anna.url}/api/chats/{chat}/events/{query}", **headers)


async def say(anna: Remote, chat: str, text: str) -> dict[str, Any]:
    status, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": text})
    assert status == 202, reply
    return reply


async def test_a_reader_gets_a_snapshot_then_every_event_with_its_position(anna: Remote) -> None:
    chat = await chat_with(anna, HELLO)
    async with events(anna, chat) as reader:
        assert reader.response.headers["Content-Type"].startswith("text/event-stream")
        assert reader.response.headers["Cache-Control"] == "no-store"
        first = await reader.next()
        assert (first.type, first.id) == ("snapshot", f"{first.data['epoch']}:{first.data['seq']}")
        reply = await say(anna, chat, "World")
        end = await reader.until("turn_end")
    assert end.data["turn"] == reply["turn"]
    epoch, told = first.data["epoch"], reader.told
    assert [event.id for event in told] == [f"{epoch}:{event.data['seq']}" for event in told]
    assert [event.data["seq"] for event in told] == list(range(first.data["seq"] + 1, end.data["seq"] + 1))
    assert all(event.data["type"] == event.type for event in reader.events)
    assert all(event.id is None for event in reader.events if "seq" not in event.data)


async def test_a_reader_and_a_socket_see_the_same_frames(anna: Remote, live: Live) -> None:
    flow = await online(anna, HELLO)
    _, chat, _ = await anna("POST", "chats/", {"flow": flow})
    token = anna.http.headers["Authorization"].removeprefix("Bearer ")
    async with live.open(f"/chat/{flow}?chat_id={chat['id']}", token) as socket, events(anna, chat["id"]) as reader:
        await socket.until("snapshot")
        await reader.until("snapshot")
        await say(anna, chat["id"], "World")
        await socket.until("turn_end")
        await reader.until("turn_end")
        by_socket = [frame for frame in socket.frames if frame["type"] not in ("welcome", "snapshot")]
        assert [event.data for event in reader.told] == [frame for frame in by_socket if "seq" in frame]


async def test_last_event_id_resumes_exactly(anna: Remote) -> None:
    chat = await chat_with(anna, HELLO)
    async with events(anna, chat) as reader:
        await reader.until("snapshot")
        await say(anna, chat, "one")
        await reader.until("turn_end")
    seen, *missed = reader.told[3:]
    async with events(anna, chat, **{"Last-Event-ID": seen.id}) as again:
        await say(anna, chat, "two")
        assert await again.until("turn_end") == missed[-1]
        assert again.told == missed
        await again.until("turn_end")


@pytest.mark.parametrize(
    "position",
    ["", "x", "1", ":", "-1:-1", "0123456789abcdef:99999", "0123456789abcdef:-1", "ÿ", "0" * 5000, "{epoch}:999999"],
)
async def test_row_35_a_rubbish_last_event_id_gets_a_snapshot_and_stays_open(anna: Remote, position: str) -> None:
    chat = await chat_with(anna, HELLO)
    async with events(anna, chat) as reader:
        epoch = (await reader.until("snapshot")).data["epoch"]
    sent = position.format(epoch=epoch).encode().decode("utf-8", "surrogateescape")
    async with events(anna, chat, **{"Last-Event-ID": sent}) as reader:
        assert reader.response.status == 200
        assert (await reader.next()).type == "snapshot"
        await say(anna, chat, "World")
        await reader.until("turn_end")


async def session_of(chat: str) -> StreamSession | None:
    return await read(StreamSession.objects.filter(chat=chat, door="sse").first)


async def test_what_a_reader_counts_is_what_its_session_counts(anna: Remote) -> None:
    chat = await chat_with(anna, HELLO)
    async with events(anna, chat) as reader:
        await reader.until("snapshot")
        await say(anna, chat, "World")
        await reader.until("turn_end")
        counted: Reader = reader
    row = await until(lambda: _ended(chat), what="the session has ended")
    assert (row.state, row.door, row.chunks_recv, row.bytes_recv) == ("disconnected", "sse", 0, 0)
    assert row.chunks_sent == len(counted.events)
    assert row.bytes_sent == sum(event.size for event in counted.events)


async def _ended(chat: str) -> StreamSession | None:
    row = await session_of(chat)
    return row if row is not None and row.ended else None


async def test_a_comment_is_sent_while_nothing_happens(anna: Remote, settings: Any) -> None:
    import msgspec

    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, sse_comment_s=0.05)
    chat = await chat_with(anna, HELLO)
    async with events(anna, chat) as reader:
        await reader.until("snapshot")
        await until(lambda: _comment(reader), what="a comment came")
        await say(anna, chat, "World")
        await reader.until("turn_end")


async def _comment(reader: Reader) -> bool:
    line = await reader.response.content.readline()
    return line == b":\n"


async def test_refusals_of_readers_are_those_of_rest(anna: Remote, bert: Remote) -> None:
    chat = await chat_with(anna, HELLO)
    for client, path, expected in (
        (bert, f"chats/{chat}/events/", (404, "not_found")),
        (anna, f"chats/{uuid4()}/events/", (404, "not_found")),
        (anna, "chats/x/events/", (404, "not_found")),
        (anna, "chats/%00/events/", (404, "not_found")),
        (anna, f"chats/{chat}/events/?ticket=x", (401, "unauthorized")),
        (anna, f"chats/{chat}/events/?t=x", (401, "unauthorized")),
    ):
        status, body, headers = await client("GET", path)
        assert (status, body["error"]["code"]) == expected
        assert body["error"]["trace"] == headers["X-Trace-Id"] and set(body) == {"error"}
    status, body, headers = await anna("POST", f"chats/{chat}/events/")
    assert (status, body["error"]["code"], "GET" in headers["Allow"]) == (405, "method_not_allowed", True)
    status, body, _ = await anna("GET", f"chats/{chat}/events/", Origin="https://evil.example")
    assert (status, body["error"]["code"]) == (403, "forbidden")


async def test_a_ticket_opens_one_reader(anna: Remote, live: Live) -> None:
    import aiohttp

    chat = await chat_with(anna, HELLO)
    _, ticket, _ = await anna("POST", "auth/ticket/")
    url = f"{anna.url}/api/chats/{chat}/events/?ticket={ticket['ticket']}"
    async with aiohttp.ClientSession() as nobody:
        async with reading(nobody, url) as reader:
            await reader.until("snapshot")
        async with nobody.get(url) as again:
            assert again.status == 401


async def test_a_deleted_chat_ends_its_readers_after_saying_so(anna: Remote) -> None:
    chat = await chat_with(anna, HELLO)
    async with events(anna, chat) as reader:
        await reader.until("snapshot")
        await anna("DELETE", f"chats/{chat}/")
        await reader.to_end()
    assert (reader.told[-1].type, reader.told[-1].data["deleted"]) == ("chat", True)
    row = await until(lambda: _ended(chat), what="the session has ended")
    assert (row.state, row.close_reason) == ("disconnected", "chat_deleted")


async def test_a_revoked_log_in_ends_its_readers(anna: Remote) -> None:
    chat = await chat_with(anna, HELLO)
    async with events(anna, chat) as reader:
        await reader.until("snapshot")
        _, me, _ = await anna("GET", "me/")
        await write(lambda: accounts.end_logins(user_id=int(me["id"])))
        told = await reader.to_end()
    assert (told[-1].type, told[-1].data["code"]) == ("error", "unauthorized")
    assert told[-1].id is None


async def test_a_reader_that_does_not_read_is_dropped_without_a_line(anna: Remote, live: Live, caplog: Any) -> None:
    chat = await chat_with(anna, HELLO)
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    name, _, port = live.host.partition(":")
    said = f"GET /api/chats/{chat}/events/ HTTP/1.1\r\nHost: {live.host}\r\nAuthorization: {{}}\r\n\r\n"
    loop = asyncio.get_running_loop()
    with peer:
        await loop.sock_connect(peer, (name, int(port)))
        await loop.sock_sendall(peer, said.format(anna.http.headers["Authorization"]).encode())
        [reader] = await until(lambda: manager().clients.of_chat(chat), what="the reader is there")
        post = b'{"type":"notification","data":"%b"}' % (b"x" * 200_000)
        await until(lambda: reader.post(post) or not manager().clients.of_chat(chat), what="the reader is given up")
        row = await until(lambda: _ended(chat), what="the session has ended")
    assert (row.state, row.close_reason) == ("error", "slow_reader")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_question_is_read_and_answered_without_a_socket(anna: Remote) -> None:
    chat = await chat_with(anna, ASK)
    async with events(anna, chat) as reader:
        await reader.until("snapshot")
        reply = await say(anna, chat, "hi")
        question = (await reader.until("question")).data["question"]
        await in_state(anna, reply["turn"], "waiting")
        await anna("POST", f"questions/{question}/answer/", {"value": "Anna"})
        assert (await reader.until("answered")).data["question"] == question
        assert (await reader.until("turn_end")).data["status"] == "done"


# ---------------------------------------------------------------------------------------------------- builds


async def build_events(anna: Remote, draft: dict[str, Any]) -> list[Any]:
    _, flow, _ = await anna("POST", "flows/", {"name": "Flow", "draft": draft})
    status, body, _ = await anna("GET", f"flows/{flow['id']}/build/events/")
    assert (status, body["error"]["code"]) == (404, "not_found")
    status, _, _ = await anna("POST", f"flows/{flow['id']}/build/")
    assert status == 202
    async with reading(anna.http, f"{anna.url}/api/flows/{flow['id']}/build/events/") as reader:
        return await reader.to_end()


async def test_a_build_is_followed_to_its_end(anna: Remote) -> None:
    told = await build_events(anna, HELLO)
    assert told[-1].type == "end_of_stream" and told[-1].data == {"status": "success"}
    nodes = [event.data for event in told if event.type == "message"]
    assert [(node["node"], node["state"]) for node in nodes] == [
        ("start", "success"),
        ("hello", "success"),
        ("end", "success"),
    ]
    assert nodes[-1]["progress"] == 100 and "log" in {event.type for event in told}


async def test_the_build_of_a_version_is_followed_by_its_number(anna: Remote) -> None:
    flow = await online(anna, HELLO)
    await anna("PATCH", f"flows/{flow}/", {"draft": {**HELLO, "nodes": HELLO["nodes"][:1]}}, If_Match='"1"')
    events = f"flows/{flow}/build/events/?version"
    assert (await anna("POST", f"flows/{flow}/build/"))[0] == 202
    async with reading(anna.http, f"{anna.url}/api/{events}=1") as reader:
        told = await reader.to_end()
    assert [event.data["node"] for event in told if event.type == "message"] == ["start", "hello", "end"]
    for number, refused in (("2", (404, "version_not_found")), ("x", (400, "validation_error"))):
        status, body, _ = await anna("GET", f"{events}={number}")
        assert (status, body["error"]["code"]) == refused


async def test_a_build_of_a_broken_graph_tells_its_faults(anna: Remote) -> None:
    broken = {**HELLO, "edges": [{"from": "start", "to": "hello"}]}
    told = await build_events(anna, broken)
    assert told[-1].data == {"status": "failure"}
    faults = next(event.data["faults"] for event in told if event.type == "error")
    assert {fault["code"] for fault in faults} >= {"unreachable"}
    assert "error" in {event.data["state"] for event in told if event.type == "message"}


@pytest.mark.parametrize(
    ("failure", "code"), [(WireError("unavailable"), "unavailable"), (KeyError("graph"), "internal")]
)
async def test_a_build_that_can_not_be_followed_says_so_and_ends(
    anna: Remote, monkeypatch: pytest.MonkeyPatch, failure: Exception, code: str
) -> None:
    async def follow(*args: Any) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        yield "log", {"text": "running 0 %"}
        raise failure

    monkeypatch.setattr(build, "follow", follow)
    told = await build_events(anna, HELLO)
    assert [event.type for event in told] == ["log", "error", "end_of_stream"]
    assert told[1].data["code"] == code and told[1].data["trace"]
    assert told[2].data == {"status": "failure"}


async def test_another_s_build_is_not_there_to_be_followed(anna: Remote, bert: Remote) -> None:
    flow = await online(anna, HELLO)
    status, body, _ = await bert("GET", f"flows/{flow}/build/events/")
    assert (status, body["error"]["code"]) == (404, "not_found")
