"""One run of one turn: it begins, plays its handler, and ends, is given back or falls silent.

A run never sees a socket. It carries the attempt that its own transaction returned, and falls silent as soon as a
write says that the turn is another's. What its handler sees is in `ctx.py`.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from django.conf import settings
from django.utils import translation

from chat import protocol, shapes
from chat.files import store as files
from chat.snapshot import delivered
from chat.turns import handed, orders, owed
from chat.turns.ctx import Ctx
from chat.turns.journal import Journal
from chat.turns.model_calls import ModelCalls
from chat.turns.outbox import Lost, Outbox
from chat.turns.parts import Parts
from chat.turns.states import TurnState
from chat.turns.store import running
from chat.turns.visits import Visits
from flows import build, handlers
from flows.context import FlowView, InputView, Suspend
from streams import database, traces
from streams.errors import WireError
from streams.log import Appended, Batch, Fenced, Log


class Run:
    """A run, whose handler gets its `ctx`. `finished` is called with what follows from its end.

    `sends` tells that a transaction is under way, which may begin the next turn; what it returns, that none is.
    """

    def __init__(
        self,
        order: orders.RunOrder,
        log: Log,
        epoch: str,
        next_worker: Callable[[], str | None],
        sends: Callable[[], Callable[[], None]],
        finished: Callable[["Run", orders.Outcome], None],
        told: Callable[[str, str, int], None],
        owns: Callable[[asyncio.Task], None],
    ) -> None:
        self.order = order
        self._bounds = settings.HEADRACE
        self._first_epoch = epoch
        self._log = log
        self._next_worker, self._sends, self._finished, self._told = next_worker, sends, finished, told
        self._owns = owns
        self._ending = asyncio.Event()  # the handler is to end: stopped, or its turn is lost
        self._outbox = Outbox(log, order.chat, order.turn, order.attempt, epoch, self._restate, self._on_lost)
        scope = f"{order.skill}#1"
        self._parts = Parts(order.turn, order.number, scope, self._bounds.answer_bytes, self._outbox, self._turn_start)
        self._journal = Journal(order.kept, order.answers)
        self._handler_task: asyncio.Task | None = None
        self._lost: Lost | None = None
        self._log_line = structlog.get_logger("headrace.turn").bind(
            chat=order.chat, turn=order.turn, attempt=order.attempt
        )
        self._end_span: dict[str, str | None] = {"state": "left"}
        self._visits = Visits(order, self._journal, self._outbox)
        self._calls = ModelCalls(order, self._parts, self._outbox, self._visits, self._log_line)
        self.ctx = Ctx(
            order,
            self._parts,
            self._outbox,
            self._journal,
            self._visits,
            self._calls,
            self._log_line,
            sends,
            functools.partial(finished, self),
            self._tell_told,
        )
        self._parts.adopt(shapes.parts_of(order.parts))

    def stop(self) -> None:
        """The turn is to stop: the provider's stream is closed at once, what was written is kept."""
        self.ctx.signal.set()
        self._ending.set()

    async def run(self) -> None:
        """From `turn_start` to the end, a question, or silence. What nobody foresaw passes, as does cancellation."""
        order = self.order
        span = traces.begin(
            "turn",
            order.turn,
            chat=order.chat,
            flow=order.flow_id,
            version=order.version,
            skill=order.skill,
            attempt=order.attempt,
        )
        self._visits.begin(span)
        try:
            await self._begin()
            await self._play()
        except (Lost, orders.Fenced) as lost:
            await self._fall_silent(getattr(lost, "reason", "fenced"))
        except WireError as error:
            await self._fall_silent(error.code)
        finally:
            self._outbox.close()
            self._visits.leave()
            span.end(**self._end_span)

    async def release(self) -> None:
        """Give the turn back with its whole parts, for another worker or a later start."""
        self._lost = Lost("released")
        self._ending.set()
        await self._cancel_handler()
        await self._release()

    async def _begin(self) -> None:
        self._log_line.info("turn_runs", skill=self.order.skill, version=self.order.version, fate=self.order.fate)
        if self.order.fate or (self.order.is_resumed and not self.order.answered):
            await self._raise_fence()
            await self._take_up()
        if self.order.answered is not None:
            self._outbox.put(self.order.answered)
        for event in self._parts.begin_events():
            self._outbox.put(event, can_wait=not self.order.is_resumed)
        if self.order.titled is not None:
            self._outbox.put(self.order.titled, can_wait=True)

    async def _raise_fence(self) -> None:
        """Nothing of an earlier attempt is appended after this; then what it delivered can be read."""
        while True:
            order, epoch = self.order, self.epoch
            batch = Batch(chat=order.chat, epoch=epoch, turn=order.turn, attempt=order.attempt, n=0, frames=())
            reply = await self._log.append(batch)
            if isinstance(reply, Appended):
                return
            if isinstance(reply, Fenced) or await database.read(owed.standing, order) is None:
                raise Lost("fenced")
            self._outbox.epoch = reply.epoch

    @property
    def epoch(self) -> str:
        return self._outbox.epoch

    def _turn_start(self, parts: list[protocol.Part]) -> protocol.TurnStart:
        return msgspec.structs.replace(self.order.start, parts=parts)

    async def _play(self) -> None:
        if self.order.fate:
            await self._meet_fate(self.order.fate)
            return
        try:
            data = handed.plain(await self._handle(), self._bounds.data_bytes, handed.TOO_LARGE_DATA)
            self.ctx.vars = handed.plain(self.ctx.vars, self._bounds.vars_bytes, handed.TOO_LARGE_VARS)
        except Suspend:
            self._end_span = {"state": "waiting"}
            self._log_line.info("turn_waits")
        except WireError as error:
            await self._end(TurnState.ERROR, error=shapes.fault_of(error, self.ctx.chat.locale))
        except asyncio.CancelledError:
            if self._lost is not None:
                raise self._lost from None
            if not self.ctx.signal.is_set:
                raise
            await self._end(TurnState.STOPPED)
        except Exception:
            self._log_line.exception("handler_failed")
            await self._end(TurnState.ERROR, error=shapes.fault_of(WireError("flow_error"), self.ctx.chat.locale))
        else:
            await self._end(TurnState.DONE, data=data)

    async def _handle(self) -> Any:
        """The handler in a task of its own, so that a stop cancels it and nothing else."""
        if self.ctx.signal.is_set:
            raise asyncio.CancelledError
        left_s = self._bounds.turn_running_s - self.order.ran_ms / 1000
        task = self._handler_task = asyncio.create_task(self._call_handler())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait([task, ending], timeout=max(left_s, 0), return_when=asyncio.FIRST_COMPLETED)
            had_time = task.done() or self._ending.is_set()
        finally:
            ending.cancel()
            await self._cancel_handler()
        if not had_time:
            raise WireError("turn_timeout")
        if not task.done():
            raise asyncio.CancelledError
        return task.result()

    async def _call_handler(self) -> Any:
        handler = handlers.get(self.order.skill)
        if handler is None:
            raise WireError("skill_not_found")
        graph = self.order.graph
        if graph is None:
            graph = await build.version_graph(self.order.version_id, until_done=True)
        self.ctx.flow = FlowView(
            id=self.order.flow_id,
            slug=self.order.flow_slug,
            name=self.order.flow_name,
            version=self.order.version,
            graph=graph,
            checksum=self.order.checksum,
        )
        self.ctx.input = await self._input_with_files()
        # This task's own language: what the handler says is stored in that of the chat.
        translation.activate(self.ctx.chat.locale or settings.LANGUAGE_CODE)
        return await handler(self.ctx.params, self.ctx)

    async def _input_with_files(self) -> InputView:
        named = [data["file"] for data in shapes.files_of(msgspec.to_builtins(self.order.message.parts or []))]
        if not named:
            return self.ctx.input
        known = await database.read(files.views, int(self.ctx.user.id), named, until_done=True)
        views = tuple(known[file] for file in named if file in known)
        return msgspec.structs.replace(self.ctx.input, files=views)

    async def _cancel_handler(self) -> None:
        task = self._handler_task
        if task is None:
            return
        if task.done():
            if not task.cancelled():
                task.exception()  # heard, though the run may have no more use for it
            return
        task.cancel()
        await asyncio.wait([task], timeout=self._bounds.handler_end_s)
        if not task.done():
            self.ctx.is_over = True
            self._log_line.warning("handler_lingers")
            self._owns(task)

    async def _take_up(self) -> None:
        """What the lost run showed, by the log: the answer of a claim that only ends the turn, else where to go on."""
        read = await self._log.read(self.order.chat, 0)
        found = delivered(read.entries, self.order.turn, self.order.number)
        if found is None:
            return
        if self.order.fate:
            self._parts.clear()
            self._parts.adopt(found.parts)
        else:
            self._parts.go_on_from(found.parts, found.open)

    async def _meet_fate(self, code: str) -> None:
        if code == "stopped":
            await self._end(TurnState.STOPPED)
        else:
            await self._end(TurnState.ERROR, error=shapes.fault_of(WireError(code), self.ctx.chat.locale))

    async def _end(self, state: TurnState, *, data: Any = None, error: protocol.Fault | None = None) -> None:
        """Deltas in the log, then the end's transaction, then `turn_end`."""
        self._parts.close_all()
        await self._outbox.flush()

        def finish() -> tuple[protocol.TurnEnd, orders.Outcome, int]:
            return running.finish(
                self.order,
                state.value,
                self._parts.whole(),
                data=data,
                usage=self._calls.usage_row(),
                error=msgspec.to_builtins(error) if error else None,
                nodes=self._visits.rows(),
                new_vars=self.ctx.vars,
                first_token_ms=self._parts.first_token_ms,
                next_worker=self._next_worker(),  # as it is when the transaction begins
            )

        turn_end, outcome, rev = await database.write(finish, until_done=True, on_return=self._sends())
        code = error.code if error else None
        self._end_span = {"state": state.value, "error": code}
        self._log_line.info("turn_ended", status=state.value, error=code)
        self._outbox.put(turn_end)  # before the next turn's first event
        self._finished(self, outcome)
        await self._outbox.flush()
        self._tell_told(rev)

    def _tell_told(self, rev: int) -> None:
        """What the rows owed stands in the log by now; a title not, where a new epoch swallowed it."""
        self._told("turn", self.order.turn, rev)
        if self.order.titled is not None and self.epoch == self._first_epoch:
            self._told("chat", self.order.chat, self.order.titled.rev)

    async def _fall_silent(self, reason: str) -> None:
        await self._cancel_handler()
        self._log_line.info("run_left", reason=reason)
        if reason == "unavailable":
            await self._release()
        elif reason == "internal":
            await self._end_unheard()

    async def _end_unheard(self) -> None:
        """Its events are refused for a reason that no second run mends: the end is owed, and the turn not run again."""
        error = msgspec.to_builtins(shapes.fault_of(WireError("internal"), self.ctx.chat.locale))
        parts, next_worker = self._parts.whole(), self._next_worker()
        try:
            _, outcome, _ = await database.write(
                lambda: running.finish(
                    self.order,
                    TurnState.ERROR.value,
                    parts,
                    usage=self._calls.usage_row(),
                    error=error,
                    next_worker=next_worker,
                ),
                until_done=True,
                on_return=self._sends(),
            )
        except orders.Fenced:
            return
        self._finished(self, outcome)

    async def _release(self) -> None:
        parts, pending = self._parts.whole_without_step(), self._journal.waiting()
        try:
            usage, nodes = self._calls.usage_row(), self._visits.rows()
            await database.write(running.release, self.order, parts, pending, usage, nodes, until_done=True)
        except orders.Fenced:
            self._log_line.info("run_left", reason="fenced")

    def _on_lost(self, lost: Lost) -> None:
        self._lost = lost
        self._ending.set()

    async def _restate(self) -> list[protocol.Event] | None:
        """For a new epoch: the state so far, read against the row, and what that state owes."""
        standing = await database.read(owed.standing, self.order)
        if standing is None:
            return None
        state, events_owed = standing
        if state != TurnState.RUNNING:
            return events_owed
        return self._parts.begin_events()
