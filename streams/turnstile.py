"""Turns at work which costs a good part of a core or much memory, so that streams keep theirs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streams.errors import WireError


class Place:
    """One inside, until it leaves, which it may do more than once."""

    def __init__(self, turnstile: "Turnstile") -> None:
        self._turnstile = turnstile

    def leave(self) -> None:
        self._turnstile.leave(self)


class Turnstile:
    """`bounds()`: how many of this process are inside, how many wait behind them, and how long (seconds).

    Who comes beyond that is refused with `code` and `text`.
    """

    def __init__(self, bounds: Callable[[], tuple[int, int, float]], code: str, text: str) -> None:
        self._bounds, self._code, self._text = bounds, code, text
        self._free = threading.Condition()
        self._inside: set[Place] = set()
        self._waiting = 0

    def enter(self) -> Place:
        """Raises WireError: too many wait already, or this one has waited long enough."""
        with self._free:
            self._wait()
            place = Place(self)
            self._inside.add(place)
        return place

    @contextmanager
    def take(self) -> Iterator[None]:
        """As `enter`, for the time of a block."""
        place = self.enter()
        try:
            yield
        finally:
            place.leave()

    def leave(self, place: Place) -> None:
        with self._free:
            self._inside.discard(place)
            self._free.notify()

    def _wait(self) -> None:
        at_once, waiting, wait_s = self._bounds()
        if len(self._inside) < at_once:
            return
        if self._waiting >= waiting:
            raise WireError(self._code, self._text, retry_after=wait_s)
        self._waiting += 1
        try:
            if not self._free.wait_for(lambda: len(self._inside) < at_once, wait_s):
                raise WireError(self._code, self._text, retry_after=wait_s)
        finally:
            self._waiting -= 1
