"""A page as the tests drive it: a socket whose frames make a view, and which comes back by its position."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.chat.view import View
from tests.wire import Socket, opened


class Tab(Socket):
    """`view`: what is shown, over all connections that were given the same one."""

    view: View
    acks_every = 0
    _unacked = 0

    async def recv(self, within_s: float = 10.0) -> dict[str, Any]:
        frame = await super().recv(within_s)
        self.view.apply(frame)
        if self.acks_every and "seq" in frame and frame["type"] not in ("welcome", "snapshot"):
            self._unacked += 1
            if self._unacked == self.acks_every:
                self._unacked = 0
                await self.send(type="ack", seq=frame["seq"])
        return frame

    async def until_text(self, chars: int, turn: str | None = None) -> None:
        """Until so many characters of the answer are shown, or it has ended (`turn` null: the first of the chat)."""
        while len(self.text(turn)) < chars and not (turn in self.view.ended if turn else self.view.ended):
            await self.recv()

    async def until_stored(self, turn: str) -> dict[str, Any]:
        """The answer of this turn once it has ended, told by an event or by a snapshot."""
        while turn not in self.view.ended:
            await self.recv()
        shown = self.view.messages.values()
        return next(message for message in shown if message["turn"] == turn and message["role"] == "assistant")

    async def until_ended(self, turn: str) -> dict[str, Any]:
        """The end of this turn, which may be shown already."""
        while turn not in self.view.ended:
            await self.recv()
        return next(frame for frame in self.frames if frame["type"] == "turn_end" and frame["turn"] == turn)

    def text(self, turn: str | None = None) -> str:
        """The text of the open turn (the first one, or `turn`) as shown."""
        for id_, shown in self.view.turns.items():
            if turn in (None, id_):
                return "".join(part.get("text", "") for part in shown["parts"] if part["kind"] == "text")
        return ""

    def abort(self) -> None:
        """Gone without a close frame."""
        self.connection.transport.abort()


@asynccontextmanager
async def tab_at(
    host: str,
    flow: str,
    token: str,
    chat: str,
    view: View | None = None,
    sock: socket.socket | None = None,
    **query: Any,
) -> AsyncIterator[Tab]:
    """A tab on the chat, by `sock` where a connection is there. A view that has begun comes back by its position;
    `query` is added to the address."""
    view = view or View()
    asked = {"chat_id": chat}
    if view.has_begun:
        asked |= {"epoch": view.epoch, "seq": view.seq}
    asked |= query
    address = f"/chat/{flow}?" + "&".join(f"{name}={value}" for name, value in asked.items())
    async with opened(host, address, token, max_queue=None, sock=sock) as opening:
        tab = Tab(opening.connection)
        tab.view = view
        yield tab


def fake(**directive: Any) -> str:
    """A message that tells the model's fake server what to do."""
    return json.dumps({"fake": directive})
