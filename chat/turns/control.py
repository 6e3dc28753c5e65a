"""Control messages between workers, by the channel layer: stop, released turns, closed sessions, deleted chats, lists.

A layer may lose messages: what hangs on one is polled too.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog
from channels.layers import get_channel_layer
from django.conf import settings

from streams import redis

GROUP = "workers"

log = structlog.get_logger("headrace.worker")


class Control:
    """`heed` acts on each message, whoever sent it: this worker's own at once. `others`: workers besides this one."""

    def __init__(
        self,
        worker: str,
        heed: Callable[[dict[str, Any]], None],
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task],
    ) -> None:
        self.others = 0
        self._worker, self._heed, self._spawn = worker, heed, spawn

    def send(self, kind: str, **target: Any) -> None:
        """To every worker, this one included. Each message names its target; who has it acts."""
        message = {"kind": kind, **target}
        self._heed(message)
        if self.others:
            self._spawn(self._to_others(message))

    async def tell_others(self, kind: str, **target: Any) -> None:
        """To all but this one, whether some are known or not. Returns once it was sent, or could not be."""
        await self._to_others({"kind": kind, **target})

    async def listen(self) -> None:
        """The one task of this worker that listens to the layer. Ends by being cancelled."""
        while True:
            layer = get_channel_layer()
            try:
                channel = await layer.new_channel(f"{self._worker}.")
                await layer.group_add(GROUP, channel)
                while True:
                    self._take(await layer.receive(channel))
            except Exception:
                log.warning("control_deaf", exc_info=True)
            finally:
                await self._leave(layer)
            await asyncio.sleep(settings.HEADRACE.redis_timeout_s)

    def _take(self, message: dict[str, Any]) -> None:
        """One that can't be heeded costs no other."""
        if message.get("by") == self._worker:
            return
        try:
            self._heed(message)
        except Exception:
            log.exception("control_failed", kind=message.get("kind"))

    async def _leave(self, layer: Any) -> None:
        """Drop this worker's channel, which the layer would fill for ever; also one that it made and did not name."""
        for channel in [name for name in layer.channels if f"{self._worker}." in name]:
            with suppress(Exception):
                async with asyncio.timeout(settings.HEADRACE.redis_timeout_s):
                    await layer.group_discard(GROUP, channel)
            layer.channels.pop(channel, None)

    async def _to_others(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(settings.HEADRACE.redis_timeout_s):
                named = {"type": "control", "by": self._worker, **message}
                await get_channel_layer().group_send(GROUP, named)
        except (OSError, TimeoutError, redis.Trouble) as error:
            log.warning("control_lost", kind=message["kind"], reason=type(error).__name__)
