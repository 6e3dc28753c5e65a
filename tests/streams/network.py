"""A network that moves only when told: the store is real, the way to it is the test's to decide.

What a link is given stays with it until `serve` (the store does it) and `deliver` (the answers arrive). Together with
`Clock`, the same steps give the same run on any machine.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis
from django.conf import settings

from streams.redis import pack

STORE_S = 30.0  # the store's machine may be busy; nothing here depends on how long it takes


class Network:
    """All links of a test. `flows`: everything is carried as soon as there is nothing else to do."""

    def __init__(self) -> None:
        self.flows = False
        self.is_away = False
        self.links: list[StepLink] = []
        self._settled: list[asyncio.Future] = []
        asyncio.get_running_loop().on_idle = self._on_idle

    async def open(
        self,
        on_reply: Callable[[Any], None],
        on_lost: Callable[[Any], None],
        scripts: Sequence[str] = (),
        url: None = None,
    ) -> "StepLink":
        """In the place of `Link.open`."""
        await asyncio.sleep(0)
        if self.is_away:
            raise ConnectionRefusedError("away")
        link = StepLink(self, on_reply, on_lost)
        for script in scripts:
            link.store.ask(pack("SCRIPT", "LOAD", script))
        self.links.append(link)
        return link

    async def settle(self) -> None:
        """Return when nobody can do anything more with what has arrived."""
        settled = asyncio.get_running_loop().create_future()
        self._settled.append(settled)
        await settled

    async def flow(self) -> None:
        """Carry everything, until nothing is under way."""
        await self.settle()
        while self.carry():
            await self.settle()

    def carry(self) -> bool:
        """All that is under way now. False: nothing was."""
        for link in self.links:
            link.serve()
        delivered = [link.deliver() for link in tuple(self.links)]
        return any(delivered)

    def lose_pushes(self) -> None:
        """What was published and has not arrived never will."""
        for link in self.links:
            link.serve()
            link.arrived = deque(each for each in link.arrived if not _is_message(each))

    def _on_idle(self) -> bool:
        if self._settled:
            for settled in self._settled:
                if not settled.done():
                    settled.set_result(None)
            self._settled.clear()
            return True
        return self.flows and self.carry()


class StepLink:
    """In the place of a `Link`."""

    def __init__(self, network: Network, on_reply: Callable[[Any], None], on_lost: Callable[[Any], None]) -> None:
        self.store = Store()
        self.requests: list[bytes] = []
        self.arrived: deque[Any] = deque()
        self._network = network
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._closed = asyncio.get_running_loop().create_future()
        self._is_open = True
        self._hears = False

    def write(self, packed: bytes) -> None:
        if self._is_open:
            self.requests.append(packed)
            self._hears = self._hears or b"\r\nSUBSCRIBE\r\n" in packed

    def serve(self) -> None:
        """The store does what was sent. What is published comes without asking."""
        if self.requests or self._hears:
            sent, self.requests = b"".join(self.requests), []
            self.arrived.extend(self.store.ask(sent))

    def deliver(self, count: int | None = None) -> bool:
        """Up to `count` answers and pushes arrive. False: there were none."""
        delivered = 0
        while self.arrived and self._is_open and delivered != count:
            delivered += 1
            self._on_reply(self.arrived.popleft())
        return delivered > 0

    def snap(self, is_done: bool) -> None:
        """It breaks: what was sent was done, or not, and no answer will come."""
        if is_done:
            self.serve()
        self.abort()

    def abort(self) -> None:
        if self._is_open:
            self._is_open = False
            self.store.close()
            self._network.links.remove(self)
            asyncio.get_running_loop().call_soon(self._lose)

    async def aclose(self) -> None:
        self.abort()
        await self._closed

    def _lose(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        self._on_lost(self)


class Store:
    """A plain connection to the store of this run."""

    def __init__(self) -> None:
        pool = redis.ConnectionPool.from_url(
            settings.REDIS_ADDRESS(),
            protocol=2,
            socket_timeout=STORE_S,
            driver_info=None,  # else each connection looks up its package's version, which takes longer than a case
        )
        self._connection = pool.make_connection()
        self._connection.connect()
        self._replies = hiredis.Reader(notEnoughData=_MORE)

    def ask(self, packed: bytes = b"") -> list[Any]:
        """All answers to `packed`, and all that was published for this connection until they were made."""
        socket = self._connection._sock
        socket.sendall(packed + pack("PING", _MARK))
        answers = []
        while True:
            answer = self._replies.gets()
            if answer is _MORE:
                self._replies.feed(socket.recv(65536))
            elif answer == _MARK or answer == [b"pong", _MARK]:
                return answers
            else:
                answers.append(answer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.disconnect()


_MORE = object()
_MARK = b"until here"


def _is_message(push: Any) -> bool:
    return isinstance(push, list) and push[0] == b"message"
