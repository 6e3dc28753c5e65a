"""A client as a good one is: it comes back by its position, sends a command until it is answered, and records all."""

import asyncio
import functools
import itertools
import json
import random
import time
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.frames import DATA_OPCODES, Frame

from faults.facts import Client, Command, Connection, Json, Seen
from tests.chat.view import NOT_EVENTS, View

OPEN_S = 10.0
PAUSE_S = 0.1  # before it comes back, up to ten times as much
AGAIN_S = 0.3  # after an error that may pass
SILENT_S = 3.0  # without an answer a command is sent again
POLL_S = 0.02
_names = itertools.count(1)


class _Recording(ClientConnection):
    """Notes each frame of data as it comes off the wire, whether or not anybody reads it."""

    def __init__(self, *args: Any, tab: "Tab", door: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tab = tab
        self.record = Connection(door, time.time())
        tab.record.connections.append(self.record)

    def process_event(self, event: Any) -> None:
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            frame = json.loads(event.data)
            self.record.seen.append(Seen(time.time(), len(event.data), frame))
            self._tab.took(frame, self.record)
        super().process_event(event)

    async def send(self, message: Any, *args: Any, **options: Any) -> None:
        await super().send(message, *args, **options)
        self.record.sent.append((time.time(), len(message.encode())))


class Tab:
    """One tab of a chat. `doors`: addresses of workers that it may come to, the first one first."""

    def __init__(self, chat: str, flow: str, token: str, doors: Callable[[], list[str]], first: str) -> None:
        self.chat, self._flow, self._token = chat, flow, token
        self._doors, self._first = doors, first
        self.record = Client(f"tab {next(_names)}", chat)
        self.view = View()
        self.fault = ""  # what its view found wrong: it goes on without one
        self.stays_away = False
        self.connection: _Recording | None = None
        self._task: asyncio.Task | None = None
        self._replies: dict[str, Json] = {}

    # ------------------------------------------------------------------------------------------ life

    async def open(self) -> "Tab":
        """Returns once its chat is shown."""
        self._task = asyncio.create_task(self._live())
        await self.until(lambda: self.view.has_begun, OPEN_S * 2)
        return self

    async def close(self) -> None:
        """With a close frame, if there is a connection."""
        self.stays_away = True
        connection = self.connection
        if connection is not None:
            connection.record.is_ours = True
            await connection.close()
            connection.record.is_clean = connection.protocol.close_rcvd is not None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def cut(self) -> None:
        """Gone without a close frame."""
        if self.connection is not None:
            self.connection.transport.abort()

    async def _live(self) -> None:
        for tries in itertools.count():
            if self.stays_away:
                return
            doors = [self._first] if tries == 0 else self._doors()
            if doors:
                door = random.choice(doors)
                try:
                    await self._connect(door)
                except (OSError, InvalidHandshake, InvalidMessage, TimeoutError, EOFError, ConnectionClosed):
                    pass
                finally:
                    self.connection = None
                    for connection in self.record.connections[-1:]:
                        connection.ended = time.time()
            await asyncio.sleep(random.uniform(1, 10) * PAUSE_S)

    async def _connect(self, door: str) -> None:
        async with connect(
            self.address(door),
            additional_headers={"Authorization": f"Bearer {self._token}"},
            create_connection=functools.partial(_Recording, tab=self, door=door),
            compression=None,
            proxy=None,
            max_size=None,
            max_queue=None,
            open_timeout=OPEN_S,
            close_timeout=2,
            ping_interval=None,
        ) as connection:
            self.connection, record = connection, connection.record
            await self.arrived(door)
            try:
                while True:
                    await connection.recv()
            except ConnectionClosed as closed:
                record.is_clean = closed.rcvd is not None
                record.code = closed.rcvd.code if closed.rcvd else None

    def address(self, door: str) -> str:
        address = f"ws://{door}/chat/{self._flow}?chat_id={self.chat}"
        if self.view.has_begun and not self.fault:
            address += f"&epoch={self.view.epoch}&seq={self.view.seq}"
        return address

    async def arrived(self, door: str) -> None:
        """What a client asks for besides, once it has a connection. An OSError gives that connection up."""

    def took(self, frame: Json, connection: Connection) -> None:
        """A frame came."""
        if frame["type"] in ("ok", "error") and frame.get("id"):
            self._replies[frame["id"]] = frame
        elif frame["type"] == "welcome":
            connection.session = frame["session"]
        if self.fault:
            return
        try:
            self.view.apply(frame)
        except AssertionError as error:
            self.fault = str(error).partition("\n")[0]

    # -------------------------------------------------------------------------------------- commands

    async def command(self, type: str, within_s: float = 60.0, **body: Any) -> Json:
        """Its `ok`, or the error that no repeat mends; meanwhile it is sent as often as it takes."""
        id_ = body.pop("id", None) or f"c{random.getrandbits(48):012x}"
        self.record.commands.append(Command(id_, type, time.time(), body))
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            await self._send(type=type, id=id_, **body)
            reply = await self._reply(id_)
            if reply is None:
                continue
            if reply["type"] == "ok" or not reply["retryable"]:
                return reply
            await asyncio.sleep(AGAIN_S)
        raise TimeoutError(f"{self.record.name}: {type} was not answered within {within_s} s")

    async def say(self, text: str, **body: Any) -> Json:
        return await self.command("say", text=text, **body)

    async def ask_once(self, type: str, within_s: float, **body: Any) -> Json | None:
        """The answer to one sending, whatever it is. A retryable one is repeated by nobody."""
        id_ = body.pop("id")
        self.record.commands.append(Command(id_, type, time.time(), body))
        await self._send(type=type, id=id_, **body)
        return await self._reply(id_, within_s)

    async def ping(self, within_s: float) -> float | None:
        """Seconds until the pong; null: none came."""
        began, word = time.monotonic(), f"{random.getrandbits(32):x}"
        await self._send(type="ping", t=word)
        while time.monotonic() < began + within_s:
            if self.connection is not None and any(
                seen.frame["type"] == "pong" and seen.frame.get("t") == word for seen in self.connection.record.seen
            ):
                return time.monotonic() - began
            await asyncio.sleep(POLL_S)
        return None

    async def _send(self, **frame: Any) -> None:
        """Where there is a connection, and it is still one; else nothing: the command is sent again."""
        if self.connection is None:
            await asyncio.sleep(PAUSE_S)
            return
        try:
            await self.connection.send(json.dumps(frame))
        except ConnectionClosed:
            pass

    async def _reply(self, id_: str, within_s: float = SILENT_S) -> Json | None:
        sent_on, deadline = self.connection, time.monotonic() + within_s
        while time.monotonic() < deadline and self.connection is sent_on:
            if id_ in self._replies:
                return self._replies.pop(id_)
            await asyncio.sleep(POLL_S)
        return self._replies.pop(id_, None)

    # -------------------------------------------------------------------------------- what is shown

    def text(self, turn: str) -> str:
        """Of an open turn."""
        parts = self.view.turns.get(turn, {"parts": []})["parts"]
        return "".join(part.get("text", "") for part in parts if part["kind"] == "text")

    async def until(self, check: Callable[[], Any], within_s: float) -> Any:
        """What `check` gives once it is true. Raises TimeoutError."""
        deadline = time.monotonic() + within_s
        while not (result := check()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.record.name}: not within {within_s:.0f} s {self.fault[:200]}")
            await asyncio.sleep(POLL_S)
        return result

    async def until_text(self, turn: str, chars: int, within_s: float = 30.0) -> None:
        await self.until(lambda: len(self.text(turn)) >= chars or turn in self.view.ended, within_s)

    async def until_ended(self, turn: str, within_s: float = 90.0) -> None:
        await self.until(lambda: turn in self.view.ended, within_s)


def next_event(client: Client, since: float, settle_s: float) -> float | None:
    """Seconds from `since` until its next event, or the snapshot of another epoch.

    What comes within `settle_s` was on its way.
    """
    epoch = ""
    for connection in client.connections:
        for seen in connection.seen:
            kind = seen.frame["type"]
            is_other = kind == "snapshot" and seen.frame["epoch"] != epoch
            if kind == "snapshot":
                epoch = seen.frame["epoch"]
            if seen.at > since + settle_s and (is_other or kind not in NOT_EVENTS):
                return seen.at - since
    return None
