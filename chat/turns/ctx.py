"""The `ctx` that a handler sees, as `flows/context.py` draws it: what it shows, keeps, calls and asks.

What it did with an effect is kept in the journal; a run that starts again gets it from there, without events.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from django.conf import settings

from chat import protocol, shapes
from chat.files import store as files
from chat.turns import handed, orders, reads
from chat.turns.canonical import hash_of
from chat.turns.history import messages_of
from chat.turns.journal import PART_CHARS, Journal, checked
from chat.turns.model_calls import ModelCalls
from chat.turns.outbox import Lost, Outbox, part_events
from chat.turns.parts import Parts
from chat.turns.store import asking, running
from chat.turns.visits import Visits
from flows.context import Answer, ChatView, FlowView, InputView, LLMCall, LLMResult, Suspend, UserView
from providers.base import LLMMessage
from streams import database
from streams.errors import WireError


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


class Ctx:
    """Of one run. `finished` is called with what follows from a question, `told` with the row's rev once it is told.

    `sends` tells that a transaction is under way, which may begin the next turn; what it returns, that none is.
    """

    def __init__(
        self,
        order: orders.RunOrder,
        parts: Parts,
        outbox: Outbox,
        journal: Journal,
        visits: Visits,
        calls: ModelCalls,
        log: Any,
        sends: Callable[[], Callable[[], None]],
        finished: Callable[[orders.Outcome], None],
        told: Callable[[int], None],
    ) -> None:
        self.order = order
        self.is_over = False  # the handler had its time to end, and did not: what it still calls is refused
        self._bounds = settings.HEADRACE
        self._parts, self._outbox, self._journal, self._visits, self._calls = parts, outbox, journal, visits, calls
        self._sends, self._finished, self._told = sends, finished, told
        # what a handler sees
        inputs = order.inputs
        self.user = UserView(id=inputs["user"]["id"], name=inputs["user"]["name"])
        self.chat = ChatView(id=order.chat, kind=order.chat_kind, locale=inputs.get("locale", ""))
        self.params = order.params
        self.input = InputView(text=shapes.text_of(order.message.parts or []), params=order.params)
        self.now: str = inputs["now"]
        self.vars: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(inputs.get("vars", {})))
        self.signal = Signal()
        self.stream = Stream(self, parts, outbox, journal)
        self.log = log
        self.flow: FlowView  # set when the run begins

    async def write(self, text: str, kind: str = "text", data: Any = None) -> None:
        self.must_run()
        self._parts.show(kind, text, handed.plain(data, handed.event_room(), handed.TOO_LARGE_PART))
        await self._outbox.room()

    async def node_start(self, node: str, visit: int, kind: str, title: str) -> None:
        self._parts.scope = f"{node}#{visit}"
        self._visits.start(node, visit, kind, title)

    async def node_end(self, *, output: Any = None, error: str | None = None) -> None:
        self._visits.end(output=output, error=error)

    async def step(self, key: str, fn: Callable[[], Awaitable[Any]]) -> Any:
        self.must_run()
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
        self.must_run()
        key = self._journal.key("llm", self._parts.scope, key)
        arguments = msgspec.to_builtins(call)
        kept = self._kept(key, arguments)
        if kept is not None:
            return msgspec.convert(kept["value"], LLMResult)
        await self._keep_pending()
        named_before = self._parts.named()
        self._parts.begin_step()
        result = await self._calls.stream(call)
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

    async def history(self, count: int) -> tuple[LLMMessage, ...]:
        rows = await database.read(reads.history, self.order.chat, self.order.message.parent, count, until_done=True)
        named = [data["file"] for _role, parts in rows for data in shapes.files_of(parts)]
        known = await database.read(files.views, int(self.user.id), named, until_done=True) if named else {}
        return tuple(message for role, parts in rows for message in messages_of(role, parts, known))

    async def ask(self, asked: orders.Asked) -> Answer:
        answered = self._journal.answer(asked.key)
        if answered is not None:
            return Answer(action=answered["action"], value=answered["value"], label=answered["label"])
        self._parts.close_all()
        await self._outbox.flush()
        parts, pending = self._parts.whole(), self._journal.waiting()
        usage, nodes = self._calls.usage_row(), self._visits.rows()
        question, outcome = await self._write(asking.ask, asked, parts, pending, usage, nodes)
        self._finished(outcome)
        if question is None:
            raise Lost("stopped while it asked")
        part = msgspec.convert(shapes.question_part(question), protocol.Part)
        for event in part_events(self.order.turn, part):
            self._outbox.put(event)
        self._outbox.put(shapes.question_of(question))
        await self._outbox.flush()
        self._told(question.turn.rev)
        raise Suspend

    def must_run(self) -> None:
        """Raises Lost where the handler had its time to end."""
        if self.is_over:
            raise Lost("over")

    def _kept(self, key: str, arguments: Any) -> dict[str, Any] | None:
        """The result that an earlier run kept, its parts passed over."""
        kept = self._journal.kept(key, arguments)
        if kept is not None:
            self._parts.pass_over(kept["opened"])
        return kept

    async def _keep_pending(self, *more: orders.PendingStep) -> None:
        steps = self._journal.waiting(*more)
        if steps:
            await self._write(running.keep_steps, steps, self._calls.usage_row())
            self._journal.pending = None

    async def _write(self, fn: Callable[..., Any], *args: Any) -> Any:
        """A transaction of this run, from inside its handler. Raises Lost where the turn is another's."""
        try:
            return await database.write(fn, self.order, *args, until_done=True, on_return=self._sends())
        except orders.Fenced:
            raise Lost("fenced") from None


class Stream:
    """`ctx.stream`: progress to the user, questions for him."""

    def __init__(self, ctx: "Ctx", parts: Parts, outbox: Outbox, journal: Journal) -> None:
        self._bounds = settings.HEADRACE
        self._ctx, self._parts, self._outbox, self._journal = ctx, parts, outbox, journal

    async def send(self, type: str, text: str = "", data: Any = None) -> None:
        self._ctx.must_run()
        if self._journal.is_replaying:
            return
        turn, data = self._ctx.order.turn, handed.plain(data, handed.event_room(), handed.TOO_LARGE_EVENT)
        event: protocol.Event
        if type == "progress":
            event = protocol.Progress(turn=turn, text=text, data=data)
        elif type == "status":
            event = protocol.Status(turn=turn, text=text, data=data)
        else:
            event = protocol.Custom(turn=turn, name=type, text=text, data=data)
        if len(protocol.encode_event(event)) > handed.event_room():
            raise WireError("flow_error", handed.TOO_LARGE_EVENT)
        self._outbox.put(event)
        await self._outbox.room()

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
        room = handed.event_room()
        on_expiry = "default" if default is not None else "branch" if goes_on_expired else "end"
        asked = orders.Asked(
            key=self._journal.key("ask", self._parts.scope, key),
            part=checked(self._parts.next_id(), PART_CHARS),
            text=handed.text(text),
            options=handed.plain(list(options), room, handed.TOO_LARGE_QUESTION),
            schema=handed.plain(schema, room, handed.TOO_LARGE_QUESTION),
            secret=secret,
            expires_s=self._bounds.question_s if expires_s is None else expires_s,
            default=handed.plain(default, room, handed.TOO_LARGE_QUESTION),
            on_expiry=on_expiry,
        )
        if len(msgspec.json.encode(asked)) > room:
            raise WireError("flow_error", handed.TOO_LARGE_QUESTION)
        return await self._ctx.ask(asked)
