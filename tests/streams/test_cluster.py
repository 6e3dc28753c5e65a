"""Log, hub and clients on a real cluster of three masters: slots move, masters go, and every reader has 1..N."""

import asyncio
import contextlib
import re
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer

from config.startup import Fault, check_redis
from streams import cluster, exposition, here
from streams import redis as clients
from streams.cluster import Seeds
from streams.errors import WireError
from streams.hub import Hub, Ring
from streams.log import Appended, Log, NewEpoch, channel_of, held
from tests.chat.view import text_of
from tests.own_cluster import SERVER, OwnCluster
from tests.server import HeadraceServer, free_port, manage
from tests.sockets.tabs import tab_at
from tests.streams.conftest import batch
from tests.waiting import until

TABS = 4  # at two workers, as the kernel shares them out
TURN = "11111111-1111-4111-8111-111111111111"


# ------------------------------------------------------------------------------------- addresses and replies


@pytest.mark.parametrize(
    "url, seeds",
    [
        ("redis+cluster://one", Seeds(endpoints=(("one", 6379),))),
        ("redis+cluster://one:1,two,[::1]:3/0", Seeds(endpoints=(("one", 1), ("two", 6379), ("::1", 3)))),
        (
            "rediss+cluster://me%40:p%2F%3A@one/",
            Seeds(endpoints=(("one", 6379),), is_tls=True, username="me@", password="p/:"),
        ),
    ],
)
def test_an_address_of_a_cluster(url: str, seeds: Seeds):
    assert cluster.is_cluster(url)
    assert cluster.parse(url) == seeds


@pytest.mark.parametrize("url", ["", "one,", "one:port", "one/1", "one/0/1", "one?a=b", "one#a"])
def test_what_is_no_address_of_a_cluster(url: str):
    with pytest.raises(ValueError):
        cluster.parse(f"redis+cluster://{url}")


def test_a_server_of_the_cluster_is_asked_with_what_the_address_has():
    assert cluster.parse("rediss+cluster://me:p%2F%3A@one").at(("::1", 7)) == "rediss://me:p%2F%3A@[::1]:7/0"


def test_a_server_that_names_no_host_is_where_it_was_asked():
    asked = ("there", 7)
    assert cluster.redirection("MOVED 3999 :6381", asked) == (3999, ("there", 6381))
    assert cluster.redirection("ASK 3999 ::1:6381", asked) == (3999, ("::1", 6381))
    reply = [[0, 5, [None, 1, b"id", []], [b"replica", 2, b"id"]], [6, 9, [b"here", 3, b"id"]]]
    assert cluster.masters(reply, asked) == [(0, 5, ("there", 1)), (6, 9, ("here", 3))]


# ------------------------------------------------------------------------------------- a cluster, and workers on it


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[OwnCluster]:
    """Three masters for the tests of this file; slots may be elsewhere after one, and all are there."""
    yield from _cluster()


@pytest.fixture
def frail() -> Iterator[OwnCluster]:
    """Three masters of this test alone, to be killed."""
    yield from _cluster()


def _cluster() -> Iterator[OwnCluster]:
    directory = Path(tempfile.mkdtemp(prefix="hr-"))
    cluster = OwnCluster(directory)
    try:
        yield cluster.start()
    finally:
        cluster.end()
        shutil.rmtree(directory)


class Worker:
    """A log and a hub that compares no tops, which would mend in seconds what ought to be right at once."""

    def __init__(self) -> None:
        self.log = Log()
        self.hub = Hub(self.log)

    async def aclose(self) -> None:
        await self.hub.aclose()
        await self.log.aclose()


@pytest.fixture
async def worker(settings) -> AsyncIterator[Callable[[OwnCluster], Any]]:
    """`await worker(cluster)`: one more on it."""
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, tops_every_s=3600)
    settings.REDIS_PREFIX = f"{uuid.uuid4().hex}:"
    workers: list[Worker] = []

    async def make(on: OwnCluster) -> Worker:
        settings.REDIS_URL = on.url
        workers.append(Worker())
        await workers[-1].hub.start()
        return workers[-1]

    yield make
    for each in workers:
        await each.aclose()
    await clients.aclose()


class Writer:
    """A turn: numbered batches, one on its way at a time; told of another epoch it says anew all that it said."""

    def __init__(self, log: Log, chat: str) -> None:
        self.said: list[str] = []
        self.has_written = 0
        self.is_told_to_end = False
        self.log, self.chat = log, chat
        self._epoch = ""
        self._n = 0

    async def say(self, text: str, **more: Any) -> None:
        self.said.append(text)
        texts = [text]
        while True:
            if not self._epoch:
                self._epoch = (await self.log.read(self.chat, 0)).epoch
            self._n += 1
            told = await self.log.append(batch(self.chat, self._epoch, TURN, 1, self._n, *texts, **more))
            if not isinstance(told, NewEpoch):
                assert isinstance(told, Appended) and told.last - told.first == len(texts) - 1
                self.has_written += 1
                return
            self._epoch, self._n, texts = told.epoch, 0, self.said

    async def stream(self) -> None:
        while not self.is_told_to_end:
            await self.say(f"word {len(self.said)}")


class Viewer:
    """As a socket: what it was sent of each epoch, from the ring where that has it, else from the log."""

    def __init__(self, hub: Hub, ring: Ring) -> None:
        self.seen: dict[str, list[bytes]] = {}
        self._hub, self._ring = hub, ring
        self._changed = asyncio.Event()
        ring.listeners.add(self._changed.set)

    async def look(self) -> None:
        ring = self._ring
        while True:
            self._changed.clear()
            epoch, seen = ring.epoch, self.seen.setdefault(ring.epoch, [])
            fresh = ring.after(len(seen))
            if fresh is None:
                read = await self._hub.log.read(ring.chat, len(seen))
                fresh = [frame for _, frame in read.entries] if read.epoch == epoch else []
                if read.epoch != epoch:
                    await self._hub.refresh(ring)
            seen += fresh
            if not fresh:
                await self._changed.wait()

    @property
    def now(self) -> list[bytes]:
        return self.seen.get(self._ring.epoch, [])

    def check(self) -> None:
        """No gap, no double, in any epoch."""
        for frames in self.seen.values():
            assert [int(re.match(rb'{"seq":(\d+),', frame)[1]) for frame in frames] == list(range(1, len(frames) + 1))


@contextlib.asynccontextmanager
async def streaming(writer: Writer, *viewers: Viewer) -> AsyncIterator[None]:
    """While it writes and they look. At the end all have what was written."""
    async with running(*(viewer.look() for viewer in viewers)):
        async with running(writer.stream()):
            yield
            writer.is_told_to_end = True
            count = len(writer.said)
            await until(lambda: writer.has_written >= count, what="the last was written")
        await ends_alike(writer, *viewers)


@contextlib.asynccontextmanager
async def running(*works: Any) -> AsyncIterator[None]:
    """While they go on; what one of them met is raised here."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        met = await asyncio.gather(*tasks, return_exceptions=True)
    for error in met:
        if isinstance(error, Exception):
            raise error


async def ends_alike(writer: Writer, *viewers: Viewer) -> None:
    """Every viewer has what the log has, and that is what was written."""
    read = await writer.log.read(writer.chat, 0)
    frames = [frame for _, frame in read.entries]
    assert [re.search(rb'"text":"(.*)"}', frame)[1].decode() for frame in frames] == writer.said
    for viewer in viewers:
        await until(lambda viewer=viewer: viewer.now == frames, what="the viewer has what the log has")
        viewer.check()


def slot_of(chat: str) -> int:
    return cluster.slot_of(channel_of(chat))


def port_of(own: OwnCluster, chat: str) -> int:
    return own.owner(slot_of(chat))


def chats_of_each(own: OwnCluster) -> dict[int, str]:
    """A chat for each master."""
    found: dict[int, str] = {}
    while len(found) < len(own.ports):
        chat = str(uuid.uuid4())
        found[port_of(own, chat)] = chat
    return found


# ------------------------------------------------------------------------------------- what is written is read


@pytest.mark.parametrize("key", ["123456789", "hr:{123456789}:log", "{}123", "", "{a", "}{a}{b}", "a{b", "ü{ü}"])
def test_a_key_has_the_slot_that_the_servers_say(own_cluster: OwnCluster, key: str):
    assert cluster.slot_of(key) == own_cluster.run(own_cluster.ports[0], "CLUSTER", "KEYSLOT", key)


async def test_events_of_every_master_reach_the_viewers_of_another_worker(own_cluster: OwnCluster, worker):
    one, other = await worker(own_cluster), await worker(own_cluster)
    for chat in chats_of_each(own_cluster).values():
        mine, theirs = await one.hub.watch(chat), await other.hub.watch(chat)
        appended = await one.log.append(batch(chat, mine.epoch, TURN, 1, 1, "a", "b"))
        assert appended == Appended(mine.epoch, 1, 2)
        await until(lambda ring=theirs: ring.seq == 2)
        assert theirs.after(0) == mine.after(0)
        assert [frame for _, frame in (await other.log.read(chat, 0)).entries] == mine.after(0)
        assert await asyncio.to_thread(held, chat, 10) == mine.after(0)


async def test_a_chat_that_was_left_is_heard_no_more(own_cluster: OwnCluster, worker, chat: str):
    one = await worker(own_cluster)
    port, channel = port_of(own_cluster, chat), channel_of(chat)
    for _ in range(5):
        await one.hub.watch(chat)
        one.hub.leave(chat)
    await one.hub.watch(chat)
    assert own_cluster.run(port, "PUBSUB", "SHARDNUMSUB", channel)[1] == 1
    one.hub.leave(chat)
    await until(lambda: own_cluster.run(port, "PUBSUB", "SHARDNUMSUB", channel)[1] == 0)


# ------------------------------------------------------------------------------------- a slot moves


@pytest.mark.parametrize("is_at_once", [False] if SERVER else [False, True])
async def test_a_slot_moves_while_events_stream(own_cluster: OwnCluster, worker, chat: str, is_at_once: bool):
    one, other = await worker(own_cluster), await worker(own_cluster)
    viewers = [Viewer(each.hub, await each.hub.watch(chat)) for each in (one, other)]
    writer = Writer(one.log, chat)

    async def more() -> None:
        """It goes on."""
        count = len(writer.said)
        await until(lambda: len(writer.said) > count + 20)

    slot, source = slot_of(chat), port_of(own_cluster, chat)
    async with streaming(writer, *viewers):
        await more()
        for target in [port for port in own_cluster.ports if port != source] + [source]:
            before = viewers[1].seen.keys() - {""}
            if is_at_once:
                await asyncio.to_thread(own_cluster.move_at_once, slot, source, target)
            else:
                own_cluster.begin_move(slot, source, target)
                await more()
                assert own_cluster.move_keys(slot, source, target) == 2
                await more()
                own_cluster.end_move(slot, target)
            await more()
            await until(lambda before=before: viewers[1].seen.keys() - {""} > before, what="it is another history")
            assert not one.hub.is_degraded and not other.hub.is_degraded
            source = target


async def test_a_chat_that_begins_while_its_slot_moves_waits_for_it(own_cluster: OwnCluster, worker, chat: str):
    """Its keys are nowhere: neither master may say that they are all here."""
    one = await worker(own_cluster)
    slot, source = slot_of(chat), port_of(own_cluster, chat)
    target = next(port for port in own_cluster.ports if port != source)
    own_cluster.begin_move(slot, source, target)
    reading = asyncio.ensure_future(one.log.read(chat, 0))
    other = next(chat for port, chat in chats_of_each(own_cluster).items() if port == source)
    await one.log.read(other, 0)  # and nobody else waits
    assert not reading.done() and not one.log.is_in_trouble
    own_cluster.end_move(slot, target)
    assert (await reading).top == 0


async def test_a_slot_that_stays_on_its_way_makes_its_new_chats_unavailable(
    own_cluster: OwnCluster, worker, chat, settings
):
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, command_hop_s=0.2)
    one = await worker(own_cluster)
    slot, source = slot_of(chat), port_of(own_cluster, chat)
    target = next(port for port in own_cluster.ports if port != source)
    own_cluster.begin_move(slot, source, target)
    with pytest.raises(WireError, match="unavailable"):
        await one.log.read(chat, 0)
    own_cluster.end_move(slot, target)
    assert (await one.log.read(chat, 0)).top == 0


# ------------------------------------------------------------------------------------- a master goes


async def test_a_master_that_is_away_holds_up_nobody_elses_chats(frail: OwnCluster, worker):
    one, other = await worker(frail), await worker(frail)
    chats = chats_of_each(frail)
    rings = {port: (await one.hub.watch(chat), await other.hub.watch(chat)) for port, chat in chats.items()}
    frail.kill(frail.ports[0])  # the one that is asked first
    await until(lambda: one.hub.is_degraded)
    for port in frail.ports[1:]:
        mine, theirs = rings[port]
        await one.log.append(batch(chats[port], mine.epoch, TURN, 1, 1, "a"))
        await until(lambda ring=theirs: ring.seq == 1)
    third = await worker(frail)
    await third.log.read(chats[frail.ports[1]], 0)


async def test_a_replica_takes_over_while_events_stream(frail: OwnCluster, worker, chat: str):
    replica = await asyncio.to_thread(frail.add_replica, port_of(frail, chat))
    one, other = await worker(frail), await worker(frail)
    viewers = [Viewer(each.hub, await each.hub.watch(chat)) for each in (one, other)]
    writer = Writer(one.log, chat)
    async with streaming(writer, *viewers):
        await until(lambda: len(writer.said) > 20)
        frail.kill(port_of(frail, chat))
        frail.run(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
        count = len(writer.said)
        await until(lambda: len(writer.said) > count + 20)
        await until(lambda: not one.hub.is_degraded and not other.hub.is_degraded)


# ------------------------------------------------------------------------------------- rare calls, control messages


async def test_rare_calls_find_their_master_and_fail_as_on_one_server(frail: OwnCluster, worker, monkeypatch):
    await worker(frail)
    monkeypatch.setattr(here, "worker", "me")
    for number in range(10):
        key = clients.key(f"flow_data_{number}")
        pipe = clients.client().pipeline(transaction=False)
        pipe.hset(key, mapping={"a": "b"})
        pipe.expire(key, 60)
        assert await pipe.execute() == [1, True]
        assert await clients.client().eval("return redis.call('HGET', KEYS[1], 'a')", 1, key) == b"b"
        await asyncio.to_thread(_spend, clients.key(f"quota_{number}"))
    assert await asyncio.to_thread(exposition._leave, []) is None
    assert await asyncio.to_thread(exposition._left) == {"me": []}
    assert [facts["role"] for facts in await asyncio.to_thread(clients.facts)] == ["master"] * 3
    for port in frail.ports:
        frail.kill(port)
    with pytest.raises((clients.Trouble, OSError)):
        await clients.client().get("a")
    with pytest.raises((clients.Trouble, OSError)):
        await asyncio.to_thread(clients.blocking_client().ping)


def _spend(key: str) -> None:
    with clients.blocking_client().pipeline(transaction=True) as pipe:
        pipe.set(key, 0, ex=60, nx=True).incr(key).pttl(key)
        _, count, left_ms = pipe.execute()
    assert count == 1 and 0 < left_ms <= 60_000


async def test_control_messages_reach_a_layer_at_another_server_and_outlive_its_end(frail: OwnCluster):
    *two, third = (f"127.0.0.1:{port}" for port in frail.ports)
    one, other = (
        RedisPubSubChannelLayer(hosts=[clients.layer_host(f"redis+cluster://{places}")], prefix="layer")
        for places in (third, ",".join(two))
    )
    channel = await other.new_channel()
    await other.group_add("workers", channel)
    heard: list[int] = []

    async def listen() -> None:
        while True:
            heard.append((await other.receive(channel))["n"])

    async def arrives(n: int) -> bool:
        await one.group_send("workers", {"type": "control", "n": n})
        return n in heard

    async with running(listen()):
        await until(lambda: arrives(1))
        frail.kill(other._shards[0]._pubsub.connection.port)
        await until(lambda: arrives(2), what="it hears at the server that is left")
    for layer in (one, other):
        await layer.flush()


# ------------------------------------------------------------------------------------- a whole server


def test_a_start_looks_at_every_master(frail: OwnCluster, settings):
    settings.REDIS_URL = frail.url
    check_redis()
    frail.run(frail.ports[2], "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(Fault, match="may drop events"):
        check_redis()
    settings.REDIS_URL = f"redis://127.0.0.1:{frail.ports[0]}/0"
    with pytest.raises(Fault, match=r"write redis\+cluster://"):
        check_redis()
    settings.REDIS_URL = f"redis+cluster://127.0.0.1:{free_port()}"
    with pytest.raises(Fault, match="Redis does not answer"):
        check_redis()


async def test_two_workers_chat_on_a_cluster_while_the_slot_moves(
    own_cluster: OwnCluster, make_server: Callable[..., HeadraceServer], chat: str
):
    own = {"REDIS_URL": own_cluster.url, "REDIS_PREFIX": f"{uuid.uuid4().hex}:", "WORKERS": "2"}
    server = await asyncio.to_thread(lambda: make_server(**own).start())
    token = manage("token", "demo", env=server.env).stdout.strip()
    slot, source = slot_of(chat), port_of(own_cluster, chat)
    target = next(port for port in own_cluster.ports if port != source)
    async with contextlib.AsyncExitStack() as tabs:
        one, *others = [await tabs.enter_async_context(tab_at(server.host, "guide", token, chat)) for _ in range(TABS)]
        turn = (await one.say("What is an epoch?"))["turn"]  # answered at a pace: it streams while the slot moves
        own_cluster.begin_move(slot, source, target)
        own_cluster.move_keys(slot, source, target)
        own_cluster.end_move(slot, target)
        stored = await one.until_stored(turn)
        assert stored["status"] == "done" and text_of(stored["parts"])
        for other in others:
            assert (await other.until_stored(turn))["parts"] == stored["parts"]
        assert own_cluster.run(target, "PUBSUB", "SHARDNUMSUB", f"{own['REDIS_PREFIX']}{{{uuid.UUID(chat).hex}}}")[1]
        again = (await others[0].say("And a ring?"))["turn"]
        assert [(await each.until_stored(again))["status"] for each in (one, *others)] == ["done"] * TABS
    assert await asyncio.to_thread(server.stop) == 0
    assert "Traceback" not in server.log
