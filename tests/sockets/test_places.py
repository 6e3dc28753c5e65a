"""How many sockets a user may have, over whole servers that share an installation; and over all doors of one."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from chat.turns.manager import manager
from flows.models import Flow
from streams.errors import WireError
from streams.places import Places
from tests.conftest import Live
from tests.server import HeadraceServer, manage
from tests.sockets.refused import check_refusal, refusal
from tests.waiting import until
from tests.wire import opened


async def is_let_in(opening: Any) -> bool:
    async with opening as socket:
        return (await socket.recv())["type"] == "welcome"


async def test_a_user_has_so_many_sockets_at_two_servers_together_and_a_killed_ones_end(make_server) -> None:
    quick = {"HEADRACE_PLACES_KEPT_S": "3", "HEADRACE_PLACES_EVERY_S": "0.5"}
    one = make_server(HEADRACE_SOCKETS_PER_USER="3", **quick)
    two = HeadraceServer(one.data_dir, **{name: value for name, value in one.env.items() if name != "PORT"})
    token = (await asyncio.to_thread(manage, "token", "demo", env=one.env)).stdout.strip()

    def at(server: HeadraceServer) -> Any:
        return opened(server.host, f"/chat/guide?chat_id={uuid.uuid4()}", token)

    try:
        await asyncio.to_thread(two.start)
        await asyncio.to_thread(one.start)
        async with AsyncExitStack() as stack:
            for server in (one, one, two):
                socket = await stack.enter_async_context(at(server))
                await socket.until("welcome")
            for server in (one, two):
                check_refusal(await refusal(at(server)), "too_many_connections")
            await asyncio.to_thread(one.kill)
            await until(lambda: is_let_in(at(two)), what="sockets of the killed server count no more")
    finally:
        two.kill()


@pytest.fixture
async def elsewhere(live: Live) -> Any:
    """The places of another worker."""
    places = Places()
    yield places
    await places.aclose()


@pytest.mark.parametrize("of", ["user", "address"])
async def test_sockets_at_another_worker_count(
    live: Live, online: Callable[..., Awaitable[Flow]], ben: Any, token_of: Any, elsewhere: Places, bounds: Any, of: str
) -> None:
    flow, token = await online(), await token_of(ben)

    def door() -> Any:
        return live.open(f"/chat/{flow.id}?chat_id={uuid.uuid4()}", token)

    bounds(sockets_per_user=1, sockets_per_address=1)
    leave = await elsewhere.take({{"user": f"user:{ben.pk}", "address": "address:127.0.0.1"}[of]: 1})
    check_refusal(await refusal(door()), "too_many_connections")
    leave()
    await until(lambda: is_let_in(door()), what="there is room again")
    await until(lambda: not manager().clients.places._held, what="all have left")


async def test_a_reader_of_events_counts_as_a_socket(
    live: Live, online: Callable[..., Awaitable[Flow]], ben: Any, token_of: Any, elsewhere: Places, bounds: Any
) -> None:
    flow, token = await online(), await token_of(ben)
    bounds(sockets_per_user=1)
    leave = await elsewhere.take({f"user:{ben.pk}": 1})
    url, headers = f"{live.url}/api/flows/{flow.id}/build/events/", {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.get(url) as response:
            assert response.status == 429
            assert (await response.json())["error"]["code"] == "too_many_connections"
        leave()

        async def has_room() -> bool:
            async with http.get(url) as response:
                return response.status != 429

        await until(has_room, what="the reader has room")


async def test_a_socket_that_is_refused_after_it_had_its_place_gives_it_back(
    live: Live, online: Callable[..., Awaitable[Flow]], ben: Any, token_of: Any, elsewhere: Places, bounds: Any
) -> None:
    await online()
    token = await token_of(ben)
    bounds(sockets_per_user=1)
    for _ in range(3):
        refused = await refusal(live.open(f"/chat/{uuid.uuid4()}?chat_id={uuid.uuid4()}", token))
        check_refusal(refused, "flow_not_found")
    assert not manager().clients.places._held

    async def is_free() -> bool:
        try:
            await elsewhere.take({f"user:{ben.pk}": 1})
        except WireError:
            return False
        return True

    await until(is_free, what="the place is free at the other worker")
