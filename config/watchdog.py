"""A watchdog over the event loop: a process whose loop stands is ended, its stacks in the log, so that another begins.

A thread asks the loop for a beat at each of its short ticks, and counts those that find none. It counts ticks, not
seconds: a process that was frozen, by a signal or with its machine, has lost one tick. A round of the loop that is
long because there is much to do is let go on: only ticks that find the loop in the same callback count, and none that
finds it in a debugger.

What never lets go of the interpreter's lock, as the match of a regular expression, stops that thread as well. So there
is a timer besides, over the processor time that this process takes between two ticks: a frozen one takes none. What
holds the lock and neither computes nor looks at signals is not seen. Knows nothing of Django.
"""

import asyncio
import faulthandler
import math
import os
import signal
import sys
import tempfile
import threading
import time
from types import FrameType
from typing import Any

import structlog

from streams import metrics

STATUS = 70  # EX_SOFTWARE: by it the supervisor knows why a worker ended
TICKS = 30  # in the bound, at least
TICK_S = 1.0  # at most
TELL_S = 5.0  # that the last words have: it may be the log that the loop waits for
DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd")  # how the names of their modules begin

log = structlog.get_logger("headrace.watchdog")


class Stand:
    """For how many ticks the loop has been at one place. Pure."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ticks = 0
        self._place: object = None

    def tick(self, place: object) -> bool:
        """Whether it has been there for `most` ticks. `place` None: nowhere, it beats."""
        self._ticks = self._ticks + 1 if place is not None and place is self._place else 0
        self._place = place
        return self._ticks >= self._most


def ticks_in(bound_s: float) -> int:
    """So many that none is longer than TICK_S."""
    return max(TICKS, math.ceil(bound_s / TICK_S))


class Watchdog:
    """Over the loop that runs in this thread, which must be the main one. Ends with the loop.

    `bound_s`: how long it may stand; 0: for ever, and only its delay is measured.
    """

    def __init__(self, bound_s: float) -> None:
        self._bound_s = bound_s
        ticks = ticks_in(bound_s)
        self._tick_s = bound_s / ticks if bound_s else TICK_S
        self._stand = Stand(ticks)
        self._loop = asyncio.get_running_loop()
        self._thread_of_loop = threading.get_ident()
        self._asked_at: float | None = None  # a beat that has not come yet
        self._below: FrameType | None = None  # the frame that all callbacks have below them

    def start(self) -> None:
        if self._bound_s:
            signal.signal(signal.SIGVTALRM, self._on_timer)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while not self._loop.is_closed():
            self._set_timer(self._bound_s)
            if self._asked_at is None:
                self._stand.tick(None)
                self._ask()
            elif self._stand.tick(self._place()) and self._bound_s:
                self.end()
            time.sleep(self._tick_s)
        self._set_timer(0)

    def _set_timer(self, seconds: float) -> None:
        if signal.getsignal(signal.SIGVTALRM) == self._on_timer:  # else it is a profiler's by now
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds)

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._beat)
        except RuntimeError:
            pass  # it was closed just now

    def _beat(self) -> None:
        """On the loop."""
        asked_at, self._asked_at = self._asked_at, None
        self._below = sys._getframe().f_back
        if asked_at is not None:
            metrics.loop_delay.of().observe(time.monotonic() - asked_at)

    def _place(self) -> object:
        """The outermost frame of the callback that the loop runs; None where a debugger has stopped it.

        uvloop has no frames of its own. With another loop, or where none is found, it is the same for all callbacks.
        """
        place: object = self._loop
        frame = sys._current_frames().get(self._thread_of_loop)
        while frame is not None and frame is not self._below:
            if str(frame.f_globals.get("__name__")).startswith(DEBUGGERS):
                return None
            place, frame = frame, frame.f_back
        return place

    def _on_timer(self, _signal: int, _frame: Any) -> None:
        self.end()

    def end(self) -> None:
        """End this process without more ado: nothing that a loop would do for its end can be done."""
        try:
            telling = threading.Thread(target=self._tell, name="watchdog-tells", daemon=True)
            telling.start()
            telling.join(TELL_S)
        finally:
            os._exit(STATUS)

    def _tell(self) -> None:
        log.critical("loop_stands", bound_s=self._bound_s, status=STATUS, stack=stacks())


def stacks() -> str:
    """Of all threads."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
