"""Turns that nobody runs are shared out among workers, and a drain gives its own back some at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from chat.models import Turn
from chat.turns import runs
from chat.turns.manager import ChatManager
from flows.models import Flow, Provider
from streams import database
from tests.chat.conftest import TALK
from tests.chat.test_store import Talk
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)
TURNS = 20
HANG = {"match": "hang", "text": "One two three.", "fault": {"kind": "cut", "after_tokens": 1, "wait_s": 3600}}


@pytest.fixture
async def workers(redis_url: str, bounds: Callable[..., None]) -> AsyncIterator[list[ChatManager]]:
    """Two, which sweep when they are told to."""
    bounds(sweep_s=3600, turns_per_user=1000)
    both = [ChatManager(), ChatManager()]
    for worker in both:
        await worker.start()
    for worker in both:
        await worker.sweep.sweep()  # they know of each other
    yield both
    for worker in both:
        await worker.stop()
    database.close()


@pytest.fixture
async def nobodys(
    user: Any, publish: Callable[..., Awaitable[Flow]], scripted: Callable[..., Provider]
) -> Callable[[], Awaitable[None]]:
    """Makes so many turns in as many chats that nobody runs, each of which hangs once it runs."""
    await database.write(lambda: scripted(rules=[HANG]))
    flow = await publish(TALK)

    async def make() -> None:
        for _ in range(TURNS):
            await Talk(user, flow).say("hang", worker=None)

    return make


async def counts(workers: list[ChatManager]) -> list[int]:
    """Running turns of each, by the rows."""
    return await database.read(
        lambda: [Turn.objects.filter(state="running", worker=worker.worker).count() for worker in workers]
    )


async def test_workers_that_look_at_once_share_what_nobody_runs(workers: list[ChatManager], nobodys: Any):
    await nobodys()
    await asyncio.gather(*(worker.sweep.sweep() for worker in workers))
    found = await counts(workers)
    assert sum(found) == TURNS and min(found) > 0, found
    assert [len(worker.runs) for worker in workers] == found


async def test_what_a_worker_runs_itself_is_no_part_of_what_is_shared(workers: list[ChatManager], nobodys: Any):
    one, two = workers
    await nobodys()
    one.is_draining = True
    await two.sweep.sweep()  # all are its own
    one.is_draining = False
    await nobodys()
    await asyncio.gather(*(worker.sweep.sweep() for worker in workers))
    found = await counts(workers)
    assert sum(found) == 2 * TURNS and found[0] > 0, found


async def test_a_worker_takes_no_more_than_it_may_run(workers: list[ChatManager], nobodys: Any, bounds: Any):
    bounds(turns_per_worker=5)
    await nobodys()
    await asyncio.gather(*(worker.sweep.sweep() for worker in workers))
    assert await counts(workers) == [5, 5]


async def test_a_drain_gives_back_some_at_a_time_while_the_rest_runs(
    workers: list[ChatManager], nobodys: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runs, "RELEASED_AT_ONCE", 4)
    monkeypatch.setattr(runs, "RELEASED_EVERY_S", 0.1)
    one, two = workers
    two.is_draining = True
    await nobodys()
    await one.sweep.sweep()
    two.is_draining = False
    told: list[int] = []
    tell = one.control.tell_others

    async def note(kind: str, **target: Any) -> None:
        told.append(len(one.runs))
        await tell(kind, **target)

    monkeypatch.setattr(one.control, "tell_others", note)
    one.is_draining = True
    await one.runs.drain(3.0)
    assert len(told) == TURNS / 4 and told == sorted(told, reverse=True) and told[0] >= TURNS - 4, told
    await until(lambda: len(two.runs) == TURNS and not len(one.runs))
    assert await counts(workers) == [0, TURNS]


async def test_an_end_gives_all_back_at_once(workers: list[ChatManager], nobodys: Any):
    one, two = workers
    two.is_draining = True
    await nobodys()
    await one.sweep.sweep()
    two.is_draining = False
    await one.runs.release()
    await until(lambda: len(two.runs) == TURNS)
    assert await counts(workers) == [0, TURNS]
