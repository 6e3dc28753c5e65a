"""The event log of chats in Redis: append and read numbered events, each by one script (docs: durability).

Promises: an append that was answered is in the log once, in one epoch, with its numbers; one that was not is sent
again as it was until it is answered. All callers of a worker go out in one pipeline, one in flight, no timer.
Does not promise that the log stays: when Redis loses it, writers are told the new epoch.
"""

import asyncio
import functools
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings

from streams import cluster, metrics, redis
from streams.masters import Masters, lane_to

_LUA = Path(__file__).parent / "lua"
_SEQ_MAX = 10**13  # beyond it Lua's numbers would not print as integers
Epoch = str  # 16 hex digits


class Position(msgspec.Struct, frozen=True):
    """What a reader has seen: everything of `epoch` up to `seq`. 0: nothing yet."""

    epoch: Epoch
    seq: int


class Batch(msgspec.Struct, frozen=True):
    """What one append writes: events of one turn's attempt, or (turn "") of the chat.

    `n` counts the batches of an attempt from 1; 0 is not numbered (owed events, attempt 0; without frames it only
    raises the turn's attempt). `ends`: the batch holds the turn's end. Frames lack their `{"seq":N,`.
    """

    chat: str
    epoch: Epoch
    turn: str
    attempt: int
    n: int
    frames: tuple[bytes, ...]
    ends: bool = False


class Appended(msgspec.Struct, frozen=True):
    """The events stand in the log as `first` to `last` (an empty batch: last = first - 1)."""

    epoch: Epoch
    first: int
    last: int


class Fenced(msgspec.Struct, frozen=True):
    """The turn has a newer attempt, or has ended. Nothing was written."""


class NewEpoch(msgspec.Struct, frozen=True):
    """The writer's epoch is over, `epoch` is the present one. Nothing was written."""

    epoch: Epoch


class Read(msgspec.Struct, frozen=True):
    """`top`: the last seq. `entries`: (seq, frame) after what was asked. `first`: the oldest seq that is kept.

    `first` is None where the log is empty or no entries were wanted.
    """

    epoch: Epoch
    top: int
    entries: list[tuple[int, bytes]]
    first: int | None


class Log:
    """The log of every chat, for one worker and event loop. The hub sets the callbacks.

    `masters`: those of a cluster; None where Redis is one server.
    """

    def __init__(self) -> None:
        self.on_appended: Callable[[Batch, Appended, bool], None] = lambda batch, appended, is_kept: None
        self.on_new_epoch: Callable[[str], None] = lambda chat: None
        self.on_trouble: Callable[[bool], None] = lambda is_in_trouble: None
        url = settings.REDIS_URL or ""
        self.masters = Masters(cluster.parse(url)) if cluster.is_cluster(url) else None
        lane = lane_to(self.masters)
        publish = f"local PUBLISH = '{'SPUBLISH' if self.masters else 'PUBLISH'}'\n"
        epoch, append, read = ((_LUA / name).read_text() for name in ("epoch.lua", "append.lua", "read.lua"))
        append, read = publish + epoch + append, epoch + read
        self._append_sha = redis.sha_of(append)
        self._read_sha = redis.sha_of(read)
        self._appends = lane("append", [append], self._change, metrics.event_delay.of().observe)
        self._reads = lane("read", [read], self._change)

    @property
    def is_in_trouble(self) -> bool:
        """Redis does not answer, or refuses: events wait."""
        return self._appends.is_in_trouble or self._reads.is_in_trouble

    async def append(self, batch: Batch) -> Appended | Fenced | NewEpoch:
        """Write `batch`, once. Own viewers have it in their ring when this returns.

        Past `pending_events_s` raises WireError("unavailable"), and nobody knows whether the batch was written: its
        attempt must not go on.
        """
        return await self.submit(batch)

    def submit(self, batch: Batch) -> asyncio.Future:
        """As `append`, for callers without a task: the future gets what it returns or raises."""
        bounds = settings.HEADRACE
        meta, log, channel = _keys(batch.chat)
        turn = bytes.fromhex(batch.turn.replace("-", ""))

        def make() -> bytes:
            return redis.pack(
                "EVALSHA", self._append_sha, 2, meta, log, _fresh_epoch(), bounds.log_kept_s, batch.epoch, channel,
                turn, batch.attempt, batch.n, b"1" if batch.ends else b"0", bounds.log_events, bounds.log_bytes,
                *batch.frames,
            )  # fmt: skip

        def then(reply: list[Any]) -> Appended | Fenced | NewEpoch:
            kind = reply[0]
            if kind == b"ok" or kind == b"kept":
                appended = Appended(reply[1].decode(), reply[2], reply[3])
                self.on_appended(batch, appended, kind == b"kept")
                metrics.events.inc(len(batch.frames))
                return appended
            if kind == b"epoch":
                self.on_new_epoch(batch.chat)
                return NewEpoch(reply[1].decode())
            return Fenced()

        return self._appends.submit(make, then, bounds.pending_events_s, meta)

    async def read(self, chat: str, after: int, limit: int | None = None, max_bytes: int | None = None) -> Read:
        """Epoch, top and the events after `after`, at most `limit` of them and `max_bytes`, in one step.

        Begins an epoch where there is none. Raises WireError("unavailable") after `command_hop_s`.
        """
        return await self._read(chat, after, limit, max_bytes)

    async def tops(self, chats: Iterable[str], then: Callable[[str, Position], None]) -> None:
        """Call `then` with the top of each chat, all read in one pipeline. Keeps what is watched alive."""
        reads = [
            self._read(chat, 0, 0, None, functools.partial(_tell_top, chat, then)) for chat in chats
        ]  # sent together; each future is awaited, so that no failure goes unseen
        failure = None
        for read in reads:
            try:
                await read
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure

    async def aclose(self) -> None:
        await self._appends.aclose()
        await self._reads.aclose()
        if self.masters is not None:
            await self.masters.aclose()

    def _read(
        self,
        chat: str,
        after: int,
        limit: int | None,
        max_bytes: int | None,
        then: Callable[[list[Any]], Any] | None = None,
    ) -> asyncio.Future:
        bounds = settings.HEADRACE
        meta, log, _ = _keys(chat)

        def make() -> bytes:
            return redis.pack(
                "EVALSHA", self._read_sha, 2, meta, log, _fresh_epoch(), bounds.log_kept_s, min(after, _SEQ_MAX),
                -1 if limit is None else limit, -1 if max_bytes is None else max_bytes,
            )  # fmt: skip

        return self._reads.submit(make, then or _as_read, bounds.command_hop_s, meta)

    def _change(self, _: bool) -> None:
        self.on_trouble(self.is_in_trouble)


def held(chat: str, limit: int) -> list[bytes]:
    """The newest frames that a chat's log holds, oldest first, for who only looks: no epoch begins by it.

    Blocking. Where Redis is away it looks empty.
    """
    _, log, _ = _keys(chat)
    try:
        entries = redis.blocking_client().xrevrange(log, count=limit)
    except (redis.Trouble, OSError):
        return []
    return [frame for _, fields in reversed(entries) for frame in fields.values()]


def channel_of(chat: str) -> str:
    return redis.key(_tag(chat))


def _keys(chat: str) -> tuple[str, str, str]:
    """Meta, log and channel."""
    return _keys_under(settings.REDIS_PREFIX, chat)


@functools.lru_cache(4096)
def _keys_under(prefix: str, chat: str) -> tuple[str, str, str]:
    tag = _tag(chat)
    return redis.key(tag, "meta"), redis.key(tag, "log"), redis.key(tag)


def _tag(chat: str) -> str:
    return "{" + chat.replace("-", "") + "}"


def _fresh_epoch() -> str:
    """Anew for each sending: an id that was used once names one history for ever."""
    return f"{random.getrandbits(64):016x}"


def _as_read(reply: list[Any]) -> Read:
    epoch, top, kept, start, frames = reply
    return Read(epoch.decode(), top, list(zip(range(start, start + len(frames)), frames, strict=True)), kept or None)


def _tell_top(chat: str, then: Callable[[str, Position], None], reply: list[Any]) -> None:
    then(chat, Position(reply[0].decode(), reply[1]))
