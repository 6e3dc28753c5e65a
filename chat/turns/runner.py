"""One run of one turn: the `ctx` of its handler, its journal, its events, its end.

A run never sees a socket. It carries the attempt that its own transaction returned, and falls silent as soon as a
write says that the turn is another's. What its handler did with an effect is kept; a run that starts again gets it.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from django.conf import settings
from django.utils import translation
from django.utils.translation import gettext_noop as _

from chat import protocol, shapes
from chat.files import store as files
from chat.snapshot import parts_in_log
from chat.turns import orders, owed, reads, store
from chat.turns.canonical import hash_of
from chat.turns.nodes import Nodes
from chat.turns.outbox import Lost, Outbox, part_events
from chat.turns.states import TurnState
from flows import build, handlers, providers
from flows.context import (
    Answer,
    ChatView,
    FileView,
    FlowView,
    InputView,
    LLMCall,
    LLMResult,
    Suspend,
    UserView,
    with_files,
)
from providers.base import LLMMessage, LLMRequest, ProviderError
from providers.base import Usage as ProviderUsage
from streams import database
from streams.errors import WireError
from streams.log import Appended, Batch, Fenced, Log
from streams.numbers import check_numbers

OUTPUT_BYTES = 4096
EVENT_SPARE_BYTES = 1024  # what else an event holds besides what a handler gives it
NOT_JSON = _("A result of the flow is not JSON.")
TOO_LARGE_DATA = _("What the flow ends with is too large.")
TOO_LARGE_VARS = _("The chat's variables are too large.")
TOO_LARGE_STEP = _("The result of a step is too large.")
TOO_LARGE_PART = _("What a part of the answer holds besides its text is too large.")
TOO_LARGE_EVENT = _("What a handler sends is too large for one event.")
TOO_LARGE_QUESTION = _("The question is too large for one event.")
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")  # escaped, not a backslash before "u0000"


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


class _OpenPart(msgspec.Struct):
    """A part of the answer as the run builds it: `texts` joined are its text."""

    part: protocol.Part
    texts: list[str]
    is_open: bool

    def whole(self) -> protocol.Part:
        return msgspec.structs.replace(self.part, text="".join(self.texts))


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
        self.is_waiting = False
        self._next_worker, self._sends, self._finished, self._told = next_worker, sends, finished, told
        self._owns = owns
        self._ending = asyncio.Event()  # the handler is to end: stopped, or its turn is lost
        self._is_over = False  # the handler had its time to end, and did not: what it still calls is refused
        self._outbox = Outbox(log, order.chat, order.turn, order.attempt, epoch, self._restate, self._on_lost)
        self._parts: list[_OpenPart] = []
        self._handler_task: asyncio.Task | None = None
        self._lost: Lost | None = None
        self._log_line = structlog.get_logger("headrace.turn").bind(
            chat=order.chat, turn=order.turn, attempt=order.attempt
        )
        self._answer_bytes = 0
        self._output_bytes = 0  # of nodes, shown
        self._usage = _usage_of(order.usage)
        # journal
        self._unused = set(order.kept) | set(order.answers)
        self._calls: dict[tuple[str, str], int] = {}
        self._pending: orders.PendingStep | None = None
        self._kept_parts = 0
        self._step_from: int | None = None  # where the parts of the step that is being done begin
        # the scope that parts and keys are named after
        self._scope = f"{order.skill}#1"
        self._scope_parts: dict[str, int] = {}
        self._node: tuple[str, int, str, str, float] | None = None
        self._nodes = Nodes(order.nodes, settings.HEADRACE.turn_nodes, settings.HEADRACE.turn_nodes_bytes)
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
        self._adopt(shapes.parts_of(order.parts))

    # ------------------------------------------------------------------------------------------ life

    def stop(self) -> None:
        """The turn is to stop: the provider's stream is closed at once, what was written is kept."""
        self.signal.set()
        self._ending.set()

    async def run(self) -> None:
        """From `turn_start` to the end, a question, or silence. What nobody foresaw passes, as does cancellation."""
        try:
            await self._begin()
            await self._play()
        except (Lost, store.Fenced) as lost:
            await self._fall_silent(getattr(lost, "reason", "fenced"))
        except WireError as error:
            await self._fall_silent(error.code)
        finally:
            self._outbox.close()

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
        if self.order.fate and (delivered := await self._delivered()) is not None:
            self._parts.clear()
            self._adopt(delivered)
        if self.order.answered is not None:
            self._outbox.put(self.order.answered)
        self._outbox.put(self._turn_start([part.whole() for part in self._parts]))
        if self.order.titled is not None:
            self._outbox.put(self.order.titled)

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
            bounds = settings.HEADRACE
            data = _plain(await self._handle(), bounds.data_bytes, TOO_LARGE_DATA)
            self.vars = _plain(self.vars, bounds.vars_bytes, TOO_LARGE_VARS)
        except Suspend:
            self.is_waiting = True
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
        left_s = settings.HEADRACE.turn_running_s - self.order.ran_ms / 1000
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
            graph = await build.version_graph(self.order.version_id)
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
        known = await database.read(files.views, int(self.user.id), named)
        views = tuple(known[file] for file in named if file in known)
        return msgspec.structs.replace(self.input, files=views)

    async def _cancel_handler(self) -> None:
        task = self._handler_task
        if task is None or task.done():
            return
        task.cancel()
        await asyncio.wait([task], timeout=settings.HEADRACE.handler_end_s)
        if not task.done():
            self._is_over = True
            self._log_line.warning("handler_lingers")
            self._owns(task)

    def _must_run(self) -> None:
        if self._is_over:
            raise Lost("over")

    async def _delivered(self) -> list[protocol.Part] | None:
        """What the lost run showed, by the log: the answer of a claim that only ends the turn."""
        read = await self._log.read(self.order.chat, 0)
        return parts_in_log(read.entries, self.order.turn, self.order.number)

    async def _meet_fate(self, code: str) -> None:
        if code == "stopped":
            await self._end(TurnState.STOPPED)
        else:
            await self._end(TurnState.ERROR, error=shapes.fault_of(WireError(code), self.chat.locale))

    async def _end(self, state: TurnState, *, data: Any = None, error: protocol.Fault | None = None) -> None:
        """Deltas in the log, then the end's transaction, then `turn_end`."""
        self._close_parts()
        await self._outbox.flush()

        def finish() -> tuple[protocol.TurnEnd, orders.Outcome, int]:
            return store.finish(
                self.order,
                state.value,
                self._whole_parts(),
                data=data,
                usage=self._usage_row(),
                error=msgspec.to_builtins(error) if error else None,
                nodes=self._nodes.rows(),
                new_vars=self.vars,
                next_worker=self._next_worker(),  # as it is when the transaction begins
            )

        turn_end, outcome, rev = await database.write(finish, until_done=True, on_return=self._sends())
        self._log_line.info("turn_ended", status=state.value, error=error.code if error else None)
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
        parts, next_worker = self._whole_parts(), self._next_worker()
        try:
            _, outcome, _ = await database.write(
                lambda: store.finish(self.order, TurnState.ERROR.value, parts, error=error, next_worker=next_worker),
                until_done=True,
                on_return=self._sends(),
            )
        except store.Fenced:
            return
        self._finished(self, outcome)

    async def _release(self) -> None:
        parts, pending = self._kept_whole_parts(), self._pending_steps()
        try:
            nodes = self._nodes.rows()
            await database.write(store.release, self.order, parts, pending, self._usage_row(), nodes, until_done=True)
        except store.Fenced:
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
        whole = [open_part.whole() for open_part in self._parts if not open_part.is_open]
        events: list[protocol.Event] = [self._turn_start(whole)]
        for open_part in self._parts:
            if open_part.is_open:
                events.extend(part_events(self.order.turn, open_part.whole(), is_open=True))
        return events

    # ----------------------------------------------------------------------------------------- parts

    def _adopt(self, parts: list[protocol.Part]) -> None:
        self._answer_bytes += sum(len(msgspec.json.encode(part)) for part in parts)
        self._parts.extend(_OpenPart(part=part, texts=[part.text], is_open=False) for part in parts)
        self._kept_parts = len(self._parts)

    def _part_id(self) -> str:
        """`<turn>.<node>#<visit>`, further ones `.2`, `.3`: the same in every run that goes the same way."""
        count = self._scope_parts.get(self._scope, 0) + 1
        self._scope_parts[self._scope] = count
        base = f"{self.order.number}.{self._scope}"
        return base if count == 1 else f"{base}.{count}"

    def _stands(self, part_id: str) -> bool:
        return any(open_part.part.id == part_id for open_part in self._parts)

    def _open(self, kind: str, data: Any = None, part_id: str | None = None) -> _OpenPart:
        part = protocol.Part(id=part_id or self._part_id(), kind=kind, data=data, node=self._scope.split("#", 1)[0])
        self._count(len(msgspec.json.encode(part)))
        opened = _OpenPart(part=part, texts=[], is_open=True)
        self._parts.append(opened)
        self._outbox.put(protocol.PartStart(turn=self.order.turn, part=part.id, kind=kind, node=part.node, data=data))
        return opened

    def _grow(self, opened: _OpenPart, text: str, tokens: int = 1) -> None:
        """Raises WireError answer_too_long, the text so far kept."""
        text = text.replace("\x00", "")
        self._count(len(text.encode()))
        if text:
            opened.texts.append(text)
            self._outbox.delta(opened.part.id, text, tokens)

    def _count(self, size: int) -> None:
        self._answer_bytes += size
        if self._answer_bytes > self._bounds.answer_bytes:
            raise WireError("answer_too_long")

    def _close_part(self, opened: _OpenPart) -> None:
        if opened.is_open:
            opened.is_open = False
            self._outbox.put(protocol.PartEnd(part=opened.part.id))

    def _close_parts(self) -> None:
        for opened in self._parts:
            self._close_part(opened)

    def _whole_parts(self) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(opened.whole()) for opened in self._parts if not opened.is_open]

    def _kept_whole_parts(self) -> list[dict[str, Any]]:
        """Without those of a step that was cut: it is done again, and a run that starts again shows them anew."""
        parts = []
        for opened in self._parts[: self._step_from]:
            if opened.is_open:
                break
            parts.append(msgspec.to_builtins(opened.whole()))
        return parts

    async def write(self, text: str, kind: str = "text", data: Any = None) -> None:
        self._must_run()
        data = _plain(data, _event_room(), TOO_LARGE_PART)
        part_id = self._part_id()
        if self._stands(part_id):
            return
        opened = self._open(kind, data, part_id)
        if text:
            self._grow(opened, text)
        self._close_part(opened)
        await self._outbox.room()

    # ----------------------------------------------------------------------------------------- steps

    async def node_start(self, node: str, visit: int, kind: str, title: str) -> None:
        self._scope = f"{node}#{visit}"
        self._node = (node, visit, kind, title, time.monotonic())
        if not self._unused:
            self._put_node("start")

    async def node_end(self, *, output: Any = None, error: str | None = None) -> None:
        if not self._unused:
            self._put_node("error" if error else "end", output=self._shown_output(output), error=error)

    def _shown_output(self, output: Any) -> Any:
        """Cut; and none once the run has shown enough of them."""
        cut = _cut(output)
        self._output_bytes += len(msgspec.json.encode(cut))
        return cut if self._output_bytes <= settings.HEADRACE.node_outputs_bytes else None

    def _put_node(self, state: str, output: Any = None, error: str | None = None) -> None:
        node, visit, kind, title, began = self._node
        ms = None if state == "start" else int((time.monotonic() - began) * 1000)
        event = protocol.Node(
            turn=self.order.turn,
            node=node,
            visit=visit,
            kind=kind,
            state=state,
            title=title,
            ms=ms,
            output=output,
            error=error,
        )
        self._nodes.add(event)
        self._outbox.put(event)

    def _key(self, kind: str, key: str | None) -> str:
        if key is not None:
            return key
        name = self._scope
        count = self._calls.get((kind, name), 0) + 1
        self._calls[(kind, name)] = count
        return f"{kind}:{name}:{count}"

    def _kept(self, key: str, arguments: Any) -> dict[str, Any] | None:
        """The result that an earlier run kept. Raises WireError flow_error where the code changed under it."""
        kept = self.order.kept.get(key)
        if kept is None:
            return None
        if kept.arguments_hash != hash_of(arguments):
            raise WireError("flow_error", f"The step {key} was kept with other arguments.")
        self._unused.discard(key)
        self._scope_parts[self._scope] = self._scope_parts.get(self._scope, 0) + kept.value["opened"]
        return kept.value

    def _take_parts(self) -> list[dict[str, Any]]:
        """Whole parts shown since the step before: they stand with this step."""
        fresh = [opened for opened in self._parts[self._kept_parts :] if not opened.is_open]
        self._kept_parts += len(fresh)
        return [msgspec.to_builtins(opened.whole()) for opened in fresh]

    def _pending_steps(self) -> list[orders.PendingStep]:
        """What waits to be written; it waits until that was committed. A step that is written twice is kept once."""
        return [] if self._pending is None else [self._pending]

    async def _keep_pending(self, *more: orders.PendingStep) -> None:
        steps = [*self._pending_steps(), *more]
        if steps:
            await self._write(store.keep_steps, steps, self._usage_row())
            self._pending = None

    async def _write(self, fn: Callable[..., Any], *args: Any) -> Any:
        """A transaction of this run, from inside its handler. Raises Lost where the turn is another's."""
        try:
            return await database.write(fn, self.order, *args, until_done=True, on_return=self._sends())
        except store.Fenced:
            raise Lost("fenced") from None

    async def step(self, key: str, fn: Callable[[], Awaitable[Any]]) -> Any:
        self._must_run()
        kept = self._kept(key, None)
        if kept is not None:
            return kept["value"]
        await self._keep_pending()
        opened_before = self._scope_parts.get(self._scope, 0)
        self._step_from = len(self._parts)
        value = _plain(await fn(), settings.HEADRACE.data_bytes, TOO_LARGE_STEP)
        opened = self._scope_parts.get(self._scope, 0) - opened_before
        await self._keep_pending(
            orders.PendingStep(
                key=key,
                kind="step",
                arguments_hash=hash_of(None),
                value={"value": value, "opened": opened},
                parts=self._take_parts(),
            )
        )
        self._step_from = None  # it is kept
        return value

    async def llm(self, call: LLMCall, *, key: str | None = None) -> LLMResult:
        self._must_run()
        key = self._key("llm", key)
        arguments = msgspec.to_builtins(call)
        kept = self._kept(key, arguments)
        if kept is not None:
            return msgspec.convert(kept["value"], LLMResult)
        await self._keep_pending()
        opened_before = self._scope_parts.get(self._scope, 0)
        self._step_from = len(self._parts)
        result = await self._stream_llm(call)
        self._step_from = None
        opened = self._scope_parts.get(self._scope, 0) - opened_before
        # Written with the next step, the question or the end: a turn of one model call writes none.
        self._pending = orders.PendingStep(
            key=key,
            kind="llm",
            arguments_hash=hash_of(arguments),
            value={"value": msgspec.to_builtins(result), "opened": opened},
            parts=self._take_parts(),
        )
        return result

    async def _stream_llm(self, call: LLMCall) -> LLMResult:
        llm, model = await providers.open_llm(call.provider, call.model)
        request = LLMRequest(
            model=model,
            messages=await self._with_pictures(call),
            temperature=call.temperature,
            max_tokens=call.max_tokens,
            schema=call.schema,
        )
        shown = _Shown(self, call.show)
        usage = ProviderUsage()
        try:
            async with aclosing(llm.stream(request)) as chunks:
                async for chunk in chunks:
                    if chunk.reasoning:
                        shown.reasoning(chunk.reasoning, chunk.tokens)
                    if chunk.text:
                        shown.text(chunk.text, chunk.tokens)
                    if chunk.usage:
                        usage = chunk.usage
                    await self._outbox.room()
        except ProviderError as error:
            self._log_line.info("provider_failed", provider=call.provider, kind=error.kind, text=error.text)
            raise providers.wire_error(error) from error
        finally:
            shown.close()
        usage = _sane(usage)
        cost = await providers.cost_micros(call.provider, usage)
        self._usage = _added(self._usage, usage, model, cost)
        return LLMResult(text=shown.whole_text, reasoning=shown.whole_reasoning, usage=usage, model=model)

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
        read = [(picture, await database.read(files.picture, user, picture.file)) for picture in message.pictures]
        whole = tuple(msgspec.structs.replace(picture, data=data) for picture, data in read if data)
        return msgspec.structs.replace(message, pictures=whole)

    def _usage_row(self) -> dict[str, Any] | None:
        return msgspec.to_builtins(self._usage) if self._usage else None

    async def history(self, count: int) -> tuple[LLMMessage, ...]:
        rows = await database.read(reads.history, self.order.chat, self.order.message.parent, count)
        named = [data["file"] for _role, parts in rows for data in shapes.files_of(parts)]
        known = await database.read(files.views, int(self.user.id), named) if named else {}
        return tuple(message for role, parts in rows for message in _messages_of(role, parts, known))

    # ------------------------------------------------------------------------------------------- ask

    async def ask(self, asked: orders.Asked) -> Answer:
        answered = self.order.answers.get(asked.key)
        if answered is not None:
            self._unused.discard(asked.key)
            return Answer(action=answered["action"], value=answered["value"], label=answered["label"])
        self._close_parts()
        await self._outbox.flush()
        question, outcome = await self._write(
            store.ask, asked, self._whole_parts(), self._pending_steps(), self._usage_row(), self._nodes.rows()
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
        if run._unused:
            return
        turn, data = run.order.turn, _plain(data, _event_room(), TOO_LARGE_EVENT)
        event: protocol.Event
        if type == "progress":
            event = protocol.Progress(turn=turn, text=text, data=data)
        elif type == "status":
            event = protocol.Status(turn=turn, text=text, data=data)
        else:
            event = protocol.Custom(turn=turn, name=type, text=text, data=data)
        if len(protocol.encode_event(event)) > _event_room():
            raise WireError("flow_error", TOO_LARGE_EVENT)
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
        on_expiry = "default" if default is not None else "branch" if goes_on_expired else "end"
        asked = orders.Asked(
            key=run._key("ask", key),
            part=run._part_id(),
            text=text,
            options=list(options),
            schema=schema,
            secret=secret,
            expires_s=settings.HEADRACE.question_s if expires_s is None else expires_s,
            default=default,
            on_expiry=on_expiry,
        )
        if len(msgspec.json.encode(asked)) > _event_room():
            raise WireError("flow_error", TOO_LARGE_QUESTION)
        return await run.ask(asked)


class _Shown:
    """Where a model's text and reasoning go in the answer, each into a part that opens with its first character."""

    def __init__(self, run: Run, show: str) -> None:
        self._run = run
        self._kinds = {
            "answer": ("text", "reasoning"),
            "reasoning": ("reasoning", "reasoning"),
            "hidden": (None, None),
        }[show]
        self._open: dict[str, _OpenPart] = {}
        self._texts: list[str] = []
        self._reasonings: list[str] = []

    def text(self, text: str, tokens: int) -> None:
        text = text.replace("\x00", "")  # no row can hold it, and what is kept must be what was said
        self._texts.append(text)
        self._show(self._kinds[0], text, tokens)

    def reasoning(self, text: str, tokens: int) -> None:
        text = text.replace("\x00", "")
        self._reasonings.append(text)
        self._show(self._kinds[1], text, tokens)

    def _show(self, kind: str | None, text: str, tokens: int) -> None:
        if kind is None:
            self._run._count(len(text.encode()))
            return
        opened = self._open.get(kind)
        if opened is None:
            if kind == "text" and "reasoning" in self._open:
                self._run._close_part(self._open["reasoning"])
            opened = self._open[kind] = self._run._open(kind)
        elif not opened.is_open:  # reasoning that comes back after the text began
            opened = self._open[kind] = self._run._open(kind)
        self._run._grow(opened, text, max(tokens, 1))

    def close(self) -> None:
        for opened in self._open.values():
            self._run._close_part(opened)

    @property
    def whole_text(self) -> str:
        return "".join(self._texts)

    @property
    def whole_reasoning(self) -> str:
        return "".join(self._reasonings)


def _messages_of(role: str, parts: list[dict[str, Any]], known: dict[str, FileView]) -> list[LLMMessage]:
    """A stored message as a model reads it; questions and their answers as assistant's and user's text."""
    views = tuple(known[data["file"]] for data in shapes.files_of(parts) if data["file"] in known)
    messages: list[LLMMessage] = []
    for part in parts:
        if part["kind"] == "text" and part.get("text"):
            message = LLMMessage("user" if role == "user" else "assistant", part["text"])
            messages.append(with_files(message, views) if role == "user" else message)
        elif part["kind"] == "question":
            data = part["data"]
            messages.append(LLMMessage("assistant", data["text"]))
            if data.get("action") == "accept" and "value" in data:
                messages.append(LLMMessage("user", data.get("label") or _as_text(data["value"])))
    return messages


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _sane(usage: ProviderUsage) -> ProviderUsage:
    """What a vendor counted, within reason: it goes into sums, prices and rows."""
    most = settings.HEADRACE.usage_tokens
    return ProviderUsage(**{name: min(max(count, 0), most) for name, count in msgspec.structs.asdict(usage).items()})


def _added(total: protocol.Usage | None, usage: ProviderUsage, model: str, cost_micros: int) -> protocol.Usage:
    total = total or protocol.Usage()
    return protocol.Usage(
        input_tokens=total.input_tokens + usage.input_tokens,
        output_tokens=total.output_tokens + usage.output_tokens,
        cached_tokens=total.cached_tokens + usage.cached_tokens,
        cost_micros=total.cost_micros + cost_micros,
        model=model,
    )


def _usage_of(row: dict[str, Any] | None) -> protocol.Usage | None:
    return None if row is None else msgspec.convert(row, protocol.Usage)


def _plain(data: Any, limit: int, too_large: str) -> Any:
    """What a handler hands over, as JSON values of our own, at most `limit` bytes. Raises WireError flow_error."""
    if data is None:
        return None
    try:
        encoded = _NUL.sub(rb"\1", msgspec.json.encode(data))
        if len(encoded) > limit:
            raise WireError("flow_error", too_large)
        value = msgspec.json.decode(encoded)
        check_numbers(encoded, value)
        return value
    except (TypeError, ValueError) as error:
        raise WireError("flow_error", NOT_JSON) from error


def _event_room() -> int:
    return settings.HEADRACE.event_bytes - EVENT_SPARE_BYTES


def _cut(output: Any) -> Any:
    """A node's output as a step shows it: whole where it is small, else the beginning of its JSON."""
    encoded = msgspec.json.encode(output)
    if len(encoded) <= OUTPUT_BYTES:
        return output
    return encoded[:OUTPUT_BYTES].decode(errors="ignore") + "…"
