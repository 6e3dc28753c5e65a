"""Log, hub and pump of two workers together: whatever the interleaving, each reader has 1..N of each epoch it saw.

The store is real; each request, answer and message is carried, delayed or lost as the steps say, and time is the
network's. So a case is the same on every run. A failing one is shown as it was found; TOGETHER_SHRINK=1 makes it
small, which takes minutes. TOGETHER_EXAMPLES: how many cases, TOGETHER_SEED=random: other ones.
"""

import asyncio
import os
import re
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streams import redis
from streams.errors import WireError
from streams.hub import Hub
from streams.log import Appended, Batch, Fenced, Log, NewEpoch, Position, channel_of
from streams.pump import Pump, SlowReader
from tests import stores
from tests.clock import Clock, passed
from tests.streams.network import Network, StepLink, Store
from tests.streams.test_frames import payloads_of

EXAMPLES = int(os.environ.get("TOGETHER_EXAMPLES", "200"))
PHASES = [Phase.generate, Phase.shrink] if os.environ.get("TOGETHER_SHRINK") else [Phase.generate]
WORKERS = 2
READERS = 3
CALM_S = 60  # of the network's time: some rounds of comparing tops
PAD = b"." * 60  # so that the log consists of many small nodes, and is trimmed

WORKER = st.integers(0, WORKERS - 1)
READER = st.integers(0, READERS - 1)
LINK = st.sampled_from(["appends", "reads", "hub"])
FEW = st.integers(1, 6)
MANY = st.sampled_from([20, 70, 110])


# What becomes of a request: it is carried, it stays on its way, or it is done and its answer is lost.
FATE = st.sampled_from(["flows", "waits", "unheard"])


def step(name: str, *arguments: st.SearchStrategy, weight: int = 1) -> list[st.SearchStrategy]:
    return [st.tuples(st.just(name), *arguments) for _ in range(weight)]


STEPS = st.one_of(
    *step("flow", weight=3),
    *step("write", WORKER, FEW, FATE, weight=5),
    *step("end", WORKER, MANY, FATE, weight=2),  # the writer's turn: now its events may be trimmed
    *step("tell", WORKER, MANY, FATE, weight=2),  # events without a turn
    *step("serve", WORKER, LINK, weight=2),  # the store does what was sent
    *step("deliver", WORKER, LINK, st.integers(1, 3), weight=2),  # so many answers arrive
    *step("lose"),  # what was published and has not arrived
    *step("snap", WORKER, LINK, st.booleans(), weight=2),  # the connection; was what it carried done, or not?
    *step("outage", st.sampled_from([0.5, 3.0, 12.0])),  # of the store, for some seconds
    *step("empty"),  # the log is lost: another epoch
    *step("pass", st.sampled_from([0.1, 1.5, 6.0])),  # time, while nothing is carried
    *step("yield", st.integers(1, 4)),
    *step("cut", READER),
    *step("resume", READER, WORKER, weight=3),  # at which worker
    *step("stall", READER),
    *step("read", READER),
    *step("ack", READER),
)


class Truth:
    """What every epoch of the chat's log really holds, as the store told a subscriber that misses nothing."""

    def __init__(self, chat: str) -> None:
        self.epochs: dict[str, list[bytes]] = {}
        self.faults: list[str] = []
        self._written: set[tuple[str, bytes]] = set()  # epoch and event, without its number
        self._keys = [redis.key("{" + chat.replace("-", "") + "}", name) for name in ("meta", "log")]
        self._store = Store()
        self._store.ask(redis.pack("SUBSCRIBE", channel_of(chat)))

    def of(self, epoch: str) -> list[bytes]:
        for _, _, payload in self._store.ask():
            head, *frames = payload.split(b"\n")
            name, first, last = head.decode().split()
            held = self.epochs.setdefault(name, [])
            if (int(first), int(last)) != (len(held) + 1, len(held) + len(frames)):
                self.faults.append(f"{first} to {last} written after {len(held)}")
            for frame in frames:
                if b'"turn"' in frame and (name, body_of(frame)) in self._written:
                    self.faults.append(f"{frame!r} written twice")
                self._written.add((name, body_of(frame)))
            held += frames
        return self.epochs.setdefault(epoch, [])

    def top(self) -> Position | None:
        epoch, seq = redis.blocking_client().hmget(self._keys[0], "epoch", "seq")
        return Position(epoch.decode(), int(seq)) if epoch else None

    def has_after(self, position: Position) -> bool:
        """Whether the log still has all that follows `position`."""
        top = self.top()
        if top is None or top.epoch != position.epoch or position.seq > top.seq:
            return False
        oldest = redis.blocking_client().xrange(self._keys[1], count=1)
        return position.seq == top.seq or int(oldest[0][0].partition(b"-")[0]) <= position.seq + 1

    def empty(self) -> None:
        redis.blocking_client().delete(*self._keys)

    def close(self) -> None:
        self.empty()
        self._store.close()


def body_of(frame: bytes) -> bytes:
    return frame.partition(b",")[2]


class Writer:
    """A run: one batch on its way at a time, sent as it is until answered; told of another epoch it says it anew."""

    def __init__(self, log: Log, chat: str, name: int, truth: Truth) -> None:
        self.log, self.chat, self.name, self.truth = log, chat, name, truth
        self.epoch = "0" * 16
        self.turns = 0
        self.told = 0
        self.task: asyncio.Task | None = None
        self._begin_turn()

    def write(self, count: int) -> None:
        self._begin_task(self._write, count, False)

    def end(self, count: int) -> None:
        self._begin_task(self._write, count, True)

    def tell(self, count: int) -> None:
        self._begin_task(self._tell, count)

    def _begin_task(self, work: Callable[..., Coroutine], *arguments: Any) -> None:
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(work(*arguments))

    async def _write(self, count: int, ends: bool) -> None:
        if self.is_unsure:  # what was given up may be written: another attempt ends the turn
            self.attempt, self.n, self.is_unsure = self.attempt + 1, 0, False
            count, ends = 0, True
        self.n += 1
        try:
            while True:
                events = [b'"turn":"%b.%d","n":%d,"of":%d,"pad":"%b"}' % (self.turn, self.attempt, self.n, i, PAD)
                          for i in range(count)]  # fmt: skip
                if ends:
                    events.append(b'"turn":"%b","ends":true}' % self.turn)
                batch = Batch(self.chat, self.epoch, self.id, self.attempt, self.n, tuple(events), ends)
                answer = await self.log.append(batch)
                if not isinstance(answer, NewEpoch):
                    break
                self.epoch = answer.epoch
        except WireError:
            self.is_unsure = True
            return
        self._check(batch, answer)
        if ends:
            self._begin_turn()

    async def _tell(self, count: int) -> None:
        self.told += 1
        events = [b'"told":"%d.%d.%d","pad":"%b"}' % (self.name, self.told, i, PAD) for i in range(count)]
        try:
            answer = await self.log.append(Batch(self.chat, self.epoch, "", 0, 0, tuple(events)))
        except WireError:
            return
        if isinstance(answer, NewEpoch):
            self.epoch = answer.epoch
        elif isinstance(answer, Fenced):
            self.truth.faults.append("fenced without a turn")

    def _check(self, batch: Batch, answer: Appended | Fenced) -> None:
        if isinstance(answer, Fenced):
            self.truth.faults.append(f"fenced: {batch}")
            return
        stands = [body_of(frame) for frame in self.truth.of(answer.epoch)[answer.first - 1 : answer.last]]
        # An end may have been written by an attempt that was given up, behind what that one had to say.
        said = list(batch.frames)
        if answer.epoch != batch.epoch or (stands[-1:] != said[-1:] if batch.ends else stands != said):
            self.truth.faults.append(f"{answer} of {batch.frames} holds {stands}")

    def _begin_turn(self) -> None:
        self.turns += 1
        self.turn = b"%d-%d" % (self.name, self.turns)
        self.id = str(uuid.UUID(int=self.name * 1000 + self.turns))
        self.attempt, self.n, self.is_unsure = 1, 0, False


class Reader:
    """A client that comes back by position. A snapshot counts as having seen everything up to it."""

    def __init__(self, chat: str, truth: Truth, is_ready_made: bool) -> None:
        self.chat, self.truth = chat, truth
        self.is_ready_made = is_ready_made  # its server takes ready-made frames
        self.position: Position | None = None
        self.always_acks = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.pump: Pump | None = None
        self.task: asyncio.Task | None = None

    def resume(self, hub: Hub) -> None:
        if self.task is None or self.task.done():
            self._take_failure()
            self.task = asyncio.create_task(self._live(hub))

    async def cut(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self._take_failure()

    def ack(self) -> None:
        if self.pump is not None and self.position is not None:
            self.pump.ack(self.position.seq)

    def sent(self, nbytes: int, frames: int = 1) -> None:
        pass

    async def _live(self, hub: Hub) -> None:
        try:
            ring = await hub.watch(self.chat)
        except WireError:
            return
        try:
            write = self._write if self.is_ready_made else None
            self.pump = Pump(self._send, self, hub, lambda: self._snapshot(hub), write)
            self.pump.follow(ring, self.position)
            await self.pump.run()
        finally:
            self.pump = None
            hub.leave(self.chat)

    async def _snapshot(self, hub: Hub) -> tuple[bytes, Position]:
        read = await hub.log.read(self.chat, 0, limit=0)
        return b'{"snapshot":"%b","top":%d}' % (read.epoch.encode(), read.top), Position(read.epoch, read.top)

    def _write(self, data: bytes) -> bool:
        if not self.reads.is_set():
            return False
        for frame in payloads_of(data):
            self._take(frame)
        if self.always_acks:
            asyncio.get_running_loop().call_soon(self.ack)
        return True

    async def _send(self, frame: bytes) -> None:
        await self.reads.wait()
        self._take(frame)
        if self.always_acks:
            self.pump.ack(self.position.seq)

    def _take(self, frame: bytes) -> None:
        before = self.position
        if snapshot := re.match(rb'\{"snapshot":"(\w+)","top":(\d+)', frame):
            self.position = Position(snapshot[1].decode(), int(snapshot[2]))
            if before is not None and self.truth.has_after(before):
                self.truth.faults.append(f"a needless snapshot at {before}")
        else:
            self.position = Position(before.epoch, before.seq + 1)
            held = self.truth.of(before.epoch)
            expected = held[before.seq] if before.seq < len(held) else None
            if frame != expected:
                self.truth.faults.append(f"{frame!r} after {before}, not {expected!r}")

    def _take_failure(self) -> None:
        if self.task is None or self.task.cancelled():
            return
        failure = self.task.exception()
        if failure is not None and not isinstance(failure, SlowReader):
            raise failure


class World:
    """Two workers, a writer of each, readers, and the network between them and the store."""

    def __init__(self) -> None:
        chat = str(uuid.uuid4())
        self.network = Network()
        self.truth = Truth(chat)
        self.logs = [Log() for _ in range(WORKERS)]
        self.hubs = [Hub(log) for log in self.logs]
        self.writers = [Writer(log, chat, name, self.truth) for name, log in enumerate(self.logs)]
        self.readers = [Reader(chat, self.truth, is_ready_made=number != 0) for number in range(READERS)]

    async def begin(self) -> None:
        for hub in self.hubs:
            await hub.start()
        for number, reader in enumerate(self.readers[:WORKERS]):
            reader.resume(self.hubs[number])
        await self.network.flow()

    async def play(self, step: tuple) -> None:
        network = self.network
        match step:
            case ("flow",):
                await network.flow()
            case "write" | "end" | "tell" as what, worker, count, fate:
                getattr(self.writers[worker], what)(count)
                await network.settle()
                if fate == "flows":
                    await network.flow()
                elif fate == "unheard" and (link := self.link(worker, "appends")) is not None:
                    link.snap(is_done=True)
            case "serve" | "deliver" | "snap" as what, worker, link, *how:
                held = self.link(worker, link)
                if held is not None:
                    getattr(held, what)(*how)
            case ("lose",):
                network.lose_pushes()
            case "outage", seconds:
                network.is_away = True
                for link in tuple(network.links):
                    link.abort()
                await passed(seconds)
                network.is_away = False
            case ("empty",):
                self.truth.empty()
            case "pass", seconds:
                await passed(seconds)
            case "yield", times:
                for _ in range(times):
                    await asyncio.sleep(0)
            case "cut", reader:
                await self.readers[reader].cut()
            case "resume", reader, worker:
                self.readers[reader].resume(self.hubs[worker])
            case "stall", reader:
                self.readers[reader].reads.clear()
            case "read", reader:
                self.readers[reader].reads.set()
            case "ack", reader:
                self.readers[reader].ack()

    def link(self, worker: int, name: str) -> StepLink | None:
        if name == "hub":
            return self.hubs[worker]._subscriptions[None].link
        return {"appends": self.logs[worker]._appends, "reads": self.logs[worker]._reads}[name]._link

    async def calm(self) -> None:
        """No more faults: within some seconds everybody has everything, and then nothing moves any more."""
        self.network.is_away = False
        self.network.flows = True
        for reader in self.readers:
            reader.always_acks = True
            reader.reads.set()
            reader.ack()
        for _ in range(2 * CALM_S):
            for number, reader in enumerate(self.readers):
                reader.resume(self.hubs[number % WORKERS])
            await passed(0.5)
            if self.is_calm():
                break
        self.check()
        await passed(6)
        self.check()
        for writer in self.writers:  # and what comes now needs no clock
            writer.tell(1)
            await self.network.flow()
            self.check()

    def is_calm(self) -> bool:
        top = self.truth.top()
        return all(writer.task is None or writer.task.done() for writer in self.writers) and all(
            top is not None and reader.position == top for reader in self.readers
        )

    def check(self) -> None:
        top = self.truth.top()
        assert self.truth.faults == []
        assert [reader.position for reader in self.readers] == [top] * READERS
        assert len(self.truth.of(top.epoch)) == top.seq
        for writer in self.writers:
            assert writer.task is None or (writer.task.done() and writer.task.result() is None)

    async def end(self) -> None:
        self.network.flows = True
        try:
            for reader in self.readers:
                await reader.cut()
            assert not any(hub._watches for hub in self.hubs)
        finally:
            for hub, log in zip(self.hubs, self.logs, strict=True):
                await hub.aclose()
                await log.aclose()
            self.truth.close()


async def play(steps: list[tuple]) -> None:
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis.Link, "open", world.network.open)
        try:
            await world.begin()
            for step in steps:
                await world.play(step)
                if step[0] != "yield":
                    await world.network.settle()
            await world.calm()
        finally:
            await world.end()


@pytest.fixture
def small(settings, redis_url: str) -> None:
    """Bounds so small that rings, logs and windows are left behind all the time."""
    settings.REDIS_PREFIX = f"{stores.PREFIX}-{uuid.uuid4().hex}:"
    settings.HEADRACE = msgspec.structs.replace(
        settings.HEADRACE, ring_events=6, ring_bytes=800, log_events=30, ack_window_bytes=400
    )


@pytest.mark.timeout(300)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=os.environ.get("TOGETHER_SEED") != "random",
    database=None,
    phases=PHASES,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=20, max_size=80))
def test_any_interleaving_gives_each_reader_1_to_n(small: None, steps: list[tuple]):
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(play(steps))
