"""Rings: fed by own appends and one subscription, gaps read from the log, tops compared."""

import asyncio
import uuid

import pytest

from streams.errors import WireError
from streams.hub import Hub, Ring
from streams.log import Log, Position
from streams.redis import Link
from tests.clock import Clock
from tests.streams.conftest import OwnStore, batch, frame
from tests.streams.network import Network
from tests.waiting import until

TURN = "11111111-1111-4111-8111-111111111111"


def numbered(first: int, *texts: str) -> list[bytes]:
    return [b'{"seq":%d,' % (first + i) + frame(text) for i, text in enumerate(texts)]


async def epoch_of(log: Log, chat: str) -> str:
    return (await log.read(chat, 0)).epoch


# ------------------------------------------------------------------------------------- a ring


@pytest.fixture
def ring() -> Ring:
    ring = Ring("chat", max_events=4, max_bytes=1000)
    ring.reset("e", 0, [])
    return ring


def test_a_ring_gives_what_comes_after_a_position(ring: Ring):
    assert ring.feed("e", 1, [b"1", b"2", b"3"])
    assert ring.position == Position("e", 3)
    assert [ring.after(seq) for seq in range(5)] == [[b"1", b"2", b"3"], [b"2", b"3"], [b"3"], [], None]


def test_trace_06e_feeding_is_idempotent_by_position(ring: Ring):
    ring.feed("e", 1, [b"1", b"2"])
    assert ring.feed("e", 1, [b"1"])
    assert ring.feed("e", 2, [b"2", b"3"])
    assert ring.after(0) == [b"1", b"2", b"3"]


def test_a_gap_or_another_epoch_is_not_taken(ring: Ring):
    ring.feed("e", 1, [b"1"])
    assert not ring.feed("e", 3, [b"3"])
    assert not ring.feed("f", 2, [b"2"])
    assert ring.position == Position("e", 1)


def test_a_ring_is_bounded_in_events(ring: Ring):
    for seq in range(1, 10):
        ring.feed("e", seq, [b"%d" % seq])
    assert ring.after(5) == [b"6", b"7", b"8", b"9"]
    assert ring.after(4) is None


def test_a_ring_is_bounded_in_bytes_but_keeps_the_newest_event(ring: Ring):
    ring.feed("e", 1, [b"x" * 600, b"y" * 600])
    assert ring.after(1) == [b"y" * 600] and ring.after(0) is None
    ring.feed("e", 3, [b"z" * 5000])
    assert ring.after(2) == [b"z" * 5000] and ring.after(1) is None


def test_listeners_hear_of_events_and_of_epochs_once_each(ring: Ring):
    heard = []
    ring.listeners.add(lambda: heard.append(ring.position))
    ring.feed("e", 1, [b"1", b"2"])
    ring.feed("e", 1, [b"1"])
    ring.reset("f", 5, [])
    assert heard == [Position("e", 2), Position("f", 5)]


# ------------------------------------------------------------------------------------- own appends, others'


async def test_a_watched_chat_has_an_epoch_and_a_top(hub: Hub, chat: str):
    ring = await hub.watch(chat)
    assert len(ring.epoch) == 16 and ring.seq == 0
    assert await hub.watch(chat) is ring


async def test_own_appends_are_in_the_ring_when_they_return(hub: Hub, log: Log, chat: str):
    ring = await hub.watch(chat)
    await log.append(batch(chat, ring.epoch, TURN, 1, 1, "a", "b"))
    assert ring.after(0) == numbered(1, "a", "b")


async def test_appends_of_other_workers_arrive(hub: Hub, other: Log, chat: str):
    ring = await hub.watch(chat)
    await other.append(batch(chat, ring.epoch, TURN, 1, 1, "a", "b"))
    await until(lambda: ring.seq == 2)
    assert ring.after(0) == numbered(1, "a", "b")


async def test_echoes_of_own_appends_are_dropped_before_they_are_split(hub: Hub, log: Log, chat: str, monkeypatch):
    ring = await hub.watch(chat)
    fed = []
    feed = ring.feed
    monkeypatch.setattr(ring, "feed", lambda *args: fed.append(args) or feed(*args))
    heard = []
    on_message = hub._on_message
    hub._on_message = lambda *args: (heard.append(args), on_message(*args))
    for n in range(1, 21):
        await log.append(batch(chat, ring.epoch, TURN, 1, n, "a"))
    await until(lambda: len(heard) == 20)
    assert ring.seq == 20 and [args[1] for args in fed if args[1] == 20] == [20]


async def test_the_answer_of_a_kept_batch_does_not_put_another_batch_in_its_place(hub: Hub, log: Log, other: Log, chat):
    """Two ends of one turn, of different content: what stands in the log is the first."""
    epoch = await epoch_of(log, chat)
    hub._on_message = lambda *_: None
    ring = await hub.watch(chat)
    await other.append(batch(chat, epoch, TURN, 1, 1, "end of the sweep", ends=True))
    await log.append(batch(chat, epoch, TURN, 1, 0, "end of the run", ends=True))
    await until(lambda: ring.seq == 1)
    assert ring.after(0) == numbered(1, "end of the sweep")


# ------------------------------------------------------------------------------------- gaps


async def test_a_lost_message_is_read_from_the_log_with_the_next_one(hub: Hub, other: Log, chat: str):
    ring = await hub.watch(chat)
    on_message = hub._on_message
    hub._on_message = lambda *_: None
    await other.append(batch(chat, ring.epoch, TURN, 1, 1, "a"))
    await other.append(batch(chat, ring.epoch, TURN, 1, 2, "b"))
    await until(lambda: not hub._subscriptions[None].replies)
    hub._on_message = on_message
    await other.append(batch(chat, ring.epoch, TURN, 1, 3, "c"))
    await until(lambda: ring.seq == 3)
    assert ring.after(0) == numbered(1, "a", "b", "c")


async def test_trace_02b_a_lost_last_message_is_found_although_nobody_writes(log: Log, other: Log, chat: str, bounds):
    bounds(tops_every_s=0.05)
    hub = Hub(log)
    await hub.start()
    ring = await hub.watch(chat)
    hub._on_message = lambda *_: None
    await other.append(batch(chat, ring.epoch, TURN, 1, 1, "turn_end", ends=True))
    await until(lambda: ring.seq == 1)
    assert ring.after(0) == numbered(1, "turn_end")
    await hub.aclose()


async def test_an_emptied_log_is_found_although_nobody_writes(
    own_store: OwnStore, bounds, hub: Hub, log: Log, chat: str
):
    ring = await hub.watch(chat)
    before = ring.epoch
    await log.append(batch(chat, before, TURN, 1, 1, "a"))
    own_store.run("FLUSHALL")
    await hub.log.tops([chat], hub._on_top)  # what the hub does every few seconds
    await until(lambda: ring.epoch != before)
    assert ring.position == Position((await log.read(chat, 0)).epoch, 0)


async def test_only_a_read_changes_a_rings_epoch(hub: Hub, log: Log, chat: str, plain, prefix: str):
    ring = await hub.watch(chat)
    before = ring.position
    heard = []
    on_message = hub._on_message
    hub._on_message = lambda *args: (on_message(*args), heard.append(args))
    await plain.publish(f"{prefix}{{{uuid.UUID(chat).hex}}}", b"f" * 16 + b' 1 1\n{"seq":1,"forged"}')
    await until(lambda: heard)
    await hub.refresh(ring)
    assert ring.position == before


async def test_a_writers_news_of_an_epoch_reach_the_ring(hub: Hub, log: Log, chat: str, plain, keys):
    ring = await hub.watch(chat)
    await plain.delete(*keys)
    answer = await log.append(batch(chat, ring.epoch, TURN, 1, 1, "a"))
    await until(lambda: ring.epoch == answer.epoch)


async def test_a_gap_longer_than_the_ring_is_not_carried_through_it(hub: Hub, other: Log, chat: str, bounds):
    bounds(ring_events=8)
    ring = await hub.watch(chat)
    on_message = hub._on_message
    hub._on_message = lambda *_: None
    await other.append(batch(chat, ring.epoch, TURN, 1, 1, *["x"] * 50))
    hub._on_message = on_message
    await other.append(batch(chat, ring.epoch, TURN, 1, 2, "y"))
    await until(lambda: ring.seq == 51)
    assert ring.after(0) is None
    await other.append(batch(chat, ring.epoch, TURN, 1, 3, "z"))
    await until(lambda: ring.seq == 52)
    assert ring.after(51) == numbered(52, "z")


@pytest.mark.parametrize("moment", range(8))
def test_what_comes_between_subscribing_and_reading_is_not_missed(prefix: str, chat: str, monkeypatch, moment: int):
    """One event is written at one moment of opening, then nothing, and no time passes."""

    async def main() -> None:
        network = Network()
        monkeypatch.setattr(Link, "open", network.open)
        log, other = Log(), Log()
        hub = Hub(log)
        await hub.start()
        network.flows = True
        epoch = await epoch_of(other, chat)
        await other.append(batch(chat, epoch, TURN, 1, 1, "before"))
        network.flows = False

        async def write() -> None:
            writing = asyncio.create_task(other.append(batch(chat, epoch, TURN, 1, 2, "between")))
            await network.settle()
            other._appends._link.serve()
            other._appends._link.deliver()
            await writing

        watching = asyncio.create_task(hub.watch(chat))
        for now in range(0, 8, 2):
            await network.settle()
            if moment == now:
                await write()
            for link in network.links:
                link.serve()
            if moment == now + 1:
                await write()
            network.carry()
        await network.flow()
        assert watching.result().position == Position(epoch, 2)
        network.flows = True
        for each in (hub, log, other):
            await each.aclose()

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(main())


# ------------------------------------------------------------------------------------- watching and leaving


async def test_a_chat_is_subscribed_while_somebody_watches_it(hub: Hub, chat: str, plain, prefix: str):
    channel = f"{prefix}{{{uuid.UUID(chat).hex}}}"

    async def subscribers() -> int:
        return dict(await plain.pubsub_numsub(channel))[channel.encode()]

    await hub.watch(chat)
    await hub.watch(chat)
    hub.leave(chat)
    assert await subscribers() == 1
    hub.leave(chat)
    await until(lambda: _is_zero(subscribers))
    assert not hub._watches and not hub._subscriptions[None].watches


async def _is_zero(count) -> bool:
    return await count() == 0


async def test_watching_and_leaving_in_a_hurry_ends_subscribed(hub: Hub, other: Log, chat: str):
    for _ in range(20):
        await hub.watch(chat)
        hub.leave(chat)
    ring = await hub.watch(chat)
    await other.append(batch(chat, ring.epoch, TURN, 1, 1, "a"))
    await until(lambda: ring.seq == 1)


async def test_a_watcher_that_is_cancelled_while_it_opens_leaves_nothing(hub: Hub, chat: str):
    watching = asyncio.create_task(hub.watch(chat))
    await asyncio.sleep(0)
    watching.cancel()
    await asyncio.wait([watching])
    assert not hub._watches
    assert (await hub.watch(chat)).epoch


async def test_the_hub_ends_without_tasks_left(log: Log, chat: str):
    before = asyncio.all_tasks()
    hub = Hub(log)
    await hub.start()
    await hub.watch(chat)
    await hub.aclose()
    await log.aclose()
    assert asyncio.all_tasks() == before


# ------------------------------------------------------------------------------------- Redis away


async def test_after_a_lost_connection_the_ring_goes_on_where_it_was(own_store: OwnStore, hub: Hub, other: Log, chat):
    ring = await hub.watch(chat)
    await other.append(batch(chat, ring.epoch, TURN, 1, 1, "a"))
    subscription = hub._subscriptions[None]
    link = subscription.link
    own_store.run("CLIENT", "KILL", "TYPE", "pubsub")
    await other.append(batch(chat, ring.epoch, TURN, 1, 2, "b"))
    await until(lambda: subscription.link not in (None, link) and not hub.is_degraded)
    await until(lambda: ring.seq == 2)
    await other.append(batch(chat, ring.epoch, TURN, 1, 3, "c"))
    await until(lambda: ring.seq == 3)
    assert ring.after(0) == numbered(1, "a", "b", "c")


async def test_a_restarted_server_is_told_and_forgiven(own_store: OwnStore, bounds, hub: Hub, chat: str):
    told = []
    hub.on_degraded = told.append
    ring = await hub.watch(chat)
    before = ring.epoch
    bounds(redis_timeout_s=0.2)
    own_store.kill()
    await until(lambda: told == [True])
    assert hub.is_degraded
    with pytest.raises(WireError, match="unavailable"):
        await hub.watch(str(uuid.uuid4()))
    assert len(hub._watches) == 1
    own_store.start()
    await until(lambda: told == [True, False])
    await until(lambda: ring.epoch != before)
    assert not hub.is_degraded


async def test_a_frozen_server_is_noticed(own_store: OwnStore, bounds, log: Log, chat: str):
    bounds(redis_timeout_s=0.5, tops_every_s=0.1, command_hop_s=10)
    hub = Hub(log)
    await hub.start()
    await hub.watch(chat)
    own_store.freeze()
    await until(lambda: hub.is_degraded)
    own_store.thaw()
    await until(lambda: not hub.is_degraded)
    await hub.aclose()


async def test_a_hub_starts_degraded_where_there_is_no_server(own_store: OwnStore, bounds, log: Log, chat: str):
    own_store.kill()
    bounds(redis_timeout_s=0.2)
    hub = Hub(log)
    await hub.start()
    assert hub.is_degraded
    own_store.start()
    await until(lambda: not hub.is_degraded)
    assert (await hub.watch(chat)).epoch
    await hub.aclose()


# ------------------------------------------------------------------------------------- resuming


async def test_a_position_is_held_while_the_ring_or_the_log_has_what_follows(hub: Hub, log: Log, chat: str, bounds):
    bounds(ring_events=4)
    ring = await hub.watch(chat)
    for _ in range(20):
        await log.append(batch(chat, ring.epoch, "", 0, 0, *["x" * 100] * 100))
    kept = (await log.read(chat, 0, limit=1)).first
    assert kept > 1
    held = {seq: await hub.holds(ring, Position(ring.epoch, seq)) for seq in (0, kept - 2, kept - 1, 1999, 2000, 2001)}
    assert held == {0: False, kept - 2: False, kept - 1: True, 1999: True, 2000: True, 2001: False}
    assert not await hub.holds(ring, Position("0" * 16, 5))
