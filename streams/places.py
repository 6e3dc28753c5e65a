"""Places of sockets: how many may be open at once for one user or one address, over all workers.

A place stands in Redis once for each of those it counts for, with the moment until which it counts; its worker puts
that off for as long as the socket is open, so that what a killed worker held ends by itself. A quota protects, it does
not decide: where Redis does not answer in time, a worker's own count is all there is, and nobody waits longer.
"""

import asyncio
import functools
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from streams import redis
from streams.errors import WireError
from streams.masters import Masters, lane_to

KEPT_AT_ONCE = 50  # entries of one call: Redis does nothing else meanwhile
_LUA = Path(__file__).parent / "lua"


class Places:
    """The places that one worker's sockets have. Who they count for is a name: `user:7`, `address:192.0.2.1`.

    `masters`: those of a cluster; None where Redis is one server.
    """

    def __init__(self, masters: Masters | None = None) -> None:
        take, keep = ((_LUA / name).read_text() for name in ("take_place.lua", "keep_places.lua"))
        self._take_sha, self._keep_sha = redis.sha_of(take), redis.sha_of(keep)
        self._lane = lane_to(masters)("place", [take, keep], lambda is_in_trouble: None)
        self._held: dict[str, tuple[str, ...]] = {}  # by place: who it counts for
        self._counts: Counter[str] = Counter()
        self._calls: set[asyncio.Future] = set()  # that nobody waits for

    async def take(self, wanted: dict[str, int]) -> Callable[[], None]:
        """A place that counts for each of `wanted`, of whom none may have more than so many.

        Returns what gives it back; a second call of that does nothing. Raises WireError too_many_connections, and
        then, as when it is cancelled, no place is taken.
        """
        if any(self._counts[who] >= most for who, most in wanted.items()):
            raise _too_many()
        place = secrets.token_hex(8)
        self._held[place] = tuple(wanted)
        self._counts.update(wanted.keys())
        try:
            if not await self._is_free(place, wanted):
                raise _too_many()
        except BaseException:
            self._give_back(place)
            raise
        return functools.partial(self._give_back, place)

    async def keep(self) -> None:
        """All that are held here count on. To be called every `places_every_s`."""
        entries = [(who, place) for place, whom in self._held.items() for who in whom]
        calls = [self._keep(entries[at : at + KEPT_AT_ONCE]) for at in range(0, len(entries), KEPT_AT_ONCE)]
        if calls:
            _, late = await asyncio.wait(calls, timeout=settings.HEADRACE.places_every_s)
            for call in late:
                call.cancel()

    async def aclose(self) -> None:
        """Give back what is held, as far as Redis answers in time; the rest ends by itself."""
        for place in list(self._held):
            self._give_back(place)
        if self._calls:
            await asyncio.wait(self._calls, timeout=settings.HEADRACE.redis_timeout_s)
        await self._lane.aclose()

    async def _is_free(self, place: str, wanted: dict[str, int]) -> bool:
        """Whether Redis took the place. Where it does not say so in time, it is free as far as anybody knows."""
        bounds = settings.HEADRACE
        keys = [_key(who) for who in wanted]

        def make() -> bytes:
            return redis.pack(
                "EVALSHA", self._take_sha, len(keys), *keys, place, _ms(bounds.places_kept_s), *wanted.values()
            )  # fmt: skip

        if self._lane.is_in_trouble:
            self._keep([(who, place) for who in wanted])  # goes out when it is over, which it finds out
            return True
        try:
            async with asyncio.timeout(bounds.redis_timeout_s):
                return await self._lane.submit(make, bool, bounds.redis_timeout_s, keys[0])
        except (TimeoutError, WireError, redis.Trouble):
            return True  # the next beat keeps it

    def _keep(self, entries: list[tuple[str, str]]) -> asyncio.Future:
        keys = [_key(who) for who, _ in entries]
        places = [place for _, place in entries]
        kept_ms = _ms(settings.HEADRACE.places_kept_s)
        return self._send("EVALSHA", self._keep_sha, len(keys), *keys, kept_ms, *places)

    def _give_back(self, place: str) -> None:
        for who in self._held.pop(place, ()):
            self._counts[who] -= 1
            if not self._counts[who]:
                del self._counts[who]
            self._send("ZREM", _key(who), place)

    def _send(self, *command: str | int) -> asyncio.Future:
        """After all that was sent before. Nobody need wait for it: what it is about ends or is kept without it too."""
        make = functools.partial(redis.pack, *command)
        call = self._lane.submit(make, bool, settings.HEADRACE.redis_timeout_s, _key(""))
        self._calls.add(call)
        call.add_done_callback(self._answered)
        return call

    def _answered(self, call: asyncio.Future) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # the lane has told of it


def _too_many() -> WireError:
    """By the time it says, what a killed worker held has ended."""
    return WireError("too_many_connections", retry_after=settings.HEADRACE.places_kept_s)


def _key(who: str) -> str:
    """All under one hash tag: a place is taken in all its sets at once, which are so on one server of a cluster."""
    return redis.key("{places}", who)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
