"""Log, store, snapshot and runner together, with a worker that dies between any two steps.

Two clients in one chat say, answer, stop, cut and come back; a worker dies before or after a step takes effect, an
append's answer is lost, the store is emptied. Whenever it is calm, the invariants of durability.md 7 hold.
"""

import asyncio
import json
import os
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from accounts.tokens import identity_of
from chat import snapshot
from chat.doors import admission
from chat.models import Chat, Message, Turn
from streams import database, redis
from streams.models import Worker
from tests.chat.conftest import ANSWERS, ASKS, _create
from tests.chat.incarnation import Death, Incarnation, mortal
from tests.chat.view import View, text_of

CALM_S = 20.0
STEPS_AHEAD = 24
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "40"))


class Client:
    """A tab: its view, its socket of the living worker, and what it has not had a reply to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.view = View()
        self.socket: Any = None
        self.serving: asyncio.Task | None = None
        self.unanswered: dict[str, dict[str, Any]] = {}
        self.heard: list[str] = []

    def hear(self, text: str) -> None:
        self.heard.append(text[:300])
        self.view.apply(json.loads(text))

    def position(self) -> dict[str, Any]:
        if not self.view.has_begun:
            return {}
        return {"epoch": self.view.epoch, "seq": self.view.seq}


class World:
    """Everything outside of hypothesis: one loop, one chat, one living worker, two clients."""

    def __init__(self, user: Any, flow: Any) -> None:
        self.user, self.flow = user, flow
        self.chat = str(uuid.uuid4())
        self.clients = [Client("one"), Client("two")]
        self.life: Incarnation | None = None
        self.commands = 0
        self.ends: set[tuple[str, str]] = set()

    async def begin(self) -> None:
        self.life = await Incarnation().born()
        self.life.empty = self.empty
        for client in self.clients:
            await self.connect(client)

    async def empty(self) -> None:
        held = redis.blocking_client()
        for key in held.scan_iter(f"{redis.key('')}*"):
            held.delete(key)

    async def connect(self, client: Client) -> None:
        """Come back by position, as a page does; what had no reply is sent again."""
        life = self.life

        async def send(message: dict[str, Any]) -> None:
            if not life.is_dead and client.socket is not None and message["type"] == "websocket.send":
                client.hear(message["text"])

        position = client.position()
        query = f"chat_id={self.chat}" + "".join(f"&{name}={value}" for name, value in position.items())
        scope = {
            "path": f"/chat/{self.flow.id}",
            "query_string": query.encode(),
            "headers": [],
            "client": ("127.0.0.1", 1),
        }
        identity = await database.read(identity_of, self.user)
        admitted = await admission.admit(scope, identity)
        client.socket = await life.does(life.manager.accept_client(admitted, scope, send, "trace"))
        client.serving = life.does(life.manager.handle_websocket(client.socket))
        for command in client.unanswered.values():
            client.socket.received(json.dumps(command), None)

    async def cut(self, client: Client) -> None:
        if client.socket is None:
            return
        socket, client.socket = client.socket, None
        client.serving.cancel()
        await asyncio.gather(client.serving, return_exceptions=True)
        if not self.life.is_dead:
            self.life.manager._clients.pop(socket.session.id, None)
            self.life.manager.hub.leave(self.chat)

    def send(self, client: Client, type: str, **fields: Any) -> None:
        self.commands += 1
        command = {"type": type, "id": f"c{self.commands}", **fields}
        client.unanswered[command["id"]] = command
        if client.socket is not None:
            client.socket.received(json.dumps(command), None)

    async def reborn(self) -> None:
        """Another worker takes over: the dead one was not seen for long."""
        await self.life.bury()
        for client in self.clients:
            await self.cut(client)
        note(f"trail: {self.life.trail[-12:]}")
        await database.write(lambda: Worker.objects.update(last_seen="2000-01-01T00:00:00Z"))
        self.life = await Incarnation().born()
        self.life.empty = self.empty

    async def some_steps(self, steps: int) -> None:
        """Let the worker reach outside so many times, or until it has nothing left to do."""
        life, target = self.life, self.life.steps + steps
        while life.steps < target and not life.is_dead and self._is_busy():
            life.stepped.clear()
            waits = [asyncio.create_task(life.stepped.wait()), *life.manager._run_tasks.values(), *life.manager._tasks]
            await asyncio.wait(waits, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            waits[0].cancel()

    def _is_busy(self) -> bool:
        manager = self.life.manager
        has_commands = any(
            client.unanswered.keys() - client.view.replies.keys() for client in self.clients if client.socket
        )
        return bool(manager._run_tasks or manager._tasks or has_commands)

    async def calm(self) -> None:
        """Everything comes back, every command gets its reply, nothing is left to do."""
        async with asyncio.timeout(CALM_S):
            while True:
                self.life.disarm()
                try:
                    if self.life.is_dead:
                        await self.reborn()
                    for client in self.clients:
                        if client.socket is None:
                            await self.connect(client)
                    if await self._is_calm():
                        break
                    await self._settle()
                    await self.life.does(self.life.manager.sweep.beat())
                    await self.life.does(self.life.manager.sweep.sweep())
                    await self._settle()
                    await self.life.does(self.life.manager.telling.mark_told())
                except Death:  # it was in the middle of its last step
                    continue
        self._collect()

    async def _settle(self) -> None:
        while not self.life.is_dead and self._is_busy():
            await self.some_steps(1)

    async def _is_calm(self) -> bool:
        rows = await database.read(_unsettled, self.chat)
        if rows:
            return False
        for client in self.clients:
            for id_ in list(client.unanswered):
                if id_ in client.view.replies:
                    del client.unanswered[id_]
        if any(client.unanswered for client in self.clients):
            return False
        hub = self.life.manager.hub
        ring = await self.life.does(hub.watch(self.chat))
        await self.life.does(hub.refresh(ring))
        hub.leave(self.chat)
        behind = [c for c in self.clients if (c.view.epoch, c.view.seq) != (ring.epoch, ring.seq) and c.socket.is_mine]
        if behind:  # their pumps are next
            await asyncio.wait([client.serving for client in behind], timeout=0.002)
        return not behind

    def _collect(self) -> None:
        for client in self.clients:
            seen = client.view.ends
            assert len(seen) == len(set(seen)), f"a turn ended twice in one epoch: {seen}"

    async def check(self) -> None:
        """Invariants 1 to 4: what every client shows is what is stored."""
        stored = await database.read(_stored, self.chat)
        for client in self.clients:
            if not client.socket.is_mine:
                assert stored is None, f"{client.name} does not know its own chat"
                continue
            view = client.view
            shown = {id_: (m["role"], m["parts"], m["parent"], m["status"]) for id_, m in view.messages.items()}
            assert shown == stored["messages"], client.name
            assert {id_: turn["state"] for id_, turn in view.turns.items()} == stored["turns"], client.name
            for id_, turn in view.turns.items():
                if turn["state"] == "waiting":
                    assert turn["parts"] == stored["parts"][id_], client.name
                    assert turn["question"]["question"] == stored["question"], client.name
            replies = [reply for reply in view.replies.values() if reply["type"] == "ok" and reply.get("message")]
            for reply in replies:
                assert reply["turn"] in stored["numbers"], "an accepted turn is gone"
        if stored is not None:
            await self._check_rows(stored)

    async def _check_rows(self, stored: dict[str, Any]) -> None:
        ids = stored["client_ids"]
        assert len(ids) == len(set(ids)), f"a message was accepted twice: {ids}"
        frame, _ = await snapshot.take(self.life.manager.log, self.chat)
        fresh = View()
        fresh.apply({"type": "welcome", "resumed": False})
        fresh.apply(json.loads(frame))
        for client in self.clients:
            assert fresh.messages == client.view.messages
            assert fresh.head == stored["head"]
            assert client.view.leaf == fresh.leaf

    async def end(self) -> None:
        await self.life.bury()
        for client in self.clients:
            await self.cut(client)
        await redis.aclose()


def _unsettled(chat: str) -> bool:
    """Whether something still runs, is queued behind nothing, or is owed."""
    turns = Turn.objects.filter(chat_id=chat)
    is_running = turns.filter(state="running").exists()
    is_stuck = turns.filter(state="queued").exists() and not turns.filter(state="waiting").exists()
    is_owed = turns.filter(told=False).exists() or Chat.objects.filter(id=chat, told=False).exists()
    return is_running or is_stuck or is_owed


def _stored(chat: str) -> dict[str, Any] | None:
    row = Chat.objects.filter(id=chat).first()
    if row is None:
        return None
    messages = list(Message.objects.filter(chat=row))
    turns = list(row.turns.all())
    waiting = next((turn for turn in turns if turn.state == "waiting"), None)
    for turn in turns:
        if turn.state in ("done", "stopped", "error"):
            assert sum(message.id == turn.answer for message in messages) == 1, "a turn without its one answer"
    done = [text_of(m.parts) for m in messages if m.role == "assistant" and m.status == "done"]
    for text in done:
        assert text.startswith("You said") or "Between." in text, text
    return {
        "head": None if row.head is None else str(row.head),
        "messages": {
            str(m.id): (m.role, m.parts, None if m.parent is None else str(m.parent), m.status) for m in messages
        },
        "turns": {str(turn.id): turn.state for turn in turns if turn.state in ("queued", "waiting")},
        "parts": {str(turn.id): turn.parts for turn in turns},
        "question": str(waiting.questions.get(action="").id) if waiting else None,
        "numbers": {str(turn.id): turn.number for turn in turns},
        "client_ids": [m.client_id for m in messages if m.client_id],
    }


class Machine(RuleBasedStateMachine):
    """Rules are what people and faults do; each leaves the worker somewhere in the middle of things."""

    user: Any
    flows: list[Any]
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None

    def go(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(flow=st.sampled_from([0, 1]))
    def begin(self, flow: int) -> None:
        self.world = World(self.user, self.flows[flow])
        self.go(self.world.begin())

    def client(self, index: int) -> Client:
        return self.world.clients[index]

    @rule(who=st.sampled_from([0, 1]), text=st.sampled_from(["a", "b c"]), steps=st.integers(0, 20))
    def say(self, who: int, text: str, steps: int) -> None:
        self.world.send(self.client(who), "say", text=text)
        self.go(self.world.some_steps(steps))

    @rule(who=st.sampled_from([0, 1]), steps=st.integers(0, 20))
    def stop(self, who: int, steps: int) -> None:
        self.world.send(self.client(who), "stop")
        self.go(self.world.some_steps(steps))

    @rule(who=st.sampled_from([0, 1]), steps=st.integers(0, 20))
    def answer(self, who: int, steps: int) -> None:
        question = self._question(self.client(who))
        if question is not None:
            self.world.send(self.client(who), "answer", question=question, value="Ada")
            self.go(self.world.some_steps(steps))

    def _question(self, client: Client) -> str | None:
        asked = [turn["question"] for turn in client.view.turns.values() if turn.get("question")]
        return asked[0]["question"] if asked else None

    @rule(who=st.sampled_from([0, 1]), steps=st.integers(0, 20), pick=st.integers(0, 7))
    def regenerate(self, who: int, steps: int, pick: int) -> None:
        answers = [m for m in self.client(who).view.messages.values() if m["role"] == "assistant"]
        if answers:
            self.world.send(self.client(who), "regenerate", message=answers[pick % len(answers)]["id"])
            self.go(self.world.some_steps(steps))

    @rule(who=st.sampled_from([0, 1]))
    def cut(self, who: int) -> None:
        self.go(self.world.cut(self.client(who)))

    @rule(who=st.sampled_from([0, 1]))
    def come_back(self, who: int) -> None:
        client = self.client(who)
        if client.socket is None and not self.world.life.is_dead and self.world.life.dies_at is None:
            self.go(self.world.connect(client))

    @rule(steps=st.integers(1, STEPS_AHEAD), is_done=st.booleans())
    def will_die(self, steps: int, is_done: bool) -> None:
        self.world.life.arm(dies_in=steps, is_done=is_done)

    @rule(steps=st.integers(1, STEPS_AHEAD))
    def will_lose_an_answer(self, steps: int) -> None:
        self.world.life.arm(doubles_in=steps)

    @rule(steps=st.integers(1, STEPS_AHEAD))
    def will_empty_the_store(self, steps: int) -> None:
        self.world.life.arm(empties_in=steps)

    @rule(steps=st.integers(1, 30))
    def go_on(self, steps: int) -> None:
        self.go(self.world.some_steps(steps))

    @rule()
    def calm_down(self) -> None:
        self.go(self.world.calm())
        self.go(self.world.check())

    def teardown(self) -> None:
        if self.world is not None:
            try:
                self.go(self.world.calm())
                self.go(self.world.check())
            except BaseException:
                note(f"trail: {self.world.life.trail[-40:]}")
                for client in self.world.clients:
                    note(
                        "\n".join([f"heard by {client.name}, without reply {client.unanswered}:", *client.heard[-40:]])
                    )
                raise
            finally:
                self.go(self.world.end())


@pytest.fixture
def calm_loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_any_order_of_faults_keeps_the_invariants(make_user, scripted, redis_url, calm_loop, monkeypatch, settings):
    from flows import build

    user = make_user("anna")
    scripted(default="Model says {input}.", repeat=3)
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, provider_fresh_s=3600)

    async def flows() -> list[Any]:
        made = []
        for graph in (ANSWERS, ASKS):
            flow = await database.write(lambda graph=graph: _create(user.id, graph, {}))
            await build.publish(flow.id, user.id)
            made.append(flow)
        return made

    Machine.user, Machine.loop = user, calm_loop
    Machine.flows = calm_loop.run_until_complete(flows())
    mortal(monkeypatch)
    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=EXAMPLES,
            stateful_step_count=14,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # timing is part of it: a smaller case is another
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    calm_loop.run_until_complete(redis.aclose())
