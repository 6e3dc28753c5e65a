"""A `Context` in memory: what the engine asks of it is written down, answers and models come from the test."""

from typing import Any

from flows.context import Answer, ChatView, FlowView, InputView, LLMCall, LLMResult, Suspend, UserView
from providers.base import LLMMessage

START = {"id": "start", "kind": "start"}
END = {"id": "end", "kind": "end"}


def node(id_: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "kind": kind, "fields": fields}


def chain(*nodes: dict[str, Any], start: dict[str, Any] = START, end: dict[str, Any] = END) -> dict[str, Any]:
    """start -> nodes -> end, one after the other."""
    listed = [start, *nodes, end]
    pairs = zip(listed, listed[1:], strict=False)
    return {"schema": 1, "nodes": listed, "edges": [edge(one["id"], other["id"]) for one, other in pairs]}


def edge(start: str, to: str, branch: str | None = None) -> dict[str, Any]:
    return {"from": start, "to": to} if branch is None else {"from": start, "to": to, "branch": branch}


class FakeStream:
    def __init__(self, ctx: "FakeContext") -> None:
        self.ctx = ctx

    async def send(self, type: str, text: str = "", data: Any = None) -> None:
        self.ctx.done.append(("send", type, text))

    async def ask(self, text: str, **asked: Any) -> Answer:
        self.ctx.done.append(("ask", text))
        self.ctx.asked.append(asked)
        self.ctx.asks += 1
        if self.ctx.asks > len(self.ctx.answers):
            raise Suspend
        return self.ctx.answers[self.ctx.asks - 1]


class FakeContext:
    """`done`: the calls in their order. `replies`: what the model says, call by call."""

    def __init__(
        self,
        graph: dict[str, Any],
        *,
        text: str = "hi",
        params: dict[str, Any] | None = None,
        answers: list[Answer] | None = None,
        replies: list[LLMResult | Exception] | None = None,
        past: list[LLMMessage] | None = None,
        vars: dict[str, Any] | None = None,
    ) -> None:
        self.user = UserView("1", "Anna")
        self.chat = ChatView("c", "chat", "en")
        self.flow = FlowView("f", "flow", "Flow", 1, graph)
        self.input = InputView(text, params or {})
        self.params = params or {}
        self.now = "2026-01-02T03:04:05.000Z"
        self.vars = dict(vars or {})
        self.stream = FakeStream(self)
        self.done: list[tuple] = []
        self.calls: list[LLMCall] = []
        self.asked: list[dict[str, Any]] = []
        self.answers = answers or []
        self.asks = 0
        self.replies = replies or []
        self.past = past or []

    async def llm(self, call: LLMCall, *, key: str | None = None) -> LLMResult:
        self.done.append(("llm", call.provider))
        self.calls.append(call)
        reply = self.replies[len(self.calls) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def history(self, count: int) -> tuple[LLMMessage, ...]:
        self.done.append(("history", count))
        return tuple(self.past[-count:])

    async def write(self, text: str, kind: str = "text", data: Any = None) -> None:
        self.done.append(("write", text))

    async def node_start(self, node: str, visit: int, kind: str, title: str) -> None:
        self.done.append(("start", node, visit))

    async def node_end(self, *, output: Any = None, error: str | None = None) -> None:
        self.done.append(("end", output) if error is None else ("error", error))

    @property
    def written(self) -> list[str]:
        return [call[1] for call in self.done if call[0] == "write"]
