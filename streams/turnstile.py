"""Turns at work which costs a good part of a core or much memory, so that streams keep theirs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streams.errors import WireError


class Guest:
    """One inside, until it leaves, which it may do more than once. `who`: whose it is, where that is bounded."""

    def __init__(self, turnstile: "Turnstile", who: object) -> None:
        self._turnstile = turnstile
        self.who = who

    def leave(self) -> None:
        self._turnstile.leave(self)


class Turnstile:
    """`bounds()`: how many of this process are inside, how many wait behind them, and how long (seconds).

    Who comes beyond that is refused with `code` and `text`.
    """

    def __init__(self, bounds: Callable[[], tuple[int, int, float]], code: str, text: str) -> None:
        self._bounds, self._code, self._text = bounds, code, text
        self._free = threading.Condition()
        self._inside: set[Guest] = set()
        self._waiting: set[Guest] = set()

    def enter(self, who: object = None, most: int | None = None) -> Guest:
        """`who` has `most` guests inside and waiting together; None: as many as there is room for.

        Raises WireError: too many wait already, or this one has waited long enough, or is one too many of `who`.
        """
        guest = Guest(self, who)
        with self._free:
            if most is not None and self._count(who) >= most:
                raise self._refusal()
            self._wait(guest)
            self._inside.add(guest)
        return guest

    @contextmanager
    def take(self) -> Iterator[None]:
        """As `enter`, for the time of a block."""
        guest = self.enter()
        try:
            yield
        finally:
            guest.leave()

    def leave(self, guest: Guest) -> None:
        with self._free:
            self._inside.discard(guest)
            self._free.notify()

    def _count(self, who: object) -> int:
        return sum(guest.who == who for guest in (*self._inside, *self._waiting))

    def _wait(self, guest: Guest) -> None:
        at_once, waiting, wait_s = self._bounds()
        if len(self._inside) < at_once:
            return
        if len(self._waiting) >= waiting:
            raise self._refusal()
        self._waiting.add(guest)
        try:
            if not self._free.wait_for(lambda: len(self._inside) < at_once, wait_s):
                raise self._refusal()
        finally:
            self._waiting.discard(guest)

    def _refusal(self) -> WireError:
        return WireError(self._code, self._text, retry_after=self._bounds()[2])
