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

Fate = Literal["dies", "holds", "freezes", "loses", "doubles"]


class Death(BaseException):
    """The process is gone."""


class Call:
    """What befalls the `nth` call of a name, before it or (`is_done`) once it has taken effect.

    dies: the process ends; holds: this call waits until `go`; freezes: every call waits until the life thaws;
    loses: it takes effect, the caller hears `unavailable`; doubles: its answer was lost, it is sent again.
    """

    def __init__(self, fate: Fate, name: str, nth: int, is_done: bool) -> None:
        self.fate, self.name, self.nth, self.is_done = fate, name, nth, is_done
        self._reached, self._goes = asyncio.Event(), asyncio.Event()

    async def reached(self) -> None:
        async with asyncio.timeout(10):
            await self._reached.wait()

    def go(self) -> None:
        self._goes.set()

    async def meet(self, life: "Incarnation") -> None:
        self._reached.set()
        if self.fate == "dies":
            life.is_dead = True
            life.trail.append("died")
            raise Death
        if self.fate == "loses":
            raise WireError("unavailable")
        if self.fate == "holds":
            await self._goes.wait()
        elif self.fate == "freezes":
            life.freeze()


class Incarnation:
    """One worker's life. `dies_at`: the step at which it dies; `is_done`: the step takes place, unheard."""

    def __init__(self) -> None:
        self.steps = 0
        self.is_dead = False
        self.dies_at: int | None = None
        self.is_done = False
        self.doubles_at: int | None = None  # an append whose answer was lost is sent again
        self.empties_at: int | None = None  # the store loses everything before this step
        self.empty: Callable[[], Awaitable[None]] | None = None
        self.on_step: Callable[[], Awaitable[None]] | None = None  # called before each
        self.manager: ChatManager | None = None
        self.trail: list[str] = []
        self.stepped = asyncio.Event()
        self._calls: list[Call] = []
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

    def arm(
        self,
        *,
        dies_in: int | None = None,
        is_done: bool = False,
        doubles_in: int | None = None,
        empties_in: int | None = None,
    ) -> None:
        if dies_in is not None:
            self.dies_at, self.is_done = self.steps + dies_in, is_done
        if doubles_in is not None:
            self.doubles_at = self.steps + doubles_in
        if empties_in is not None:
            self.empties_at = self.steps + empties_in

    def disarm(self) -> None:
        self.dies_at = self.doubles_at = self.empties_at = None

    def at_call(self, fate: Fate, name: str, nth: int = 1, *, is_done: bool = False) -> Call:
        """What befalls the `nth` call from now on of `write:begin_turn`, `append`, `append:turn_end`, `read` …"""
        call = Call(fate, name, nth, is_done or fate in ("loses", "doubles"))
        self._calls.append(call)
        return call

    def dies_at_call(self, name: str, nth: int = 1, *, is_done: bool = False) -> Call:
        return self.at_call("dies", name, nth, is_done=is_done)

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def _meant_by(self, names: tuple[str, ...]) -> list[Call]:
        for call in self._calls:
            call.nth -= call.name in names
        meant = [call for call in self._calls if call.nth == 0]
        self._calls = [call for call in self._calls if call.nth]
        return meant

    async def pass_through(self, names: tuple[str, ...], call: Callable[[], Awaitable[Any]]) -> Any:
        name = names[0]
        await self._live()
        self.steps += 1
        self.stepped.set()
        step = self.steps
        self.trail.append(names[-1])
        if self.on_step is not None:
            await self.on_step()
        if step == self.empties_at:
            await self.empty()
        if step == self.dies_at:
            if self.is_done:
                with suppress(Exception):
                    await call()
            self.trail.append("died")
            self.is_dead = True
            raise Death
        if self.doubles_at is not None and step >= self.doubles_at and name == "append":
            self.doubles_at = None
            await call()
        met = self._meant_by(names)
        for one in met:
            if not one.is_done:
                await one.meet(self)
                await self._live()
        if any(one.fate == "doubles" for one in met):
            await call()
        result = await call()
        for one in met:
            if one.is_done:
                await one.meet(self)
        await self._live()
        return result

    async def _live(self) -> None:
        await self._thawed.wait()
        if self.is_dead:
            raise Death

    async def bury(self) -> None:
        """Whatever still runs of it is ended, without effect."""
        self.is_dead = True
        self.thaw()
        manager = self.manager
        tasks = [*manager._run_tasks.values(), *manager._tasks]
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
        label = f"{name}:{getattr(fn, '__name__', 'partial')}"
        try:
            return await life.pass_through((label,), lambda: original(fn, *args, **options))
        finally:
            if on_return is not None:  # with the answer, as the bridge does it
                on_return()

    return hop


def _gated_read(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def read(self: Log, *args: Any, **options: Any) -> Any:
        life = _current.get()
        if life is None:
            return await original(self, *args, **options)
        return await life.pass_through(("read",), lambda: original(self, *args, **options))

    return read


def _gated_append(original: Callable[..., asyncio.Future]) -> Callable[..., asyncio.Future]:
    def submit(self: Log, batch: Batch, *args: Any) -> asyncio.Future:
        life = _current.get()
        if life is None:
            return original(self, batch, *args)

        async def through() -> Any:
            try:
                return await life.pass_through(("append", *_told_by(batch)), lambda: original(self, batch, *args))
            except Death:
                return await asyncio.get_running_loop().create_future()  # a dead worker hears no answer

        return asyncio.ensure_future(through())

    return submit


def _told_by(batch: Batch) -> list[str]:
    """`append:<type>` of each event of a batch; `append:fence` where it only raises the attempt."""
    types = [_TYPE.search(frame).group(1).decode() for frame in batch.frames]
    return [f"append:{type}" for type in types] or ["append:fence"]
