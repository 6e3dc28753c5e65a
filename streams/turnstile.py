"""Turns at work which costs a good part of a core or much memory, so that streams keep theirs."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streams.errors import WireError


class Place:
    """One inside, until `leave` is called, or nobody holds it any more: an answer may be dropped before it is sent."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self.leave = weakref.finalize(self, leave)  # once, however often it is called
        self.leave.atexit = False


class Turnstile:
    """`bounds()`: how many of this process are inside, how many wait behind them, and how long (seconds).

    Who comes beyond that is refused with `code` and `text`.
    """

    def __init__(self, bounds: Callable[[], tuple[int, int, float]], code: str, text: str) -> None:
        self._bounds, self._code, self._text = bounds, code, text
        self._free = threading.Condition()
        self._inside = self._waiting = 0

    def enter(self) -> Place:
        """Raises WireError: too many wait already, or this one has waited long enough."""
        with self._free:
            self._wait()
            self._inside += 1
        return Place(self._leave)

    @contextmanager
    def take(self) -> Iterator[None]:
        """As `enter`, for the time of a block."""
        place = self.enter()
        try:
            yield
        finally:
            place.leave()

    def _leave(self) -> None:
        with self._free:
            self._inside -= 1
            self._free.notify()

    def _wait(self) -> None:
        at_once, waiting, wait_s = self._bounds()
        if self._inside < at_once:
            return
        if self._waiting >= waiting:
            raise WireError(self._code, self._text, retry_after=wait_s)
        self._waiting += 1
        try:
            if not self._free.wait_for(lambda: self._inside < at_once, wait_s):
                raise WireError(self._code, self._text, retry_after=wait_s)
        finally:
            self._waiting -= 1
