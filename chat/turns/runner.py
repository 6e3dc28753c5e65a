"""One run of one turn: the `ctx` of its handler, its journal, its events, its end.

A run never sees a socket. It carries the attempt that its own transaction returned, and falls silent as soon as a
write says that the turn is another's. What its handler did with an effect is kept; a run that starts again gets it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from django.conf import settings
from django.utils import translation

from accounts import spend
from chat import protocol, shapes
from chat.files import store as files
from chat.snapshot import delivered
from chat.turns import handed, orders, owed, reads
from chat.turns import usage as usages
from chat.turns.canonical import hash_of
from chat.turns.history import messages_of
from chat.turns.journal import PART_CHARS, Journal, checked
from chat.turns.nodes import Nodes
from chat.turns.outbox import Lost, Outbox, part_events
from chat.turns.parts import Parts
from chat.turns.shown import Shown
from chat.turns.states import TurnState
from chat.turns.store import asking, running
from flows import build, handlers, providers
from flows.context import (
    Answer,
    ChatView,
    FlowView,
    InputView,
    LLMCall,
    LLMResult,
    Suspend,
    UserView,
)
from providers.base import LLMMessage, LLMRequest, ProviderError
from providers.base import Usage as ProviderUsage
from streams import database, metrics, traces
from streams.errors import WireError
from streams.log import Appended, Batch, Fenced, Log


class Signal:
    """Set once the turn is to stop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()

    def set(self) -> None:
        self._event.set()


class Run:
    """A run and the `ctx` that its handler gets. `finished` is called with what follows from its end.

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
        self.signal = Signal()
        self._first_epoch = epoch
        self._log = log
        self._next_worker, self._sends, self._finished, self._told = next_worker, sends, finished, told
        self._owns = owns
        self._ending = asyncio.Event()  # the handler is to end: stopped, or its turn is lost
        self._is_over = False  # the handler had its time to end, and did not: what it still calls is refused
        self._outbox = Outbox(log, order.chat, order.turn, order.attempt, epoch, self._restate, self._on_lost)
        scope = f"{order.skill}#1"
        self._parts = Parts(order.turn, order.number, scope, self._bounds.answer_bytes, self._outbox, self._turn_start)
        self._journal = Journal(order.kept, order.answers)
        self._handler_task: asyncio.Task | None = None
        self._lost: Lost | None = None
        self._log_line = structlog.get_logger("headrace.turn").bind(
            chat=order.chat, turn=order.turn, attempt=order.attempt
        )
        self._output_bytes = 0  # of nodes, shown
        self._usage = None if order.usage is None else msgspec.convert(order.usage, protocol.Usage)
        self._node: tuple[str, int, str, str, float] | None = None
        self._span = self._node_span = traces.NOTHING  # outside of nodes the second is the first
        self._end_span: dict[str, str | None] = {"state": "left"}
        self._nodes = Nodes(order.nodes, self._bounds.turn_nodes, settings.HEADRACE.turn_nodes_bytes)
        # ctx
        inputs = order.inputs
        self.user = UserView(id=inputs["user"]["id"], name=inputs["user"]["name"])
        self.chat = ChatView(id=order.chat, kind=order.chat_kind, locale=inputs.get("locale", ""))
        self.params = order.params
        self.input = InputView(text=shapes.text_of(order.message.parts or []), params=order.params)
        self.now: str = inputs["now"]
        self.vars: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(inputs.get("vars", {})))
        self.stream = _Stream(self)
        self.log = self._log_line
        self.flow: FlowView  # set when the run begins
        self._parts.adopt(shapes.parts_of(order.parts))

    # ------------------------------------------------------------------------------------------ life

    def stop(self) -> None:
        """The turn is to stop: the provider's stream is closed at once, what was written is kept."""
        self.signal.set()
        self._ending.set()

    async def run(self) -> None:
        """From `turn_start` to the end, a question, or silence. What nobody foresaw passes, as does cancellation."""
        order = self.order
        self._span = self._node_span = traces.begin(
            "turn",
            order.turn,
            chat=order.chat,
            flow=order.flow_id,
            version=order.version,
            skill=order.skill,
            attempt=order.attempt,
        )
        try:
            await self._begin()
            await self._play()
        except (Lost, orders.Fenced) as lost:
            await self._fall_silent(getattr(lost, "reason", "fenced"))
        except WireError as error:
            await self._fall_silent(error.code)
        finally:
            self._outbox.close()
            self._leave_node()
            self._span.end(**self._end_span)

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
            self.vars = handed.plain(self.vars, self._bounds.vars_bytes, handed.TOO_LARGE_VARS)
        except Suspend:
            self._end_span = {"state": "waiting"}
            self._log_line.info("turn_waits")
        except WireError as error:
            await self._end(TurnState.ERROR, error=shapes.fault_of(error, self.chat.locale))
        except asyncio.CancelledError:
            if self._lost is not None:
                raise self._lost from None
            if not self.signal.is_set:
                raise
            await self._end(TurnState.STOPPED)
        except Exception:
            self._log_line.exception("handler_failed")
            await self._end(TurnState.ERROR, error=shapes.fault_of(WireError("flow_error"), self.chat.locale))
        else:
            await self._end(TurnState.DONE, data=data)

    async def _handle(self) -> Any:
        """The handler in a task of its own, so that a stop cancels it and nothing else."""
        if self.signal.is_set:
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
        self.flow = FlowView(
            id=self.order.flow_id,
            slug=self.order.flow_slug,
            name=self.order.flow_name,
            version=self.order.version,
            graph=graph,
            checksum=self.order.checksum,
        )
        self.input = await self._input_with_files()
        # This task's own language: what the handler says is stored in that of the chat.
        translation.activate(self.chat.locale or settings.LANGUAGE_CODE)
        return await handler(self.params, self)

    async def _input_with_files(self) -> InputView:
        named = [data["file"] for data in shapes.files_of(msgspec.to_builtins(self.order.message.parts or []))]
        if not named:
            return self.input
        known = await database.read(files.views, int(self.user.id), named, until_done=True)
        views = tuple(known[file] for file in named if file in known)
        return msgspec.structs.replace(self.input, files=views)

    async def _cancel_handler(self) -> None:
        task = self._handler_task
        if task is None or task.done():
            return
        task.cancel()
        await asyncio.wait([task], timeout=self._bounds.handler_end_s)
        if not task.done():
            self._is_over = True
            self._log_line.warning("handler_lingers")
            self._owns(task)

    def _must_run(self) -> None:
        if self._is_over:
            raise Lost("over")

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
            await self._end(TurnState.ERROR, error=shapes.fault_of(WireError(code), self.chat.locale))

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
                usage=self._usage_row(),
                error=msgspec.to_builtins(error) if error else None,
                nodes=self._nodes.rows(),
                new_vars=self.vars,
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
        error = msgspec.to_builtins(shapes.fault_of(WireError("internal"), self.chat.locale))
        parts, next_worker = self._parts.whole(), self._next_worker()
        try:
            _, outcome, _ = await database.write(
                lambda: running.finish(
                    self.order,
                    TurnState.ERROR.value,
                    parts,
                    usage=self._usage_row(),
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
            nodes = self._nodes.rows()
            await database.write(running.release, self.order, parts, pending, self._usage_row(), nodes, until_done=True)
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

    # ------------------------------------------------------------------------------- what a handler shows

    async def write(self, text: str, kind: str = "text", data: Any = None) -> None:
        self._must_run()
        self._parts.show(kind, text, handed.plain(data, handed.event_room(), handed.TOO_LARGE_PART))
        await self._outbox.room()

    async def node_start(self, node: str, visit: int, kind: str, title: str) -> None:
        self._parts.scope = f"{node}#{visit}"
        self._node = (node, visit, kind, title, time.monotonic())
        if not self._journal.is_replaying:
            self._node_span = self._span.child("node", node=node, kind=kind, visit=visit)
            self._put_node("start")

    async def node_end(self, *, output: Any = None, error: str | None = None) -> None:
        if not self._journal.is_replaying:
            self._put_node("error" if error else "end", output=self._shown_output(output), error=error)
        self._leave_node("failed" if error else None)

    def _leave_node(self, error: str | None = None) -> None:
        if self._node_span is not self._span:
            self._node_span.end(error)
            self._node_span = self._span

    def _shown_output(self, output: Any) -> Any:
        """Cut; and none once the run has shown enough of them."""
        cut = handed.cut(output)
        self._output_bytes += len(msgspec.json.encode(cut))
        return cut if self._output_bytes <= self._bounds.node_outputs_bytes else None

    def _put_node(self, state: str, output: Any = None, error: str | None = None) -> None:
        node, visit, kind, title, began = self._node
        ms = None if state == "start" else int((time.monotonic() - began) * 1000)
        event = protocol.Node(
            turn=self.order.turn,
            node=node,
            visit=visit,
            kind=kind,
            state=state,
            title=handed.text(title),
            ms=ms,
            output=output,
            error=None if error is None else handed.text(error),
        )
        self._nodes.add(event)
        self._outbox.put(event, can_wait=True)

    # ----------------------------------------------------------------------------------------- steps

    def _kept(self, key: str, arguments: Any) -> dict[str, Any] | None:
        """The result that an earlier run kept, its parts passed over."""
        kept = self._journal.kept(key, arguments)
        if kept is not None:
            self._parts.pass_over(kept["opened"])
        return kept

    async def _keep_pending(self, *more: orders.PendingStep) -> None:
        steps = self._journal.waiting(*more)
        if steps:
            await self._write(running.keep_steps, steps, self._usage_row())
            self._journal.pending = None

    async def _write(self, fn: Callable[..., Any], *args: Any) -> Any:
        """A transaction of this run, from inside its handler. Raises Lost where the turn is another's."""
        try:
            return await database.write(fn, self.order, *args, until_done=True, on_return=self._sends())
        except orders.Fenced:
            raise Lost("fenced") from None

    async def step(self, key: str, fn: Callable[[], Awaitable[Any]]) -> Any:
        self._must_run()
        key = self._journal.key("step", self._parts.scope, key)
        kept = self._kept(key, None)
        if kept is not None:
            return kept["value"]
        await self._keep_pending()
        named_before = self._parts.named()
        self._parts.begin_step()
        value = handed.plain(await fn(), self._bounds.data_bytes, handed.TOO_LARGE_STEP)
        opened = self._parts.named() - named_before
        await self._keep_pending(
            orders.PendingStep(
                key=key,
                kind="step",
                arguments_hash=hash_of(None),
                value={"value": value, "opened": opened},
                parts=self._parts.take(),
            )
        )
        self._parts.end_step()
        return value

    async def llm(self, call: LLMCall, *, key: str | None = None) -> LLMResult:
        self._must_run()
        key = self._journal.key("llm", self._parts.scope, key)
        arguments = msgspec.to_builtins(call)
        kept = self._kept(key, arguments)
        if kept is not None:
            return msgspec.convert(kept["value"], LLMResult)
        await self._keep_pending()
        named_before = self._parts.named()
        self._parts.begin_step()
        result = await self._stream_llm(call)
        self._parts.end_step()
        opened = self._parts.named() - named_before
        # Written with the next step, the question or the end: a turn of one model call writes none.
        self._journal.pending = orders.PendingStep(
            key=key,
            kind="llm",
            arguments_hash=hash_of(arguments),
            value={"value": msgspec.to_builtins(result), "opened": opened},
            parts=self._parts.take(),
        )
        return result

    async def _stream_llm(self, call: LLMCall) -> LLMResult:
        await self._check_budgets()
        llm, model = await providers.open_llm(call.provider, call.model)
        shown = Shown(self._parts, call.show)
        if await providers.continues(call.provider):
            shown.go_on()
        request = LLMRequest(
            model=model,
            messages=await self._with_pictures(call),
            temperature=call.temperature,
            max_tokens=call.max_tokens,
            schema=call.schema,
            begun=shown.begun,
        )
        said, streamed = None, 0
        metrics.provider_calls.inc()
        span = self._node_span.child("provider", provider=call.provider, model=model)
        try:
            async with aclosing(llm.stream(request)) as chunks:
                async for chunk in chunks:
                    if chunk.reasoning:
                        shown.reasoning(chunk.reasoning, chunk.tokens)
                    if chunk.text:
                        shown.text(chunk.text, chunk.tokens)
                    said, streamed = chunk.usage or said, streamed + chunk.tokens
                    await self._outbox.room()
        except ProviderError as error:
            self._log_line.info("provider_failed", provider=call.provider, kind=error.kind, text=error.text)
            metrics.provider_errors.labels(error.kind).inc()
            span.end(error.kind)
            raise providers.wire_error(error) from error
        finally:
            shown.close()
            usage = await self._used(call.provider, model, said or ProviderUsage(output_tokens=streamed))
            span.end(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
        return LLMResult(text=shown.whole_text, reasoning=shown.whole_reasoning, usage=usage, model=model)

    async def _used(self, provider: str, model: str, usage: ProviderUsage) -> ProviderUsage:
        """What a call used, also one that was stopped or cut: where its provider did not say, what it streamed."""
        usage = usages.sane(usage, self._bounds.usage_tokens)
        if usage != ProviderUsage():
            cost = await providers.cost_micros(provider, usage)
            self._usage = usages.added(self._usage, usage, model, cost)
        return usage

    async def _check_budgets(self) -> None:
        """Raises WireError quota_exceeded. What this run has used was counted with the steps before."""
        if spend.seems_unlimited():
            return
        try:
            await database.read(spend.check, self.order.spender)
        except WireError as error:
            if error.code != "unavailable":  # the database is away: streams go on
                raise

    async def _with_pictures(self, call: LLMCall) -> tuple[LLMMessage, ...]:
        """Pictures are read for a provider that takes them; another is told that there was one."""
        if not any(message.pictures for message in call.messages):
            return call.messages
        takes = await providers.takes_pictures(call.provider)
        return tuple([await self._shown_message(message, takes) for message in call.messages])

    async def _shown_message(self, message: LLMMessage, takes_pictures: bool) -> LLMMessage:
        if not message.pictures:
            return message
        if not takes_pictures:
            names = "\n".join(f"[{picture.name or picture.mime}]" for picture in message.pictures)
            return LLMMessage(message.role, f"{message.text}\n\n{names}")
        user = int(self.user.id)
        read = [
            (picture, await database.read(files.picture, user, picture.file, until_done=True))
            for picture in message.pictures
        ]
        whole = tuple(msgspec.structs.replace(picture, data=data) for picture, data in read if data)
        return msgspec.structs.replace(message, pictures=whole)

    def _usage_row(self) -> dict[str, Any] | None:
        return msgspec.to_builtins(self._usage) if self._usage else None

    async def history(self, count: int) -> tuple[LLMMessage, ...]:
        rows = await database.read(reads.history, self.order.chat, self.order.message.parent, count, until_done=True)
        named = [data["file"] for _role, parts in rows for data in shapes.files_of(parts)]
        known = await database.read(files.views, int(self.user.id), named, until_done=True) if named else {}
        return tuple(message for role, parts in rows for message in messages_of(role, parts, known))

    # ------------------------------------------------------------------------------------------- ask

    async def ask(self, asked: orders.Asked) -> Answer:
        answered = self._journal.answer(asked.key)
        if answered is not None:
            return Answer(action=answered["action"], value=answered["value"], label=answered["label"])
        self._parts.close_all()
        await self._outbox.flush()
        question, outcome = await self._write(
            asking.ask, asked, self._parts.whole(), self._journal.waiting(), self._usage_row(), self._nodes.rows()
        )
        self._finished(self, outcome)
        if question is None:
            raise Lost("stopped while it asked")
        part = msgspec.convert(shapes.question_part(question), protocol.Part)
        for event in part_events(self.order.turn, part):
            self._outbox.put(event)
        self._outbox.put(shapes.question_of(question))
        await self._outbox.flush()
        self._tell_told(question.turn.rev)
        raise Suspend


class _Stream:
    """`ctx.stream`: progress to the user, questions for him."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def send(self, type: str, text: str = "", data: Any = None) -> None:
        run = self._run
        run._must_run()
        if run._journal.is_replaying:
            return
        turn, data = run.order.turn, handed.plain(data, handed.event_room(), handed.TOO_LARGE_EVENT)
        event: protocol.Event
        if type == "progress":
            event = protocol.Progress(turn=turn, text=text, data=data)
        elif type == "status":
            event = protocol.Status(turn=turn, text=text, data=data)
        else:
            event = protocol.Custom(turn=turn, name=type, text=text, data=data)
        if len(protocol.encode_event(event)) > handed.event_room():
            raise WireError("flow_error", handed.TOO_LARGE_EVENT)
        run._outbox.put(event)
        await run._outbox.room()

    async def ask(
        self,
        text: str,
        *,
        options: tuple[dict[str, str], ...] = (),
        schema: dict[str, Any] | None = None,
        secret: bool = False,
        expires_s: float | None = None,
        default: Any = None,
        goes_on_expired: bool = False,
        key: str | None = None,
    ) -> Answer:
        run = self._run
        room = handed.event_room()
        on_expiry = "default" if default is not None else "branch" if goes_on_expired else "end"
        asked = orders.Asked(
            key=run._journal.key("ask", run._parts.scope, key),
            part=checked(run._parts.next_id(), PART_CHARS),
            text=handed.text(text),
            options=handed.plain(list(options), room, handed.TOO_LARGE_QUESTION),
            schema=handed.plain(schema, room, handed.TOO_LARGE_QUESTION),
            secret=secret,
            expires_s=run._bounds.question_s if expires_s is None else expires_s,
            default=handed.plain(default, room, handed.TOO_LARGE_QUESTION),
            on_expiry=on_expiry,
        )
        if len(msgspec.json.encode(asked)) > room:
            raise WireError("flow_error", handed.TOO_LARGE_QUESTION)
        return await run.ask(asked)
