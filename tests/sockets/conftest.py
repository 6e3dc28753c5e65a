"""Sockets from outside: a server in this process, flows of anna's that are online, and ben, a stranger to her."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from flows.models import Flow, Provider
from providers import fake_openai
from streams import database
from tests import serving
from tests.chat.conftest import ANSWERS, graph_of, node, own_prefix, publish, scripted, user  # noqa: F401

pytest.register_assert_rewrite("tests.sockets.refused", "tests.sockets.tabs")
from tests.sockets.tabs import Tab, tab_at  # noqa: E402

SLOW = "slow please"  # a say with these words is answered after an hour
TALK = graph_of(
    node("start", "start", greeting="Good day.", suggestions=["One", "Two"]),
    node("model", "llm", provider="model", model="m", prompt="{{ input.text }}"),
    node("end", "end"),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under Daphne, what it cannot do is left out; and whole servers, which are `manage.py serve`."""
    if not serving.IS_DAPHNE:
        return
    left_out = [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    return "make_server" in item.fixturenames or {item.name, item.originalname} & serving.CANNOT.keys()


@pytest.fixture(autouse=True)
def quick_drain(settings: Any) -> None:
    """A turn that a test left running holds up nobody."""
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, drain_turns_s=0.2, drain_sockets_s=0.1)


@pytest.fixture
def bounds(settings: Any) -> Callable[..., None]:
    """`bounds(commands_burst=3)`: for sockets that open after it."""

    def change(**changed: Any) -> None:
        settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, **changed)

    return change


@pytest.fixture
def anna(user: Any) -> Any:  # noqa: F811
    return user


@pytest.fixture
def ben(make_user: Callable[..., Any]) -> Any:
    return make_user("ben")


@pytest.fixture
def online(publish: Callable[..., Awaitable[Flow]], scripted: Callable[..., Any]) -> Callable[..., Awaitable[Flow]]:  # noqa: F811
    """`await online(double_text="reject")`: a flow of anna's whose model repeats what was said, SLOW after an hour."""
    scripted(
        pour=False,
        first_token_ms=0,
        pace_tokens_per_s=0,
        rules=[{"match": SLOW, "text": "late", "first_token_ms": 3_600_000}],
    )

    async def make(graph: dict[str, Any] = TALK, **fields: Any) -> Flow:
        return await publish(graph, **fields)

    return make


@pytest.fixture
async def model() -> AsyncIterator[fake_openai.Server]:
    """A model's server in this loop. Each message says what it does: `fake(tokens=20)`; `.seen` is what it saw."""
    server = await fake_openai.start()
    yield server
    await server.close()


@pytest.fixture
def modelled(
    publish: Callable[..., Awaitable[Flow]],  # noqa: F811
    model: fake_openai.Server,
) -> Callable[..., Awaitable[Flow]]:
    """`await modelled(graph)`: a flow of anna's whose provider `model` is the fake server."""

    async def make(graph: dict[str, Any] = TALK, **fields: Any) -> Flow:
        row = {"kind": "openai_compatible", "base_url": model.base_url, "model_names": ["m"]}
        await database.write(lambda: Provider.objects.update_or_create(slug="model", defaults=row))
        return await publish(graph, **fields)

    return make


@pytest.fixture
async def tab(
    live: Any, anna: Any, token_of: Callable[..., Awaitable[str]]
) -> Callable[..., AbstractAsyncContextManager[Tab]]:
    """`async with tab(flow, chat) as one:` a page of anna's; with a `view` it comes back by that one's position."""
    token = await token_of(anna)
    return lambda flow, chat, view=None, **query: tab_at(live.host, str(flow.id), token, chat, view, **query)
