"""ChatManager, one a process: its sockets, its running turns, its worker's duties.

It takes admitted sockets and serves them to their end; accepts messages and starts their runs; tells what rows owe;
sweeps up what nobody runs; listens to control messages, each of which has a slow poll behind it.
"""

import asyncio
import functools
import os
import random
import socket as sockets
import time
import unicodedata
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import structlog
from channels.layers import get_channel_layer
from django.conf import settings

from accounts import tokens
from accounts.tokens import Credential, Identity
from chat import protocol, snapshot
from chat.doors.admission import Admitted
from chat.doors.client import ChatClient
from chat.files import store as files
from chat.turns import orders, owed, questions, reads, store
from chat.turns.outbox import append_owed
from chat.turns.runner import Run
from flows import build, providers
from streams import database, redis
from streams import store as worker_store
from streams.clock import stamp
from streams.errors import WireError
from streams.hub import Hub, Ring
from streams.log import Log, Position
from streams.sessions import Sessions
from streams.states import StreamState

GROUP = "workers"
TICK_S = 1.0
SHUTDOWN_S = 5.0
PURGE_EVERY_S = 600.0

log = structlog.get_logger("headrace.worker")


class ChatManager:
    """Everything of this process that lives between two messages. Nothing of it another worker could not rebuild."""

    def __init__(self) -> None:
        self.worker = str(uuid.uuid4())
        self.log = Log()
        self.hub = Hub(self.log)
        self.sessions = Sessions(self.worker)
        self.is_draining = False
        self.runs_turns = settings.TURNS
        self._clients: dict[str, ChatClient] = {}
        self._by_chat: defaultdict[str, set[ChatClient]] = defaultdict(set)
        self._by_user: defaultdict[int, set[ChatClient]] = defaultdict(set)
        self._places: Counter[tuple[str, Any]] = Counter()  # sockets of a user, of an address
        self._runs: dict[tuple[str, int], Run] = {}
        self._run_tasks: dict[tuple[str, int], asyncio.Task] = {}
        self._under_way: Counter[str] = Counter()
        self._telling: dict[str, bool] = {}  # rows being told, and whether they changed meanwhile
        self._told: dict[tuple[str, str], int] = {}
        self._snapshots: dict[str, asyncio.Task] = {}
        self._tasks: set[asyncio.Task] = set()
        self._duties: list[asyncio.Task] = []
        self._others = 0  # workers that live besides this one, as the last sweep saw
        self._seen_at = 0.0  # when a beat was last written, monotonic
        self._judges_from = 0.0  # after an outage of the database nobody is judged dead before this

    # ------------------------------------------------------------------------------------ life of a worker

    async def start(self) -> None:
        await self.hub.start()
        self.hub.on_degraded = self._on_degraded
        with suppress(WireError):  # the beat tries again; sockets hear `unavailable` meanwhile
            await self._beat()
        duties: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
            ("beat", settings.HEADRACE.beat_s, self._beat),
            ("sweep", settings.HEADRACE.sweep_s, self._sweep),
            ("stops", settings.HEADRACE.stop_poll_s, self._poll_stops),
            ("counters", settings.HEADRACE.counters_every_s, self.sessions.write_counters),
            ("logins", settings.HEADRACE.auth_check_s, self._poll_logins),
            ("purge", PURGE_EVERY_S, self._purge),
            ("tick", TICK_S, self._tick),
        ]
        for name, every_s, duty in duties:
            self._duties.append(asyncio.create_task(self._repeat(name, every_s, duty), name=f"headrace-{name}"))
        self._duties.append(asyncio.create_task(self._listen(), name="headrace-control"))

    async def stop(self) -> None:
        """Give back what runs, say what is owed to rows, close what is open. Each step bounded."""
        self.is_draining = True
        for duty in self._duties:
            duty.cancel()
        await asyncio.gather(*self._duties, return_exceptions=True)
        async with _within(SHUTDOWN_S):
            await asyncio.gather(*(run.release() for run in list(self._runs.values())), return_exceptions=True)
        for task in [*self._run_tasks.values(), *self._tasks]:
            task.cancel()
        await asyncio.gather(*self._run_tasks.values(), *self._tasks, return_exceptions=True)
        leave = database.write(worker_store.leave, self.worker)
        for step in (self.sessions.write_counters(), self._mark_told(), leave):
            async with _within(SHUTDOWN_S):
                await step
        await build.aclose()
        await providers.aclose()
        await self.hub.aclose()
        await self.log.aclose()
        await redis.aclose()

    async def drain(self) -> None:
        """No new turns; running ones get their time; then sockets are sent away, spread over some seconds."""
        self.is_draining = True
        deadline = time.monotonic() + settings.HEADRACE.drain_turns_s
        while self._run_tasks and time.monotonic() < deadline:
            await asyncio.wait(self._run_tasks.values(), timeout=deadline - time.monotonic())
        clients = list(self._clients.values())
        pause_s = settings.HEADRACE.drain_sockets_s / max(len(clients), 1)
        for client in clients:
            client.post(protocol.encode_frame(protocol.GoingAway(retry_after=round(random.uniform(0.2, 2), 2))))
            self.spawn(client.close(WireError("going_away")))
            await asyncio.sleep(pause_s)

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

    def take_place(self, identity: Identity, scope: dict[str, Any]) -> Callable[[], None]:
        """A place for one socket of this user and address; what is returned gives it back.

        Raises WireError going_away, too_many_connections.
        """
        if self.is_draining:
            raise WireError("going_away", retry_after=1)
        bounds = settings.HEADRACE
        wanted = {
            ("user", identity.user_id): bounds.sockets_per_user,
            ("address", _address(scope)): bounds.sockets_per_address,
        }
        if any(self._places[who] >= most for who, most in wanted.items()):
            raise WireError("too_many_connections", retry_after=30)
        self._places.update(wanted.keys())
        return functools.partial(self._give_back, list(wanted))

    def _give_back(self, places: list[tuple[str, Any]]) -> None:
        for who in places:
            self._places[who] -= 1
            if not self._places[who]:
                del self._places[who]

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
        client = make(self, admitted, session, send, trace, ring)
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
        """Who a fresh token for the same user says he is. Raises WireError unauthorized."""
        fresh = await database.read(tokens.verify, Credential("header", token))
        if fresh.user_id != identity.user_id:
            raise WireError("unauthorized")
        return fresh

    # ------------------------------------------------------------------------------------------- commands

    async def say(self, admitted: Admitted, command: protocol.Say) -> dict[str, Any]:
        """Accept a message. Returns the reply's fields. Raises WireError."""
        text = _checked_text(command.text)
        if len(command.files) > settings.HEADRACE.files_per_say:
            raise WireError("bad_frame", field="files")
        params = questions.checked_params(admitted.flow.params, command.params)
        return await self._begin(
            admitted,
            act="say",
            command=command.id,
            text=text,
            params=params,
            parent=command.parent,
            files=tuple(command.files),
        )

    async def regenerate(self, admitted: Admitted, command: protocol.Regenerate) -> dict[str, Any]:
        return await self._begin(admitted, act="regenerate", command=command.id, message=command.message)

    async def edit(self, admitted: Admitted, command: protocol.Edit) -> dict[str, Any]:
        text = _checked_text(command.text)
        return await self._begin(admitted, act="edit", command=command.id, message=command.message, text=text)

    async def _begin(self, admitted: Admitted, **act: Any) -> dict[str, Any]:
        if self.is_draining:
            raise WireError("going_away", retry_after=1)
        if self.runs_turns and len(self._runs) >= settings.HEADRACE.turns_per_worker:
            raise WireError("busy", retry_after=1)
        begin = orders.Begin(
            chat=admitted.chat,
            user=admitted.identity.user_id,
            user_name=admitted.identity.name,
            flow=admitted.flow.id,
            kind=admitted.chat_kind,
            graph=admitted.graph,
            version=admitted.version_id,
            skill=admitted.skill,
            locale=admitted.locale,
            worker=self._runner(),
            **act,
        )
        return await self._transact(begin.chat, store.begin_turn, begin)

    async def answer(self, identity: Identity, chat: str, command: protocol.AnswerCommand) -> dict[str, Any]:
        user = identity.user_id
        question, action, value = str(uuid.UUID(command.question)), command.action, command.value
        return await self._transact(chat, store.answer, chat, user, command.id, question, action, value, self._runner())

    async def stop_turn(self, identity: Identity, chat: str, command: protocol.Stop) -> dict[str, Any]:
        user = identity.user_id
        turn = None if command.turn is None else str(uuid.UUID(command.turn))
        return await self._transact(chat, store.stop, chat, user, command.id, turn, self._runner())

    async def patch_chat(self, chat: str, user: int, **changes: Any) -> None:
        await self._transact(chat, lambda: store.patch_chat(chat, user, worker=self.worker, **changes))

    async def delete_chat(self, chat: str, user: int) -> None:
        await self._transact(chat, store.delete_chat, chat, user, self.worker, is_told=True)
        self._control("chat_deleted", chat=chat)

    async def restore_chat(self, chat: str, user: int) -> None:
        await self._transact(chat, store.restore_chat, chat, user)

    async def close_session(self, session: str) -> None:
        """By an operator, whose wish its row holds."""
        self._control("session_closed", session=session)

    async def flow_deleted(self, flow: str) -> None:
        """End the turns of a deleted flow: every sweep looks for some."""
        while outcomes := await database.write(store.end_turns_of_flow, flow, self.worker):
            for chat, outcome in outcomes:
                async with self._watched(chat) as ring:
                    self._apply(outcome, chat, ring.position.epoch)

    async def _transact(
        self, chat: str, fn: Callable[..., orders.Outcome], *args: Any, is_told: bool = False
    ) -> dict[str, Any]:
        """A transaction that may begin a run. The epoch is taken before it is sent.

        `is_told`: return when what it owes is in the log, or after a while.
        """
        async with self._watched(chat) as ring:
            epoch = ring.position.epoch
            outcome = await database.write(fn, *args, on_return=self._sends(chat))
            telling = self._apply(outcome, chat, epoch)
            if is_told and telling is not None:
                await asyncio.wait([telling], timeout=settings.HEADRACE.command_hop_s)
        return outcome.reply

    def _runner(self) -> str | None:
        """This worker, where it can take one more turn; else a sweep finds who can."""
        can_run = self.runs_turns and not self.is_draining
        return self.worker if can_run and len(self._runs) < settings.HEADRACE.turns_per_worker else None

    @asynccontextmanager
    async def _watched(self, chat: str) -> AsyncIterator[Ring]:
        ring = await self.hub.watch(chat)
        try:
            yield ring
        finally:
            self.hub.leave(chat)

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
                self._control("stop", turn=turn)
        rows = [("turn", turn) for turn in outcome.owed] + ([("chat", chat)] if outcome.owes_chat else [])
        telling = self.spawn(self._tell_all(rows, chat)) if rows else None
        if outcome.run is not None:
            self._begin_run(outcome.run, epoch, telling)
        if outcome.listed is not None:
            user, item = outcome.listed
            self._control("chats", user=user, data=item)
        return telling

    def _begin_run(self, order: orders.RunOrder, epoch: str, telling: asyncio.Task | None) -> None:
        """`telling`: what the same transaction owes, an end before this beginning, goes first."""
        key = (order.turn, order.attempt)
        sends = functools.partial(self._sends, order.chat)
        run = Run(order, self.log, epoch, self._runner, sends, self._run_finished, self._confirmed, self._own)
        self._runs[key] = run
        self.hub.hold(order.chat)  # whoever began it watches the chat; the run leaves it at its end
        task = asyncio.create_task(self._run(run, telling), name=f"turn-{order.turn}-{order.attempt}")
        self._run_tasks[key] = task
        task.add_done_callback(lambda _: self._run_left(key))

    async def _run(self, run: Run, telling: asyncio.Task | None) -> None:
        self._move_sessions(run.order.chat, StreamState.STREAMING)
        try:
            if telling is not None:
                await asyncio.wait([telling], timeout=settings.HEADRACE.redis_timeout_s)
            await run.run()
        except Exception:
            log.exception("run_failed", turn=run.order.turn, attempt=run.order.attempt)
        finally:
            self.hub.leave(run.order.chat)
            self._move_sessions(run.order.chat, StreamState.PAUSED if run.is_waiting else StreamState.CONNECTED)

    def _run_left(self, key: tuple[str, int]) -> None:
        self._runs.pop(key, None)
        self._run_tasks.pop(key, None)

    def _run_finished(self, run: Run, outcome: orders.Outcome) -> None:
        """A run's own transaction ended or suspended its turn: what follows begins."""
        self._apply(outcome, run.order.chat, run.epoch)

    def _move_sessions(self, chat: str, state: StreamState) -> None:
        for client in self.clients_of(chat):
            client.session.move(state)

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

    # ----------------------------------------------------------------------------------------------- owed

    async def _tell_all(self, rows: list[tuple[str, str]], chat: str) -> None:
        async with self._watched(chat) as ring:
            for kind, id_ in rows:
                await self._tell(kind, id_, ring)

    async def _tell(self, kind: str, id_: str, ring: Ring) -> None:
        """Append what a row owes. The epoch is taken before the row is read; told another, it is read again."""
        if id_ in self._telling:
            self._telling[id_] = True
            return
        try:
            again = True
            while again:
                self._telling[id_] = False
                await self._tell_once(kind, id_, ring)
                again = self._telling[id_]
        except WireError as error:
            log.warning("event_owed", kind=kind, id=id_, code=error.code)  # the sweep tells it
        finally:
            self._telling.pop(id_, None)

    async def _tell_once(self, kind: str, id_: str, ring: Ring) -> None:
        epoch: str | None = ring.position.epoch
        while epoch is not None:
            row = await database.read(owed.owed_event, kind, id_)
            if row is None:
                return
            turn = id_ if kind == "turn" else ""
            epoch = await append_owed(self.log, row.chat, turn, row.attempt, row.events, epoch, row.ends)
        self._confirmed(kind, id_, row.rev)

    def _confirmed(self, kind: str, id_: str, rev: int) -> None:
        self._told[(kind, id_)] = rev

    async def _mark_told(self) -> None:
        told, self._told = self._told, {}
        if told:
            rows = [(kind, id_, rev) for (kind, id_), rev in told.items()]
            try:
                await database.write(store.mark_told, rows, until_done=True)
            except BaseException:
                self._told = told | self._told
                raise

    # ------------------------------------------------------------------------------------- duties of a worker

    async def _beat(self) -> None:
        was_buried = await database.write(
            functools.partial(
                worker_store.beat,
                self.worker,
                host=sockets.gethostname(),
                pid=os.getpid(),
                runs_turns=self.runs_turns,
                draining=self.is_draining,
            ),
            is_beat=True,
            until_done=self._seen_at > 0,  # the first one is tried once: a start does not wait for ever
        )
        if was_buried:
            await self.sessions.write_counters(all_live=True)
        now = time.monotonic()
        if self._seen_at and now - self._seen_at > settings.HEADRACE.dead_after_s:
            self._judges_from = now + settings.HEADRACE.dead_after_s
        self._seen_at = now
        await self._mark_told()

    async def _sweep(self) -> None:
        """Look at turns, not at burials: whatever nobody runs is taken, whatever is owed is told.

        Each row by itself: one that can't be dealt with keeps nobody from the others.
        """
        now = time.monotonic()
        if now < self._judges_from or now - self._seen_at > settings.HEADRACE.dead_after_s:
            return  # who could not say that he lives does not judge who does
        if self._runner() and not self.hub.is_degraded:
            await self._claim()
        others = await database.read(worker_store.live_workers) - {self.worker}
        self._others = len(others)
        for kind, id_ in await database.read(owed.owed_rows, others):
            await self._try(self._tell_late(kind, id_), row=id_)
        for chat, question in await database.read(reads.due_questions):
            await self._try(self._transact(chat, store.expire, chat, question, self._runner()), row=question)
        for flow in await database.read(reads.flows_deleted_with_turns):
            await self._try(self.flow_deleted(flow), row=flow)
        in_use = await database.read(reads.workers_in_use)
        await database.write(worker_store.bury_idle, in_use)

    async def _try(self, work: Coroutine[Any, Any, Any], row: str) -> None:
        try:
            await work
        except WireError as error:
            log.warning("row_left", row=row, code=error.code)
        except Exception:
            log.exception("row_left", row=row)

    async def _tell_late(self, kind: str, id_: str) -> None:
        if (kind, id_) in self._told or id_ in self._telling or self._is_running(id_):
            return
        chat = id_ if kind == "chat" else await database.read(reads.chat_of_turn, id_)
        async with self._watched(chat) as ring:
            await self._tell(kind, id_, ring)

    def _is_running(self, row: str) -> bool:
        """Whether a run here tells what this row owes: its turn, or the chat that it gave a title."""
        orders_here = (run.order for run in self._runs.values())
        return any(row == order.turn or (order.titled is not None and row == order.chat) for order in orders_here)

    async def _claim(self) -> None:
        """Take what nobody runs, until this worker is full."""
        room = settings.HEADRACE.turns_per_worker - len(self._runs)
        running = await database.read(reads.running_turns, self.worker, room + len(self._runs))
        for turn, chat, attempt, worker in running:
            if (turn, attempt) in self._runs or self._under_way[chat] > 0:
                continue
            if not self._runner():
                return
            is_lost = worker is not None  # a released turn is nobody's; one of this worker's own was left by a fault
            claim = self._transact(chat, store.claim, turn, chat, attempt, worker, self.worker, is_lost)
            await self._try(claim, row=turn)

    async def _purge(self) -> None:
        for chat in await database.read(reads.past_chats):
            await database.write(store.purge, chat, until_done=True)
        await database.write(store.forget_commands, until_done=True)
        await asyncio.to_thread(files.purge)

    async def _tick(self) -> None:
        now, wall = time.monotonic(), time.time()
        for client in list(self._clients.values()):
            client.tick(now, wall)

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

        for session in await database.read(worker_store.asked_to_close, self.worker):
            self._close_session(session)

    def _close_session(self, session: str) -> None:
        if session in self._clients:
            self._clients[session].close_soon(WireError("session_closed"))

    def _on_degraded(self, is_degraded: bool) -> None:
        frame = protocol.Degraded(since=_now()) if is_degraded else protocol.Restored()
        encoded = protocol.encode_frame(frame)
        for client in list(self._clients.values()):
            client.post(encoded)

    # -------------------------------------------------------------------------------------------- control

    def _control(self, kind: str, **target: Any) -> None:
        """To every worker, this one included. Layers may lose messages: what hangs on one is polled too."""
        message = {"type": "control", "kind": kind, **target}
        self._heed(message)
        if self._others:
            self.spawn(self._to_others(message | {"by": self.worker}))

    async def _to_others(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(settings.HEADRACE.redis_timeout_s):
                await get_channel_layer().group_send(GROUP, message)
        except (OSError, TimeoutError, redis.Trouble) as error:
            log.warning("control_lost", kind=message["kind"], reason=type(error).__name__)

    async def _listen(self) -> None:
        """The one task of this worker that listens to the layer."""
        while True:
            try:
                layer = get_channel_layer()
                channel = await layer.new_channel()
                await layer.group_add(GROUP, channel)
                while True:
                    message = await layer.receive(channel)
                    if message.get("by") != self.worker:
                        self._heed(message)
            except Exception:
                log.warning("control_deaf", exc_info=True)
                await asyncio.sleep(settings.HEADRACE.redis_timeout_s)

    def _heed(self, message: dict[str, Any]) -> None:
        """Each control message names its target; who has it acts."""
        kind = message["kind"]
        if kind == "stop":
            self._stop_here(message["turn"])
        elif kind == "chats":
            frame = protocol.encode_frame(protocol.Chats(chat=message["data"]))
            for client in self._by_user.get(message["user"], ()):
                client.post(frame)
        elif kind == "session_closed":
            self._close_session(message["session"])
        elif kind == "chat_deleted":
            for client in self.clients_of(message["chat"]):
                client.close_soon(WireError("chat_deleted"))


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


# ------------------------------------------------------------------------------------------------- small


def _checked_text(text: str) -> str:
    """Raises WireError empty_text, bad_text, text_too_long."""
    if len(text) > settings.HEADRACE.text_chars:
        raise WireError("text_too_long", field="text")
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
