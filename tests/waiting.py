"""Waiting for a condition, with a deadline. The one place of the tests where time passes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

POLL_S = 0.01
WITHIN_S = 20.0  # for what takes milliseconds: the machine may be busy


async def until(check: Callable[[], Any], within_s: float = WITHIN_S, what: str = "") -> Any:
    """What `check` returns once it is true; `check` may be a coroutine function. Fails past the deadline."""
    deadline = time.monotonic() + within_s
    while True:
        result = check()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or check}"
        await asyncio.sleep(POLL_S)


def wait_until(check: Callable[[], Any], within_s: float = WITHIN_S, what: str = "") -> Any:
    """As `until`, for tests without an event loop."""
    deadline = time.monotonic() + within_s
    while not (result := check()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or check}"
        time.sleep(POLL_S)
    return result
