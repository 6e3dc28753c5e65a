"""A peer's client: it comes back, repeats what was not answered, and reads what is stored as its page would."""

import asyncio
import time
import urllib.request
from collections.abc import Callable

import msgspec

from faults.client import POLL_S, Tab
from faults.facts import Connection, Json

ENDED = ("done", "error", "stopped")
READ_S = 10.0


class Turn(msgspec.Struct):
    """As the peer's REST gives it."""

    turn: str
    state: str
    said: str
    answer: str

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


class Shown:
    """What a tab shows: answers of turns that ended, and the text of the one that runs.

    `seq`: how many events came. `is_partial`: it came into a running answer half-way, and can know that.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.seq = 0
        self.epoch = ""
        self.answers: dict[str, str] = {}
        self.live = ""
        self.last = ""  # id of the last entry
        self.is_partial = False

    @property
    def ended(self) -> set[str]:
        return set(self.answers)

    def apply(self, frame: Json) -> None:
        if frame["type"] == "ok":
            return
        self.seq += 1
        self.last = frame.get("id", "")
        if frame["type"] == "delta":
            self.live += frame["text"]
        elif frame["type"] == "turn_end":
            self.answers.setdefault(frame["turn"], self.live)
            self.live = ""

    def load(self, turns: list[Turn]) -> None:
        self.answers |= {turn.turn: turn.answer for turn in turns if turn.has_ended}
        self.has_begun = True


class PeerTab(Tab):
    """`can_resume`: the server sends what follows the last entry that was seen."""

    view: Shown

    def __init__(self, chat: str, doors: Callable[[], list[str]], first: str, can_resume: bool, quiet_s: float) -> None:
        super().__init__(chat, "", "", doors, first)
        self.view = Shown()
        self._can_resume = can_resume
        self._quiet_s = quiet_s
        self._shows: Connection | None = None
        self._reading: set[asyncio.Task] = set()

    def address(self, door: str) -> str:
        return f"ws://{door}/chat/{self.chat}" + (f"?last={self.view.last}" if self.view.last else "")

    async def arrived(self, door: str) -> None:
        """The socket first, then what is stored: the other way about, what comes between is missed."""
        assert self.connection is not None
        self._begin(self.connection.record)
        turns = await asyncio.to_thread(read, door, self.chat)
        self.view.load(turns)
        self.view.is_partial = not self._can_resume and not all(turn.has_ended for turn in turns)

    def took(self, frame: Json, connection: Connection) -> None:
        if frame["type"] == "ok":
            super().took(frame, connection)
            return
        self._begin(connection)
        if frame["type"] == "turn_end" and self.view.is_partial:
            self.view.is_partial, self.view.live = False, ""
            self._read_again(connection.worker)
        else:
            self.view.apply(frame)

    def _begin(self, connection: Connection) -> None:
        """Whoever cannot resume shows only what comes from now on."""
        if connection is not self._shows:
            self._shows = connection
            if not self._can_resume:
                self.view.live, self.view.is_partial = "", True

    def _read_again(self, door: str) -> None:
        async def work() -> None:
            try:
                self.view.load(await asyncio.to_thread(read, door, self.chat))
            except OSError:
                pass  # the worker is gone, so the socket is too, and it is read when that is back

        task = asyncio.create_task(work())
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def close(self) -> None:
        await super().close()
        await asyncio.gather(*self._reading)

    def text(self, turn: str) -> str:
        return self.view.answers.get(turn, self.view.live)

    async def until_ended(self, turn: str, within_s: float = 90.0) -> None:
        """Or until nothing has come for so long that nothing will."""
        deadline, seq, since = time.monotonic() + within_s, -1, 0.0
        while turn not in self.view.ended and time.monotonic() < deadline:
            if self.view.seq != seq:
                seq, since = self.view.seq, time.monotonic()
            if time.monotonic() - since > self._quiet_s:
                return
            await asyncio.sleep(POLL_S)


def read(door: str, chat: str) -> list[Turn]:
    """What is stored of a chat, by a worker's REST. Raises OSError."""
    with urllib.request.urlopen(f"http://{door}/chats/{chat}/messages/", timeout=READ_S) as response:
        return msgspec.json.decode(response.read(), type=list[Turn])
