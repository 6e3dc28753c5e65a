"""The masters of a cluster: who has which slot, and a lane to each of them.

Nobody is asked before a call: each goes where its slot was last known, and a master that has it no more says where it
is. When one does not answer, any other is asked who has its slots now. See docs/decisions/023-cluster.md.
"""

import asyncio
import functools
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from django.conf import settings

from streams import cluster, redis
from streams.errors import WireError
from streams.redis import Call, Lane, Link, fail, pack
from streams.servers import Endpoint

AGAIN_S = 0.02  # before a call that came while its keys were on their way is tried again
MOST_HOPS = 4  # from one master to the next at once: two may each say that the other has the slot

_ASKING = pack("ASKING")

logger = structlog.get_logger(__name__)


class Masters:
    """Who has which slot, as the cluster last said. `listeners` are called when it was asked anew."""

    def __init__(self, seeds: cluster.Seeds) -> None:
        self.listeners: list[Callable[[], None]] = []
        self._seeds = seeds
        self._endpoints: list[Endpoint] = [seeds.endpoints[0]] * cluster.SLOTS  # who will say where it really is
        self._all = {seeds.endpoints[0]}
        self._asking: asyncio.Task | None = None
        self._is_closed = False

    @property
    def endpoints(self) -> set[Endpoint]:
        """Those that have slots."""
        return self._all

    def of(self, slot: int) -> Endpoint:
        return self._endpoints[slot]

    def url(self, there: Endpoint) -> str:
        return self._seeds.at(there)

    def follow(self, refusal: str, asked: Endpoint) -> None:
        """What `asked` says of a slot that is not its own: MOVED."""
        slot, there = cluster.redirection(refusal, asked)
        self._endpoints[slot] = there
        self.ask(there)

    def ask(self, first: Endpoint | None = None) -> None:
        """Ask the cluster, `first` before others, unless that is being done."""
        if self._asking is None and not self._is_closed:
            self._asking = asyncio.create_task(self._ask(first), name="cluster-slots")

    async def aclose(self) -> None:
        self._is_closed = True
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self, first: Endpoint | None) -> None:
        """The first that answers is believed: if it is behind, the next MOVED says so."""
        others = [*self._all, *self._seeds.endpoints]
        random.shuffle(others)
        try:
            for there in dict.fromkeys([first, *others] if first else others):
                try:
                    async with asyncio.timeout(settings.HEADRACE.redis_timeout_s / 2):
                        pieces = cluster.masters(await redis.ask(self.url(there), "CLUSTER", "SLOTS"), there)
                except Exception as error:  # whatever it is, another may answer
                    logger.debug("cluster_server_away", server=there, reason=repr(error))
                else:
                    self._take(pieces)
                    return
        finally:
            self._asking = None

    def _take(self, pieces: list[tuple[int, int, Endpoint]]) -> None:
        for first, last, there in pieces:
            self._endpoints[first : last + 1] = [there] * (last + 1 - first)
        self._all = set(self._endpoints)
        for listener in tuple(self.listeners):
            listener()


class Lanes:
    """To a cluster what a `Lane` is to one server: a lane to each master, each call in that of its key's slot.

    A call that is told MOVED or ASK goes where that says, and one told TRYAGAIN is tried again a little later; neither
    holds up others. What waits for a master that does not answer goes to the one that has its slots then.
    """

    def __init__(
        self,
        masters: Masters,
        name: str,
        scripts: Sequence[str],
        on_trouble: Callable[[bool], None],
        on_landed: Callable[[float], None] = lambda took_s: None,
    ) -> None:
        self.masters = masters
        self._lane = (name, scripts, on_trouble, on_landed)
        self._on_trouble = on_trouble
        self._branches: dict[Endpoint, _Branch] = {}
        self._later: list[_Call] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task] = set()
        self._is_closed = False
        masters.listeners.append(self._reroute)

    @property
    def is_in_trouble(self) -> bool:
        return any(branch.is_in_trouble for branch in self._branches.values())

    def submit(
        self, make: Callable[[], bytes], then: Callable[[Any], Any], give_up_s: float, key: str
    ) -> asyncio.Future:
        """As of a `Lane`."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        call = _Call(cluster.slot_of(key), make, then, loop.create_future(), now, now + give_up_s)
        self._put(self.masters.of(call.slot), call)
        return call.future

    async def aclose(self) -> None:
        self._is_closed = True
        self.masters.listeners.remove(self._reroute)
        if self._timer is not None:
            self._timer.cancel()
        for call in self._later:
            fail(call.future, WireError("unavailable"))
        for branch in self._branches.values():
            await branch.aclose()
        if self._closing:
            await asyncio.wait(self._closing)

    def redirect(self, call: "_Call", refusal: str, asked: Endpoint) -> bool:
        """Whether this refusal says that the call belongs elsewhere, or that it came too early."""
        word = refusal.partition(" ")[0]
        if word not in ("MOVED", "ASK", "TRYAGAIN"):
            return False
        if word == "MOVED":
            self.masters.follow(refusal, asked)
        call.hops += 1
        if word == "TRYAGAIN" or call.hops > MOST_HOPS:
            self._hold(call)
        elif word == "MOVED":
            self._route(call)
        else:
            call.is_asking = True
            self._put(cluster.redirection(refusal, asked)[1], call)
        return True

    def _route(self, call: "_Call") -> None:
        call.is_asking = False
        self._put(self.masters.of(call.slot), call)

    def _put(self, there: Endpoint, call: "_Call") -> None:
        if self._is_closed:
            fail(call.future, WireError("unavailable"))
            return
        branch = self._branches.get(there)
        if branch is None:
            branch = self._branches[there] = _Branch(self, there, *self._lane)
        branch.put(call)

    def _hold(self, call: "_Call") -> None:
        self._later.append(call)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(AGAIN_S, self._try_again)

    def _try_again(self) -> None:
        self._timer = None
        calls, self._later = self._later, []
        now = asyncio.get_running_loop().time()
        for call in calls:
            if call.give_up_at <= now:
                fail(call.future, WireError("unavailable"))
            else:
                call.hops = 0
                self._route(call)

    def _reroute(self) -> None:
        """The cluster has said anew who has what: nobody waits for a master that is away or has gone."""
        for there, branch in list(self._branches.items()):
            if branch.is_in_trouble:
                for call in branch.take():
                    self._route(call)
            if branch.is_idle and there not in self.masters.endpoints:
                del self._branches[there]
                task = asyncio.create_task(branch.aclose())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        self._on_trouble(self.is_in_trouble)


class _Call(Call):
    """Of one slot. `is_asking`: its keys are on their way to the master that it is sent to."""

    __slots__ = ("hops", "is_asking", "slot")

    def __init__(self, slot: int, *call: Any) -> None:
        super().__init__(*call)
        self.slot = slot
        self.hops = 0
        self.is_asking = False

    def make(self) -> bytes:
        return _ASKING + self._pack() if self.is_asking else self._pack()


class _Branch(Lane):
    """The lane to one master."""

    def __init__(self, lanes: Lanes, there: Endpoint, *lane: Any) -> None:
        super().__init__(*lane)
        self._lanes = lanes
        self._there = there

    @property
    def is_idle(self) -> bool:
        return not (self._waiting or self._flight)

    def put(self, call: _Call) -> None:
        self._waiting.append(call)
        self._schedule()

    def take(self) -> deque[_Call]:
        """What waits to be sent, which now is another's to send."""
        waiting, self._waiting = self._waiting, deque()
        return waiting

    async def _open(self) -> Link:
        return await Link.open(self._on_reply, self._on_lost, self._scripts, self._lanes.masters.url(self._there))

    def _on_reply(self, reply: Any) -> None:
        if reply == b"OK" and self._flight and self._flight[0].is_asking:
            self._flight[0].is_asking = False  # it may ask; its own reply comes next
            return
        super()._on_reply(reply)

    def _refuse(self, call: _Call, reason: str) -> None:
        if not self._lanes.redirect(call, reason, self._there):
            super()._refuse(call, reason)

    def _fail_flight(self) -> None:
        super()._fail_flight()
        self._lanes.masters.ask()


def lane_to(masters: Masters | None) -> Callable[..., Lanes | redis.Lane]:
    """What makes a lane: to a cluster, or to the one server."""
    return functools.partial(Lanes, masters) if masters else redis.Lane
