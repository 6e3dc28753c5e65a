"""Bodies of requests are bounded before anybody stores them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from config.bodies import FILES, FORM_BYTES, bounded
from tests.config.serving import serving
from tests.conftest import Live

MOST = 1000


@pytest.fixture(autouse=True)
def small(settings) -> None:
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, body_bytes=MOST, file_bytes=MOST * 5)


class Reader:
    """Reads the body, as Django does, then says its size; `taken`: bytes that came to it."""

    def __init__(self) -> None:
        self.taken = 0
        self.was_called = False

    async def __call__(self, scope: dict, receive: Callable[[], Awaitable[Any]], send: Callable) -> None:
        self.was_called = True
        while True:
            message = await receive()
            self.taken += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        body = str(self.taken).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def posting(host: str, path: str, head: str, body: bytes = b"") -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{head}\r\n\r\n".encode() + body)
    try:
        yield reader
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, str, dict[str, Any]]:
    """Status, head and body of an answer after which the connection ends."""
    async with asyncio.timeout(30):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), json.loads(body)


def chunk(size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"x" * size)


async def test_length_that_is_too_large_is_refused_before_the_body() -> None:
    app = Reader()
    async with (
        serving(bounded(app)) as (host, _),
        posting(host, "/api/chats/", f"Content-Length: {MOST + 1}") as reader,
    ):
        status, head, body = await answer(reader)
    assert (status, body["error"]["code"]) == (413, "frame_too_large")
    assert set(body["error"]) == {"code", "text", "retryable", "trace"}
    assert "connection: close" in head and f"x-trace-id: {body['error']['trace']}" in head
    assert not app.was_called


@pytest.mark.parametrize("path", ["/api/auth/token/", "/login/", "/nowhere"])
async def test_chunks_are_counted(path: str) -> None:
    app = Reader()
    body = chunk(600) * 1000  # its end never comes
    async with serving(bounded(app)) as (host, _), posting(host, path, "Transfer-Encoding: chunked", body) as reader:
        status, _, said = await answer(reader)
    assert (status, said["error"]["code"]) == (413, "frame_too_large")
    assert said["error"]["text"] == "The frame or body is larger than 1000 bytes."
    assert app.taken <= MOST


async def test_body_at_the_limit_is_read() -> None:
    async with serving(bounded(Reader())) as (host, _):
        head = f"Content-Length: {MOST}\r\nConnection: close"
        async with posting(host, "/api/chats/", head, b"x" * MOST) as reader:
            assert (await answer(reader))[2] == MOST


@pytest.mark.parametrize(("size", "status"), [(MOST * 5 + FORM_BYTES, 200), (MOST * 5 + FORM_BYTES + 1, 413)])
async def test_files_may_be_larger(size: int, status: int) -> None:
    head, body = f"Content-Length: {size}\r\nConnection: close", b"x" * size
    async with serving(bounded(Reader())) as (host, _), posting(host, FILES, head, body) as reader:
        assert (await answer(reader))[0] == status


@pytest.mark.parametrize("path", ["/api/chats/", FILES])
async def test_body_that_does_not_end_in_time_is_408(settings, path: str) -> None:
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, body_s=0.1, file_body_s=0.1)
    app = Reader()
    async with serving(bounded(app)) as (host, _), posting(host, path, "Content-Length: 10", b"x") as reader:
        status, _, said = await answer(reader)
    assert (status, said["error"]["code"], said["error"]["retryable"]) == (408, "bad_request", True)


async def test_what_waits_for_the_end_of_the_peer_is_not_timed(settings) -> None:
    """As a stream does, whose body came long ago."""
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, body_s=0.1)
    heard: list[str] = []

    async def stream(scope: dict, receive: Callable, send: Callable) -> None:
        await receive()
        heard.append((await receive())["type"])

    sent: list[dict] = []
    gone = asyncio.Event()
    messages = iter([{"type": "http.request", "body": b""}])

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    streaming = asyncio.create_task(bounded(stream)({"type": "http", "path": "/", "headers": []}, receive, send))
    done, _ = await asyncio.wait([streaming], timeout=0.3)
    assert not done
    gone.set()
    await streaming
    assert heard == ["http.disconnect"] and sent == []


async def test_body_without_an_end_never_reaches_a_view(live: Live) -> None:
    head = "Content-Type: application/json\r\nTransfer-Encoding: chunked"
    async with posting(live.host, "/api/auth/token/", head, chunk(MOST + 1)) as reader:
        status, _, body = await answer(reader)
    assert (status, body["error"]["code"]) == (413, "frame_too_large")
