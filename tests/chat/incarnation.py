"""A worker that can die, freeze or be held at any step that reaches outside: each call of the database and of the
log is one.

What it does after its death has no effect: no call goes out, and nobody hears its sockets.
"""

import asyncio
import contextvars
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal

import pytest

from chat.turns.manager import ChatManager
from streams import database
from streams.errors import WireError
from streams.log import Batch, Log

_current: contextvars.ContextVar["Incarnation | None"] = contextvars.ContextVar("incarnation", default=None)
_TYPE = re.compile(rb'"type":"(\w+)"')

Fate = Literal["dies", "holds", "freezes", "acts", "fails", "loses", "strays", "doubles"]
GIVES_UP = ("fails", "loses", "strays")


class Death(BaseException):
    """The process is gone."""


class Call:
    """What befalls the `nth` call of a name, before it or (`is_done`) once it has taken effect.

    dies: the process ends; holds: this call waits until `go`; freezes: every call waits until the life thaws;
    acts: `act` is done first; fails: nothing takes effect, the caller hears `unavailable`; loses: it takes effect,
    the caller hears that all the same; strays: he hears it at once, and it takes effect after `go`, if the process
    still lives; doubles: its answer was lost, it is sent again.
    """

    def __init__(
        self, fate: Fate, name: str, nth: int, is_done: bool, act: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.fate, self.name, self.nth, self.is_done, self.act = fate, name, nth, is_done, act
        self._reached, self._goes = asyncio.Event(), asyncio.Event()

    async def reached(self) -> None:
        async with asyncio.timeout(10):
            await self._reached.wait()

    def go(self) -> None:
        self._goes.set()

    async def gone(self) -> None:
        await self._goes.wait()

    async def meet(self, life: "Incarnation") -> None:
        self._reached.set()
        if self.fate == "dies":
            life.die()
            raise Death
        if self.fate in GIVES_UP:
            raise WireError("unavailable")
        if self.fate == "holds":
            await self.gone()
        elif self.fate == "freezes":
            life.freeze()
        elif self.fate == "acts":
            await self.act()


class Hops:
    """Calls of the database on behalf of one caller: `on_return` is due once he has left and none is under way."""

    def __init__(self, on_return: Callable[[], None] | None = None) -> None:
        self._on_return, self._count = on_return, 1

    def began(self) -> None:
        self._count += 1

    def ended(self) -> None:
        self._count -= 1
        if not self._count and self._on_return is not None:
            self._on_return()


class Incarnation:
    """One worker's life. Every call is a `step` too: `at_call("dies", "step", 5)` is the fifth from now."""

    def __init__(self) -> None:
        self.steps = 0
        self.is_dead = False
        self.on_step: Callable[[], Awaitable[None]] | None = None  # called before each
        self.manager: ChatManager | None = None
        self.trail: list[str] = []
        self.stepped = asyncio.Event()
        self._calls: list[Call] = []
        self._met: list[Call] = []
        self.strays: set[asyncio.Task] = set()  # calls that nobody waits for any more
        self._thawed = asyncio.Event()
        self._thawed.set()

    async def born(self) -> "Incarnation":
        await self.does(self._start())
        return self

    def does(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task:
        """A task of this worker: what it calls are its steps. The test's own calls are nobody's."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return asyncio.create_task(work, context=context)

    async def _start(self) -> None:
        self.manager = ChatManager()
        await self.manager.hub.start()
        await self.manager.sweep.beat()

    def at_call(
        self,
        fate: Fate,
        name: str,
        nth: int = 1,
        *,
        is_done: bool = False,
        act: Callable[[], Awaitable[None]] | None = None,
    ) -> Call:
        """What befalls the `nth` call from now on of `write:begin_turn`, `append`, `append:turn_end`, `read` …"""
        call = Call(fate, name, nth, is_done or fate == "loses", act)
        self._calls.append(call)
        return call

    def dies_at_call(self, name: str, nth: int = 1, *, is_done: bool = False) -> Call:
        return self.at_call("dies", name, nth, is_done=is_done)

    def die(self) -> None:
        self.is_dead = True
        self.trail.append("died")

    def freeze(self) -> None:
        self._thawed.clear()
        self.trail.append("froze")

    def thaw(self) -> None:
        self._thawed.set()

    @property
    def is_frozen(self) -> bool:
        return not self._thawed.is_set()

    @property
    def is_held(self) -> bool:
        """Some call of it waits to be let go."""
        return any(not call._goes.is_set() for call in self._met)

    def let_go(self) -> None:
        """Whatever call is held, or strays, goes on."""
        for call in self._met:
            call.go()
        self._met.clear()

    def disarm(self) -> None:
        """Nothing befalls it any more, and what it waits for comes."""
        self._calls.clear()
        self.let_go()
        self.thaw()

    def _meant_by(self, names: tuple[str, ...]) -> list[Call]:
        for call in self._calls:
            call.nth -= call.name in names
        meant = [call for call in self._calls if call.nth == 0]
        self._calls = [call for call in self._calls if call.nth]
        self._met += [call for call in meant if call.fate in ("holds", "strays")]
        return meant

    async def pass_through(
        self, names: tuple[str, ...], call: Callable[[], Awaitable[Any]], hops: Hops, is_repeated: bool = False
    ) -> Any:
        """`is_repeated`: who calls is never given up on, so what was not answered is sent again."""
        await self.lives()
        self.steps += 1
        self.stepped.set()
        self.trail.append(names[-1])
        if self.on_step is not None:
            await self.on_step()
        met = self._meant_by(("step", *names))
        for one in met:
            if one.fate in GIVES_UP and is_repeated:
                one.fate, one.is_done = "doubles", False
                one.go()
            if not one.is_done:
                if one.fate == "strays":
                    self._stray(one, call, hops)
                await one.meet(self)
                await self.lives()
        if any(one.fate == "doubles" for one in met):
            await call()
        result = await call()
        for one in met:
            if one.is_done:
                await one.meet(self)
        await self.lives()
        return result

    def _stray(self, one: Call, call: Callable[[], Awaitable[Any]], hops: Hops) -> None:
        async def comes_late() -> None:
            try:
                await one.gone()
                if not self.is_dead:
                    with suppress(Exception):
                        await call()
            finally:
                hops.ended()

        hops.began()
        task = asyncio.create_task(comes_late())
        self.strays.add(task)
        task.add_done_callback(self.strays.discard)

    async def lives(self) -> None:
        """Returns while it is not frozen. Raises Death."""
        await self._thawed.wait()
        if self.is_dead:
            raise Death

    async def bury(self) -> None:
        """Whatever still runs of it is ended, without effect."""
        self.is_dead = True
        self.thaw()
        manager = self.manager
        tasks = [*manager.runs.tasks(), *manager.tasks.all(), *self.strays]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await manager.hub.aclose()
        await manager.log.aclose()


def mortal(patch: pytest.MonkeyPatch) -> None:
    """Let every call of the database and of the log pass through the living incarnation."""
    for name in ("read", "write"):
        patch.setattr(database, name, _gated_hop(name, getattr(database, name)))
    patch.setattr(Log, "submit", _gated_append(Log.submit))
    patch.setattr(Log, "read", _gated_read(Log.read))


def _gated_hop(name: str, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def hop(fn: Callable[..., Any], *args: Any, on_return: Callable[[], None] | None = None, **options: Any):
        life = _current.get()
        if life is None:
            return await original(fn, *args, on_return=on_return, **options)
        hops = Hops(on_return)

        def call() -> Awaitable[Any]:
            hops.began()
            return original(fn, *args, on_return=hops.ended, **options)

        label = f"{name}:{getattr(fn, '__name__', 'partial')}"
        try:
            return await life.pass_through((label,), call, hops, bool(options.get("until_done")))
        finally:
            hops.ended()

    return hop


def _gated_read(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def read(self: Log, *args: Any, **options: Any) -> Any:
        life = _current.get()
        if life is None:
            return await original(self, *args, **options)
        return await life.pass_through(("read",), lambda: original(self, *args, **options), Hops())

    return read


def _gated_append(original: Callable[..., asyncio.Future]) -> Callable[..., asyncio.Future]:
    def submit(self: Log, batch: Batch, *args: Any) -> asyncio.Future:
        life = _current.get()
        if life is None:
            return original(self, batch, *args)

        async def through() -> Any:
            try:
                names = ("append", *_told_by(batch))
                return await life.pass_through(names, lambda: original(self, batch, *args), Hops())
            except Death:
                return await asyncio.get_running_loop().create_future()  # a dead worker hears no answer

        return asyncio.ensure_future(through())

    return submit


def _told_by(batch: Batch) -> list[str]:
    """`append:<type>` of each event of a batch; `append:fence` where it only raises the attempt."""
    types = [_TYPE.search(frame).group(1).decode() for frame in batch.frames]
    return [f"append:{type}" for type in types] or ["append:fence"]
