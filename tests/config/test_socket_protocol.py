"""Our WebSocket protocol class, held against the uvicorn that is pinned: raw ASGI applications behind real sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager

import msgspec
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from config import serve
from streams.frames import EXTENSION, text_frames
from tests.server import free_port
from tests.waiting import until
from tests.wire import Closed, Socket

HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{}\r\n"
)


class Quiet(uvicorn.Server):
    @contextmanager
    def capture_signals(self):
        yield


@asynccontextmanager
async def serving(app: Callable, **options) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    port = free_port()
    options = {"app": app, "loop": "none", "lifespan": "off", "timeout_graceful_shutdown": 1, **options}
    server = Quiet(serve.server_config(**options))
    task = asyncio.create_task(server.serve(sockets=[serve.listen("127.0.0.1", port)]))
    await until(lambda: server.started, what="the server has started")
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 10)


async def accept(receive: Callable, send: Callable) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


async def echo(scope: dict, receive: Callable[[], Awaitable], send: Callable) -> None:
    """Says how many bytes came; ends when the peer does."""
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        size = len(message.get("bytes") or message["text"].encode())
        await send({"type": "websocket.send", "text": json.dumps({"type": "size", "size": size})})


async def refuse(scope: dict, receive: Callable, send: Callable) -> None:
    await accept(receive, send)
    await send({"type": "websocket.send", "text": json.dumps({"type": "error", "code": "busy"})})
    await send({"type": "websocket.close", "code": 1013, "reason": "busy"})


async def ready_made(scope: dict, receive: Callable[[], Awaitable], send: Callable) -> None:
    """Writes ready-made frames among others, and says when they were not taken."""
    write = scope["extensions"][EXTENSION]["write"]
    taken = [write(text_frames([b'{"type":"early"}']))]
    await accept(receive, send)
    await send({"type": "websocket.send", "text": '{"type":"first"}'})
    taken.append(write(text_frames([b'{"type":"second"}', b'{"type":"third"}'])))
    await receive()
    await send({"type": "websocket.send", "text": json.dumps({"type": "taken", "taken": taken})})
    await send({"type": "websocket.close", "code": 1000})
    assert not write(text_frames([b'{"type":"late"}']))


@asynccontextmanager
async def client(host: str, **options) -> AsyncIterator[Socket]:
    options = {"compression": None, "proxy": None, "max_size": None, "close_timeout": 1, **options}
    async with connect(f"ws://{host}/", **options) as connection:
        yield Socket(connection)


async def closed_for(host: str, *frames: tuple[Opcode, bytes]) -> Closed:
    """How the server closes after raw frames, whatever they hold."""
    async with client(host) as opened:
        for opcode, data in frames:
            opened.connection.transport.write(Frame(opcode, data).serialize(mask=True))
        return await opened.closed()


async def test_last_frame_then_code_and_reason():
    async with serving(refuse) as (host, _), client(host) as opened:
        closed = await opened.closed()
    assert opened.frames == [{"type": "error", "code": "busy"}]
    assert (closed.code, closed.reason) == (1013, "busy")


async def test_invalid_utf8_closes_1007():
    async with serving(echo) as (host, _):
        assert (await closed_for(host, (Opcode.TEXT, b"\xc3\x28"))).code == 1007


async def test_frame_over_the_limit_closes_1009():
    async with serving(echo) as (host, _):
        assert (await closed_for(host, (Opcode.TEXT, b"x" * (256 * 1024 + 1)))).code == 1009


async def test_frame_at_the_limit_is_read():
    async with serving(echo) as (host, _), client(host) as opened:
        await opened.connection.send("x" * (256 * 1024))
        assert (await opened.recv())["size"] == 256 * 1024


async def test_compression_is_not_negotiated():
    async with serving(echo) as (host, _), client(host, compression="deflate") as opened:
        assert opened.connection.protocol.extensions == []


async def test_sigterm_of_uvicorn_alone_closes_1012():
    async with serving(echo) as (host, server), client(host) as opened:
        server.should_exit = True
        assert (await opened.closed()).code == 1012


async def test_peer_without_pong_is_dropped():
    async with serving(echo, ws_ping_interval=0.05, ws_ping_timeout=0.1) as (host, server):
        reader, writer = await asyncio.open_connection(*host.split(":"))
        writer.write(HANDSHAKE.format("").encode())
        assert b"101" in await reader.readline()
        await until(lambda: not server.server_state.connections, what="the connection has gone")
        writer.close()


@pytest.mark.parametrize("said", ["", "GET / HTTP/1.1\r\nHost: x\r\n", HANDSHAKE.format("")[:-2]])
async def test_connection_without_a_whole_head_is_dropped(monkeypatch, said):
    monkeypatch.setattr(serve, "HEAD_S", 0.2)
    async with serving(echo) as (host, server):
        reader, writer = await asyncio.open_connection(*host.split(":"))
        writer.write(said.encode())
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_connection_that_was_upgraded_is_kept(monkeypatch):
    monkeypatch.setattr(serve, "HEAD_S", 0.1)
    async with serving(echo) as (host, _), client(host) as opened:
        for _ in range(3):  # longer than the head's time
            await opened.connection.send("x")
            await opened.recv()
            with pytest.raises(TimeoutError):
                await opened.recv(within_s=0.1)


# ----------------------------------------------------------------- a peer that has stopped reading is freed


class Flood:
    """Sends until it fails; `error` is how."""

    error: BaseException | None = None
    then_close = False

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        await accept(receive, send)
        try:
            for _ in range(100_000):
                if self.then_close:
                    async with asyncio.timeout(0.2):
                        await send({"type": "websocket.send", "text": "x" * 1000})
                else:
                    await send({"type": "websocket.send", "text": "x" * 1000})
        except BaseException as error:
            self.error = error
            if self.then_close:
                return  # the application has done with it; the bytes still wait for the peer
            raise


@asynccontextmanager
async def deaf_peer(host: str) -> AsyncIterator[None]:
    """Completes the handshake and never reads after it."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    name, _, port = host.partition(":")
    try:
        await loop.sock_connect(peer, (name, int(port)))
        await loop.sock_sendall(peer, HANDSHAKE.format("").encode())
        yield
    finally:
        peer.close()


@pytest.fixture
def short_bounds(settings, monkeypatch):
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, send_timeout_s=0.3)
    monkeypatch.setattr(serve, "CLOSE_GRACE_S", 0.2)


async def test_watchdog_frees_a_peer_that_never_reads(short_bounds):
    app = Flood()
    async with serving(app, ws_ping_interval=None) as (host, server), deaf_peer(host):
        await until(lambda: server.server_state.connections, what="the connection is there")
        await until(lambda: app.error is not None, what="the blocked send has ended")
        await until(lambda: not server.server_state.connections, what="the descriptor is free")
    assert isinstance(app.error, OSError)


async def test_peer_that_never_reads_is_freed_after_the_application_has_left_it(short_bounds):
    app = Flood()
    app.then_close = True
    async with serving(app, ws_ping_interval=None) as (host, server), deaf_peer(host):
        await until(lambda: app.error is not None, what="the application gave up")
        await until(lambda: not server.server_state.connections, what="the descriptor is free")
    assert isinstance(app.error, TimeoutError)


async def test_peer_that_never_reads_is_freed_by_the_ping_though_little_waits(short_bounds):
    """Under the high-water mark nothing is paused, and still the transport would wait to flush for ever."""
    done = asyncio.Event()

    async def some(scope: dict, receive: Callable, send: Callable) -> None:
        await accept(receive, send)
        opened = next(iter(server.server_state.connections))
        raw = opened.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        while opened.transport.get_write_buffer_size() < 30_000:
            await send({"type": "websocket.send", "text": "x" * 1000})
        await receive()
        done.set()

    async with serving(some, ws_ping_interval=0.1, ws_ping_timeout=0.1) as (host, server), deaf_peer(host):
        await until(done.is_set, what="the application heard of it")
        await until(lambda: not server.server_state.connections, what="the descriptor is free")


async def test_slow_peer_that_reads_again_is_kept(short_bounds):
    app_done = asyncio.Event()

    async def pour(scope: dict, receive: Callable, send: Callable) -> None:
        await accept(receive, send)
        for _ in range(2000):
            await send({"type": "websocket.send", "text": "x" * 1000})
        app_done.set()
        await receive()

    async with serving(pour) as (host, _), client(host) as opened:
        count = 0
        with pytest.raises(ConnectionClosed):
            while True:
                await opened.connection.recv()
                count += 1
                if count == 2000:
                    await opened.connection.close()
    assert app_done.is_set()
    assert count == 2000


async def test_ready_made_frames_stand_among_the_others_and_are_taken_only_while_the_socket_is_open():
    async with serving(ready_made) as (host, _), client(host) as opened:
        assert [(await opened.recv())["type"] for _ in range(3)] == ["first", "second", "third"]
        await opened.connection.send("{}")
        assert (await opened.recv())["taken"] == [False, True]
        assert (await opened.closed()).code == 1000


async def test_ready_made_frames_are_not_taken_while_the_peer_does_not_read():
    refused = asyncio.Event()

    async def pour(scope: dict, receive: Callable[[], Awaitable], send: Callable) -> None:
        write = scope["extensions"][EXTENSION]["write"]
        await accept(receive, send)
        await until(lambda: not write(text_frames([b"x" * 60_000])))
        refused.set()
        await receive()

    async with serving(pour) as (host, _), client(host, max_queue=1) as opened:
        opened.connection.transport.pause_reading()
        await asyncio.wait_for(refused.wait(), 20)
        opened.connection.transport.abort()
