"""ChatManager, one a process: what a worker is made of, its life, and who does what it is told.

Sockets are in `chat/doors/clients.py`, commands in `commands.py`, runs in `runs.py`. What rows owe is told in
`telling.py`, what nobody runs is taken up in `sweep.py`, workers call to each other in `control.py`.
"""

import asyncio
import functools
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog
from asgiref.sync import async_to_sync
from django.conf import settings

from accounts.tokens import Identity
from chat import protocol
from chat.doors.admission import Admitted
from chat.doors.client import ChatClient
from chat.doors.clients import Clients
from chat.turns import tasks
from chat.turns.commands import Commands
from chat.turns.control import Control
from chat.turns.runs import Runs
from chat.turns.sweep import Sweep
from chat.turns.tasks import Tasks
from flows import build, providers
from streams import database, exposition, here, metrics, redis, traces
from streams import store as worker_store
from streams.errors import WireError
from streams.hub import Hub
from streams.log import Log
from streams.sessions import Sessions

TICK_S = 1.0
PURGE_EVERY_S = 600.0

log = structlog.get_logger("headrace.worker")


class ChatManager:
    """Everything of this process that lives between two messages. Nothing of it another worker could not rebuild."""

    def __init__(self) -> None:
        self.worker = here.worker = str(uuid.uuid4())
        self.is_draining = False
        self.tasks = Tasks()
        self.log = Log()
        self.hub = Hub(self.log)
        self.sessions = Sessions(self.worker)
        self.control = Control(self.worker, self._heed, self.tasks.spawn)
        self.clients = Clients(self.worker, self.log, self.hub, self.sessions, self.tasks)
        self.runs = Runs(self.worker, self.log, self.hub, self.control, self.tasks, lambda: self.is_draining)
        self.telling = self.runs.telling
        self.commands = Commands(self.worker, self.hub, self.runs, self.control, self.tasks)
        self.sweep = Sweep(self)
        self._duties: list[asyncio.Task] = []

    # ------------------------------------------------------------------------------------ life of a worker

    async def start(self) -> None:
        metrics.about.info({"version": settings.HEADRACE_VERSION, "turns": "on" if self.runs.runs_turns else "off"})
        traces.start()
        await self.hub.start()
        with suppress(WireError):  # the beat tries again; sockets hear `unavailable` meanwhile
            await self.sweep.beat()
        duties: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
            ("beat", settings.HEADRACE.beat_s, self.sweep.beat),
            ("told", settings.HEADRACE.beat_s, self.telling.mark_told),
            ("sweep", settings.HEADRACE.sweep_s, self.sweep.sweep),
            ("stops", settings.HEADRACE.stop_poll_s, self.runs.poll_stops),
            ("counters", settings.HEADRACE.counters_every_s, self.sessions.write_counters),
            ("places", settings.HEADRACE.places_every_s, self.clients.places.keep),
            ("logins", settings.HEADRACE.auth_check_s, self.clients.poll_logins),
            ("closes", settings.HEADRACE.auth_check_s, self.clients.poll_closes),
            ("metrics", settings.HEADRACE.metrics_every_s, self._leave_figures),
            ("purge", PURGE_EVERY_S, self.sweep.purge),
            ("tick", TICK_S, self._tick),
        ]
        for name, every_s, duty in duties:
            self._duties.append(asyncio.create_task(self._repeat(name, every_s, duty), name=f"headrace-{name}"))
        self._duties.append(asyncio.create_task(self.control.listen(), name="headrace-control"))

    async def stop(self) -> None:
        """Give back what runs, say what is owed to rows, close what is open. Each step bounded, and none skipped."""
        self.is_draining = True
        await tasks.end(self._duties)
        await self.runs.release()
        await tasks.end([*self.runs.tasks(), *self.tasks.all()])
        for step in (
            self.sessions.write_counters,
            self.telling.mark_told,
            lambda: database.write(worker_store.leave, self.worker),
            self._leave_figures,
            lambda: asyncio.to_thread(traces.stop),
            build.aclose,
            providers.aclose,
            self.clients.places.aclose,
            self.hub.aclose,
            self.log.aclose,
            redis.aclose,
        ):
            async with tasks.shutdown_step():
                await step()

    async def drain(self) -> None:
        """Take up no turn; give what runs its time, then to other workers; send sockets away, over some seconds."""
        self.is_draining = True
        await self.runs.drain(settings.HEADRACE.drain_turns_s)
        await self.clients.send_away(settings.HEADRACE.drain_sockets_s)

    async def _repeat(self, name: str, every_s: float, duty: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(every_s * random.uniform(0.9, 1.1))
            try:
                await duty()
            except WireError as error:
                log.warning("duty_late", duty=name, code=error.code)
            except Exception:
                log.exception("duty_failed", duty=name)

    async def _leave_figures(self) -> None:
        await asyncio.to_thread(exposition.leave)

    async def _tick(self) -> None:
        self.clients.tick()
        metrics.running_turns.set(len(self.runs))

    # -------------------------------------------------------------------------------------------- sockets

    async def take_place(self, identity: Identity, scope: dict[str, Any]) -> Callable[[], None]:
        """A place for one socket of this user and address, among those of all workers; what is returned gives it back.

        Raises WireError going_away, too_many_connections.
        """
        if self.is_draining:
            raise WireError("going_away", retry_after=1)
        return await self.clients.take_place(identity, scope)

    async def accept_client(
        self,
        admitted: Admitted,
        scope: dict[str, Any],
        send: Callable[[dict[str, Any]], Awaitable[None]],
        trace: str,
        make: Callable[..., Any] = ChatClient,
    ) -> Any:
        """A client, made by `make`, for who was admitted; its session open, its chat watched.

        Raises WireError unavailable.
        """
        return await self.clients.accept(admitted, scope, send, trace, functools.partial(make, self))

    async def handle_websocket(self, client: ChatClient) -> None:
        """Serve it to its end; what fails in that closes it."""
        await self.clients.serve(client)

    async def clear_client(self, client: ChatClient, code: int | None) -> None:
        """Forget it: its session ends, its chat is left."""
        await self.clients.forget(client, code)

    # -------------------------------------------------------------------------------------------- control

    def _heed(self, message: dict[str, Any]) -> None:
        """Each control message names its target; who has it acts."""
        kind = message["kind"]
        if kind == "stop":
            self.runs.stop(message["turn"])
        elif kind == "chats":
            self.clients.tell_user(message["user"], protocol.encode_frame(protocol.Chats(chat=message["data"])))
        elif kind == "released":  # turns that nobody runs: a sweep finds them too, some seconds later
            self.sweep.take_released_soon()
        elif kind == "close_session":
            self.clients.close_session(message["session"])
        elif kind == "chat_deleted":
            self.clients.chat_deleted(message["chat"])


# --------------------------------------------------------------------------------------------- one a process

_manager: ChatManager | None = None
_starting: asyncio.Lock | None = None


def manager() -> ChatManager:
    """This process's manager. Raises WireError unavailable where it has not started."""
    if _manager is None:
        raise WireError("unavailable", retry_after=1)
    return _manager


async def start() -> ChatManager:
    """Once a process: by lifespan where the server sends it, else by the first scope."""
    global _manager, _starting
    if _manager is not None:
        return _manager
    _starting = _starting or asyncio.Lock()
    async with _starting:
        if _manager is None:
            fresh = ChatManager()
            try:
                await fresh.start()
            except BaseException:
                await fresh.stop()
                raise
            _manager = fresh
    return _manager


async def stop() -> None:
    global _manager
    if _manager is not None:
        leaving, _manager = _manager, None
        await leaving.stop()


async def drain() -> None:
    if _manager is not None:
        await _manager.drain()


@async_to_sync
async def ask_manager(what: Callable[[ChatManager], Awaitable[Any]]) -> Any:
    """From a view's thread: on the loop on which this process's manager lives."""
    return await what(await start())
