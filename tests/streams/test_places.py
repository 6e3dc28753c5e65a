"""Places over two workers: what is counted, what is given back, what ends by itself, and what holds without Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import redis.asyncio

from streams.errors import WireError
from streams.places import KEPT_AT_ONCE, Places
from tests.streams.conftest import OwnStore
from tests.waiting import WITHIN_S, until

ANNA, BEN, HOME = "user:1", "user:2", "address:192.0.2.1"


@pytest.fixture
async def places(prefix: str) -> AsyncIterator[Places]:
    async with aclosing(Places()) as places:
        yield places


@pytest.fixture
async def others(prefix: str) -> AsyncIterator[Places]:
    """Those of another worker."""
    async with aclosing(Places()) as places:
        yield places


def key(prefix: str, who: str) -> str:
    return f"{prefix}{{places}}:{who}"


async def is_refused(places: Places, wanted: dict[str, int]) -> bool:
    try:
        await places.take(wanted)
    except WireError as error:
        assert error.code == "too_many_connections" and error.extra["retry_after"] > 0
        return True
    return False


async def comes_to(plain: redis.asyncio.Redis, prefix: str, who: str, count: int) -> None:
    async def is_so() -> bool:
        return await plain.zcard(key(prefix, who)) == count

    await until(is_so, what=f"{who} has {count} places")


async def end_all(plain: redis.asyncio.Redis, prefix: str, who: str) -> None:
    """As if their time were over."""
    for place in await plain.zrange(key(prefix, who), 0, -1):
        await plain.zadd(key(prefix, who), {place: 1})


# ------------------------------------------------------------------------------------------------- counted


async def test_places_of_all_workers_are_counted(places: Places, others: Places):
    await places.take({ANNA: 2})
    await others.take({ANNA: 2})
    assert await is_refused(places, {ANNA: 2})
    assert await is_refused(others, {ANNA: 2})
    await others.take({BEN: 2})


async def test_a_place_counts_for_the_user_and_for_the_address(places: Places, others: Places):
    await places.take({ANNA: 9, HOME: 2})
    await others.take({BEN: 9, HOME: 2})
    assert await is_refused(others, {"user:3": 9, HOME: 2})
    await others.take({"user:3": 9, "address:192.0.2.2": 2})


async def test_who_is_refused_takes_no_place_of_anybody(places: Places, others: Places, plain, prefix: str):
    await places.take({BEN: 9, HOME: 1})
    assert await is_refused(others, {ANNA: 1, HOME: 1})
    assert await plain.zcard(key(prefix, ANNA)) == 0
    await others.take({ANNA: 1})


async def test_places_taken_at_the_same_moment_are_not_one_too_many(places: Places, others: Places, plain, prefix: str):
    taking = [is_refused(worker, {ANNA: 7}) for _ in range(20) for worker in (places, others)]
    assert (await asyncio.gather(*taking)).count(False) == 7
    assert await plain.zcard(key(prefix, ANNA)) == 7


async def test_a_bound_that_was_lowered_holds_for_the_next(places: Places, others: Places):
    await places.take({ANNA: 2})
    await places.take({ANNA: 2})
    assert await is_refused(others, {ANNA: 1})


# ------------------------------------------------------------------------------------- given back, and kept


async def test_a_place_that_was_given_back_is_free_at_every_worker(places: Places, others: Places, plain, prefix: str):
    leave = await places.take({ANNA: 1, HOME: 1})
    leave()
    leave()
    await comes_to(plain, prefix, ANNA, 0)
    await comes_to(plain, prefix, HOME, 0)
    await others.take({ANNA: 1, HOME: 1})


async def test_a_place_that_is_taken_again_after_it_was_given_back_is_the_next_one(places: Places, plain, prefix: str):
    for _ in range(20):
        leave = await places.take({ANNA: 1})
        leave()
    await comes_to(plain, prefix, ANNA, 0)


async def test_who_is_cancelled_on_the_way_leaves_no_place(own_store: OwnStore, places: Places, plain, prefix: str):
    await places.take({ANNA: 2})
    own_store.freeze()
    taking = asyncio.create_task(places.take({ANNA: 2}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it has been sent
    taking.cancel()
    own_store.thaw()
    with pytest.raises(asyncio.CancelledError):
        await taking
    await places.take({ANNA: 2})
    await comes_to(plain, prefix, ANNA, 2)


async def test_places_of_a_worker_that_says_nothing_any_more_end(places: Places, others: Places, plain, prefix: str):
    await places.take({ANNA: 1})
    await end_all(plain, prefix, ANNA)
    await others.take({ANNA: 1})
    assert await plain.zcard(key(prefix, ANNA)) == 1


async def test_places_that_are_kept_count_on(places: Places, others: Places, plain, prefix: str):
    await places.take({ANNA: 1, HOME: 1})
    await end_all(plain, prefix, ANNA)
    await end_all(plain, prefix, HOME)
    await places.keep()
    assert await is_refused(others, {ANNA: 1})
    assert await is_refused(others, {HOME: 1})


async def test_more_places_than_go_into_one_call_are_kept(places: Places, plain, prefix: str):
    count = KEPT_AT_ONCE + 1
    for _ in range(count):
        await places.take({ANNA: count})
    await plain.delete(key(prefix, ANNA))
    await places.keep()
    assert await plain.zcard(key(prefix, ANNA)) == count


async def test_a_place_that_was_given_back_is_not_kept(places: Places, plain, prefix: str):
    leave = await places.take({ANNA: 2})
    await places.take({ANNA: 2})
    keeping = asyncio.create_task(places.keep())
    leave()
    await keeping
    await comes_to(plain, prefix, ANNA, 1)


async def test_every_key_has_a_time_to_live_of_a_place(places: Places, plain, prefix: str, settings):
    await places.take({ANNA: 1, HOME: 1})
    kept_ms = settings.HEADRACE.places_kept_s * 1000
    names = await plain.keys(f"{prefix}*")
    assert sorted(names) == sorted(key(prefix, who).encode() for who in (ANNA, HOME))
    for name in names:
        assert 0 < await plain.pttl(name) <= kept_ms
        await plain.persist(name)
    await places.keep()
    for name in names:
        assert 0 < await plain.pttl(name) <= kept_ms


async def test_a_worker_that_ends_gives_back_what_it_holds(places: Places, others: Places, plain, prefix: str):
    await places.take({ANNA: 2, HOME: 2})
    await places.take({ANNA: 2, HOME: 2})
    await places.aclose()
    assert await plain.keys(f"{prefix}*") == []
    await others.take({ANNA: 1, HOME: 1})


# -------------------------------------------------------------------------------------- trouble with Redis


async def test_a_place_whose_answer_was_lost_is_taken_once(places: Places, plain, prefix: str):
    leave = await places.take({ANNA: 9})
    leave()
    lane = places._lane
    lost = []

    def lose(reply: object) -> None:
        lost.append(reply)
        lane._on_reply = answer
        link.abort()

    answer, link = lane._on_reply, lane._link
    link._on_reply = lose
    await places.take({ANNA: 1})
    assert lost
    await comes_to(plain, prefix, ANNA, 1)


async def test_without_redis_the_own_count_holds(own_store: OwnStore, places: Places, others: Places, bounds):
    bounds(redis_timeout_s=0.2)
    await places.take({ANNA: 2})
    own_store.kill()
    leave = await places.take({ANNA: 2})
    assert await is_refused(places, {ANNA: 2})
    leave()
    await places.take({ANNA: 2})
    await others.take({ANNA: 2})


async def test_what_was_taken_without_redis_is_counted_when_it_is_back(
    own_store: OwnStore, places: Places, others: Places, bounds
):
    bounds(redis_timeout_s=0.2)
    own_store.kill()
    await places.take({ANNA: 2})
    await places.take({ANNA: 2})
    own_store.start()
    bounds(redis_timeout_s=5)
    await places.keep()
    await until(lambda: not places._lane.is_in_trouble, what="the trouble is over")
    await places.keep()
    assert await is_refused(others, {ANNA: 2})


async def test_a_redis_that_is_too_slow_refuses_nobody(own_store: OwnStore, places: Places, others: Places, bounds):
    await others.take({ANNA: 1})
    await places.take({BEN: 9})
    own_store.freeze()
    bounds(redis_timeout_s=0.1)
    await places.take({ANNA: 1})  # of whose other socket this worker knows nothing
    own_store.thaw()


async def test_nobody_waits_for_a_redis_that_is_known_to_be_away(own_store: OwnStore, places: Places, bounds):
    bounds(redis_timeout_s=0.1)
    own_store.kill()
    await places.take({ANNA: 9})
    assert places._lane.is_in_trouble
    bounds(redis_timeout_s=3600)
    try:
        async with asyncio.timeout(WITHIN_S):
            await places.take({ANNA: 9})
    finally:
        bounds(redis_timeout_s=0.1)


async def test_an_emptied_redis_knows_the_places_again_after_a_beat(
    own_store: OwnStore, places: Places, others: Places
):
    await places.take({ANNA: 1})
    own_store.run("FLUSHALL")
    await places.keep()
    assert await is_refused(others, {ANNA: 1})


async def test_lost_scripts_are_loaded_again(own_store: OwnStore, places: Places, others: Places):
    await places.take({ANNA: 2})
    own_store.run("SCRIPT", "FLUSH")
    await places.take({ANNA: 2})
    own_store.run("SCRIPT", "FLUSH")
    await places.keep()
    assert await is_refused(others, {ANNA: 2})
