"""ChatManager, one a process: its sockets and its running turns.

It takes admitted sockets and serves them to their end, accepts commands and starts their runs. What rows owe is
told in `telling.py`, what nobody runs is taken up in `sweep.py`, workers call to each other in `control.py`.
"""

import asyncio
import functools
import random
import secrets
import time
import unicodedata
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from asgiref.sync import async_to_sync
from django.conf import settings

from accounts import tokens
from accounts.passwords import network_of
from accounts.tokens import Credential, Identity
from chat import protocol, snapshot
from chat.doors.admission import Admitted
from chat.doors.client import ChatClient
from chat.turns import orders, reads
from chat.turns.control import Control
from chat.turns.runner import Run
from chat.turns.store import asking, beginning, chats, stopping
from chat.turns.sweep import Sweep
from chat.turns.telling import Telling
from flows import build, providers
from streams import database, exposition, frames, here, metrics, redis, traces
from streams import store as worker_store
from streams.clock import stamp
from streams.errors import WireError
from streams.hub import Hub, Ring
from streams.log import Log, Position
from streams.places import Places
from streams.sentences import Sentence
from streams.sentences import noop as _
from streams.sessions import Sessions
from streams.states import StreamState

TICK_S = 1.0
SHUTDOWN_S = 5.0
PURGE_EVERY_S = 600.0
TOO_LONG = _("The text has more than {limit} characters. Shorten it, or send it as a file.")
TOO_MANY_FILES = _("A message takes {limit} files at most.")

log = structlog.get_logger("headrace.worker")


class ChatManager:
    """Everything of this process that lives between two messages. Nothing of it another worker could not rebuild."""

    def __init__(self) -> None:
        self.worker = here.worker = str(uuid.uuid4())
        self._loop = asyncio.get_running_loop()
        self.log = Log()
        self.hub = Hub(self.log)
        self.sessions = Sessions(self.worker)
        self.is_draining = False
        self.outage: bytes | None = None  # the `degraded` of one that lasts, for whoever comes meanwhile
        self.runs_turns = settings.TURNS
        self._clients: dict[str, ChatClient] = {}
        self._by_chat: defaultdict[str, set[ChatClient]] = defaultdict(set)
        self._by_user: defaultdict[int, set[ChatClient]] = defaultdict(set)
        self.places = Places(self.log.masters)
        self._runs: dict[tuple[str, int], Run] = {}
        self._run_tasks: dict[tuple[str, int], asyncio.Task] = {}
        self._under_way: Counter[str] = Counter()
        self._snapshots: dict[str, asyncio.Task] = {}
        self._tasks: set[asyncio.Task] = set()
        self._duties: list[asyncio.Task] = []
        self.hub.on_fresh = self._on_fresh
        self.hub.on_degraded = self._on_degraded
        self.telling = Telling(self.log, self.hub, self._tells_itself)
        self.control = Control(self.worker, self._heed, self.spawn)
        self.sweep = Sweep(self)

    # ------------------------------------------------------------------------------------ life of a worker

    async def start(self) -> None:
        metrics.about.info({"version": settings.HEADRACE_VERSION, "turns": "on" if self.runs_turns else "off"})
        traces.start()
        await self.hub.start()
        with suppress(WireError):  # the beat tries again; sockets hear `unavailable` meanwhile
            await self.sweep.beat()
        duties: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
            ("beat", settings.HEADRACE.beat_s, self.sweep.beat),
            ("told", settings.HEADRACE.beat_s, self.telling.mark_told),
            ("sweep", settings.HEADRACE.sweep_s, self.sweep.sweep),
            ("stops", settings.HEADRACE.stop_poll_s, self._poll_stops),
            ("counters", settings.HEADRACE.counters_every_s, self.sessions.write_counters),
            ("places", settings.HEADRACE.places_every_s, self.places.keep),
            ("logins", settings.HEADRACE.auth_check_s, self._poll_logins),
            ("closes", settings.HEADRACE.auth_check_s, self._poll_closes),
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
        await _end(self._duties)
        await self._release_runs()
        await _end([*self._run_tasks.values(), *self._tasks])
        for step in (
            self.sessions.write_counters,
            self.telling.mark_told,
            lambda: database.write(worker_store.leave, self.worker),
            self._leave_figures,
            lambda: asyncio.to_thread(traces.stop),
            build.aclose,
            providers.aclose,
            self.places.aclose,
            self.hub.aclose,
            self.log.aclose,
            redis.aclose,
        ):
            async with _within(SHUTDOWN_S):
                await step()

    async def drain(self) -> None:
        """Take up no turn; give what runs its time, then to other workers; send sockets away, over some seconds."""
        self.is_draining = True
        deadline = time.monotonic() + settings.HEADRACE.drain_turns_s
        while self._run_tasks and time.monotonic() < deadline:
            await asyncio.wait(self._run_tasks.values(), timeout=deadline - time.monotonic())
        await self._release_runs()
        clients = list(self._clients.values())
        pause_s = settings.HEADRACE.drain_sockets_s / max(len(clients), 1)
        for client in clients:
            client.post(protocol.encode_frame(protocol.GoingAway(retry_after=round(random.uniform(0.2, 2), 2))))
            self.spawn(client.close(WireError("going_away")))
            await asyncio.sleep(pause_s)

    async def _release_runs(self) -> None:
        """Turns that run here are nobody's, and the others hear of it at once."""
        if not self._runs:
            return
        releases = [asyncio.create_task(run.release()) for run in list(self._runs.values())]
        await asyncio.wait(releases, timeout=SHUTDOWN_S)
        await _end(releases)
        async with _within(SHUTDOWN_S):
            await self.control.tell_others("released")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task:
        """A task that this manager owns: kept, awaited at the end, its failure logged."""
        task = asyncio.create_task(work)
        self._own(task)
        return task

    def _own(self, task: asyncio.Task) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, WireError):
            log.error("task_failed", exc_info=error)

    async def _repeat(self, name: str, every_s: float, duty: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(every_s * random.uniform(0.9, 1.1))
            try:
                await duty()
            except WireError as error:
                log.warning("duty_late", duty=name, code=error.code)
            except Exception:
                log.exception("duty_failed", duty=name)

    # -------------------------------------------------------------------------------------------- sockets

    async def take_place(self, identity: Identity, scope: dict[str, Any]) -> Callable[[], None]:
        """A place for one socket of this user and address, among those of all workers; what is returned gives it back.

        Raises WireError going_away, too_many_connections.
        """
        if self.is_draining:
            raise WireError("going_away", retry_after=1)
        bounds = settings.HEADRACE
        return await self.places.take(
            {
                f"user:{identity.user_id}": bounds.sockets_per_user,
                f"address:{network_of(_address(scope) or '')}": bounds.sockets_per_address,
            }
        )

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
        ring = await self.hub.watch(admitted.chat)
        try:
            session = await self.sessions.open(
                user=admitted.identity.user_id,
                flow=admitted.flow.id,
                chat=admitted.chat,
                door=admitted.door,
                address=_address(scope),
                user_agent=_user_agent(scope),
                trace=trace,
            )
        except BaseException:
            self.hub.leave(admitted.chat)
            raise
        session.move(StreamState.CONNECTED)
        session.move(ring.state)
        write = scope.get("extensions", {}).get(frames.EXTENSION, {}).get("write")
        client = make(self, admitted, session, send, trace, ring, write)
        self._clients[session.id] = client
        self._by_chat[client.chat].add(client)
        self._by_user[client.identity.user_id].add(client)
        client.log.info("socket_admitted", user=session.user, flow=session.flow, door=session.door.value)
        return client

    async def handle_websocket(self, client: ChatClient) -> None:
        """Serve it to its end; what fails in that closes it."""
        try:
            await client.serve()
        except WireError as error:
            await client.close(error)
        except Exception:
            client.log.exception("socket_failed")
            await client.close(WireError("internal"))

    async def clear_client(self, client: ChatClient, code: int | None) -> None:
        """Forget it: its session ends, its chat is left."""
        if self._clients.pop(client.session.id, None) is None:
            return
        self.hub.leave(client.chat)
        self._drop(self._by_chat, client.chat, client)
        self._drop(self._by_user, client.identity.user_id, client)
        with suppress(WireError):  # the next write of the counters ends it
            await self.sessions.close(client.session, code)
        session = client.session
        client.log.info("socket_closed", code=session.close_code, reason=session.close_reason)

    @staticmethod
    def _drop(index: defaultdict[Any, set[ChatClient]], key: Any, client: ChatClient) -> None:
        index[key].discard(client)
        if not index[key]:
            del index[key]

    def clients_of(self, chat: str) -> list[ChatClient]:
        """This process's sockets of a chat that is known to be their user's."""
        return [client for client in self._by_chat.get(chat, ()) if client.is_mine]

    async def snapshot(self, chat: str) -> tuple[bytes, Position]:
        """Of one chat, made once for all who ask at the same time."""
        task = self._snapshots.get(chat)
        if task is None:
            task = self._snapshots[chat] = self.spawn(snapshot.take(self.log, chat))
            task.add_done_callback(lambda _: self._snapshots.pop(chat, None))
        return await asyncio.shield(task)

    def empty_snapshot(self, chat: str, position: Position) -> bytes:
        return snapshot.empty(chat, position)

    def server_info(self) -> protocol.ServerInfo:
        return protocol.ServerInfo(version=settings.HEADRACE_VERSION, time=_now())

    async def check_owner(self, client: ChatClient) -> None:
        """A socket admitted without a row reads whose the chat is by now. Raises WireError chat_not_found."""
        owner = await database.read(reads.owner, client.chat)
        if owner == (client.identity.user_id, client.admitted.flow.id):
            client.becomes_mine()
        elif owner is not None:
            raise WireError("chat_not_found")

    async def renewed(self, identity: Identity, token: str) -> Identity:
        """Who a fresh token for the same user says he is. Raises WireError unauthorized, forbidden."""
        fresh = await database.read(tokens.verify, Credential("header", token))
        if fresh.user_id != identity.user_id:
            raise WireError("unauthorized")
        if not fresh.may("chat"):
            raise WireError("forbidden")
        return fresh

    # ------------------------------------------------------------------------------------------- commands

    async def say(self, admitted: Admitted, command: protocol.Say) -> dict[str, Any]:
        """Accept a message. Returns the reply's fields. Raises WireError."""
        text = _checked_text(command.text)
        bounds = settings.HEADRACE
        if len(command.files) > bounds.files_per_say:
            raise WireError("validation_error", Sentence(TOO_MANY_FILES, limit=bounds.files_per_say), field="files")
        return await self._begin(
            admitted,
            act="say",
            command=command.id,
            text=text,
            params=command.params,
            parent=command.parent,
            files=tuple(command.files),
        )

    async def regenerate(self, admitted: Admitted, command: protocol.Regenerate) -> dict[str, Any]:
        return await self._begin(admitted, act="regenerate", command=command.id, message=command.message)

    async def edit(self, admitted: Admitted, command: protocol.Edit) -> dict[str, Any]:
        text = _checked_text(command.text)
        return await self._begin(admitted, act="edit", command=command.id, message=command.message, text=text)

    async def _begin(self, admitted: Admitted, **act: Any) -> dict[str, Any]:
        begin = orders.Begin(
            chat=admitted.chat,
            user=admitted.identity.user_id,
            user_name=admitted.identity.name,
            flow=admitted.flow.id,
            key=admitted.identity.key,
            kind=admitted.chat_kind,
            graph=admitted.graph,
            version=admitted.version_id,
            skill=admitted.skill,
            locale=admitted.locale,
            worker=self.runner(),
            has_room=self._has_room(),
            **act,
        )
        return await self.transact(begin.chat, beginning.begin_turn, begin)

    async def answer(self, identity: Identity, chat: str, command: protocol.AnswerCommand) -> dict[str, Any]:
        user = identity.user_id
        question, action, value = str(uuid.UUID(command.question)), command.action, command.value
        given = (chat, user, command.id, question, action, value, self.runner(), self._has_room())
        return await self.transact(chat, asking.answer, *given)

    async def stop_turn(self, identity: Identity, chat: str, command: protocol.Stop) -> dict[str, Any]:
        user = identity.user_id
        turn = None if command.turn is None else str(uuid.UUID(command.turn))
        return await self.transact(chat, stopping.stop, chat, user, command.id, turn, self.runner())

    async def stop_as_operator(self, chat: str, turn: str | None = None) -> dict[str, Any]:
        """Stop a turn (default: the running or waiting one) of anybody's chat. Raises WireError turn_not_running."""
        owner = await database.read(reads.owner, chat)
        if owner is None:
            raise WireError("turn_not_running")
        command = secrets.token_urlsafe(16)
        return await self.transact(chat, stopping.stop, chat, owner[0], command, turn, self.runner())

    async def close_session(self, session: str) -> bool:
        """Close a socket of any worker: `session_closed`. False: it has ended already."""
        is_live = await database.write(worker_store.ask_close, session)
        if is_live:
            self.control.send("close_session", session=session)
        return is_live

    async def patch_chat(self, chat: str, user: int, **changes: Any) -> None:
        await self.transact(chat, lambda: chats.patch_chat(chat, user, worker=self.worker, **changes))

    async def delete_chat(self, chat: str, user: int) -> None:
        await self.transact(chat, chats.delete_chat, chat, user, self.worker, is_told=True)
        self.control.send("chat_deleted", chat=chat)

    async def restore_chat(self, chat: str, user: int) -> None:
        await self.transact(chat, chats.restore_chat, chat, user)

    def flow_deleted(self, flow: str) -> None:
        """From any thread: its turns end now."""
        self._loop.call_soon_threadsafe(lambda: self.spawn(self.end_turns_of_flow(flow)))

    async def end_turns_of_flow(self, flow: str) -> None:
        """Of a deleted flow: at its deletion, and every sweep looks for some."""
        while outcomes := await database.write(stopping.end_turns_of_flow, flow, self.worker):
            for chat, outcome in outcomes:
                async with self.hub.watched(chat) as ring:
                    self._apply(outcome, chat, ring.position.epoch)

    async def transact(
        self, chat: str, fn: Callable[..., orders.Outcome], *args: Any, is_told: bool = False
    ) -> dict[str, Any]:
        """A transaction that may begin a run. The epoch is taken before it is sent.

        `is_told`: return when what it owes is in the log, or after a while.
        """
        async with self.hub.watched(chat) as ring:
            epoch = ring.position.epoch
            outcome = await database.write(fn, *args, is_command=True, on_return=self._sends(chat))
            telling = self._apply(outcome, chat, epoch)
            if is_told and telling is not None:
                await asyncio.wait([telling], timeout=settings.HEADRACE.command_hop_s)
        return outcome.reply

    def runner(self) -> str | None:
        """This worker, where it can take one more turn; else a sweep finds who can."""
        return self.worker if self.runs_turns and not self.is_draining and self._has_room() else None

    def _has_room(self) -> bool:
        """Under the bound of running turns of a worker; a process that runs none leaves that to those that do."""
        return not self.runs_turns or len(self._runs) < settings.HEADRACE.turns_per_worker

    def _sends(self, chat: str) -> Callable[[], None]:
        """A transaction is under way until what this returns is called, once no thread works on it any more.

        Until then no turn of this chat is judged abandoned: the commit may come late.
        """
        self._under_way[chat] += 1
        return functools.partial(self._settled, chat)

    def _settled(self, chat: str) -> None:
        self._under_way[chat] -= 1
        if self._under_way[chat] <= 0:
            del self._under_way[chat]

    # ----------------------------------------------------------------------------------------------- runs

    def _apply(self, outcome: orders.Outcome, chat: str, epoch: str) -> asyncio.Task | None:
        """What a committed transaction brings about. Awaits nothing: a run is registered at once.

        Returns the task that tells what is owed, if anything is.
        """
        for turn in outcome.stops:
            if not self._stop_here(turn):
                self.control.send("stop", turn=turn)
        for end, code in outcome.ended:
            metrics.turns_ended.labels(end, code).inc()
        if outcome.is_takeover:
            metrics.takeovers.inc()
        rows = [("turn", turn) for turn in outcome.owed] + ([("chat", chat)] if outcome.owes_chat else [])
        telling = self.spawn(self.telling.tell_all(rows, chat)) if rows else None
        if outcome.run is not None:
            self._begin_run(outcome.run, epoch, telling)
        if outcome.is_released:
            self.control.send("released")
        if outcome.listed is not None:
            user, item = outcome.listed
            self.control.send("chats", user=user, data=item)
        return telling

    def _begin_run(self, order: orders.RunOrder, epoch: str, telling: asyncio.Task | None) -> None:
        """`telling`: what the same transaction owes, an end before this beginning, goes first."""
        key = (order.turn, order.attempt)
        sends = functools.partial(self._sends, order.chat)
        run = Run(order, self.log, epoch, self.runner, sends, self._run_finished, self.telling.confirmed, self._own)
        self._runs[key] = run
        self.hub.hold(order.chat)  # whoever began it watches the chat; the run leaves it at its end
        task = asyncio.create_task(self._run(run, telling), name=f"turn-{order.turn}-{order.attempt}")
        self._run_tasks[key] = task
        task.add_done_callback(lambda _: self._run_left(key))

    async def _run(self, run: Run, telling: asyncio.Task | None) -> None:
        try:
            if telling is not None:
                await asyncio.wait([telling])  # bounded by the bounds of its hop and its append
            await run.run()
        except Exception:
            log.exception("run_failed", turn=run.order.turn, attempt=run.order.attempt)
        finally:
            self.hub.leave(run.order.chat)

    def _run_left(self, key: tuple[str, int]) -> None:
        self._runs.pop(key, None)
        self._run_tasks.pop(key, None)

    def _run_finished(self, run: Run, outcome: orders.Outcome) -> None:
        """A run's own transaction ended or suspended its turn: what follows begins."""
        self._apply(outcome, run.order.chat, run.epoch)

    def has_in_hand(self, turn: str, attempt: int, chat: str) -> bool:
        """Whether this worker runs that attempt, or a transaction of its chat is on its way."""
        return (turn, attempt) in self._runs or self._under_way[chat] > 0

    def _tells_itself(self, row: str) -> bool:
        """Whether a run here tells what this row owes: its turn, or the chat that it gave a title."""
        orders_here = (run.order for run in self._runs.values())
        return any(row == order.turn or (order.titled is not None and row == order.chat) for order in orders_here)

    def _on_fresh(self, ring: Ring, frames: list[bytes]) -> None:
        """What a chat's events say its sockets do. Growth of an answer, the most frequent, is told at a look."""
        state = ring.state
        for frame in frames:
            is_growth = b'"type":"delta"' in frame[:GROWTH_BYTES]
            kind = "delta" if is_growth else type_of(frame)
            state = StreamState.STREAMING if is_growth else STATES.get(kind, state)
            if kind == "chat" and msgspec.json.decode(frame).get("deleted"):
                self._chat_deleted(ring.chat)
        if state != ring.state:
            ring.state = state
            for client in self.clients_of(ring.chat):
                client.session.move(state)

    def _chat_deleted(self, chat: str) -> None:
        """Told by a message, and by the chat's own event, which reaches who missed that."""
        for client in self.clients_of(chat):
            client.close_soon(WireError("chat_deleted"))

    def _stop_here(self, turn: str) -> bool:
        found = [run for (id_, _), run in self._runs.items() if id_ == turn]
        for run in found:
            run.stop()
        return bool(found)

    async def _poll_stops(self) -> None:
        running = [turn for turn, _ in self._runs]
        if running:
            for turn in await database.read(reads.stopped_among, running):
                self._stop_here(turn)

    # ------------------------------------------------------------------------------------- once in a while

    async def _leave_figures(self) -> None:
        await asyncio.to_thread(exposition.leave)

    async def _tick(self) -> None:
        now, wall = time.monotonic(), time.time()
        clients = list(self._clients.values())
        for client in clients:
            client.tick(now, wall)
        lags = [client.pump.lag for client in clients]
        metrics.lagging_sockets.set(sum(map(bool, lags)))
        metrics.lag_events.set(max(lags, default=0))
        metrics.running_turns.set(len(self._runs))

    async def _poll_logins(self) -> None:
        """Log-ins and users that ended, sessions that operators ended: their sockets close."""
        clients = list(self._clients.values())
        if not clients:
            return
        logins = sorted({client.identity.login for client in clients if client.identity.login})
        users = sorted({client.identity.user_id for client in clients})
        ended = await database.read(tokens.ended_among, logins, users)
        for client in clients:
            if client.identity.login in ended or client.identity.user_id in ended:
                client.close_soon(WireError("unauthorized"))

    async def _poll_closes(self) -> None:
        """Sockets that an operator wants closed."""
        if self._clients:
            for session in await database.read(worker_store.closes_asked, self.worker):
                self._close_here(session)

    def _close_here(self, session: str) -> None:
        client = self._clients.get(session)
        if client is not None:
            client.close_soon(WireError("session_closed"))

    def _on_degraded(self, is_degraded: bool) -> None:
        frame = protocol.Degraded(since=_now()) if is_degraded else protocol.Restored()
        encoded = protocol.encode_frame(frame)
        self.outage = encoded if is_degraded else None
        for client in list(self._clients.values()):
            client.post(encoded)

    # -------------------------------------------------------------------------------------------- control

    def _heed(self, message: dict[str, Any]) -> None:
        """Each control message names its target; who has it acts."""
        kind = message["kind"]
        if kind == "stop":
            self._stop_here(message["turn"])
        elif kind == "chats":
            frame = protocol.encode_frame(protocol.Chats(chat=message["data"]))
            for client in self._by_user.get(message["user"], ()):
                client.post(frame)
        elif kind == "released":  # turns that nobody runs: a sweep finds them too, some seconds later
            self.sweep.take_released_soon()
        elif kind == "close_session":
            self._close_here(message["session"])
        elif kind == "chat_deleted":
            self._chat_deleted(message["chat"])


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


# ------------------------------------------------------------------------------------------------- small

# What sockets do after an event of this type.
STATES = {
    "turn_start": StreamState.STREAMING,
    "question": StreamState.PAUSED,
    "turn_end": StreamState.CONNECTED,
}
GROWTH_BYTES = 40  # `{"seq":` and a number before the type


def type_of(frame: bytes) -> str:
    """The type of an event as it lies in a ring."""
    start = frame.index(b'"type":"') + 8
    return frame[start : frame.index(b'"', start)].decode()


def _checked_text(text: str) -> str:
    """Raises WireError empty_text, bad_text, text_too_long."""
    most = settings.HEADRACE.text_chars
    if len(text) > most:
        raise WireError("text_too_long", Sentence(TOO_LONG, limit=most), field="text")
    if "\x00" in text:
        raise WireError("bad_text", field="text")
    if all(char.isspace() or unicodedata.category(char) == "Cf" for char in text):  # Cf: without width
        raise WireError("empty_text", field="text")
    return text


def _address(scope: dict[str, Any]) -> str | None:
    peer = scope.get("client")
    return peer[0] if peer else None


def _user_agent(scope: dict[str, Any]) -> str:
    headers = dict(scope.get("headers", []))
    return headers.get(b"user-agent", b"").decode("latin-1")[:255]


def _now() -> str:
    return stamp(datetime.now(UTC))


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """A bound on a step of the shutdown, whose failure must not keep the next one from its turn."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TimeoutError, WireError) as error:
        log.warning("shutdown_cut", reason=type(error).__name__)
    except Exception:
        log.exception("shutdown_cut")


async def _end(tasks: Collection[asyncio.Task]) -> None:
    """Cancel them. Who does not heed that in `SHUTDOWN_S` is left behind."""
    for task in tasks:
        task.cancel()
    if tasks:
        done, pending = await asyncio.wait(tasks, timeout=SHUTDOWN_S)
        await asyncio.gather(*done, return_exceptions=True)  # they have told of their faults themselves
        for task in pending:
            log.warning("task_left", task=task.get_name())
