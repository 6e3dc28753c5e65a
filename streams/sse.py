"""Server-sent events over ASGI: one answer that stays open. Says how they are written, not what they tell."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

RETRY_MS = 1000  # how long a browser waits before it comes back
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy that buffers would hold events back
    (b"x-content-type-options", b"nosniff"),
)


class EventStream:
    """Writes are one at a time; each returns when the server took it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = asyncio.Lock()

    async def begin(self, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *headers]})
        await self._write(b"retry: %d\n\n" % RETRY_MS)

    async def event(self, type: str, data: bytes, id: str | None = None) -> None:
        """`data` is one line: JSON has no line breaks."""
        head = b"" if id is None else b"id: %b\n" % id.encode()
        await self._write(b"%bevent: %b\ndata: %b\n\n" % (head, type.encode(), data))

    async def comment(self) -> None:
        """Says that both ends are there, and nothing else."""
        await self._write(b":\n\n")

    async def comment_every(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self.comment()

    async def end(self) -> None:
        await self._write(b"", is_last=True)

    async def _write(self, body: bytes, is_last: bool = False) -> None:
        async with self._turn:
            await self._send({"type": "http.response.body", "body": body, "more_body": not is_last})


async def until_left(receive: Receive) -> None:
    """Returns when the reader has gone; what it sends besides is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass
