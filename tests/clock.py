"""An event loop with a clock of its own, which moves only where nobody can do anything else: no test waits for time."""

import asyncio
import selectors
from collections.abc import Callable


class Clock(asyncio.SelectorEventLoop):
    """Its time jumps to the next timer. `on_idle` goes first and says whether it did anything.

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(...)
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.on_idle: Callable[[], bool] = lambda: False
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list:
        if timeout != 0 and not self._clock.on_idle():
            if timeout is None:
                raise RuntimeError("everybody waits, and for nothing")
            self._clock.now += timeout
        return super().select(0)


async def passed(seconds: float) -> None:
    """Return once so much time has passed on the loop's clock."""
    over = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, over.set_result, None)
    await over
