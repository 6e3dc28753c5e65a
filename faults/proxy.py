"""A TCP proxy that stands before a server and does to what passes what a bad network does.

Everything passes as it comes until it is told otherwise: frozen (nothing passes, nothing closes), refused, cut,
slowed, or looked at by a trap, which says of each piece whether it still passes.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Sequence

PIECE_BYTES = 64 * 1024
SLOW_PIECE_BYTES = 256
SLOW_BUFFER_BYTES = 4096

# Looks at a piece. False: it does not pass, and the connection is cut.
Look = Callable[["Pipe", bytes], bool]


class Pipe:
    """One connection through the proxy. `said`: what the client sent of the transaction that is under way."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client, self._server = client, server
        self._flows = asyncio.Event()
        self._flows.set()
        self.said = b""
        self.is_caught = False
        self.bytes_per_s: int | None = None  # towards the client

    def freeze(self) -> None:
        """As if packets were dropped: neither side hears of it."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    async def flows(self) -> None:
        await self._flows.wait()

    def cut(self) -> None:
        self._client.transport.abort()
        self._server.transport.abort()
        self._flows.set()


class Proxy:
    """`port` on this machine leads to `target`, which may be changed: what is open stays where it leads."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self.pipes: set[Pipe] = set()
        self.up: Look | None = None  # from client to server
        self.down: Look | None = None
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()
        self._is_frozen = False
        self._is_refusing = False

    async def open(self) -> "Proxy":
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=PIECE_BYTES)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    def heal(self) -> None:
        """Everything passes again."""
        self.up = self.down = None
        self._is_frozen = self._is_refusing = False
        for pipe in self.pipes:
            pipe.bytes_per_s = None
            pipe.thaw()

    def cut(self) -> None:
        """All that is open; new connections are taken."""
        for pipe in tuple(self.pipes):
            pipe.cut()

    def refuse(self) -> None:
        """Cut all, and every new one at once."""
        self._is_refusing = True
        self.cut()

    def freeze(self) -> None:
        self._is_frozen = True
        for pipe in self.pipes:
            pipe.freeze()

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_refusing:
            client.transport.abort()
            return
        try:
            from_server, server = await asyncio.open_connection(*self.target, limit=PIECE_BYTES)
        except OSError:
            client.transport.abort()
            return
        pipe = Pipe(client, server)
        if self._is_frozen:
            pipe.freeze()
        self.pipes.add(pipe)
        for writer in (client, server):
            writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.gather(self._pass(pipe, reader, server, True), self._pass(pipe, from_server, client, False))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            pipe.cut()
            self.pipes.discard(pipe)

    async def _pass(self, pipe: Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_up: bool) -> None:
        while True:
            is_slow = not is_up and pipe.bytes_per_s is not None
            data = await reader.read(SLOW_PIECE_BYTES if is_slow else PIECE_BYTES)
            await pipe.flows()
            look = self.up if is_up else self.down
            if not data:
                break
            if look is not None and not look(pipe, data):
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
            if not is_up and pipe.bytes_per_s is not None:
                await asyncio.sleep(len(data) / pipe.bytes_per_s)
        if is_up and pipe.bytes_per_s is None:
            writer.write_eof()
        else:
            raise ConnectionAbortedError


_BEGIN = re.compile(rb"BEGIN\b")
_COMMIT = re.compile(rb"COMMIT\x00")


class CommitTrap:
    """Does `fire` once, at the COMMIT of a transaction of PostgreSQL that said all of `words`.

    `is_applied`: after the server has committed, and its answer is swallowed; else before, and the server hears
    nothing but the end of the connection. `fired` is done then.
    """

    def __init__(self, proxy: Proxy, words: Sequence[bytes], is_applied: bool, fire: Callable[[], None]) -> None:
        self._words, self._is_applied, self._fire = words, is_applied, fire
        self.fired: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        proxy.up, proxy.down = self._up, self._down

    def _up(self, pipe: Pipe, data: bytes) -> bool:
        begin = _BEGIN.search(data)
        pipe.said = data[begin.start() :] if begin else pipe.said + data
        if self.fired.done() or not _COMMIT.search(data) or not all(word in pipe.said for word in self._words):
            return True
        if self._is_applied:
            pipe.is_caught = True
            return True
        self._spring()
        return False

    def _down(self, pipe: Pipe, data: bytes) -> bool:
        if not pipe.is_caught:
            return True
        if not self.fired.done():
            self._spring()
        return False

    def _spring(self) -> None:
        self.fired.set_result(None)
        self._fire()


class AppendTrap:
    """Does `fire` once, at an append to Redis that holds all of `words`: before the server has it, or after."""

    def __init__(self, proxy: Proxy, words: Sequence[bytes], is_applied: bool, fire: Callable[[], None]) -> None:
        self._words, self._is_applied, self._fire = words, is_applied, fire
        self.fired: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        proxy.up, proxy.down = self._up, self._down

    def _up(self, pipe: Pipe, data: bytes) -> bool:
        if self.fired.done() or b"EVALSHA" not in data or not all(word in data for word in self._words):
            return True
        if self._is_applied:
            pipe.is_caught = True
            return True
        self.fired.set_result(None)
        self._fire()
        return False

    def _down(self, pipe: Pipe, data: bytes) -> bool:
        if not pipe.is_caught:
            return True
        if not self.fired.done():
            self.fired.set_result(None)
            self._fire()
        return False
