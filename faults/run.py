"""One run of one fault: what chats do meanwhile, the wait for calm, and the record of all that was seen."""

import asyncio
import json
import random
import re
import time
import urllib.request
import uuid
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from faults import facts, look
from faults.client import Tab, next_event
from faults.house import House, Worker, until
from providers import fake_openai

SIZE = 5  # characters of a token
CALM_S = 90.0
TIDY_S = 75.0  # a provider's connections are kept for 30 s
SETTLE_S = 0.1
DESCRIPTORS = 40  # more than at the start: pools that have grown
T = TypeVar("T")
_SAID = re.compile(r"#(\w+)")


class Speech(msgspec.Struct):
    """Something said, and its `ok`."""

    id: str
    tab: Tab
    ok: facts.Json

    @property
    def turn(self) -> str:
        return self.ok["turn"]


class Result(msgspec.Struct):
    """`wrong`: by invariant, what it found; what a fault itself expected is under `fault`."""

    wrong: dict[str, list[str]]
    waits: list[float]
    notes: list[str]
    took_s: float

    @property
    def has_held(self) -> bool:
        return not any(self.wrong.values())


class Run:
    """What a fault works on. It says `hit` at the moment of the fault."""

    size = SIZE
    first = look.FIRST  # of each answer, before the numbered tokens

    def __init__(self, house: House, seed: int) -> None:
        self.house = house
        self.seed = seed
        self.chance = random.Random(seed)
        self.tabs: list[Tab] = []
        self.chats: list[str] = []
        self.answers: dict[str, str] = {}
        self.hit_at: float | None = None
        self.wrong: list[str] = []
        self.notes: list[str] = []
        self._tasks: list[asyncio.Task] = []
        self._began = time.monotonic()
        self.skewed = ""  # the worker whose clock is wrong: what it says of times is not believed
        house.model.seen.reset()

    # --------------------------------------------------------------------------------- what chats do

    def workers(self) -> tuple[Worker, Worker]:
        """Whom the fault meets, and one that it leaves alone, in an order by chance."""
        one, other, *_ = self.chance.sample(self.house.workers, len(self.house.workers))
        return one, other

    async def tab(self, worker: Worker, chat: str | None = None, flow: str = "talk", door: str = "") -> Tab:
        """A tab that is shown by `worker` at first, through its own proxy or `door`."""
        chat = chat or self.fresh_chat()
        tab = Tab(chat, flow, self.house.token, self.house.doors, door or worker.address)
        self.tabs.append(tab)
        return await tab.open()

    def fresh_chat(self) -> str:
        chat = str(uuid.UUID(int=self.chance.getrandbits(128), version=4))
        self.chats.append(chat)
        return chat

    def words(self, tokens: int, id_: str, **directive: Any) -> str:
        """A text that the model answers with so many numbered tokens, and the answer that is to be stored for it."""
        self.answers[id_] = self.first + "".join(fake_openai.numbered(tokens, self.size))
        told = {"tokens": tokens, "size": self.size, **directive}
        return f"{json.dumps({'fake': told})} #{id_}"

    def fresh_id(self) -> str:
        return f"s{self.chance.getrandbits(48):012x}"

    async def say(self, tab: Tab, tokens: int, rate: float, id: str = "", **directive: Any) -> Speech:
        id_ = id or self.fresh_id()
        text = self.words(tokens, id_, rate=rate, **directive)
        ok = await tab.say(text, id=id_)
        return Speech(id_, tab, ok)

    async def streaming(
        self, owner: Worker, viewer: Worker, tokens: int = 200, rate: float = 20, chars: int | None = None
    ) -> tuple[Speech, Tab]:
        """A chat of two tabs whose turn `owner` runs, once so many characters are shown. The tab is the viewer's."""
        mine = await self.tab(owner)
        other = await self.tab(viewer, mine.chat)
        said = await self.say(mine, tokens, rate * (2 if self.house.is_quick else 1))
        shown = len(self.first) + self.size * self.chance.randint(3, 30) if chars is None else chars
        await other.until_text(said.turn, shown)
        return said, other

    async def waiting(self, worker: Worker) -> tuple[Speech, str]:
        """A chat whose turn waits for an answer, and the question."""
        tab = await self.tab(worker, flow="ask")
        said = await self.say(tab, 20, 0)
        question = await tab.until(lambda: tab.view.turns.get(said.turn, {}).get("question"), 30)
        return said, question["question"]

    async def answer(self, said: Speech, question: str) -> None:
        self.expect("question" in await said.tab.command("answer", question=question, value="yes"), "an ok of answer")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    # -------------------------------------------------------------------------------------- the fault

    def hit(self) -> None:
        self.hit_at = self.hit_at or time.time()

    def expect(self, is_so: object, what: str) -> None:
        """What this fault promises besides the invariants."""
        if not is_so:
            self.wrong.append(what)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def variant(self, *ways: T) -> T:
        """One of the ways that a fault can be done: seeds that follow each other do them all."""
        way = ways[self.seed % len(ways)]
        self.note(f"{way}")
        return way

    async def pause(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.chance.uniform(least_s, most_s))

    async def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.to_thread(fn, *args)

    async def rest(self, worker: Worker, method: str, path: str, body: Any = None, id_: str = "") -> Any:
        return await asyncio.to_thread(ask, worker, self.house.token, method, path, body, id_)

    # --------------------------------------------------------------------------------- calm and record

    async def finish(self) -> facts.History:
        """Wait for calm, look at everything, let the clients go, and look at what is left."""
        for task in self._tasks:
            await task
        await self._calm()
        history = facts.History(
            clients=[tab.record for tab in self.tabs],
            turns=await self.call(look.turns, self.chats),
            replies=await self.call(look.replies, self.chats),
            kept=[] if self.skewed else await self.call(look.kept, self.chats),
            answers=self.answers,
            calls=self._calls(),
            began=self._runs(),
            killed={id_: at for worker in self.house.workers for id_, at in worker.killed_at.items()},
        )
        alive = next(worker for worker in self.house.workers if worker.is_running)
        with self.house.store.client() as store:
            for chat in self.chats:
                history.logs[chat] = await self.call(look.log, store, chat)
        for chat in sorted({turn.chat for turn in history.turns}):  # others have no row
            history.stored[chat] = await self._stored(alive, chat)
        await asyncio.gather(*(tab.close() for tab in self.tabs))
        await self._tidy(history)
        return history

    async def _calm(self) -> None:
        """Every turn has ended or waits, all is told, and every tab shows the top. Past its time it is no calm."""
        deadline = time.monotonic() + CALM_S
        left = ["nothing was looked at"]
        while left and time.monotonic() < deadline:
            left = await self.call(look.unsettled, self.chats)
            left = left or [word for tab in self.tabs for word in self._behind(tab)]
            await asyncio.sleep(0.1)
        self.wrong += [f"no calm within {CALM_S:.0f} s: {word}" for word in left[:5]]

    def _behind(self, tab: Tab) -> list[str]:
        if tab.fault:
            return []  # it is told as what it is
        if tab.connection is None:
            return [f"{tab.record.name} has no connection"]
        states = {turn["state"] for turn in tab.view.turns.values()} - {"waiting"}
        if states:
            return [f"{tab.record.name} shows a turn as {states}"]
        tops = [other.view.seq for other in self.tabs if other.chat == tab.chat and other.view.epoch == tab.view.epoch]
        return [f"{tab.record.name} is at {tab.view.seq}, others at {max(tops)}"] if tab.view.seq < max(tops) else []

    async def _stored(self, worker: Worker, chat: str) -> facts.Stored:
        shown = await self.rest(worker, "GET", f"chats/{chat}/")
        messages, path = [], f"chats/{chat}/messages/"
        while path:
            page = await self.rest(worker, "GET", path)
            messages += page["results"]
            path = (page["next"] or "").partition("/api/")[2]
        return facts.Stored(shown["title"], shown["head"], messages)

    async def _tidy(self, history: facts.History) -> None:
        """What is left once the clients have gone; burials and subscriptions get their time."""
        sessions = [connection.session for tab in self.tabs for connection in tab.record.connections]
        sessions = [session for session in sessions if session]
        dead = list(history.killed)
        live = [worker for worker in self.house.workers if worker.is_running]

        def undone() -> list[str]:
            with self.house.store.client() as store:
                left = look.undead(sessions, dead) + look.left_in(store, self.chats)
            for worker in live:
                count = worker.count_descriptors() - worker.descriptors
                if count > DESCRIPTORS:
                    left.append(f"{worker.name} has {count} descriptors more than at its start: {worker.peers()}")
            return left

        try:
            await until(lambda: not undone(), TIDY_S, "all is tidy")
        except TimeoutError:
            history.left_over = await self.call(undone)
        history.sessions = await self.call(look.sessions, sessions)
        history.workers = [w for w in await self.call(look.workers) if w.id in dead]

    def _calls(self) -> list[facts.Call]:
        calls = []
        for request in self.house.model.seen.requests:
            said = request.body["messages"][-1]["content"]
            found = _SAID.search(said)
            if found and request.status == 200:
                node = "first" if "[first]" in said else "second"
                calls.append(facts.Call(found[1], node, fake_openai.WALL_AT_0 + request.began))
        return calls

    def _runs(self) -> list[facts.Began]:
        chats = set(self.chats)
        return [
            facts.Began(line["turn"], line["attempt"], worker.name, self._moment(worker, line["timestamp"]))
            for worker in self.house.workers
            for line in worker.lines()
            if line.get("event") == "turn_runs" and line["chat"] in chats
        ]

    def _moment(self, worker: Worker, text: str) -> float:
        """A wrong clock's is before everything."""
        return 0.0 if worker.name == self.skewed else datetime.fromisoformat(text).timestamp()

    def result(self, wrong: dict[str, list[str]]) -> Result:
        waits = []
        if self.hit_at is not None:
            found = [next_event(tab.record, self.hit_at, SETTLE_S) for tab in self.tabs]
            waits = [wait for wait in found if wait is not None]
        return Result({**wrong, "fault": self.wrong}, waits, self.notes, time.monotonic() - self._began)

    async def close(self) -> None:
        """Whatever happened: no task and no socket of this run goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(tab.close() for tab in self.tabs), return_exceptions=True)


def ask(worker: Worker, token: str, method: str, path: str, body: Any = None, id_: str = "") -> Any:
    """REST of a worker, not through its proxy. `id_`: of the command."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{worker.port}/api/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers=headers | ({"Idempotency-Key": id_} if id_ else {}),
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.loads(response.read())
