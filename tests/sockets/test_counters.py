"""What a session's row says of its traffic is what the client counted: frames, and their payload bytes."""

import asyncio
import random
import uuid
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.frames import DATA_OPCODES, Frame

from streams import database
from streams.models import StreamSession
from tests import serving
from tests.chat.conftest import graph_of, node
from tests.sockets.tabs import fake
from tests.waiting import until
from tests.wire import Closed, Socket

SEED = 100
CONVERSATIONS = 100
AT_ONCE = 10
WORDS = ["water", "wheel", "naïve café", "水車", "🎡", "tabs\tand\nlines", '"quoted"']
ASKS = graph_of(
    node("start", "start"),
    node("model", "llm", provider="model", model="m", prompt="{{ input.text }}"),
    node("ask", "question", text="And now?", options=[{"id": "a", "label": "Ä"}, {"id": "b", "label": "B"}]),
    node("end", "end"),
)


class Counting(ClientConnection):
    """Counts frames of data as they come off the wire, whether or not anybody reads them, and as they go out."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.came: list[int] = []
        self.went: list[int] = []

    def process_event(self, event: Any) -> None:
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self.came.append(len(event.data))
        super().process_event(event)

    async def send(self, message: Any, *args: Any, **options: Any) -> None:
        await super().send(message, *args, **options)
        self.went.append(len(message.encode() if isinstance(message, str) else message))


def is_over(frame: dict[str, Any]) -> bool:
    return frame["type"] in ("turn_end", "question", "error") or frame.get("queued") is True or "question" in frame


class Person:
    """One tab of a conversation, which does something at random, again and again."""

    def __init__(self, chance: random.Random, socket: Socket) -> None:
        self.chance, self.socket, self.bad = chance, socket, 0
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                await self.socket.recv(60)
        except Closed:
            pass

    def last(self, *types: str) -> dict[str, Any]:
        found = [frame for frame in self.socket.frames if frame["type"] in types]
        return found[-1] if found else {}

    async def act(self) -> None:
        chance = self.chance
        does = chance.choices(
            [
                self.say,
                self.ask_model,
                self.stop,
                self.ack,
                self.answer,
                self.regenerate,
                self.ping,
                self.err,
                self.look,
            ],
            [3, 3, 1, 3, 2, 1, 2, 1, 3],
        )[0]
        await does()

    async def send(self, type: str, **fields: Any) -> None:
        await self.socket.send(type=type, **fields)

    def id(self) -> str:
        return f"{self.chance.getrandbits(64):x}"

    async def say(self) -> None:
        text = " ".join(self.chance.choices(WORDS, k=self.chance.randint(1, 30)))
        await self.send("say", id=self.id(), text=text)

    async def ask_model(self) -> None:
        seen = len(self.socket.frames)
        text = fake(tokens=self.chance.randint(1, 150), rate=self.chance.choice([0, 1000, 4000]))
        await self.send("say", id=self.id(), text=text)
        if self.chance.random() < 0.7:
            await until(lambda: any(map(is_over, self.socket.frames[seen:])), what="it is answered, or asks, or waits")

    async def stop(self) -> None:
        await self.send("stop", id=self.id())

    async def ack(self) -> None:
        events = [frame["seq"] for frame in self.socket.frames if "seq" in frame and frame["type"] != "welcome"]
        if events:
            await self.send("ack", seq=events[-1])

    async def answer(self) -> None:
        question = self.last("question").get("question")
        if question:
            await self.send("answer", id=self.id(), question=question, value=self.chance.choice(["a", "b", "nothing"]))

    async def regenerate(self) -> None:
        end = self.last("turn_end")
        if end:
            await self.send("regenerate", id=self.id(), message=end["message"]["id"])

    async def ping(self) -> None:
        await self.send("ping", t=self.chance.choice(WORDS))

    async def err(self) -> None:
        self.bad += 1
        if self.bad <= 8:
            connection = self.socket.connection
            await connection.send(
                self.chance.choice(["{", b"\x00\x01", '{"type":"näh"}', '{"type":"say","id":"x"}', ""])
            )

    async def look(self) -> None:
        """Until something comes."""
        seen = len(self.socket.frames)
        await self.ping()
        await until(lambda: len(self.socket.frames) > seen, what="something comes")

    async def leave(self) -> None:
        """In one of the ways that sockets end; a close frame comes or goes in each."""
        connection = self.socket.connection
        match self.chance.choice(["now", "calm", "thrown out"]):
            case "calm":
                await self.send("ping", t="bye")
                await until(lambda: any(f["type"] == "pong" and f["t"] == "bye" for f in self.socket.frames))
            case "thrown out":
                for _ in range(11 - min(self.bad, 8)):
                    await connection.send("no JSON")
                await self.reading
        await connection.close()
        await self.reading


async def converse(live: Any, address: str, token: str, chance: random.Random) -> list[tuple[str, Counting]]:
    """One conversation in one to three tabs. Returns each session's id and its connection."""
    chat = uuid.UUID(int=chance.getrandbits(128), version=4)
    tabs: list[tuple[str, Counting]] = []

    async def sit(steps: int, chance: random.Random) -> None:
        async with live.open(f"{address}?chat_id={chat}", token, create_connection=Counting, max_queue=None) as socket:
            welcome = await socket.recv()
            assert welcome["type"] == "welcome", welcome
            tabs.append((welcome["session"], socket.connection))
            person = Person(chance, socket)
            for _ in range(steps):
                await person.act()
            await person.leave()

    async with asyncio.TaskGroup() as group:
        for _ in range(chance.choice([1, 1, 2, 3])):
            group.create_task(sit(chance.randint(3, 15), random.Random(chance.getrandbits(64))))
    return tabs


def row_of(session: StreamSession) -> tuple[int, int, int, int]:
    return session.chunks_sent, session.bytes_sent, session.chunks_recv, session.bytes_recv


async def test_counters_of_a_hundred_random_conversations_equal_the_clients(modelled, live, anna, token_of, bounds):
    bounds(sockets_per_user=100, turns_per_user=100)
    flow, token = await modelled(ASKS), await token_of(anna)
    address = f"/chat/{flow.id}"
    room = asyncio.Semaphore(AT_ONCE)
    tabs: list[tuple[str, Counting]] = []

    async def one(number: int) -> None:
        async with room:
            tabs.extend(await converse(live, address, token, random.Random(SEED + number)))

    async with asyncio.TaskGroup() as group:
        for number in range(CONVERSATIONS):
            group.create_task(one(number))

    rows = await until(lambda: all_ended([session for session, _ in tabs]), what="every session has ended")
    wrong = []
    for session, connection in tabs:
        counted = (len(connection.came), sum(connection.came), len(connection.went), sum(connection.went))
        if row_of(rows[session]) != counted:
            wrong.append((row_of(rows[session]), counted, rows[session].close_reason))
        thrown_out = rows[session].close_reason == "too_many_errors"
        assert rows[session].state == ("error" if thrown_out else "disconnected")
        assert (rows[session].door, rows[session].kind) == ("chat", "text")
    frames = sum(len(connection.came) for _, connection in tabs)
    codes = sorted({row.close_reason for row in rows.values()})
    said = f"{len(tabs)} sockets, {frames} frames, ends {codes}: {len(wrong)} differ"
    print(f"\n{CONVERSATIONS} conversations, {said}")  # noqa: T201
    assert not wrong, f"{len(wrong)} of {len(tabs)}: {wrong[:5]}"


async def all_ended(sessions: list[str]) -> dict[str, StreamSession] | None:
    rows = await database.read(lambda: list(StreamSession.objects.filter(id__in=sessions)))
    if len(rows) < len(sessions) or any(row.ended is None for row in rows):
        return None
    return {str(row.id): row for row in rows}


@pytest.mark.skipif(serving.IS_DAPHNE, reason="its tasks have other names, and end with the process")
async def test_a_socket_whose_application_is_cancelled_ends_its_session(online, tab) -> None:
    """As uvicorn does to those that outlast its shutdown: the peer has said nothing."""
    chat = str(uuid.uuid4())
    async with tab(await online(), chat) as one:
        await one.until("snapshot")
        [running] = [task for task in asyncio.all_tasks() if "run_asgi" in task.get_coro().__qualname__]
        running.cancel()
        rows = StreamSession.objects.filter(chat=chat, ended__isnull=False)
        row = await until(lambda: database.read(rows.first), what="the session has ended")
    assert row.state == "disconnected"
