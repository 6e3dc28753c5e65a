"""Chats on a real database and store, in this process: a user, flows that were built and published, a manager."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from flows import build, providers
from flows import store as flow_store
from flows.models import Flow, Provider
from providers.scripted import Scripted
from streams import database, redis
from tests.chat.incarnation import mortal

pytest.register_assert_rewrite("tests.chat.stage", "tests.chat.view")
from tests.chat.stage import Stage  # noqa: E402


@pytest.fixture(autouse=True)
def own_prefix(settings) -> None:
    """Keys of this test alone, though other tests use the store too."""
    settings.REDIS_PREFIX = f"test-{uuid.uuid4().hex}:"
    providers._opened.clear()  # rows of the test before, by the same names


@pytest.fixture
def user(make_user: Callable[..., Any]) -> Any:
    return make_user("anna")


@pytest.fixture
async def publish(user: Any, redis_url: str) -> AsyncIterator[Callable[..., Awaitable[Flow]]]:
    """`await publish(graph, **fields)`: a flow of `user`, online."""

    async def make(graph: dict[str, Any], **fields: Any) -> Flow:
        flow = await database.write(lambda: _create(user.id, graph, fields))
        await build.publish(flow.id, user.id)
        return await database.read(lambda: Flow.objects.select_related("published").get(id=flow.id))

    yield make
    await redis.aclose()


def _create(owner: int, graph: dict[str, Any], fields: dict[str, Any]) -> Flow:
    flow = flow_store.create_flow(owner, name=f"flow {uuid.uuid4().hex[:8]}", draft=graph)
    return flow_store.update_flow(flow.id, **fields) if fields else flow


@pytest.fixture
def scripted(transactional_db: None) -> Callable[..., Provider]:
    """`scripted("model", default="Hello")`: a provider row of kind `scripted` that pours."""

    def make(slug: str = "model", **options: Any) -> Provider:
        options.setdefault("pour", True)
        return Provider.objects.create(slug=slug, kind="scripted", model_names=["m"], options=options)

    return make


@pytest.fixture
async def staged(
    publish: Callable[..., Awaitable[Flow]],
    scripted: Callable[..., Provider],
    user: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Callable[..., Awaitable[Stage]]]:
    """`await staged(graph, skill="", **fields)`: a chat whose workers can be killed at any call.

    Its model says back what it was asked. `hang` in that leaves the first answer after two words, `stuck` each one.
    """
    mortal(monkeypatch)
    monkeypatch.setattr(
        providers.settings, "HEADRACE", msgspec.structs.replace(providers.settings.HEADRACE, provider_fresh_s=3600)
    )
    stages: list[Stage] = []

    async def make(graph: dict[str, Any], skill: str = "", **fields: Any) -> Stage:
        hang = {"kind": "cut", "after_tokens": 2, "wait_s": 3600}
        rules = [
            {"match": "one hang", "text": "First."},
            {"match": "hang", "text": "One two three four.", "fault": {**hang, "times": 1}},
            {"match": "stuck", "text": "Five six seven.", "fault": hang},
            {"match": "long", "text": "word " * 400},
        ]
        await database.write(lambda: scripted(default="Model says {input}.", rules=rules))
        stages.append(Stage(user, await publish(graph, **fields), skill))
        return stages[-1]

    yield make
    for stage in stages:
        await stage.end()
    await providers.aclose()


@pytest.fixture
def bounds(settings: Any) -> Callable[..., None]:
    """`bounds(queue_length=1)`: from now on."""

    def change(**changed: Any) -> None:
        settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, **changed)

    return change


class ModelCall(msgspec.Struct):
    said: str
    has_ended: bool = False


@pytest.fixture
def model_calls(monkeypatch: pytest.MonkeyPatch) -> list[ModelCall]:
    """Every call of a scripted model: the last message, and whether its stream has ended or was closed."""
    calls: list[ModelCall] = []
    original = Scripted.stream

    async def stream(self: Scripted, request: Any) -> AsyncIterator[Any]:
        call = ModelCall(request.messages[-1].text)
        calls.append(call)
        try:
            async with aclosing(original(self, request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            call.has_ended = True

    monkeypatch.setattr(Scripted, "stream", stream)
    return calls


def graph_of(*nodes: dict[str, Any], edges: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Nodes in a line, or by `edges`."""
    ids = [node["id"] for node in nodes]
    line = [{"from": first, "to": second} for first, second in zip(ids, ids[1:], strict=False)]
    return {"schema": 1, "nodes": list(nodes), "edges": line if edges is None else edges}


def node(id_: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "kind": kind, "fields": fields}


ANSWERS = graph_of(
    node("start", "start"),
    node("hello", "message", text="You said {{ input.text }}."),
    node("model", "llm", provider="model", model="m", prompt="{{ input.text }}"),
    node("end", "end"),
)
TALK = graph_of(
    node("start", "start"),
    node("model", "llm", provider="model", model="m", prompt="{{ input.text }}"),
    node("end", "end"),
)
TWO = graph_of(
    node("start", "start"),
    node("first", "llm", provider="model", model="m", prompt="one {{ input.text }}"),
    node("hello", "message", text="Between."),
    node("second", "llm", provider="model", model="m", prompt="two {{ input.text }}"),
    node("end", "end"),
)
ASKS = graph_of(
    node("start", "start"),
    node("first", "llm", provider="model", model="m", prompt="one {{ input.text }}"),
    node("hello", "message", text="Between."),
    node("ask", "question", text="Your name?"),
    node("second", "llm", provider="model", model="m", prompt="two {{ ask.value }}"),
    node("end", "end"),
)
