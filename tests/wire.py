"""A client of the tests: one socket, frames as dicts, each wait with a deadline."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.serving import told

RECV_S = 10.0
_ids = itertools.count(1)


class Closed(Exception):
    """The server closed. `code` and `reason` of its close frame (1006: none came)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Socket:
    """`frames`: all that came, in order."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[dict[str, Any]] = []

    async def recv(self, within_s: float = RECV_S) -> dict[str, Any]:
        """The next frame. Raises Closed."""
        try:
            async with asyncio.timeout(within_s):
                text = await self.connection.recv()
        except ConnectionClosed as closed:
            frame = closed.rcvd
            code, reason = (frame.code, frame.reason) if frame else (1006, "")
            raise Closed(*told(code, reason, self.frames)) from None
        self.frames.append(json.loads(text))
        return self.frames[-1]

    async def until(self, *types: str, within_s: float = RECV_S) -> dict[str, Any]:
        """The next frame of one of `types`; what comes before it is kept in `frames`."""
        async with asyncio.timeout(within_s):
            while True:
                frame = await self.recv(within_s)
                if frame["type"] in types:
                    return frame

    async def closed(self, within_s: float = RECV_S) -> Closed:
        """How the server closes; what comes before is kept in `frames`."""
        async with asyncio.timeout(within_s):
            while True:
                try:
                    await self.recv(within_s)
                except Closed as closed:
                    return closed

    async def send(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def command(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a command with an id of its own, return its `ok` or `error`."""
        fields.setdefault("id", f"t{next(_ids)}")
        await self.send(type=type, **fields)
        while True:
            frame = await self.until("ok", "error")
            if frame.get("id") == fields["id"]:
                return frame

    async def say(self, text: str, **fields: Any) -> dict[str, Any]:
        return await self.command("say", text=text, **fields)


@asynccontextmanager
async def opened(
    host: str,
    path: str,
    token: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    subprotocols: tuple[str, ...] = (),
    **options: Any,
) -> AsyncIterator[Socket]:
    """A socket on `ws://host/path`. `token` goes as a Bearer header. Handshake refusals raise InvalidStatus."""
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    async with connect(
        f"ws://{host}{path}",
        additional_headers=sent,
        subprotocols=subprotocols or None,
        compression=None,
        proxy=None,
        max_size=None,
        open_timeout=RECV_S,
        close_timeout=2,
        **options,
    ) as connection:
        yield Socket(connection)
