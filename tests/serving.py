"""The server of the socket tests, in this process and event loop.

SERVER=uvicorn (as `manage.py serve` runs it, lifespan and socket protocol included) or SERVER=daphne (as
`manage.py runserver` does). What Daphne cannot do is said here, and nowhere else in the tests.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from tests.waiting import until

NAME = os.environ.get("SERVER") or "uvicorn"
IS_DAPHNE = {"uvicorn": False, "daphne": True}[NAME]
START_S = 15
END_S = 40

# An application may close with these on uvicorn; on Daphne with 3000 more. And it gives no close a reason: an error
# frame comes before each.
CODES_IT_MOVES = (1008, 1011, 1012, 1013)


# By the test's name, a parameter's with it where only that one is meant: what it needs that Daphne has not.
_CLOSE = "autobahn drops a peer that breaks the protocol, without a close frame (1006)"
_REFUSE = "a refused handshake is 403, whatever was meant"
_ORIGIN = "autobahn answers 400 to an origin whose port is no number"
_HEAD = "Twisted's own bounds on the head of a request"
_DRAIN = "a shutdown does not reach the application: no drain, no lifespan"
_READ = "what is sent to a peer that does not read is taken, and piles up in the server"
_GONE = "what is sent to a peer that has left is taken, and so it counts as sent"
_QUIET = "there is no frame before this close, and its reason is lost"
CANNOT: dict[str, str] = {
    "test_row_02_invalid_utf8": _CLOSE,
    "test_row_03_frame_over_256_kib": _CLOSE,
    "test_row_03_frame_over_256_kib_in_pieces": _CLOSE,
    "test_unknown_path_is_404": _REFUSE,
    "test_row_06_unknown_subprotocol_alone": _REFUSE,
    "test_foreign_origin_is_403": _ORIGIN,
    "test_row_08_cookie_from_a_foreign_page": _ORIGIN,
    "test_head_of_ten_kilobytes_is_read": _HEAD,
    "test_counters_of_a_hundred_random_conversations_equal_the_clients": _GONE,
    "test_unknown_subprotocol_alone_is_400": _REFUSE,
    "test_unknown_subprotocol_beside_a_bearer_is_400": _REFUSE,
    "test_head_that_is_too_long_is_refused_at_once": _HEAD,
}


def serving(port: int) -> contextlib.AbstractAsyncContextManager[None]:
    return _daphne(port) if IS_DAPHNE else _uvicorn(port)


def told(code: int, reason: str, frames: list[dict[str, Any]]) -> tuple[int, str]:
    """The close that the server was told to make, by the error frame before it where it is Daphne."""
    if not IS_DAPHNE or reason:
        return code, reason
    from streams.errors import CATALOGUE

    names = [name for frame in frames if (name := _ending(frame))]
    if code - 3000 in CODES_IT_MOVES:
        return code - 3000, names[-1] if names else ""
    return (code, names[-1]) if names and CATALOGUE[names[-1]].close == code else (code, reason)


def _ending(frame: dict[str, Any]) -> str | None:
    """The end that this frame tells of."""
    if frame["type"] == "chat" and frame.get("deleted"):
        return "chat_deleted"
    return {"error": frame.get("code"), "going_away": "going_away"}.get(frame["type"])


@asynccontextmanager
async def _uvicorn(port: int) -> AsyncIterator[None]:
    from config.serve import Server, listen, server_config

    class Quiet(Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # signals stay pytest's
            yield

    server = Quiet(server_config(loop="none"))
    running = asyncio.create_task(server.serve(sockets=[listen("127.0.0.1", port)]))
    await until(lambda: server.started or running.done(), START_S, "the server has started")
    try:
        yield
    finally:
        server.should_exit = True
        async with asyncio.timeout(END_S):
            await running


@asynccontextmanager
async def _daphne(port: int) -> AsyncIterator[None]:
    """Twisted has one reactor for the life of a process, tests have a loop each: it is led from one to the next."""
    from daphne.server import Server
    from django.conf import settings
    from twisted.internet import reactor
    from twisted.internet.defer import maybeDeferred

    from chat.turns import manager
    from config.asgi import application

    class Quiet(Server):
        port: Any = None

        def listen_success(self, port: Any) -> None:
            self.port = port

        def run(self) -> None:
            reactor.run, run = (lambda **_: None), reactor.run  # the loop runs already
            try:
                super().run()
            finally:
                reactor.run = run

    _lead_here(reactor)
    server = Quiet(
        application,
        endpoints=[f"tcp:port={port}:interface=127.0.0.1"],
        signal_handlers=False,
        websocket_max_message_size=settings.HEADRACE.frame_in_bytes,
        websocket_max_frame_size=settings.HEADRACE.frame_in_bytes,
    )
    server.run()
    await until(lambda: server.port, START_S, "the server listens")
    await manager.start()  # as the first scope does, where there is no lifespan
    try:
        yield
    finally:
        async with asyncio.timeout(END_S):
            await maybeDeferred(server.port.stopListening).asFuture(asyncio.get_running_loop())
            await _end_connections(server)
            await manager.stop()


def _lead_here(reactor: Any) -> None:
    """What the loop before left in it, which has ended, would never come."""
    for call in reactor.getDelayedCalls():
        call.cancel()
    reactor._readers.clear()
    reactor._writers.clear()
    reactor._timerHandle = reactor._scheduledAt = None
    reactor._asyncioEventloop = asyncio.get_running_loop()


async def _end_connections(server: Any) -> None:
    applications = [held.get("application_instance") for held in server.connections.values()]
    applications = [one for one in applications if one is not None]
    for protocol in list(server.connections):
        if protocol.transport is not None:
            protocol.transport.abortConnection()
    if applications:
        await asyncio.wait(applications, timeout=END_S / 4)
    for one in applications:
        one.cancel()
    await asyncio.gather(*applications, return_exceptions=True)
