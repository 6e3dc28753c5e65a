"""One socket: posts, events, window, slow readers, resume past the ring and past the log."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import msgspec
import pytest

from streams.errors import WireError
from streams.hub import Hub, Ring
from streams.log import Log, Position
from streams.pump import Pump, SlowReader
from tests.clock import Clock, passed
from tests.streams.conftest import batch
from tests.streams.test_frames import payloads_of
from tests.waiting import until


class Peer:
    """A socket's other end: keeps what it reads, may stop reading, makes snapshots of the log's top."""

    def __init__(self, hub: Hub, chat: str, is_ready_made: bool) -> None:
        self.hub, self.chat = hub, chat
        self.frames: list[bytes] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.counted: list[int] = []
        self.snapshots: list[Position] = []
        self.pump = Pump(self.send, self, hub, self.snapshot, self.write if is_ready_made else None)
        self.task: asyncio.Task | None = None

    async def send(self, frame: bytes) -> None:
        await self.reads.wait()
        self.frames.append(frame)

    def write(self, data: bytes) -> bool:
        """As a server that takes ready-made frames; one that does not read takes none."""
        if self.reads.is_set():
            self.frames += payloads_of(data)
        return self.reads.is_set()

    def sent(self, nbytes: int, frames: int = 1) -> None:
        self.counted += [nbytes] if frames == 1 else [len(frame) for frame in self.frames[-frames:]]
        assert sum(self.counted[-frames:]) == nbytes

    async def snapshot(self) -> tuple[bytes, Position]:
        read = await self.hub.log.read(self.chat, 0, limit=0)
        position = Position(read.epoch, read.top)
        self.snapshots.append(position)
        return b'{"type":"snapshot","top":%d}' % read.top, position

    @property
    def seqs(self) -> list[int]:
        return [int(found[1]) for frame in self.frames if (found := re.match(rb'\{"seq":(\d+),', frame))]


@pytest.fixture
async def ring(hub: Hub, chat: str) -> Ring:
    return await hub.watch(chat)


@pytest.fixture(params=["by frame", "ready-made"])
async def peer(hub: Hub, chat: str, request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    peer = Peer(hub, chat, request.param == "ready-made")
    peer.task = asyncio.create_task(peer.pump.run())
    yield peer
    peer.task.cancel()
    with contextlib.suppress(asyncio.CancelledError, WireError):
        await peer.task


async def write(log: Log, ring: Ring, count: int, size: int = 1) -> None:
    for _ in range(0, count, 100):
        await log.append(batch(ring.chat, ring.epoch, "", 0, 0, *["x" * size] * min(100, count)))


# ------------------------------------------------------------------------------------- from a position to the top


async def test_events_after_a_position_are_sent_and_then_what_comes(peer: Peer, ring: Ring, log: Log):
    await write(log, ring, 5)
    peer.pump.follow(ring, Position(ring.epoch, 2))
    await until(lambda: peer.seqs == [3, 4, 5])
    await write(log, ring, 2)
    await until(lambda: peer.seqs == [3, 4, 5, 6, 7])
    assert peer.snapshots == []


async def test_without_a_position_it_begins_with_a_snapshot(peer: Peer, ring: Ring, log: Log):
    await write(log, ring, 5)
    peer.pump.post(b"welcome")
    peer.pump.follow(ring, None)
    await until(lambda: len(peer.frames) == 2)
    await write(log, ring, 1)
    await until(lambda: peer.seqs == [6])
    assert peer.frames[:2] == [b"welcome", b'{"type":"snapshot","top":5}']


@pytest.mark.parametrize("at_once", [True, False])
async def test_told_to_end_it_sends_what_is_there_or_only_what_was_posted(
    peer: Peer, ring: Ring, log: Log, at_once: bool
):
    peer.reads.clear()
    peer.pump.post(b"first")
    peer.pump.follow(ring, ring.position)
    await write(log, ring, 5)
    peer.pump.post(b"last")
    peer.pump.end(at_once=at_once)
    peer.reads.set()
    await until(peer.task.done)
    assert peer.frames[:2] == [b"first", b"last"] and not peer.task.exception()
    assert peer.seqs == ([] if at_once else [1, 2, 3, 4, 5])


async def test_a_position_that_left_the_ring_is_read_from_the_log(peer: Peer, ring: Ring, log: Log):
    await write(log, ring, 900)
    assert ring.after(0) is None
    kept = (await log.read(ring.chat, 0)).first - 1
    peer.pump.follow(ring, Position(ring.epoch, kept))
    await until(lambda: len(peer.frames) == 900 - kept)
    assert peer.seqs == list(range(kept + 1, 901)) and peer.snapshots == []


async def test_a_position_that_left_the_log_gets_a_snapshot(peer: Peer, ring: Ring, log: Log):
    await write(log, ring, 2000)
    assert (await log.read(ring.chat, 0)).first > 6
    peer.pump.follow(ring, Position(ring.epoch, 5))
    await until(lambda: peer.frames)
    await write(log, ring, 1)
    await until(lambda: peer.seqs == [2001])
    assert peer.snapshots == [Position(ring.epoch, 2000)]


@pytest.mark.parametrize("position", [Position("0" * 16, 3), Position("", 0), None])
async def test_a_position_of_another_epoch_gets_a_snapshot(peer: Peer, ring: Ring, log: Log, position: Position):
    await write(log, ring, 5)
    peer.pump.follow(ring, position)
    await until(lambda: peer.frames)
    assert peer.snapshots == [ring.position]


async def test_a_position_ahead_of_the_top_gets_a_snapshot(peer: Peer, ring: Ring, log: Log):
    await write(log, ring, 5)
    peer.pump.follow(ring, Position(ring.epoch, 6))
    await until(lambda: peer.frames)
    assert peer.snapshots == [ring.position]


async def test_a_new_epoch_brings_a_snapshot_and_its_events(peer: Peer, ring: Ring, hub: Hub, log: Log, plain, keys):
    await write(log, ring, 5)
    peer.pump.follow(ring, Position(ring.epoch, 0))
    await until(lambda: len(peer.seqs) == 5)
    await plain.delete(*keys)
    await hub.refresh(ring)
    await until(lambda: peer.snapshots == [Position(ring.epoch, 0)])
    await write(log, ring, 2)
    await until(lambda: peer.seqs == [1, 2, 3, 4, 5, 1, 2])


async def test_a_snapshot_that_knows_more_than_the_ring_is_followed_without_gap(
    peer: Peer, ring: Ring, hub: Hub, other: Log, plain, keys
):
    """The log was lost and begun anew by another worker; this one's ring has not heard of it."""
    on_message, hub._on_message = hub._on_message, lambda *_: None
    await plain.delete(*keys)
    epoch = (await other.read(ring.chat, 0)).epoch
    await other.append(batch(ring.chat, epoch, "", 0, 0, "a", "b"))
    assert ring.epoch != epoch
    peer.pump.follow(ring, None)
    await until(lambda: peer.snapshots == [Position(epoch, 2)])
    await until(lambda: ring.epoch == epoch)
    hub._on_message = on_message
    await other.append(batch(ring.chat, epoch, "", 0, 0, "c"))
    await until(lambda: peer.seqs == [3])
    assert len(peer.snapshots) == 1


async def test_a_database_that_is_away_delays_the_snapshot(peer: Peer, ring: Ring):
    peer.pump._bounds = msgspec.structs.replace(peer.pump._bounds, log_retry_s=0.01)
    snapshot, fails = peer.pump._snapshot, [WireError("unavailable")] * 3

    async def flaky() -> tuple[bytes, Position]:
        if fails:
            raise fails.pop()
        return await snapshot()

    peer.pump._snapshot = flaky
    peer.pump.follow(ring, None)
    peer.pump.post(b"pong")
    await until(lambda: len(peer.frames) == 2)
    assert peer.frames[0] == b"pong" and not fails


# ------------------------------------------------------------------------------------- posts


async def test_posts_keep_their_order_and_go_before_events_that_come_later(peer: Peer, ring: Ring, log: Log):
    peer.pump.follow(ring, ring.position)
    peer.reads.clear()
    for n in range(10):
        peer.pump.post(b"post %d" % n)
    await write(log, ring, 3)
    peer.reads.set()
    await until(lambda: len(peer.frames) == 13)
    assert peer.frames[:10] == [b"post %d" % n for n in range(10)] and peer.seqs == [1, 2, 3]


async def test_posts_past_their_bound_end_it_as_a_slow_reader(hub: Hub, chat: str, bounds):
    bounds(unsent_bytes=1000)
    peer = Peer(hub, chat, is_ready_made=False)
    peer.reads.clear()
    running = asyncio.create_task(peer.pump.run())
    for _ in range(30):
        peer.pump.post(b"x" * 100)
    with pytest.raises(SlowReader) as raised:
        await running
    assert raised.value.entry.close == 1013 and raised.value.code == "slow_reader"


async def test_one_post_always_goes_through(hub: Hub, chat: str, bounds):
    bounds(unsent_bytes=1000)
    peer = Peer(hub, chat, is_ready_made=False)
    running = asyncio.create_task(peer.pump.run())
    peer.pump.post(b"x" * 5000)
    await until(lambda: peer.frames == [b"x" * 5000])
    running.cancel()


# ------------------------------------------------------------------------------------- counting, slow readers


async def test_frames_and_bytes_are_counted_when_the_write_returned(peer: Peer, ring: Ring, log: Log):
    peer.pump.follow(ring, ring.position)
    peer.pump.post(b"12345")
    await write(log, ring, 1)
    await until(lambda: len(peer.frames) == 2)
    assert peer.counted == [len(frame) for frame in peer.frames]
    peer.reads.clear()
    peer.pump.post(b"not yet")
    await asyncio.sleep(0)
    assert len(peer.counted) == 2


async def test_one_send_that_takes_too_long_ends_it_as_a_slow_reader(hub: Hub, ring: Ring, log: Log, bounds):
    bounds(send_timeout_s=0.1)
    peer = Peer(hub, ring.chat, is_ready_made=False)
    peer.reads.clear()
    running = asyncio.create_task(peer.pump.run())
    peer.pump.follow(ring, ring.position)
    await write(log, ring, 1)
    with pytest.raises(SlowReader):
        await running
    assert not ring.listeners


def test_a_reader_that_is_only_slow_goes_on(settings):
    """Many sends, each within the bound, together far beyond it."""
    bound_s = settings.HEADRACE.send_timeout_s

    async def main() -> None:
        ring = Ring("chat", 100, 100_000)
        ring.reset("e", 20, [b'{"seq":%d,"type":"delta"}' % seq for seq in range(1, 21)])
        peer = Peer(Hub(Log()), ring.chat, is_ready_made=False)
        send = peer.pump._send

        async def slowly(frame: bytes) -> None:
            await passed(0.9 * bound_s)
            await send(frame)

        peer.pump._send = slowly
        peer.pump.follow(ring, Position("e", 0))
        running = asyncio.create_task(peer.pump.run())
        await passed(20 * bound_s)
        assert peer.seqs == list(range(1, 21)) and not running.done()
        running.cancel()

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(main())


async def test_a_slow_reader_falls_behind_and_others_do_not(peer: Peer, hub: Hub, ring: Ring, log: Log):
    slow = Peer(hub, ring.chat, is_ready_made=False)
    running = asyncio.create_task(slow.pump.run())
    for reader in (peer, slow):
        reader.pump.follow(ring, ring.position)
    slow.reads.clear()
    await write(log, ring, 300)
    await until(lambda: len(peer.seqs) == 300)
    assert slow.seqs == []
    slow.reads.set()
    await until(lambda: slow.seqs == list(range(1, 301)))
    running.cancel()


async def test_what_send_raises_ends_it(hub: Hub, ring: Ring):
    peer = Peer(hub, ring.chat, is_ready_made=False)

    async def gone(frame: bytes) -> None:
        raise OSError("the peer has left")

    peer.pump._send = gone
    peer.pump.follow(ring, ring.position)
    peer.pump.post(b"a")
    with pytest.raises(OSError, match="has left"):
        await peer.pump.run()
    assert not ring.listeners


# ------------------------------------------------------------------------------------- the window


async def test_without_an_ack_there_is_no_window(peer: Peer, ring: Ring, log: Log, bounds):
    peer.pump.follow(ring, ring.position)
    await write(log, ring, 400, size=2000)
    await until(lambda: len(peer.seqs) == 400)
    assert not peer.pump.is_paused


async def test_a_full_window_pauses_and_an_ack_opens_it(hub: Hub, ring: Ring, log: Log, bounds):
    bounds(ack_window_bytes=5000)
    peer = Peer(hub, ring.chat, is_ready_made=False)
    told = []
    peer.pump.on_paused = told.append
    running = asyncio.create_task(peer.pump.run())
    peer.pump.follow(ring, ring.position)
    peer.pump.ack(0)
    await write(log, ring, 20, size=1000)
    await until(lambda: peer.pump.is_paused)
    assert sum(map(len, peer.frames)) <= 5000 and peer.seqs == [1, 2, 3, 4]
    peer.pump.post(b"pong")
    await until(lambda: peer.frames[-1] == b"pong")
    peer.pump.ack(2)
    await until(lambda: peer.seqs == [1, 2, 3, 4, 5, 6] and peer.pump.is_paused)
    while len(peer.seqs) < 20:
        peer.pump.ack(peer.seqs[-1])
        await asyncio.sleep(0)
    assert peer.seqs == list(range(1, 21))
    assert told[:3] == [True, False, True]
    running.cancel()


async def test_one_event_larger_than_the_window_goes_through(hub: Hub, ring: Ring, log: Log, bounds):
    bounds(ack_window_bytes=500)
    peer = Peer(hub, ring.chat, is_ready_made=False)
    running = asyncio.create_task(peer.pump.run())
    peer.pump.follow(ring, ring.position)
    peer.pump.ack(0)
    await write(log, ring, 3, size=1000)
    for seq in (1, 2, 3):
        await until(lambda seq=seq: peer.seqs == list(range(1, seq + 1)))
        peer.pump.ack(seq)
    running.cancel()


async def test_the_first_ack_counts_what_was_sent_after_it(hub: Hub, ring: Ring, log: Log, bounds):
    bounds(ack_window_bytes=5000)
    peer = Peer(hub, ring.chat, is_ready_made=False)
    running = asyncio.create_task(peer.pump.run())
    peer.pump.follow(ring, ring.position)
    await write(log, ring, 10, size=1000)
    await until(lambda: len(peer.seqs) == 10)
    peer.pump.ack(3)
    await write(log, ring, 1)
    await until(lambda: peer.pump.is_paused)
    peer.pump.ack(7)
    await until(lambda: peer.seqs[-1] == 11)
    running.cancel()


async def test_an_ack_of_what_was_never_sent_is_a_bad_frame(peer: Peer, ring: Ring, log: Log):
    peer.pump.follow(ring, ring.position)
    await write(log, ring, 3)
    await until(lambda: len(peer.seqs) == 3)
    with pytest.raises(WireError, match="bad_frame"):
        peer.pump.ack(4)
    peer.pump.ack(3)
    peer.pump.ack(3)
    peer.pump.ack(1)


@pytest.mark.parametrize("peer", ["by frame"], indirect=True)
async def test_an_ack_that_overtakes_the_servers_write_is_no_fault(peer: Peer, ring: Ring, log: Log):
    """The peer has the frame while the server still waits for room in its buffer."""
    arrived, drained = asyncio.Event(), asyncio.Event()

    async def send(frame: bytes) -> None:
        peer.frames.append(frame)
        arrived.set()
        await drained.wait()

    peer.pump._send = send
    peer.pump.follow(ring, ring.position)
    await write(log, ring, 1)
    await arrived.wait()
    peer.pump.ack(1)
    drained.set()


async def test_late_acks_of_an_epoch_that_ended_are_no_fault(peer: Peer, ring: Ring, hub: Hub, log: Log, plain, keys):
    peer.pump.follow(ring, ring.position)
    await write(log, ring, 50)
    await until(lambda: len(peer.seqs) == 50)
    peer.pump.ack(20)
    await plain.delete(*keys)
    await hub.refresh(ring)
    await until(lambda: len(peer.snapshots) == 1)
    peer.pump.ack(50)
    with pytest.raises(WireError, match="bad_frame"):
        peer.pump.ack(51)
    await write(log, ring, 2)
    await until(lambda: peer.seqs[50:] == [1, 2])
    peer.pump.ack(2)
