"""Our WebSocket protocol class, held against the uvicorn that is pinned: raw ASGI applications behind real sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import uvicorn
from uvicorn.protocols.utils import ClientDisconnected
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from config import serve
from streams.frames import EXTENSION, text_frames
from streams.sse import until_left
from tests.config.serving import serving
from tests.waiting import until
from tests.wire import Closed, Socket

HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{}\r\n"
)
ASKS = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"


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


async def test_who_sends_to_a_peer_that_has_closed_is_told_so():
    told = asyncio.get_running_loop().create_future()

    async def late(scope: dict, receive: Callable, send: Callable) -> None:
        await accept(receive, send)
        try:
            while True:  # it reads nothing: the close is not known to it
                await send({"type": "websocket.send", "text": "{}"})
                await asyncio.sleep(0)
        except OSError as error:
            told.set_result(error)

    async with serving(late) as (host, _):
        async with client(host) as opened:
            await opened.connection.close()
        assert isinstance(await asyncio.wait_for(told, 10), ClientDisconnected)


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
async def test_connection_without_a_whole_head_is_dropped(settings, said):
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, request_head_s=0.2)
    async with serving(echo) as (host, server):
        reader, writer = await asyncio.open_connection(*host.split(":"))
        writer.write(said.encode())
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_connection_that_was_upgraded_is_kept(settings):
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, request_head_s=0.1)
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
async def deaf_peer(host: str, said: str = HANDSHAKE.format("")) -> AsyncIterator[None]:
    """Says this, by default a handshake, and never reads."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    name, _, port = host.partition(":")
    try:
        await loop.sock_connect(peer, (name, int(port)))
        await loop.sock_sendall(peer, said.encode())
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


async def test_peer_that_asks_and_never_reads_is_freed(short_bounds):
    ended = asyncio.Event()

    async def stream(scope: dict, receive: Callable, send: Callable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        leaving = asyncio.create_task(until_left(receive))
        while not leaving.done():
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await asyncio.sleep(0)
        ended.set()

    async with serving(stream) as (host, server), deaf_peer(host, ASKS):
        await until(lambda: server.server_state.connections, what="the connection is there")
        await until(ended.is_set, what="the blocked send has ended")
        await until(lambda: not server.server_state.connections, what="the descriptor is free")


async def test_peer_that_does_not_read_the_end_of_an_answer_is_freed_though_little_waits(short_bounds):
    ended = asyncio.Event()

    async def some(scope: dict, receive: Callable, send: Callable) -> None:
        transport = next(iter(server.server_state.connections)).transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while transport.get_write_buffer_size() < 30_000:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    async with serving(some, timeout_keep_alive=0.1) as (host, server), deaf_peer(host, ASKS):
        await until(ended.is_set, what="the answer is written")
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


# ------------------------------------------------------------------------ a peer that sends without any bound


def frames(opcode: Opcode, count: int, data: bytes = b"", fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True) * count


@pytest.fixture
def slow_pace(settings):
    """Twenty frames, then none for a long time."""
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, frames_per_s=0.001, frames_burst=20)


@pytest.fixture
def any_pace(settings):
    many = {"frames_per_s": 1e9, "frames_burst": 10**9, "frames_bytes_per_s": 1e12, "frames_bytes_burst": 10**12}
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, **many)


@asynccontextmanager
async def raw_peer(host: str, server: uvicorn.Server) -> AsyncIterator[tuple]:
    """A peer that writes what it likes, and the server's end of its socket."""
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(HANDSHAKE.format("").encode())

    def mine() -> object:
        here = writer.get_extra_info("sockname")[:2]
        return next((each for each in server.server_state.connections if each.client == here and is_socket(each)), None)

    try:
        yield reader, writer, await until(mine, what="the handshake has come")
    finally:
        writer.close()


def is_socket(connection: object) -> bool:
    return isinstance(connection, serve.SocketProtocol)


async def open_socket(scope: dict, receive: Callable, send: Callable) -> None:
    await accept(receive, send)
    while (await receive())["type"] != "websocket.disconnect":
        pass


@pytest.mark.parametrize("app", [open_socket, refuse], ids=["open", "refused"])
@pytest.mark.parametrize(
    "flood",
    [
        frames(Opcode.PING, 20_000),
        frames(Opcode.PONG, 20_000),
        frames(Opcode.TEXT, 1, b"x", fin=False) + frames(Opcode.CONT, 20_000, b"x", fin=False),
    ],
    ids=["pings", "pongs", "fragments"],
)
async def test_flood_of_small_frames_is_not_even_parsed(slow_pace, monkeypatch, app, flood):
    parsed = []
    whole = serve.SocketProtocol.handle_events
    monkeypatch.setattr(
        serve.SocketProtocol, "handle_events", lambda self: (parsed.append(len(self.conn.events)), whole(self))
    )
    async with serving(app) as (host, server), raw_peer(host, server) as (_, writer, end):
        writer.write(flood)
        await until(lambda: end._rest is not None, what="the server reads no more")
        async with client(host):  # others are served meanwhile
            pass
    assert sum(parsed) < 1000


async def test_who_is_too_fast_loses_nothing(settings):
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, frames_per_s=500, frames_burst=5)
    async with serving(echo) as (host, _), client(host) as opened:
        for size in range(200):
            await opened.connection.send("x" * size)
        assert [(await opened.recv())["size"] for _ in range(200)] == list(range(200))


async def test_bytes_have_a_pace_too(settings):
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, frames_bytes_per_s=0.001, frames_bytes_burst=100_000)
    async with serving(open_socket) as (host, server), raw_peer(host, server) as (_, writer, end):
        writer.write(frames(Opcode.TEXT, 1, b"x" * 200_000))
        await until(lambda: end._rest is not None, what="the server reads no more")
        assert 0 < len(end.conn.reader.buffer) < 110_000


async def test_messages_that_the_application_does_not_take_are_not_parsed(any_pace):
    taken = asyncio.Event()

    async def busy(scope: dict, receive: Callable, send: Callable) -> None:
        await accept(receive, send)
        await taken.wait()

    async with serving(busy) as (host, server), raw_peer(host, server) as (_, writer, end):
        writer.write(frames(Opcode.TEXT, 20_000, b"x"))
        await until(lambda: end._unread, what="the flood has come")
        assert 0 < end.queue.qsize() < 1000
        taken.set()


async def test_message_in_many_fragments_arrives_whole_and_is_held_in_few_pieces(any_pace):
    async with serving(echo) as (host, server), raw_peer(host, server) as (reader, writer, end):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frames(Opcode.TEXT, 1, b"x", fin=False) + frames(Opcode.CONT, 5000, b"x", fin=False))
        await until(lambda: sum(map(len, end.frames)) == 5001, what="the fragments have come")
        assert len(end.frames) <= serve.FRAGMENTS
        writer.write(frames(Opcode.CONT, 1, b"x"))
        assert b'"size": 5002' in await reader.readuntil(b"}")


async def test_frames_behind_the_handshake_wait_for_its_answer(caplog):
    may_answer = asyncio.Event()

    async def hesitant(scope: dict, receive: Callable, send: Callable) -> None:
        await may_answer.wait()
        await echo(scope, receive, send)

    async with serving(hesitant) as (host, server), raw_peer(host, server) as (reader, writer, end):
        writer.write(frames(Opcode.PING, 1, b"early") + frames(Opcode.TEXT, 1, b"four"))
        await until(lambda: end._unread, what="the frames have come")
        may_answer.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        said = await reader.readuntil(b"}")
        assert b"early" in said and b'"size": 4' in said
    assert caplog.records == []


# ------------------------------------------------------------------------ no line of the log for the asking


@pytest.mark.parametrize(
    "rubbish",
    [
        b"rubbish that is no frame at all",
        frames(Opcode.TEXT, 1, b"\xff"),
        frames(Opcode.TEXT, 1, b"\xff") + frames(Opcode.CLOSE, 1, b"\x03\xe8"),
        frames(Opcode.TEXT, 1, b"caf\xc3", fin=False) + frames(Opcode.CONT, 1, b"("),
        frames(Opcode.CLOSE, 1, b"\x03\xe8") + frames(Opcode.TEXT, 1, b"\xff"),
        frames(Opcode.CLOSE, 1, b"\x00\x01\xff"),
        frames(Opcode.CONT, 1, b"x"),
    ],
    ids=["rubbish", "utf8", "utf8-then-close", "utf8-in-two", "close-then-utf8", "bad-close", "lone-fragment"],
)
@pytest.mark.parametrize("is_early", [True, False])
async def test_rubbish_ends_the_socket_without_a_line(caplog, rubbish, is_early):
    async with serving(echo) as (host, server), raw_peer(host, server) as (reader, writer, _):
        if not is_early:
            await reader.readuntil(b"\r\n\r\n")
        writer.write(rubbish)
        await until(lambda: not server.server_state.connections, what="the socket has ended")
    assert caplog.records == []


async def test_handshake_that_is_refused_by_http_leaves_no_line(caplog):
    async def forbid(scope: dict, receive: Callable, send: Callable) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})

    async with serving(forbid) as (host, server):
        reader, writer = await asyncio.open_connection(*host.split(":"))
        writer.write(HANDSHAKE.format("").encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 404")
        writer.close()
        await until(lambda: not server.server_state.tasks, what="the application has ended")
    assert caplog.records == []


async def test_empty_lines_do_not_keep_an_idle_connection(settings):
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, request_head_s=0.2)

    async def page(scope: dict, receive: Callable, send: Callable) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(page) as (host, _):
        reader, writer = await asyncio.open_connection(*host.split(":"))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\r\n")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()
