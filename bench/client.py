"""The client side of a measurement: sockets and HTTP connections that cost as little as Python lets them.

A frame is kept as it came, with its time; it is decoded after the measurement. While it runs, only the frames that
somebody waits for are looked at.
"""

import asyncio
import base64
import os
import struct
import time
from collections import deque

import msgspec

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
HANDSHAKE_S = 30.0
WAITED_FOR = (b'"turn_end"', b'"ok"', b'"error"', b'"snapshot"', b'"question"')
LOOK_BYTES = 48  # the type stands within so many


class Failed(Exception):
    """What went wrong, in a sentence: the measurement is none."""


class Socket(asyncio.Protocol):
    """One WebSocket. `frames`: (time, payload) of all that came. `nbytes`: all bytes after the handshake."""

    def __init__(self, host: str, path: str, token: str) -> None:
        loop = asyncio.get_running_loop()
        self.path = path
        self.frames: list[tuple[float, bytes]] = []
        self.nbytes = 0
        self.nbytes_at_end = 0
        self._opened = loop.create_future()
        self._is_open = False
        self._buffer = b""
        self._waiting: dict[bytes, deque[asyncio.Future]] = {}
        self.closed: bytes | None = None
        self._request = handshake(host, path, token)

    @classmethod
    async def open(cls, host: str, port: int, path: str, token: str, ready: bytes | None) -> "Socket":
        """Connected, and (where `ready` is given) that frame is here."""
        loop = asyncio.get_running_loop()
        _, socket = await loop.create_connection(lambda: cls(f"{host}:{port}", path, token), host, port)
        await socket.first(ready)
        return socket

    async def first(self, ready: bytes | None) -> None:
        waits = [self._opened] if ready is None else [self._opened, self.wait(ready)]
        async with asyncio.timeout(HANDSHAKE_S):
            await asyncio.gather(*waits)

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._is_open:
            data = self._shake_hands(data)
        self._parse(time.monotonic(), data)

    def _parse(self, now: float, data: bytes) -> None:
        self.nbytes += len(data)
        if self._buffer:
            data = self._buffer + data
        at, size = 0, len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                start = at + 4
                if size < start:
                    break
                length = data[at + 2] << 8 | data[at + 3]
            elif length == 127:
                start = at + 10
                if size < start:
                    break
                length = int.from_bytes(data[at + 2 : start])
            end = start + length
            if size < end:
                break
            opcode = data[at] & 15
            if opcode == TEXT:
                self._take(now, data[start:end])
            else:
                self._control(opcode, data[start:end])
            at = end
        self._buffer = data[at:]

    def _shake_hands(self, data: bytes) -> bytes:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return b""
        self._buffer = b""
        self._is_open = True
        if b" 101 " in head[:16]:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(Failed(f"the handshake was refused: {head[:60]!r}"))
        return rest

    def _take(self, now: float, payload: bytes) -> None:
        self.frames.append((now, payload))
        if b'"delta"' in payload[:LOOK_BYTES]:
            return
        for kind in WAITED_FOR:
            if kind in payload[:LOOK_BYTES]:
                if kind == b'"turn_end"':
                    self.nbytes_at_end = self.nbytes
                waiting = self._waiting.get(kind)
                if waiting:
                    future = waiting.popleft()
                    if not future.done():
                        future.set_result((now, payload))
                elif kind == b'"error"':
                    self._fail(Failed(f"the server said {payload[:200]!r}"))
                return

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._write(PONG, payload)
        elif opcode == CLOSE:
            self.closed = payload
            self._fail(Failed(f"the server closed: {payload!r}"))

    def wait(self, kind: bytes) -> asyncio.Future:
        """The next frame of `kind` (one of WAITED_FOR), with its time. Raises Failed where an error comes instead."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(kind, deque()).append(future)
        if self.closed is not None:
            future.set_exception(Failed(f"the server closed: {self.closed!r}"))
        return future

    def send(self, **frame: object) -> float:
        """Its time of sending."""
        now = time.monotonic()
        self._write(TEXT, msgspec.json.encode(frame))
        return now

    def _write(self, opcode: int, payload: bytes) -> None:
        """Masked by zeros, which RFC 6455 allows and which costs nothing."""
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        self.transport.write(head + b"\0\0\0\0" + payload)

    def _fail(self, error: Failed) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
            waiting.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = self.closed or b"connection lost"
        self._fail(Failed("the connection was lost"))

    def close(self) -> None:
        self.transport.close()


class SocketIo(Socket):
    """The same over Socket.IO 5 on Engine.IO 4: a frame is `42["type",{…}]`."""

    def __init__(self, host: str, path: str, token: str) -> None:
        super().__init__(host, path, token)
        self._joined = asyncio.get_running_loop().create_future()

    async def first(self, ready: bytes | None) -> None:
        await super().first(ready)
        async with asyncio.timeout(HANDSHAKE_S):
            await self._joined

    def _take(self, now: float, payload: bytes) -> None:
        if payload[:2] == b"42":
            super()._take(now, payload)
        elif payload[:2] == b"40":
            self._joined.set_result(None)
        elif payload[:1] == b"0":
            self._write(TEXT, b"40")
        elif payload == b"2":
            self._write(TEXT, b"3")

    def send(self, **frame: object) -> float:
        now = time.monotonic()
        self._write(TEXT, b"42" + msgspec.json.encode((frame.pop("type"), frame)))
        return now


class Viewer(Socket):
    """One of very many: from `keep` on it only keeps what comes, and reads it in `replay`, after the measurement."""

    keeps = False

    def keep(self) -> None:
        self.frames.clear()
        self.reads: list[tuple[float, bytes]] = []
        self._cut = b""
        self.keeps, self._ended = True, asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if not self.keeps:
            super().data_received(data)
            return
        self.reads.append((time.monotonic(), data))
        if b'"turn_end"' in self._cut + data and not self._ended.done():
            self._ended.set_result(None)
        self._cut = data[-10:]  # the word may come in two pieces
        if data[0] & 15 == PING and len(data) < 128:
            self._write(PONG, data[2:])

    async def ended(self) -> None:
        await self._ended

    def replay(self) -> None:
        self.keeps = False
        for at, data in self.reads:
            self._parse(at, data)


class SocketIoViewer(Viewer, SocketIo):
    """One of very many over Socket.IO."""


def handshake(host: str, path: str, token: str) -> bytes:
    """The request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{bearer}\r\n"
    ).encode()


class Http(asyncio.Protocol):
    """One HTTP/1.1 connection that is kept; one request at a time; bodies with a Content-Length."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._buffer = b""
        self._answer: asyncio.Future | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> "Http":
        _, connection = await asyncio.get_running_loop().create_connection(lambda: cls(f"{host}:{port}"), host, port)
        return connection

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body."""
        self._answer = asyncio.get_running_loop().create_future()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + size:
            return
        body, self._buffer = self._buffer[end + 4 : end + 4 + size], self._buffer[end + 4 + size :]
        if not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Failed("the HTTP connection was lost"))

    def close(self) -> None:
        self._transport.close()
