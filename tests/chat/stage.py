"""A chat with workers that live, die and freeze where a test says, and tabs that look on. All in this process."""

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from accounts.tokens import identity_of
from chat import snapshot
from chat.doors import admission
from chat.models import Chat, Message, Turn
from chat.turns.manager import ChatManager
from chat.turns.states import ACTIVE
from streams import database, redis
from streams.log import Log
from streams.models import Worker
from tests.chat.incarnation import Death, Incarnation
from tests.chat.view import View
from tests.waiting import until

LONG_AGO = "2000-01-01T00:00:00Z"


class Kept:
    """A chat's keys in the store, which may lose them or fall back to what it has on disk."""

    def __init__(self, chat: str) -> None:
        tag = "{" + chat.replace("-", "") + "}"
        self.meta, self.log = redis.key(tag, "meta"), redis.key(tag, "log")
        self._on_disk: list[bytes | None] | None = None

    def look(self) -> tuple[str, int, list[bytes]] | None:
        """Epoch, top and frames as they are; no epoch begins by it."""
        with redis.blocking_client().pipeline(transaction=True) as both:
            both.hmget(self.meta, "epoch", "seq")
            both.xrange(self.log)
            (epoch, top), entries = both.execute()
        if epoch is None:
            return None
        return epoch.decode(), int(top), [frame for _, fields in entries for frame in fields.values()]

    async def empty(self) -> None:
        redis.blocking_client().delete(self.meta, self.log)

    def remember(self) -> None:
        """As an append-only file does, once a second."""
        with redis.blocking_client().pipeline(transaction=True) as both:
            both.dump(self.meta)
            both.dump(self.log)
            self._on_disk = both.execute()

    async def roll_back(self) -> None:
        """The server comes back with what was remembered last; if nothing was, with all. It has another history."""
        held = redis.blocking_client()
        with held.pipeline(transaction=True) as both:
            for key, dump in zip((self.meta, self.log), self._on_disk or (), strict=False):
                if dump is None:
                    both.delete(key)
                else:
                    both.restore(key, 3600_000, dump, replace=True)
            both.execute()
        if held.exists(self.meta):
            held.hset(self.meta, "replid", "of the history before")  # what a restart or a promotion leaves


class Tab:
    """A page on one worker's socket: what it shows, and the replies to what it sent."""

    def __init__(self, stage: "Stage", life: Incarnation, view: View | None = None) -> None:
        self.stage, self.life = stage, life
        self.view = view or View()
        self.frames: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.failure: AssertionError | None = None
        self.socket: Any = None
        self.serving: asyncio.Task | None = None

    async def open(self) -> "Tab":
        """Comes back by its position where its view has begun."""
        query = f"chat_id={self.stage.chat}"
        if self.view.has_begun:
            query += f"&epoch={self.view.epoch}&seq={self.view.seq}"
        path = f"/chat/{self.stage.flow.id}" + (f"/{self.stage.skill}" if self.stage.skill else "")
        scope = {"path": path, "query_string": query.encode(), "headers": [], "client": ("127.0.0.1", 1)}
        identity = await database.read(identity_of, self.stage.user)
        admitted = await admission.admit(scope, identity)
        manager = self.life.manager
        self.socket = await self.life.does(manager.accept_client(admitted, scope, self._hear, "trace"))
        self.serving = self.life.does(manager.handle_websocket(self.socket))
        await self.until(lambda: self.view.has_begun and self.frames)
        return self

    async def _hear(self, message: dict[str, Any]) -> None:
        if self.life.is_dead:
            return
        if message["type"] == "websocket.close":
            self.closed = (message["code"], message["reason"])
            return
        frame = json.loads(message["text"])
        self.frames.append(frame)
        try:
            self.view.apply(frame)
        except AssertionError as error:
            self.failure = self.failure or error
            raise

    def send(self, type: str, **fields: Any) -> str:
        fields.setdefault("id", f"c{next(self.stage.ids)}")
        self.socket.received(json.dumps({"type": type, **fields}), None)
        return fields["id"]

    async def reply(self, command: str) -> dict[str, Any]:
        """The first one that has not been taken."""
        await self.until(lambda: command in self.view.replies)
        return self.view.replies.pop(command)

    async def command(self, type: str, **fields: Any) -> dict[str, Any]:
        return await self.reply(self.send(type, **fields))

    async def say(self, text: str, **fields: Any) -> dict[str, Any]:
        return await self.command("say", text=text, **fields)

    async def until(self, check: Callable[[], Any]) -> Any:
        found = await until(lambda: self.failure or check(), 10, f"{[frame['type'] for frame in self.frames[-20:]]}")
        if self.failure is not None:
            raise self.failure
        return found

    async def until_shown(self, turn: str, text: str) -> None:
        await self.until(lambda: text in self.text(turn))

    async def until_attempt(self, turn: str, attempt: int) -> None:
        await self.until(lambda: self.view.turns.get(turn, {}).get("attempt") == attempt)

    async def until_state(self, turn: str, state: str) -> dict[str, Any]:
        await self.until(lambda: self.view.turns.get(turn, {}).get("state") == state)
        return self.view.turns[turn]

    async def until_question(self, turn: str) -> str:
        return (await self.until_state(turn, "waiting"))["question"]["question"]

    async def until_ended(self, turn: str) -> dict[str, Any]:
        """The stored answer as this tab shows it."""
        await self.until(lambda: turn in self.view.ended)
        answers = [m for m in self.view.messages.values() if m["turn"] == turn and m["role"] == "assistant"]
        return answers[0]

    def text(self, turn: str) -> str:
        """The text of an open turn as shown."""
        parts = self.view.turns.get(turn, {"parts": []})["parts"]
        return "|".join(part.get("text", "") for part in parts if part["kind"] == "text")

    def types(self, turn: str | None = None) -> list[str]:
        """Of the events that came, of `turn` where they name one."""
        return [f["type"] for f in self.frames if "seq" in f and (turn is None or f.get("turn") in (None, turn))]

    async def close(self) -> None:
        if self.serving is not None:
            self.serving.cancel()
            await asyncio.gather(self.serving, return_exceptions=True)
        if self.socket is not None and not self.life.is_dead:
            self.life.manager.clients._by_session.pop(self.socket.session.id, None)
            self.life.manager.hub.leave(self.stage.chat)


class Stage:
    """One chat of one user with one flow. `skill`: the handler that answers, where it is not the flow."""

    def __init__(self, user: Any, flow: Any, skill: str = "") -> None:
        self.user, self.flow, self.skill = user, flow, skill
        self.chat = str(uuid.uuid4())
        self.ids = iter(range(1, 1000))
        self.lives: list[Incarnation] = []
        self.tabs: list[Tab] = []
        self.log = Log()  # the test's own look at the log

    # ------------------------------------------------------------------------------------- workers

    async def worker(self) -> Incarnation:
        life = await Incarnation().born()
        self.lives.append(life)
        return life

    async def tab(self, life: Incarnation, view: View | None = None) -> Tab:
        tab = Tab(self, life, view)
        self.tabs.append(tab)
        return await tab.open()

    async def seems_dead(self, life: Incarnation) -> None:
        """It was not seen for long. It may know nothing of that."""
        worker = life.manager.worker
        await database.write(lambda: Worker.objects.filter(id=worker).update(last_seen=LONG_AGO))

    async def died(self, life: Incarnation) -> None:
        """It is gone with its sockets, and was not seen for long."""
        await life.bury()
        for tab in self.tabs:
            if tab.life is life:
                await tab.close()
        await self.seems_dead(life)

    async def succeeds(self, life: Incarnation, tab: Tab) -> tuple[Incarnation, Tab]:
        """The next worker after a death, and the tab come back to it by its position."""
        await self.died(life)
        heir = await self.worker()
        return heir, await self.tab(heir, tab.view)

    async def sweep(self, life: Incarnation) -> None:
        """What it told is marked first, as by its beat. It may die of it."""
        with suppress(Death):
            await life.does(life.manager.telling.mark_told())
            await life.does(life.manager.sweep.sweep())

    async def commands(self, life: Incarnation, name: str, *args: Any, **fields: Any) -> Any:
        """A command at this worker, as its own step."""
        return await life.does(getattr(life.manager.commands, name)(*args, **fields))

    async def at_rest(self, life: Incarnation) -> None:
        """Nothing runs on it, nothing is told, and its tabs show what is in the log."""
        manager: ChatManager = life.manager
        async with asyncio.timeout(20):
            while work := [*manager.runs.tasks(), *manager.tasks.all()]:
                await asyncio.wait(work)
        for tab in self.tabs:
            if tab.life is life and not tab.closed:
                await life.does(manager.hub.refresh(tab.socket.ring))
                await tab.until(lambda tab=tab: tab.view.seq == tab.socket.ring.seq)

    # --------------------------------------------------------------------------------------- store

    async def empty(self) -> None:
        """The store loses everything; those who watch have noticed."""
        held = redis.blocking_client()
        for key in held.scan_iter(f"{redis.key('')}*"):
            held.delete(key)

    async def notice(self, tab: Tab) -> None:
        """What the poll of tops does within seconds."""
        await tab.life.does(tab.life.manager.hub.refresh(tab.socket.ring))
        await tab.until(lambda: tab.view.epoch == tab.socket.ring.epoch)

    # ---------------------------------------------------------------------------------------- rows

    async def turn(self, id_: str) -> Turn:
        return await database.read(lambda: Turn.objects.get(id=id_))

    async def turns(self) -> list[Turn]:
        return await database.read(lambda: list(Turn.objects.filter(chat_id=self.chat).order_by("number")))

    async def events(self, turn: str | None = None) -> list[dict[str, Any]]:
        """What the log holds, of `turn` where an event names one."""
        read = await self.log.read(self.chat, 0)
        events = [json.loads(frame) for _, frame in read.entries]
        return [event for event in events if turn is None or event.get("turn") in (None, turn)]

    async def agrees(self, *tabs: Tab) -> None:
        """Each tab, and a snapshot made now, show what is stored; nobody owes anything that was not told."""
        frame, _ = await snapshot.take(self.log, self.chat)
        fresh = View()
        fresh.apply(json.loads(frame))
        stored = await database.read(_stored, self.chat)
        for view in (fresh, *(tab.view for tab in tabs)):
            shown = {id_: (m["role"], m["parts"], m["parent"], m["status"]) for id_, m in view.messages.items()}
            assert shown == stored["messages"]
            assert {id_: turn["state"] for id_, turn in view.turns.items()} == stored["open"]
            assert view.leaf == stored["leaf"], "another head than the stored one"
        for tab in tabs:
            assert {id_: turn["parts"] for id_, turn in tab.view.turns.items()} == {
                id_: turn["parts"] for id_, turn in fresh.turns.items()
            }
            assert len(tab.view.ends) == len(set(tab.view.ends)), "a turn ended twice in one epoch"
        events = await self.events()
        ends = [event["turn"] for event in events if event["type"] == "turn_end"]
        assert len(ends) == len(set(ends)), "two ends of a turn in one epoch"

    async def end(self) -> None:
        for tab in self.tabs:
            await tab.close()
        for life in self.lives:
            with suppress(Death):
                await life.bury()
        await self.log.aclose()
        for tab in self.tabs:
            if tab.failure is not None:
                raise tab.failure


def _stored(chat: str) -> dict[str, Any]:
    messages = Message.objects.filter(chat_id=chat)
    turns = Turn.objects.filter(chat_id=chat)
    for turn in turns:
        answers = sum(message.id == turn.answer for message in messages)
        assert answers == (turn.state in ("done", "stopped", "error")), "a turn without its one answer"
    head = Chat.objects.filter(id=chat).values_list("head", flat=True).first()
    writing = next((turn.answer for turn in turns if turn.state in ACTIVE and turn.input == head), None)
    leaf = writing or head
    return {
        "leaf": None if leaf is None else str(leaf),
        "messages": {
            str(m.id): (m.role, m.parts, None if m.parent is None else str(m.parent), m.status) for m in messages
        },
        "open": {str(turn.id): turn.state for turn in turns if turn.state in ("queued", "running", "waiting")},
    }
