"""A worker's own life: its shutdown, its beat, what it hears from others."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chat.turns import manager as managers
from chat.turns.manager import ChatManager
from streams import database
from streams import store as workers

pytestmark = pytest.mark.django_db(transaction=True)
LATE_S = 20.0


@pytest.fixture
async def manager(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChatManager]:
    monkeypatch.setattr(managers, "SHUTDOWN_S", 0.2)
    one = ChatManager()
    await one.start()
    yield one
    await one.stop()
    database.close()


async def test_a_worker_leaves_although_a_task_of_it_does_not_heed_its_end(manager: ChatManager):
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(LATE_S, over.set)

    async def deaf() -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                pass

    manager.spawn(deaf())
    await asyncio.sleep(0)  # it has begun
    await manager.stop()
    assert not over.is_set()
    assert manager.worker not in await database.read(workers.live_workers)
    over.set()


async def test_a_step_of_the_shutdown_that_fails_skips_none(manager: ChatManager, monkeypatch: pytest.MonkeyPatch):
    ended = []

    async def fail(*_: object) -> None:
        raise OSError("gone")

    async def aclose() -> None:
        ended.append(1)

    with monkeypatch.context() as patched:
        patched.setattr(managers.providers, "aclose", fail)
        patched.setattr(manager.sessions, "write_counters", fail)
        patched.setattr(managers.redis, "aclose", aclose)
        await manager.stop()
    assert ended == [1]
    assert manager.worker not in await database.read(workers.live_workers)
