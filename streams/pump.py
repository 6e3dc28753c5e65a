"""One socket from its position to the ring's top: send, count, wait.

Where the server takes ready-made frames, what a ring gets is written by a plain call, joined, once for each batch; a
task does what is left: posts, snapshots, the log, and peers that do not read fast enough.

Holds no queue of events: a slow reader only falls behind. What left the ring is read from the log; what left the
log, or its epoch, is replaced by a snapshot. Frames without a position (replies, pongs) are posted and go first.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from django.conf import settings

from streams.errors import WireError
from streams.hub import Hub, Ring
from streams.log import Position

YIELD_EVERY = 64  # frames that a server took without a pause, before others get their turn


class SlowReader(WireError):
    """The peer does not read: one send took too long, or too much waits for it."""

    def __init__(self) -> None:
        super().__init__("slow_reader")


class _Ended(Exception):
    """The last frame is out."""


class Counter(Protocol):
    def sent(self, nbytes: int, frames: int = 1) -> None: ...


class Pump:
    """Sends to one socket. `send` writes one text frame and returns when the server took it.

    `write` takes ready-made frames at once, or says that it can't now; null where the server has none. `snapshot`
    makes the frame that replaces a view, and its position. `on_paused` is told when the window fills and opens.
    """

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[None]],
        session: Counter,
        hub: Hub,
        snapshot: Callable[[], Awaitable[tuple[bytes, Position]]],
        write: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.is_paused = False
        self.on_paused: Callable[[bool], None] = lambda is_paused: None
        self._send = send
        self._write_ready = write
        self._session = session
        self._hub = hub
        self._snapshot = snapshot
        self._bounds = settings.HEADRACE
        self._wake = asyncio.Event()
        self._is_idle = False  # the task has nothing to do but to wait for events
        self._posts: deque[bytes] = deque()
        self._posted_bytes = 0
        # The position: epoch "" asks for a snapshot. Trusted: events up to it exist, the ring may lag behind.
        self._ring: Ring | None = None
        self._epoch = ""
        self._seq = 0
        self._is_trusted = False
        self._former_seq = 0  # highest seq sent in epochs before: late acks of them are no fault
        # The window: None until the first ack; sizes of the events after `_acked`, oldest first.
        self._acked: int | None = None
        self._sizes: deque[int] = deque()
        self._unacked_bytes = 0
        # The watchdog: one timer for all sends.
        self._deadline: asyncio.Timeout | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._sending_since: float | None = None
        self._is_overfull = False
        self._is_ending = False
        self._ends_at_once = False
        self._taken = 0

    @property
    def epoch(self) -> str:
        """Of the event that is being sent."""
        return self._epoch

    @property
    def lag(self) -> int:
        """How many events of the ring it has not sent."""
        ring = self._ring
        return max(0, ring.seq - self._seq) if ring is not None and ring.epoch == self._epoch else 0

    # ------------------------------------------------------------------------------ what others say

    def follow(self, ring: Ring, position: Position | None) -> None:
        """Send the events of `ring` after `position` (None, or one that is gone: a snapshot first). Once a pump."""
        self._ring = ring
        if position is not None:
            self._epoch, self._seq = position.epoch, position.seq
        ring.listeners.add(self._on_events)
        self._wake.set()

    def post(self, frame: bytes) -> None:
        """Send `frame` before events that arrive later. Past `unsent_bytes` that wait, `run` ends with SlowReader."""
        if self._posts and self._posted_bytes + len(frame) > self._bounds.unsent_bytes:
            self._is_overfull = True
            self._expire()
            return
        self._posts.append(frame)
        self._posted_bytes += len(frame)
        self._wake.set()

    def ack(self, seq: int) -> None:
        """The client has everything up to `seq`. The first one turns the window on.

        Raises WireError("bad_frame") where `seq` was never sent.
        """
        if seq > self._seq:
            if seq <= self._former_seq:
                return
            raise WireError("bad_frame", field="seq")
        if self._acked is None:
            self._open_window(seq)
        while self._acked < seq:
            self._acked += 1
            self._unacked_bytes -= self._sizes.popleft()
        if self.is_paused and self._unacked_bytes < self._bounds.ack_window_bytes:
            self._pause(False)
            self._wake.set()

    def end(self, *, at_once: bool) -> None:
        """Send what is posted by now, and unless `at_once` the events that are there; then `run` returns."""
        self._is_ending, self._ends_at_once = True, at_once
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled or told to end. Raises SlowReader, and what `send` and `snapshot` raise."""
        try:
            async with asyncio.timeout(None) as self._deadline:
                if self._is_overfull:
                    raise SlowReader()
                while True:
                    self._wake.clear()
                    if not await self._round():
                        if self._is_ending:
                            break
                        self._is_idle = True
                        await self._wake.wait()
                        self._is_idle = False
        except _Ended:
            pass
        except TimeoutError:
            if self._deadline.expired():
                raise SlowReader() from None
            raise
        finally:
            self._is_idle = False
            self._deadline = None
            if self._watchdog is not None:
                self._watchdog.cancel()
            if self._ring is not None:
                self._ring.listeners.discard(self._on_events)

    # ------------------------------------------------------------------------------ at once

    def _on_events(self) -> None:
        """The ring has changed."""
        if not (self._is_idle and not self._wake.is_set() and self._write_now()):
            self._wake.set()

    def _write_now(self) -> bool:
        """Write all that the ring holds for this socket in one piece. False: this is for the task."""
        ring = self._ring
        if self._write_ready is None or self.is_paused or not self._is_trusted or self._epoch != ring.epoch:
            return False
        joined = ring.joined(self._seq)
        if joined is None or not joined.sizes:
            return False
        if self._acked is not None and self._unacked_bytes + joined.nbytes > self._bounds.ack_window_bytes:
            return False
        if not self._write_ready(joined.data):
            return False
        self._seq = joined.top
        if self._acked is not None:
            self._sizes.extend(joined.sizes)
            self._unacked_bytes += joined.nbytes
        self._session.sent(joined.nbytes, len(joined.sizes))
        return True

    # ------------------------------------------------------------------------------ what is due

    async def _round(self) -> bool:
        """Send what is due. False: nothing was."""
        if self._posts or self._ends_at_once:
            await self._send_posts()
        if self._ring is None or self.is_paused:
            return False
        if self._write_now():
            await asyncio.sleep(0)
            return True
        try:
            frames = await self._due()
        except WireError as error:
            if error.code != "unavailable":
                raise
            await self._wait(self._bounds.log_retry_s)
            return True
        if frames is None:
            return True
        for frame in frames:
            if self._posts or self._ends_at_once:
                await self._send_posts()
            if self._acked is not None and not self._has_room(len(frame)):
                self._pause(True)
                return True
            self._seq += 1  # before the write: its ack may be here before the server is ready for the next
            if self._acked is not None:
                self._sizes.append(len(frame))
                self._unacked_bytes += len(frame)
            await self._write(frame)
        return bool(frames)

    async def _due(self) -> list[bytes] | None:
        """The next events; None: a snapshot went out instead."""
        ring = self._ring
        if self._epoch == ring.epoch:
            frames = ring.after(self._seq)
            if frames is not None:
                self._is_trusted = True
                return frames
            if self._is_trusted and self._seq > ring.seq:  # a snapshot or the log was ahead of the ring
                return []
        elif not self._epoch:
            await self._send_snapshot()
            return None
        return await self._from_log()

    async def _from_log(self) -> list[bytes] | None:
        limit, max_bytes = self._bounds.log_page_events, self._bounds.log_page_bytes
        read = await self._hub.log.read(self._ring.chat, self._seq, limit=limit, max_bytes=max_bytes)
        is_there = read.epoch == self._epoch and self._seq <= read.top
        if is_there and self._seq < read.top:
            is_there = read.entries[0][0] == self._seq + 1
        if not is_there:
            await self._send_snapshot()
            return None
        self._is_trusted = True
        if read.epoch != self._ring.epoch:  # the ring has not heard of this epoch
            await self._hub.refresh(self._ring)
        return [frame for _, frame in read.entries]

    async def _send_snapshot(self) -> None:
        frame, position = await self._snapshot()
        if self._posts or self._ends_at_once:
            await self._send_posts()
        if self._epoch:
            self._former_seq = max(self._former_seq, self._seq)
        self._epoch, self._seq = position.epoch, position.seq
        self._is_trusted = True
        if self._acked is not None:
            self._acked = position.seq
            self._sizes.clear()
            self._unacked_bytes = 0
        await self._write(frame)

    # ------------------------------------------------------------------------------ sending

    async def _send_posts(self) -> None:
        while self._posts:
            frame = self._posts[0]
            await self._write(frame)
            self._posts.popleft()
            self._posted_bytes -= len(frame)
        if self._ends_at_once:
            raise _Ended

    async def _write(self, frame: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._sending_since = loop.time()
        if self._watchdog is None:
            self._watchdog = loop.call_later(self._bounds.send_timeout_s, self._watch)
        await self._send(frame)
        self._sending_since = None
        self._session.sent(len(frame))
        self._taken += 1
        if self._taken % YIELD_EVERY == 0:
            await asyncio.sleep(0)

    def _watch(self) -> None:
        self._watchdog = None
        if self._sending_since is None:
            return
        loop = asyncio.get_running_loop()
        left_s = self._sending_since + self._bounds.send_timeout_s - loop.time()
        if left_s <= 0:
            self._expire()
        else:
            self._watchdog = loop.call_later(left_s, self._watch)

    def _expire(self) -> None:
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def _wait(self, bound_s: float) -> None:
        try:
            async with asyncio.timeout(bound_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    # ------------------------------------------------------------------------------ the window

    def _open_window(self, seq: int) -> None:
        """What was sent after `seq` is unacknowledged; what left the ring by now is not counted."""
        frames = self._ring.after(seq) if self._ring is not None and self._ring.epoch == self._epoch else None
        count = self._seq - seq
        if frames is None or len(frames) < count:
            seq = self._seq
        else:
            self._sizes.extend(map(len, frames[:count]))
        self._acked = seq
        self._unacked_bytes = sum(self._sizes)

    def _has_room(self, nbytes: int) -> bool:
        return not self._unacked_bytes or self._unacked_bytes + nbytes <= self._bounds.ack_window_bytes

    def _pause(self, is_paused: bool) -> None:
        self.is_paused = is_paused
        self.on_paused(is_paused)
