"""The server: uvicorn with uvloop, our WebSocket protocol and a shutdown that drains the chats first.

One process serves by itself; with WORKERS above 1 a supervisor holds the listening socket and starts as many
processes, which share it. (Not SO_REUSEPORT: with it a second server on the same port would start without a word.)
"""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import structlog
import uvicorn
import websockets.http11
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from config import watchdog
from streams import abort, frames

CLOSE_GRACE_S = 2.0  # what a peer has to take the close frame of a pump that gave it up
CLOSE_REPLY_S = 5.0  # what a peer has to answer a close frame
SLICE_BYTES = 2048  # parsed in one go: at most 341 frames
FRAGMENTS = 64  # of a message that are kept apart
HEAD_LINE_BYTES = 64 * 1024  # of a handshake; longer is refused by HTTP, a malformed address below it by an error frame
GC_THRESHOLDS = (10_000, 20, 50)
MANAGE = Path(__file__).resolve().parent.parent / "manage.py"

websockets.http11.MAX_LINE_LENGTH = HEAD_LINE_BYTES
log = structlog.get_logger("headrace.serve")


class ServeError(Exception):
    """One sentence for the operator: why there is no server and what to do."""


class Pace:
    """A rate with a burst that may be overdrawn once: `wait_s` says when it is level again."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._at = float(burst), time.monotonic()

    def spend(self, amount: float) -> None:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s) - amount
        self._at = now

    @property
    def wait_s(self) -> float:
        return max(0.0, -self._left / self._per_s)


class Watched:
    """A protocol whose transport is aborted when its peer has stopped reading.

    uvicorn alone never frees such a peer: its sends wait, and a transport that was closed waits to flush.
    """

    _watchdog: asyncio.TimerHandle | None = None
    _is_over = False  # nothing more will be written: what is not flushed in time never will be
    _is_gone = False

    def pause_writing(self) -> None:
        super().pause_writing()
        # The grace lets a peer that is only slow take the close frame of the pump that gives it up.
        self._abort_after(settings.HEADRACE.send_timeout_s + CLOSE_GRACE_S)

    def resume_writing(self) -> None:
        if not self._is_over:
            self._call_off()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_gone = True
        self._call_off()
        super().connection_lost(exc)

    def _abort_after(self, delay_s: float) -> None:
        """Unless it is to be aborted sooner already."""
        at = self.loop.time() + delay_s
        if not self._is_gone and (self._watchdog is None or self._watchdog.when() > at):
            self._call_off()
            self._watchdog = self.loop.call_at(at, self.transport.abort)

    def _call_off(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None


class SocketProtocol(Watched, WebSocketsSansIOProtocol):
    """uvicorn's sans-I/O protocol, read at a pace, with a watchdog over a peer that has stopped reading.

    uvicorn alone parses whatever comes, also what nobody waits for: control frames, fragments, bytes behind a refusal.
    Here it is parsed in slices, and only as many frames and bytes a second as the bounds say, whatever their kind;
    the rest waits in the peer's own buffers. No honest client is that fast, and one that is loses nothing.

    A peer that does not read keeps its descriptor whatever the application does, also after `websocket.close`
    (docs/decisions/004-server.md). Written against uvicorn 0.54; tests/config holds it to that.
    """

    _rest: asyncio.TimerHandle | None = None  # ends when the pace allows the next slice

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        bounds = settings.HEADRACE
        self.close_timeout = CLOSE_REPLY_S
        self._unread = bytearray()  # came, and is not parsed yet: one read of the transport at most
        self._frame_pace = Pace(bounds.frames_per_s, bounds.frames_burst)
        self._byte_pace = Pace(bounds.frames_bytes_per_s, bounds.frames_bytes_burst)

    # --------------------------------------------------------------------------------------------- reading

    def handle_connect(self, event: websockets.http11.Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][frames.EXTENSION] = {"write": self.write_frames}

    def write_frames(self, data: bytes) -> bool:
        """Write whole text frames that are ready-made. False: not before the handshake, past the end, or while the
        peer does not read."""
        if not self.handshake_complete or self.close_sent or self.disconnected or self.transport.is_closing():
            return False
        if not self.writable.is_set():
            return False
        self.transport.write(data)
        return True

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated:
            self._unread += data
            self._read_on()
            return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # The head of the handshake was refused; uvicorn alone keeps the answer to itself, and the peer waits.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def receive(self) -> Any:
        message = await super().receive()
        self._go_on()
        return message

    async def send(self, message: Any) -> None:
        if self.handshake_complete and self.close_sent and message["type"] == "websocket.send":
            raise ClientDisconnected  # it closed: its application will read so
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # by a refusal; uvicorn alone takes it for an error of the application
        self._go_on()

    def _go_on(self) -> None:
        """After uvicorn may have let the transport read."""
        if self._unread or self._rest is not None:
            self._read_on()

    def _read_on(self) -> None:
        """Parse what has come, slice by slice, until the application or the pace says to wait."""
        while self._unread and self._may_parse():
            piece = bytes(self._unread[:SLICE_BYTES])
            del self._unread[:SLICE_BYTES]
            self._parse(piece)
        if self.transport.is_closing():
            self._unread.clear()
        elif self._unread or self._rest is not None or self.read_paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _may_parse(self) -> bool:
        # Not before the handshake is answered: there is no socket yet that a frame could belong to.
        return (
            self.handshake_complete
            and not self.read_paused
            and self._rest is None
            and self.conn.parser_exc is None
            and not self.transport.is_closing()
        )

    def _parse(self, piece: bytes) -> None:
        self.conn.receive_data(piece)
        self._frame_pace.spend(len(self.conn.events))
        self._byte_pace.spend(len(piece))
        wait_s = max(self._frame_pace.wait_s, self._byte_pace.wait_s)
        if wait_s:
            self._rest = self.loop.call_later(wait_s, self._has_rested)
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()
        else:
            self.handle_events()

    def _has_rested(self) -> None:
        self._rest = None
        self._read_on()

    def handle_cont(self, event: Frame) -> None:
        """As uvicorn's, but a message in a thousand pieces takes no more memory than one in a few."""
        self.frames.append(event.data)
        if event.fin:
            self.send_receive_event_to_app()
        elif len(self.frames) > FRAGMENTS:
            self.frames = [b"".join(self.frames)]

    def send_receive_event_to_app(self) -> None:
        """As uvicorn's; text that is not UTF-8 closes 1007 without a traceback."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.fail(CloseCode.INVALID_DATA)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    # --------------------------------------------------------------------------------------------- writing

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._is_over = True
        self._abort_after(CLOSE_GRACE_S)

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self._is_over = True
        waits_for_reply = self.close_timer is not None
        self._abort_after(CLOSE_GRACE_S + (self.close_timeout if waits_for_reply else 0))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        self._unread.clear()
        super().connection_lost(exc)


class HttpProtocol(Watched, HttpToolsProtocol):
    """uvicorn's protocol; a connection that does not get to the end of a request's head is dropped, and one whose
    peer does not read what it asked for.

    uvicorn alone waits for ever: a few hundred connections that say nothing would hold a few hundred descriptors.
    """

    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_idle():  # bytes that begin no request, like empty lines, end uvicorn's wait and start none
            self._wait_for_head()

    def _is_idle(self) -> bool:
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.timeout_keep_alive_task is None
            and not self.transport.is_closing()
            and self.transport.get_protocol() is self
        )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {abort.EXTENSION: {"abort": self.transport.abort}}
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._have_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._have_head()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._call_off()  # the transport has another protocol from now on
        super().handle_websocket_upgrade()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._free_when_closed()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._free_when_closed()

    def shutdown(self) -> None:
        super().shutdown()
        self._free_when_closed()

    def _free_when_closed(self) -> None:
        """What is under the high-water mark pauses nothing, and the transport would wait to flush it for ever."""
        if self.transport.is_closing():
            self._is_over = True
            self._abort_after(settings.HEADRACE.send_timeout_s + CLOSE_GRACE_S)

    def _wait_for_head(self) -> None:
        if self._head_due is None:
            self._head_due = self.loop.call_later(settings.HEADRACE.request_head_s, self.transport.abort)

    def _have_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


class Server(uvicorn.Server):
    """uvicorn's server; it drains the chats before it closes anything. A second Ctrl-C ends the wait."""

    def __init__(self, config: uvicorn.Config, life: int | None = None, is_watched: bool = False) -> None:
        super().__init__(config)
        self.life = life  # descriptor of the supervisor's pipe
        self.is_watched = is_watched  # this process ends when its loop stands

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        calm_collector()
        if self.life is not None:  # ends when the supervisor does, however it does
            asyncio.get_running_loop().add_reader(self.life, self._supervisor_has_gone)
        if self.is_watched:
            watchdog.Watchdog(settings.HEADRACE.loop_stands_s).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        from chat.turns import manager

        bounds = settings.HEADRACE
        drain = asyncio.ensure_future(manager.drain())
        limit = time.monotonic() + bounds.drain_turns_s + bounds.drain_sockets_s + bounds.leave_s
        while not drain.done() and not self.force_exit and time.monotonic() < limit:
            await asyncio.wait([drain], timeout=0.1)
        if not drain.done():
            drain.cancel()
        result = (await asyncio.gather(drain, return_exceptions=True))[0]
        if isinstance(result, Exception):
            log.error("the drain failed", exc_info=result)
        await super().shutdown(sockets=sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """As uvicorn's, but the signal is not raised once more at the end: a server that was told to end ends well."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    def _supervisor_has_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self.life)
        self.should_exit = True


def calm_collector() -> None:
    """Once all is imported, which lives for ever. A full collection that walks it stops all streams for 114 to 150 ms;
    20 to 65 without it, and it comes less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def server_config(**options: Any) -> uvicorn.Config:
    """uvicorn as Headrace wants it."""
    bounds = settings.HEADRACE
    return uvicorn.Config(
        **{
            "app": "config.asgi:application",
            "loop": "uvloop",
            "http": HttpProtocol,
            "ws": SocketProtocol,
            "ws_max_size": bounds.frame_in_bytes,
            "ws_ping_interval": bounds.ping_every_s,
            "ws_ping_timeout": bounds.ping_timeout_s,
            "ws_per_message_deflate": False,
            "interface": "asgi3",
            "lifespan": "on",
            "log_config": None,
            "access_log": False,
            "server_header": False,
            "proxy_headers": bool(settings.TRUSTED_PROXIES),
            "forwarded_allow_ips": settings.TRUSTED_PROXIES,
            "timeout_keep_alive": bounds.keep_alive_s,
            "timeout_graceful_shutdown": max(1, round(bounds.leave_s)),
            "backlog": bounds.listen_backlog,
            **options,
        }
    )


def listen(host: str, port: int) -> socket.socket:
    """The listening socket. Raises ServeError where the port is taken or the address is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServeError(f"HOST {host} is no address of this machine ({error.strerror}); 127.0.0.1 is.") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(settings.HEADRACE.listen_backlog)
    except OSError as error:
        listener.close()
        raise ServeError(
            f"Port {port} of {host} cannot be had ({error.strerror}); end what listens there, or set PORT to another."
        ) from None
    listener.setblocking(False)
    return listener


def serve_alone(listener: socket.socket, life: int | None = None) -> int:
    """Serve in this process until told to end. Returns the exit status."""
    server = Server(server_config(), life, is_watched=True)
    try:
        server.run(sockets=[listener])
    except SystemExit:  # uvicorn's way to say that the start failed; why is in the log
        return 1
    return 0 if server.started else 1


def supervise(listener: socket.socket, count: int) -> None:
    """Keep `count` worker processes on `listener` until told to end.

    A worker that dies is replaced, `worker_deaths` times within a while; then raises ServeError. One that its watchdog
    has ended had lived, so it is replaced however often. If this process is killed its workers see the end of the life
    pipe and drain by themselves.
    """
    bounds = settings.HEADRACE
    life, held = os.pipe()
    end: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: end.append(number))
    deaths: deque[float] = deque()
    workers = [_start_worker(listener, life) for _ in range(count)]
    while not end and len(deaths) <= bounds.worker_deaths:
        time.sleep(0.1)
        for place, worker in enumerate(workers):
            if worker.poll() is None or end:
                continue
            log.error("worker_died", worker_pid=worker.pid, status=worker.returncode)
            if worker.returncode != watchdog.STATUS:
                deaths.append(time.monotonic())
            while deaths and deaths[0] < deaths[-1] - bounds.worker_deaths_within_s:
                deaths.popleft()
            if len(deaths) > bounds.worker_deaths:
                break
            time.sleep(bounds.worker_restart_after_s)
            workers[place] = _start_worker(listener, life)
    listener.close()
    os.close(held)  # the one signal that reaches every worker, one that was just started too
    _wait_for(workers)
    os.close(life)
    if not end:
        raise ServeError(
            f"{len(deaths)} workers died within {bounds.worker_deaths_within_s:g} s; what they wrote above says why."
        )


def _wait_for(workers: "list[subprocess.Popen[bytes]]") -> None:
    """Their drains are bounded; who is later than that is killed."""
    bounds = settings.HEADRACE
    limit = time.monotonic() + bounds.drain_turns_s + bounds.drain_sockets_s + 3 * bounds.leave_s
    for worker in workers:
        try:
            worker.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _start_worker(listener: socket.socket, life: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(MANAGE), "serve", "--listener", str(listener.fileno()), "--life", str(life)],
        pass_fds=(listener.fileno(), life),
        stdin=subprocess.DEVNULL,
    )
