"""A reader of server-sent events for tests: each wait with a deadline."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

RECV_S = 20.0


class Event(NamedTuple):
    type: str
    id: str | None
    data: dict[str, Any]
    size: int  # bytes of `data` as they came


class Reader:
    """`events`: all that came, in order; `comments`: how many."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.events: list[Event] = []
        self.comments = 0

    @property
    def told(self) -> list[Event]:
        """The events with a position."""
        return [event for event in self.events if event.type != "snapshot" and "seq" in event.data]

    async def next(self, within_s: float = RECV_S) -> Event | None:
        """The next event; None: the server ended the answer."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(within_s):
            async for raw in self.response.content:
                line = raw.decode().rstrip("\n")
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "data" in fields:
                    data = fields["data"]
                    event = Event(fields["event"], fields.get("id"), json.loads(data), len(data.encode()))
                    self.events.append(event)
                    return event
                else:
                    fields = {}
        return None

    async def until(self, *types: str) -> Event:
        while True:
            event = await self.next()
            assert event is not None, f"ended before {types}: {self.events}"
            if event.type in types:
                return event

    async def to_end(self) -> list[Event]:
        while await self.next() is not None:
            pass
        return self.events


@asynccontextmanager
async def reading(http: aiohttp.ClientSession, url: str, **headers: str) -> AsyncIterator[Reader]:
    timeout = aiohttp.ClientTimeout(total=None)
    async with http.get(url, headers=headers, timeout=timeout) as response:
        yield Reader(response)
