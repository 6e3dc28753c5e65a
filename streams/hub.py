"""This process's rings: the newest events of each chat that somebody here watches.

Fed by this worker's own appends and by one subscription (on a cluster one at each master: channels have slots as keys
have, and a chat's moves with its log); feeding is idempotent by position. What does not continue
a ring, or is of another epoch, is a gap, and the log is read; only a read changes a ring's epoch. Every few seconds
and after each reconnect the tops of all watched chats are compared, so that a lost message costs seconds.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
from django.conf import settings

from streams.cluster import slot_of
from streams.errors import WireError
from streams.frames import text_frames
from streams.log import Appended, Batch, Log, Position, channel_of
from streams.redis import Link, Refusal, pack
from streams.servers import Endpoint
from streams.states import StreamState

logger = structlog.get_logger(__name__)


class Joined(msgspec.Struct, frozen=True):
    """The events after `after` up to `top` as ready-made frames in one piece. `sizes`: of their payloads, in bytes."""

    after: int
    top: int
    data: bytes
    sizes: list[int]
    nbytes: int


class Ring:
    """The newest events of one chat, as bytes for sockets. `listeners` are called when it changes.

    `on_fresh` gets each event once, before them. `state`: what its sockets do, by these events.
    """

    def __init__(
        self,
        chat: str,
        max_events: int,
        max_bytes: int,
        on_fresh: "Callable[[Ring, list[bytes]], None]" = lambda ring, frames: None,
    ) -> None:
        self.chat = chat
        self.state = StreamState.CONNECTED
        self._on_fresh = on_fresh
        self.epoch = ""
        self.seq = 0  # of the newest event
        self.listeners: set[Callable[[], None]] = set()
        self._frames: list[bytes] = []
        self._joined: Joined | None = None
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq)

    def after(self, seq: int) -> list[bytes] | None:
        """The events after `seq`; None where they are not all here (left the ring, or ahead of it)."""
        count = self.seq - seq
        if count <= 0:
            return [] if count == 0 else None
        if count > len(self._frames):
            return None
        return self._frames[-count:]

    def joined(self, seq: int) -> Joined | None:
        """The events after `seq`, made into one piece once for all sockets that stand there. None as for `after`."""
        if self._joined is not None and self._joined.after == seq and self._joined.top == self.seq:
            return self._joined
        payloads = self.after(seq)
        if payloads is None:
            return None
        sizes = list(map(len, payloads))
        self._joined = Joined(seq, self.seq, text_frames(payloads), sizes, sum(sizes))
        return self._joined

    def feed(self, epoch: str, first: int, frames: list[bytes]) -> bool:
        """Take events `first`, `first` + 1 …; what is here already is passed over. False: there is a gap."""
        if epoch != self.epoch:
            return False
        skip = self.seq + 1 - first
        if skip < 0:
            return False
        if skip >= len(frames):
            return True
        fresh = frames[skip:] if skip else frames
        self._frames.extend(fresh)
        self._bytes += sum(map(len, fresh))
        self.seq += len(fresh)
        self._trim()
        self._on_fresh(self, fresh)
        self.wake()
        return True

    def reset(self, epoch: str, top: int, frames: list[bytes]) -> None:
        """Begin anew: `frames` are the events up to `top`."""
        self.epoch = epoch
        self.seq = top
        self._joined = None
        self._frames = list(frames)
        self._bytes = sum(map(len, frames))
        self._trim()
        self._on_fresh(self, frames)
        self.wake()

    def wake(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    def _trim(self) -> None:
        drop = max(0, len(self._frames) - self._max_events)
        size = self._bytes - sum(map(len, self._frames[:drop]))
        while size > self._max_bytes and drop < len(self._frames) - 1:
            size -= len(self._frames[drop])
            drop += 1
        if drop:
            del self._frames[:drop]
            self._bytes = size


class _Watch:
    """A ring with its watchers, its opening, its mending, and on a cluster its moving from one master to another."""

    __slots__ = (
        "channel", "count", "is_astray", "is_gap", "is_open", "mending", "moving", "opening", "ring", "slot",
        "subscription",
    )  # fmt: skip

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        channel = channel_of(ring.chat)
        self.channel = channel.encode()
        self.slot = slot_of(channel)
        self.count = 0
        self.subscription: _Subscription | None = None
        self.opening: asyncio.Task | None = None
        self.mending: asyncio.Task | None = None
        self.moving: asyncio.Task | None = None
        self.is_open = False  # it was read once
        self.is_gap = False  # something came that did not fit: read again
        self.is_astray = False  # its slot is not where it is subscribed


class Hub:
    """All rings of this worker. `log` tells it what was appended here."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.on_degraded: Callable[[bool], None] = lambda is_degraded: None
        self.on_fresh: Callable[[Ring, list[bytes]], None] = lambda ring, frames: None
        self.is_degraded = False
        self._watches: dict[str, _Watch] = {}
        self._subscriptions: dict[Endpoint | None, _Subscription] = {}  # None: to the one server
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task] = set()
        self._is_closed = False
        log.on_appended = self._on_appended
        log.on_new_epoch = self._on_new_epoch
        log.on_trouble = lambda _: self._judge()
        if log.masters is not None:
            log.masters.listeners.append(self._on_masters)

    async def start(self) -> None:
        """Connect; returns after at most the time-out of Redis, connected or degraded."""
        if self._subscriptions:
            return
        if self.log.masters is not None:
            self.log.masters.ask()
        self._subscription_at(self._endpoint_of(0))
        try:
            async with asyncio.timeout(settings.HEADRACE.redis_timeout_s):
                while any(each.link is None for each in self._subscriptions.values()) and not self.is_degraded:
                    await self._wait_changed()
        except TimeoutError:
            pass

    async def aclose(self) -> None:
        self._is_closed = True
        if self.log.masters is not None:
            self.log.masters.listeners.remove(self._on_masters)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for subscription in self._subscriptions.values():
            await subscription.aclose()

    async def watch(self, chat: str) -> Ring:
        """This chat's ring, with epoch and top. Counted: each watch needs its `leave`.

        Raises WireError("unavailable") where Redis does not answer; then there is nothing to leave.
        """
        watch = self._watches.get(chat)
        if watch is None:
            if self._is_closed:
                raise WireError("unavailable")
            bounds = settings.HEADRACE
            watch = _Watch(Ring(chat, bounds.ring_events, bounds.ring_bytes, self.on_fresh))
            self._watches[chat] = watch
            self._seat(watch)
            watch.opening = self._spawn(self._open(watch))
        watch.count += 1
        try:
            await asyncio.shield(watch.opening)
        except BaseException:
            self._leave(watch)
            raise
        return watch.ring

    def hold(self, chat: str) -> None:
        """One watch more of a chat that is watched already: to be left as any other."""
        self._watches[chat].count += 1

    def leave(self, chat: str) -> None:
        watch = self._watches.get(chat)
        if watch is not None:
            self._leave(watch)

    @asynccontextmanager
    async def watched(self, chat: str) -> AsyncIterator[Ring]:
        """A watch for a while. Raises WireError("unavailable")."""
        ring = await self.watch(chat)
        try:
            yield ring
        finally:
            self.leave(chat)

    async def refresh(self, ring: Ring) -> None:
        """Read the log into `ring` now. Returns when its state is at least as new as this call, or Redis is away."""
        watch = self._watches.get(ring.chat)
        if watch is not None and watch.ring is ring:
            await asyncio.shield(self._mend(watch))

    async def holds(self, ring: Ring, position: Position) -> bool:
        """Whether everything after `position` can still be sent, from the ring or the log."""
        if position.epoch == ring.epoch and ring.after(position.seq) is not None:
            return True
        read = await self.log.read(ring.chat, position.seq, limit=1)
        if read.epoch != position.epoch or position.seq > read.top:
            return False
        return position.seq == read.top or read.entries[0][0] == position.seq + 1

    # ------------------------------------------------------------------------------ what arrives

    def _on_appended(self, batch: Batch, appended: Appended, is_kept: bool) -> None:
        watch = self._watches.get(batch.chat)
        if watch is None:
            return
        if appended.epoch == watch.ring.epoch and appended.last <= watch.ring.seq:
            return
        if is_kept:  # an earlier append's position: another batch may stand there
            self._mend_later(watch)
            return
        first = appended.first
        frames = [b'{"seq":%d,%b' % (first + i, frame) for i, frame in enumerate(batch.frames)]
        self._feed(watch, appended.epoch, first, frames)

    def _on_new_epoch(self, chat: str) -> None:
        watch = self._watches.get(chat)
        if watch is not None:
            self._mend_later(watch)

    def _on_message(self, watch: _Watch, payload: bytes) -> None:
        end = payload.find(b"\n", 0, 64)
        epoch, first, last = payload[:end].decode().split(" ")
        ring = watch.ring
        if epoch == ring.epoch and int(last) <= ring.seq:  # an echo of an own append
            return
        frames = payload[end + 1 :].split(b"\n")
        if len(frames) != int(last) - int(first) + 1:
            self._mend_later(watch)
            return
        self._feed(watch, epoch, int(first), frames)

    def _feed(self, watch: _Watch, epoch: str, first: int, frames: list[bytes]) -> None:
        if not watch.is_open or not watch.ring.feed(epoch, first, frames):
            self._mend_later(watch)

    # ------------------------------------------------------------------------------ open, mend, leave

    async def _open(self, watch: _Watch) -> None:
        """Subscribe, then read: what comes between is either in the read or on its way here."""
        try:
            async with asyncio.timeout(settings.HEADRACE.command_hop_s):
                await self._subscribe(watch)
        except TimeoutError:
            raise WireError("unavailable") from None
        read = await self.log.read(watch.ring.chat, 0, limit=0)
        watch.ring.reset(read.epoch, read.top, [])
        watch.is_open = True
        if watch.is_gap:
            self._mend(watch)

    def _leave(self, watch: _Watch) -> None:
        watch.count -= 1
        chat = watch.ring.chat
        if watch.count or self._watches.get(chat) is not watch:
            return
        del self._watches[chat]
        for task in (watch.opening, watch.mending, watch.moving):
            if task is not None:
                task.cancel()
        watch.subscription.leave(watch)

    def _mend_later(self, watch: _Watch) -> None:
        watch.is_gap = True
        if watch.is_open:
            self._mend(watch)

    def _mend(self, watch: _Watch) -> asyncio.Task:
        watch.is_gap = True
        if watch.mending is None or watch.mending.done():
            watch.mending = self._spawn(self._read_gap(watch))
        return watch.mending

    async def _read_gap(self, watch: _Watch) -> None:
        ring = watch.ring
        while watch.is_gap:
            watch.is_gap = False
            try:
                read = await self.log.read(ring.chat, ring.seq, limit=settings.HEADRACE.ring_events)
            except WireError:
                return  # Redis is away: after the reconnect the tops tell
            self._apply(ring, read)

    def _apply(self, ring: Ring, read: Any) -> None:
        if read.epoch == ring.epoch and read.top <= ring.seq:
            return
        frames = [frame for _, frame in read.entries]
        reaches_top = bool(frames) and read.entries[-1][0] == read.top
        if read.epoch == ring.epoch and reaches_top and ring.feed(read.epoch, read.entries[0][0], frames):
            return
        # Too far behind, trimmed, or another epoch: readers take what they lack from the log.
        ring.reset(read.epoch, read.top, frames if reaches_top else [])

    # ------------------------------------------------------------------------------ where it is heard

    def _endpoint_of(self, slot: int) -> Endpoint | None:
        return None if self.log.masters is None else self.log.masters.of(slot)

    def _subscription_at(self, there: Endpoint | None) -> "_Subscription":
        subscription = self._subscriptions.get(there)
        if subscription is None:
            subscription = self._subscriptions[there] = _Subscription(self, there)
        return subscription

    def _seat(self, watch: _Watch) -> "_Subscription":
        """Where it is to be heard now."""
        subscription = self._subscription_at(self._endpoint_of(watch.slot))
        if watch.subscription is not subscription:
            if watch.subscription is not None:
                del watch.subscription.watches[watch.channel]
            watch.subscription = subscription
            subscription.watches[watch.channel] = watch
        return subscription

    async def _subscribe(self, watch: _Watch) -> None:
        """Returns once the server has confirmed it, whichever has its slot then."""
        while True:
            subscription = self._seat(watch)
            if await subscription.subscribe(watch.channel):
                return
            if self._seat(watch) is subscription:
                await self._wait_changed()

    def _follow(self, watch: _Watch) -> None:
        """Its slot is with another master: hear it there, then read what was missed."""
        watch.is_astray = True
        if watch.moving is None or watch.moving.done():
            watch.moving = self._spawn(self._move(watch))

    async def _move(self, watch: _Watch) -> None:
        while watch.is_astray:
            watch.is_astray = False
            await self._subscribe(watch)
        self._mend_later(watch)

    def _on_masters(self) -> None:
        """The cluster has said anew who has what. A master that lost slots says so itself, unless it is away."""
        for there in self.log.masters.endpoints:
            self._subscription_at(there)
        for watch in self._watches.values():
            before = watch.subscription
            if before.is_cut and self._seat(watch) is not before:
                self._follow(watch)
        for there, subscription in list(self._subscriptions.items()):
            if there not in self.log.masters.endpoints and not subscription.watches:
                del self._subscriptions[there]
                self._spawn(subscription.aclose())
        self._changed.set()
        self._judge()

    def _on_top(self, chat: str, position: Position) -> None:
        watch = self._watches.get(chat)
        if watch is None or not watch.is_open:
            return
        ring = watch.ring
        if position.epoch != ring.epoch or position.seq > ring.seq:
            self._mend_later(watch)

    async def _wait_changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _judge(self) -> None:
        is_degraded = self.log.is_in_trouble or any(each.is_cut for each in self._subscriptions.values())
        if is_degraded != self.is_degraded:
            self.is_degraded = is_degraded
            self._changed.set()
            self.on_degraded(is_degraded)

    def _spawn(self, work: Any) -> asyncio.Task:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it has it; nobody may


class _Subscription:
    """One link that hears channels, for ever: when it was lost it is made again, and then the tops are compared.

    `there`: of a master of a cluster, whose channels are sharded. Then it may be told that a slot is not its own.
    """

    def __init__(self, hub: Hub, there: Endpoint | None) -> None:
        self.watches: dict[bytes, _Watch] = {}  # by channel
        self.link: Link | None = None
        self.is_cut = False  # it is away
        # For each (un)subscribe on its way: its channel, and who waits for it (nobody for the end of one).
        self.replies: deque[tuple[bytes, asyncio.Future | None]] = deque()
        self._hub = hub
        self._there = there
        self._masters = hub.log.masters
        self._words = ("SUBSCRIBE", "UNSUBSCRIBE") if there is None else ("SSUBSCRIBE", "SUNSUBSCRIBE")
        self._message = b"message" if there is None else b"smessage"
        self._heard = False
        self._keeper = asyncio.create_task(self._keep(), name="hub")

    async def aclose(self) -> None:
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        if self.link is not None:
            await self.link.aclose()

    async def subscribe(self, channel: bytes) -> bool:
        """Once the server has confirmed it. False: there is no link, it was lost, or the slot is not here."""
        if self.link is None:
            return False
        packed, reply = self._ask_for(channel)
        self.link.write(packed)
        return await reply

    def leave(self, watch: _Watch) -> None:
        del self.watches[watch.channel]
        if self.link is not None:
            self.replies.append((watch.channel, None))
            self.link.write(pack(self._words[1], watch.channel))

    def _ask_for(self, channel: bytes) -> tuple[bytes, asyncio.Future]:
        reply = asyncio.get_running_loop().create_future()
        self.replies.append((channel, reply))
        return pack(self._words[0], channel), reply

    # ------------------------------------------------------------------------------ what arrives

    def _on_push(self, push: Any) -> None:
        self._heard = True
        if not isinstance(push, list):
            if isinstance(push, Refusal):
                self._on_refusal(str(push))
            return  # else PONG before the first subscription
        kind = push[0]
        if kind == self._message:
            watch = self.watches.get(push[1])
            if watch is not None:
                self._hub._on_message(watch, push[2])
        elif kind in (b"subscribe", b"unsubscribe", b"ssubscribe", b"sunsubscribe"):
            self._on_reply(push[1], is_end=b"uns" in kind)

    def _on_reply(self, channel: bytes, is_end: bool) -> None:
        asked, reply = self.replies[0] if self.replies else (None, None)
        if asked == channel and is_end == (reply is None):
            self.replies.popleft()
            if reply is not None and not reply.done():
                reply.set_result(True)
        elif is_end:  # unasked: the slot has been given to another master, which this one names when it is asked again
            watch = self.watches.get(channel)
            if watch is not None:
                self._hub._follow(watch)
        elif self.link is not None:  # nobody knows any more what answers what
            self.link.abort()

    def _on_refusal(self, refusal: str) -> None:
        if not self.replies:
            return
        if refusal.startswith("MOVED ") and self._masters is not None:
            self._masters.follow(refusal, self._there)
        _, reply = self.replies.popleft()
        if reply is not None and not reply.done():
            reply.set_result(False)

    # ------------------------------------------------------------------------------ the link

    async def _keep(self) -> None:
        """Hold the subscription and compare tops, for ever."""
        failures = 0
        while True:
            try:
                await self._connect()
                failures = 0
                await self._listen()
            except Exception as error:  # the next try may succeed; until then sockets are told
                if not self.is_cut:
                    logger.warning("subscription_lost", reason=repr(error))
            self._drop_link()
            self.is_cut = True
            self._hub._judge()
            if self._masters is not None:
                self._masters.ask()
            failures = min(failures + 1, 6)
            await asyncio.sleep(random.uniform(0, min(1.0, 0.05 * 2**failures)))

    async def _connect(self) -> None:
        """A link that is subscribed to all that is watched."""
        url = None if self._masters is None else self._masters.url(self._there)
        self.link = await Link.open(self._on_push, self._on_link_lost, (), url)
        self._hub._changed.set()
        watches = list(self.watches.values())
        asked = [self._ask_for(watch.channel) for watch in watches]
        if asked:
            self.link.write(b"".join(packed for packed, _ in asked))
        async with asyncio.timeout(settings.HEADRACE.command_hop_s):
            heard = [await reply for _, reply in asked]
        if self.link is None or (self._masters is None and not all(heard)):
            raise ConnectionResetError("lost while subscribing")
        for watch, is_heard in zip(watches, heard, strict=True):
            if not is_heard and watch.subscription is self:
                self._hub._follow(watch)

    async def _listen(self) -> None:
        """Until the link is lost: every few seconds the tops, and a ping that must be heard."""
        hub, bounds = self._hub, settings.HEADRACE
        while True:
            await hub.log.tops([each.ring.chat for each in self.watches.values() if each.is_open], hub._on_top)
            if self.link is None:
                raise ConnectionResetError("the connection ended")
            if self.is_cut:
                self.is_cut = False
                logger.info("subscription_back")
                hub._judge()
            self._heard = False
            self.link.write(pack("PING"))
            try:
                async with asyncio.timeout(random.uniform(0.9, 1.1) * bounds.tops_every_s):
                    while self.link is not None:
                        await hub._wait_changed()
                raise ConnectionResetError("the connection ended")
            except TimeoutError:
                if not self._heard:
                    raise ConnectionResetError("no answer to a ping") from None
                if self._masters is not None:
                    hub._changed.set()  # a slot that nobody had may have somebody

    def _on_link_lost(self, link: Link) -> None:
        if link is self.link:
            self._drop_link()

    def _drop_link(self) -> None:
        link, self.link = self.link, None
        if link is None:
            return
        link.abort()
        for _, reply in self.replies:
            if reply is not None and not reply.done():
                reply.set_result(False)
        self.replies.clear()
        self._hub._changed.set()
