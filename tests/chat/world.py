"""One chat, three workers, two clients, one store: what may befall them, and what must hold whatever did.

When something happens is not decided here; `test_machine.py` does that. What is seen to be wrong is collected, since
an assertion that fails inside a worker's own task would be taken for a fault of that worker.
"""

import asyncio
import json
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from typing import Any, NamedTuple

import pytest

from accounts.tokens import identity_of
from chat import snapshot
from chat.doors import admission
from chat.models import Chat, Command, Message, Question, Step, Turn
from chat.turns.control import Control
from chat.turns.ctx import Ctx
from chat.turns.model_calls import ModelCalls
from chat.turns.orders import RunOrder
from chat.turns.runs import Runs
from chat.turns.states import ACTIVE, UNENDED
from chat.turns.store import rows, running
from flows.context import LLMCall
from providers.base import LLMMessage
from streams import database, redis
from streams.models import Worker
from tests.chat.incarnation import Death, Incarnation
from tests.chat.stage import LONG_AGO, Kept
from tests.chat.view import NOT_EVENTS, View, text_of

WORKERS = 3
MAX_TAKEOVERS = 3
CALM_S = 30.0
QUIET_S = 0.02  # nobody reached outside for so long: what is left waits for something
AGAIN = ("unavailable", "busy", "internal", "rate_limited")  # refusals after which a page sends the same again
REPEAT = 3  # a model says everything so many times
ROLLS = ("first", "second", "third")  # steps of the handler `rolls`


class Plot(NamedTuple):
    """What a world's chat talks with. `goes_on`: its model goes on from what was delivered."""

    name: str
    flow: Any
    skill: str = ""
    goes_on: bool = False

    def says(self, said: str, answer: str, kept: dict[str, Any]) -> str:
        """A finished answer to `said`, to whose question `answer` was given. `kept`: results by key of its journal."""
        if self.name == "answers":
            return f"You said {said}.|{_model(said)}"
        if self.name == "rolls":
            first, second, third = (f"Rolled {kept[key]}." for key in ROLLS)
            return "|".join([first, "Between.", second, _model(f"two {answer}"), third])
        return "|".join([_model(f"one {said}"), "Between.", _model(f"two {answer}")])


def _model(said: str) -> str:
    return f"Model says {said}." * REPEAT


class History:
    """What stood in a chat's log, epoch by epoch, as far as anybody saw it."""

    def __init__(self, kept: Kept) -> None:
        self.faults: list[str] = []
        self._kept = kept
        self._events: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)

    def saw(self, epoch: str, frame: dict[str, Any]) -> None:
        known = self._events[epoch].setdefault(frame["seq"], frame)
        if known != frame:
            self.faults.append(f"{epoch}:{frame['seq']} is {known} and {frame}")

    def look(self) -> None:
        """The log as it is: 1 to N, and what it held before in this epoch."""
        found = self._kept.look()
        if found is None:
            return
        epoch, top, entries = found
        frames = [json.loads(entry) for entry in entries]
        if [frame["seq"] for frame in frames] != list(range(1, top + 1)):
            self.faults.append(f"{[frame['seq'] for frame in frames]} is not 1 to {top}")
        for frame in frames:
            self.saw(epoch, frame)

    def judge(self) -> list[str]:
        """What is wrong in it: a turn that ends twice, is told of after its end, or by an attempt that was over."""
        return self.faults + [fault for epoch in self._events for fault in self._judged(epoch)]

    def _judged(self, epoch: str) -> list[str]:
        faults = []
        ended: set[str] = set()
        attempts: dict[str, int] = {}
        turn_of: dict[str, str] = {}  # by part
        for seq, event in sorted(self._events[epoch].items()):
            kind = event["type"]
            if kind == "part":
                turn_of[event["part"]] = event["turn"]
            turn = event.get("turn") or turn_of.get(event.get("part", ""))
            if turn in ended:
                faults.append(f"{epoch}:{seq} {kind} after the end of {turn}")
            if kind == "turn_end":
                ended.add(turn)
            elif kind == "turn_start":
                if event["attempt"] < attempts.get(turn, 0):
                    faults.append(f"{epoch}:{seq} attempt {event['attempt']} of {turn} after {attempts[turn]}")
                attempts[turn] = event["attempt"]
        return faults


class Connection:
    """A client's socket of one worker. What it hears after it was cut, nobody hears."""

    def __init__(self, client: "Client", life: Incarnation) -> None:
        self.client, self.life = client, life
        self.socket: Any = None
        self.sent: set[str] = set()  # commands without a reply
        self.is_cut = False
        self.serving = life.does(self._serve())

    @property
    def is_open(self) -> bool:
        return not (self.is_cut or self.life.is_dead or self.serving.done())

    async def _serve(self) -> None:
        world = self.client.world
        position = "".join(f"&{name}={value}" for name, value in self.client.position().items())
        plot = world.plot
        scope = {
            "path": f"/chat/{plot.flow.id}" + (f"/{plot.skill}" if plot.skill else ""),
            "query_string": f"chat_id={world.chat}{position}".encode(),
            "headers": [],
            "client": ("127.0.0.1", 1),
        }
        identity = await database.read(identity_of, world.user)
        admitted = await admission.admit(scope, identity)
        self.socket = await self.life.manager.accept_client(admitted, scope, self._send, "trace")
        for command in self.client.unanswered.values():
            self.say(command)
        await self.life.manager.handle_websocket(self.socket)

    async def _send(self, message: dict[str, Any]) -> None:
        await self.life.lives()
        if message["type"] == "websocket.send" and not self.is_cut:
            self.client.hear(message["text"], self)

    def say(self, command: dict[str, Any]) -> None:
        if self.socket is not None and command["id"] not in self.sent:
            self.sent.add(command["id"])
            self.socket.received(json.dumps(command), None)

    async def cut(self) -> None:
        """The client has gone. A frozen worker notices that when it thaws: this is called again then."""
        self.is_cut = True
        if self.life.is_frozen and not self.life.is_dead:
            self.client.world.unnoticed.append(self)
            return
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
        manager, socket = self.life.manager, self.socket
        if socket is not None and not self.life.is_dead:
            manager.clients._by_session.pop(socket.session.id, None)
            manager.clients._drop(manager.clients._by_chat, socket.chat, socket)
            manager.clients._drop(manager.clients._by_user, socket.identity.user_id, socket)
            manager.hub.leave(socket.chat)


class Client:
    """A tab: its view, its socket of some worker, and what it has no reply to."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.view = View()
        self.connection: Connection | None = None
        self.unanswered: dict[str, dict[str, Any]] = {}
        self.accepted: dict[str, dict[str, Any]] = {}
        self.delivered: defaultdict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
        self.heard: list[str] = []

    def position(self) -> dict[str, Any]:
        return {"epoch": self.view.epoch, "seq": self.view.seq} if self.view.has_begun else {}

    @property
    def is_connected(self) -> bool:
        return self.connection is not None and self.connection.is_open

    def send(self, type: str, **fields: Any) -> None:
        command = {"type": type, "id": f"c{next(self.world.ids)}", **fields}
        self.unanswered[command["id"]] = command
        if self.is_connected:
            self.connection.say(command)

    def hear(self, text: str, connection: Connection) -> None:
        frame = json.loads(text)
        self.heard.append(text[:300])
        kind = frame["type"]
        if kind in ("turn_start", "turn_end"):
            self._watch_delivered(frame)
        try:
            self.view.apply(frame)
        except AssertionError as error:
            self.world.faults.append(f"client {self.name}: {error}")
        if kind not in NOT_EVENTS:
            self.world.history.saw(self.view.epoch, frame)
        elif kind in ("ok", "error") and frame.get("id"):
            connection.sent.discard(frame["id"])
            self._take_reply(frame)

    def _take_reply(self, frame: dict[str, Any]) -> None:
        id_ = frame["id"]
        if frame["type"] == "ok":
            if self.accepted.setdefault(id_, frame) != frame:
                self.world.faults.append(f"{id_} was answered {self.accepted[id_]} and {frame}")
        elif frame["code"] in AGAIN:
            return  # it is sent again by the next connection, or as it becomes calm
        self.unanswered.pop(id_, None)

    def _watch_delivered(self, frame: dict[str, Any]) -> None:
        """Where its model goes on, what stood before another `turn_start` of this epoch is in the stored answer."""
        turn = frame["turn"]
        before = self.view.turns.get(turn)
        if not self.world.plot.goes_on or before is None:
            return
        if frame["type"] == "turn_start":
            shown = {part["id"]: part["text"] for part in before["parts"] if part.get("text")}
            self.delivered[self.view.epoch, turn].append(shown)
            return
        stored = {part["id"]: part.get("text", "") for part in frame["message"]["parts"] or []}
        for shown in self.delivered[self.view.epoch, turn]:
            for part, text in shown.items():
                if not stored.get(part, "").startswith(text):
                    self.world.faults.append(f"{text!r} was delivered to {self.name}, stored {stored.get(part)!r}")


class World:
    """Its workers by their slot: a slot's dead worker is followed by another."""

    current: "World"

    def __init__(self, user: Any, plot: Plot) -> None:
        World.current = self
        self.user, self.plot = user, plot
        self.chat = str(uuid.uuid4())
        self.ids = iter(range(1, 10_000))
        self.numbers = iter(range(1, 10_000))
        self.kept = Kept(self.chat)
        self.history = History(self.kept)
        self.clients = [Client(self, name) for name in ("one", "two")]
        self.lives: list[Incarnation] = []
        self.buried: list[Incarnation] = []
        self.letters: list[tuple[str, dict[str, Any]]] = []  # control messages on their way
        self.unnoticed: list[Connection] = []  # cut while their worker was frozen
        self.duties: dict[tuple[int, str], asyncio.Task] = {}
        self.stepped = asyncio.Event()
        self.faults: list[str] = []
        # what was seen of runs and rows
        self.runs: set[tuple[str, int]] = set()  # (turn, attempt)
        self.claims: dict[tuple[str, int], bool] = {}  # whether it took over from somebody, to run on
        self.done: set[tuple[str, int, str]] = set()  # steps, by key
        self.kept_by: dict[tuple[str, str], int] = {}  # the attempt that kept a step
        self.rolled: set[tuple[str, str, int]] = set()
        self.ended: dict[str, tuple[str, list[Any]]] = {}
        self.attempts: dict[str, int] = {}

    async def begin(self) -> None:
        self.lives = [await self._born() for _ in range(WORKERS)]
        for client, life in zip(self.clients, self.lives, strict=False):
            await self.connect(client, life)

    async def _born(self) -> Incarnation:
        life = Incarnation()
        life.stepped = self.stepped
        await life.born()
        life.manager.control.others = WORKERS - 1
        return life

    async def connect(self, client: Client, life: Incarnation) -> None:
        """Come back by position, as a page does; what had no reply is sent again."""
        client.connection = Connection(client, life)

    async def cut(self, client: Client) -> None:
        if client.connection is not None:
            connection, client.connection = client.connection, None
            await connection.cut()

    async def notice(self) -> None:
        """Workers that were frozen hear which clients left them meanwhile."""
        left, self.unnoticed = self.unnoticed, []
        for connection in left:
            await connection.cut()

    # ------------------------------------------------------------------------------------- workers

    async def seems_dead(self, life: Incarnation) -> None:
        """It was not seen for long. It may know nothing of that."""
        worker = life.manager.worker
        await database.write(lambda: Worker.objects.filter(id=worker).update(last_seen=LONG_AGO))

    async def succeed(self, slot: int) -> None:
        """After a death: another worker stands in its place, and the dead one is missed."""
        dead = self.lives[slot]
        await dead.bury()
        await self._drop_duties(slot)
        for client in self.clients:
            if client.connection is not None and client.connection.life is dead:
                await self.cut(client)
        await self.seems_dead(dead)
        self.buried.append(dead)
        self.lives[slot] = await self._born()

    async def begins(self, slot: int, duty: str) -> None:
        """A duty that comes up once in a while, if the one before is over."""
        life, task = self.lives[slot], self.duties.get((slot, duty))
        if life.is_dead or (task is not None and not task.done()):
            return
        manager = life.manager
        duties: dict[str, Callable[[], Any]] = {
            "beat": manager.sweep.beat,
            "sweep": manager.sweep.sweep,
            "told": manager.telling.mark_told,
            "stops": manager.runs.poll_stops,
            "tops": lambda: self._refresh(life),
        }
        self.duties[slot, duty] = life.does(_patiently(duties[duty]()))

    async def _refresh(self, life: Incarnation) -> None:
        async with life.manager.hub.watched(self.chat) as ring:
            await life.manager.hub.refresh(ring)

    async def hears(self, slot: int, by: str, message: dict[str, Any]) -> None:
        """A control message arrives; it may do so again."""
        life = self.lives[slot]
        if life.is_dead or life.is_frozen:
            return

        async def take() -> None:
            life.manager.control._take(message | {"by": by})

        self.duties[slot, "hears"] = life.does(take())

    async def _drop_duties(self, slot: int) -> None:
        tasks = [self.duties.pop(key) for key in list(self.duties) if key[0] == slot]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def steps(self) -> int:
        return sum(life.steps for life in (*self.buried, *self.lives))

    async def some_steps(self, steps: int) -> None:
        """Let the workers reach outside so many times, or until nothing is left to do but to wait."""
        target = self.steps + steps
        while self.steps < target and (work := self._under_way()):
            self.stepped.clear()
            stepped = asyncio.create_task(self.stepped.wait())
            done, _ = await asyncio.wait([stepped, *work], timeout=QUIET_S, return_when=asyncio.FIRST_COMPLETED)
            stepped.cancel()
            if not done and any(life.is_frozen or life.is_held for life in self.lives):
                return

    def _under_way(self) -> list[asyncio.Task]:
        """What workers that can move have in hand."""
        tasks: list[asyncio.Task] = []
        for slot, life in enumerate(self.lives):
            if life.is_dead or life.is_frozen:
                continue
            tasks += [*life.manager.runs.tasks(), *life.manager.tasks.all(), *life.strays]
            tasks += [task for (where, _), task in self.duties.items() if where == slot and not task.done()]
        for client in self.clients:
            connection = client.connection
            if connection is None or not connection.is_open or connection.life.is_frozen:
                continue
            if connection.socket is None or connection.sent:
                tasks.append(connection.serving)
        return tasks

    # ----------------------------------------------------------------------------------------- calm

    async def calm(self) -> None:
        """Everything comes back, every command gets its reply, nothing is left to do."""
        async with asyncio.timeout(CALM_S):
            while True:
                await self._mend()
                await self._settle()
                if await self._is_calm():
                    break
                for duties in (("beat",), ("sweep", "stops"), ("told",)):
                    for slot in range(WORKERS):
                        for duty in duties:
                            await self.begins(slot, duty)
                    await self._settle()

    async def _mend(self) -> None:
        for slot, life in enumerate(self.lives):
            life.disarm()
            if life.is_dead:
                await self.succeed(slot)
        await self.notice()
        self.letters.clear()
        for number, client in enumerate(self.clients):
            if not client.is_connected:
                await self.cut(client)
                await self.connect(client, self.lives[number])
            for command in list(client.unanswered.values()):
                client.connection.say(command)

    async def _settle(self) -> None:
        while self._under_way():
            await self.some_steps(1)

    async def _is_calm(self) -> bool:
        if await database.read(_unsettled, self.chat):
            return False
        if any(client.unanswered or not client.is_connected for client in self.clients):
            return False
        has_row = await database.read(Chat.objects.filter(id=self.chat).exists)
        behind = [client for client in self.clients if has_row and not await self._is_at_top(client.connection)]
        if behind:  # their pumps are next
            await asyncio.wait([client.connection.serving for client in behind], timeout=0.002)
        return not behind

    async def _is_at_top(self, connection: Connection) -> bool:
        ring, view = connection.socket.ring, connection.client.view
        await connection.life.does(connection.life.manager.hub.refresh(ring))
        return connection.socket.is_mine and (view.epoch, view.seq) == (ring.epoch, ring.seq)

    # --------------------------------------------------------------------------------------- checks

    async def check(self) -> None:
        """What holds at any moment."""
        self.history.look()
        faults = self.faults + self.history.judge()
        for client in self.clients:
            faults += [f"{turn} ended twice in one epoch" for turn in _doubles(client.view.ends)]
        # What was accepted before the rows are read: more may be while they are.
        accepted = {id_: ok for client in self.clients for id_, ok in client.accepted.items()}
        faults += await database.write(_faults_of_rows, self, accepted)
        taken: defaultdict[str, int] = defaultdict(int)
        for (turn, _), did_take_over in self.claims.items():
            taken[turn] += did_take_over
        faults += [f"{turn} was taken over {count} times" for turn, count in taken.items() if count > MAX_TAKEOVERS]
        assert not faults, "\n".join(faults)

    async def check_calm(self) -> None:
        """What holds once nothing moves: every client shows what is stored, and nothing is left over."""
        await self.check()
        stored = await database.read(_stored, self)
        for client in self.clients:
            socket, view = client.connection.socket, client.view
            if not socket.is_mine:
                assert stored is None, f"{client.name} does not know its own chat"
                continue
            shown = {id_: (m["role"], m["parts"], m["parent"], m["status"]) for id_, m in view.messages.items()}
            assert shown == stored["messages"], client.name
            assert {id_: turn["state"] for id_, turn in view.turns.items()} == stored["turns"], client.name
            for id_, turn in view.turns.items():
                if turn["state"] == "waiting":
                    assert turn["parts"] == stored["parts"][id_], client.name
                    assert turn["question"]["question"] == stored["question"], client.name
        if stored is not None:
            frame, _ = await snapshot.take(self.lives[0].manager.log, self.chat)
            fresh = View()
            fresh.apply(json.loads(frame))
            assert fresh.head == stored["head"]
            for client in self.clients:
                assert fresh.messages == client.view.messages, client.name
                assert fresh.leaf == client.view.leaf, client.name
        for life in self.lives:
            manager, runs = life.manager, life.manager.runs
            assert not (runs._by_attempt or runs._under_way or manager.telling._under_way), "work is left over"
            sockets = sum(client.connection.life is life for client in self.clients)
            assert sum(watch.count for watch in manager.hub._watches.values()) == sockets, "a watch is left over"

    async def end(self) -> None:
        for slot, life in enumerate(self.lives):
            await life.bury()
            await self._drop_duties(slot)
        for client in self.clients:
            await self.cut(client)
        await self.notice()
        await self.kept.empty()
        await redis.aclose()

    # --------------------------------------------------------------------- what runs are seen to do

    def begins_run(self, order: RunOrder) -> None:
        if (order.turn, order.attempt) in self.runs:
            self.faults.append(f"two runs share attempt {order.attempt} of {order.turn}")
        self.runs.add((order.turn, order.attempt))

    def does_step(self, order: RunOrder, key: str) -> None:
        """A step with an effect: once an attempt, and by none that began after its result was kept."""
        step = (order.turn, order.attempt, key)
        if order.fate:
            self.faults.append(f"{step} of a run that was only to end")
        if step in self.done:
            self.faults.append(f"{step} was done twice")
        if key in order.kept or self.kept_by.get((order.turn, key), order.attempt) < order.attempt:
            self.faults.append(f"{step} was done although attempt {self.kept_by.get((order.turn, key))} kept it")
        self.done.add(step)


async def rolls(params: dict[str, Any], ctx: Any) -> None:
    """A handler: three steps that give another number each time they are done, a question and a model between."""
    world = World.current

    async def step(key: str) -> None:
        async def roll() -> int:
            world.does_step(ctx.order, key)
            number = next(world.numbers)
            world.rolled.add((ctx.order.turn, key, number))
            await ctx.write(f"Rolled {number}.")
            return number

        await ctx.step(key, roll)

    first, second, third = ROLLS
    await step(first)
    await ctx.write("Between.")
    answer = await ctx.stream.ask("Your name?")
    await step(second)
    await ctx.llm(LLMCall(provider="model", model="m", messages=(LLMMessage("user", f"two {answer.value}"),)))
    await step(third)


_ctx: ContextVar[Ctx] = ContextVar("ctx")  # whose model is called


def watched(patch: pytest.MonkeyPatch) -> None:
    """Let the present world see runs, claims, steps and control messages."""
    begin_run, claim, save_steps = Runs._begin, running.claim, rows.save_steps
    llm, stream = Ctx.llm, ModelCalls.stream

    def _begin_run(self: Runs, order: RunOrder, *args: Any) -> None:
        World.current.begins_run(order)
        begin_run(self, order, *args)

    async def _llm(self: Ctx, call: Any, **named: Any) -> Any:
        _ctx.set(self)
        return await llm(self, call, **named)

    async def _stream(self: ModelCalls, call: Any) -> Any:
        ctx = _ctx.get()
        scope = ctx._parts.scope
        World.current.does_step(ctx.order, f"llm:{scope}:{ctx._journal._calls['llm', scope]}")
        return await stream(self, call)

    @wraps(claim)
    def _claim(*args: Any) -> Any:
        outcome = claim(*args)
        if outcome.run is not None:
            key = (outcome.run.turn, outcome.run.attempt)
            World.current.claims[key] = outcome.is_takeover and not outcome.run.fate
        return outcome

    def _save_steps(turn: Turn, steps: list[Any]) -> None:
        save_steps(turn, steps)
        for step in steps:
            World.current.kept_by.setdefault((str(turn.id), step.key), turn.attempt)

    async def _to_others(self: Control, message: dict[str, Any]) -> None:
        World.current.letters.append((self._worker, message))

    patch.setattr(Runs, "_begin", _begin_run)
    patch.setattr(Ctx, "llm", _llm)
    patch.setattr(ModelCalls, "stream", _stream)
    patch.setattr(running, "claim", _claim)
    patch.setattr(rows, "save_steps", _save_steps)
    patch.setattr(Control, "_to_others", _to_others)


async def _patiently(work: Any) -> None:
    """As the loop that repeats a duty: what fails is tried at its next time."""
    with suppress(Exception, Death):
        await work


# ----------------------------------------------------------------------------------------------------- rows


def _unsettled(chat: str) -> bool:
    """Whether something still runs, is queued behind nothing, or is owed."""
    turns = Turn.objects.filter(chat_id=chat)
    is_stuck = turns.filter(state="queued").exists() and not turns.filter(state="waiting").exists()
    is_owed = turns.filter(told=False).exists() or Chat.objects.filter(id=chat, told=False).exists()
    return turns.filter(state="running").exists() or is_stuck or is_owed


def _faults_of_rows(world: World, accepted: dict[str, dict[str, Any]]) -> list[str]:
    """Under the chat's lock, so that nothing is half done."""
    row = Chat.objects.select_for_update().filter(id=world.chat).first()
    if row is None:
        return [f"{id_} was accepted, and there is no chat" for id_ in accepted]
    faults = []
    turns = {str(turn.id): turn for turn in row.turns.all()}
    messages = {message.id: message for message in Message.objects.filter(chat=row)}
    replies = {command.command: command.reply for command in Command.objects.filter(scope=row.id)}
    begun = [reply["turn"] for reply in replies.values() if "answer" in reply]
    if sorted(begun) != sorted(turns):
        faults.append(f"accepted were {begun}, turns are {list(turns)}")
    for id_, ok in accepted.items():
        if replies.get(id_, {}).get("turn") != ok.get("turn"):
            faults.append(f"{ok} was answered, kept is {replies.get(id_)}")
    said = [message.client_id for message in messages.values() if message.client_id]
    faults += [f"{id_} was said twice" for id_ in _doubles(said)]
    states = {turn.state for turn in turns.values()}
    if "queued" in states and not ACTIVE & states:
        faults.append(f"a turn is queued behind nothing: {states}")
    for id_, turn in turns.items():
        answer = messages.get(turn.answer)
        if (turn.state in UNENDED) != (answer is None):
            faults.append(f"{id_} is {turn.state}, its answer {answer}")
        if turn.attempt < world.attempts.get(id_, 0):
            faults.append(f"{id_} fell back to attempt {turn.attempt}")
        world.attempts[id_] = turn.attempt
        if answer is not None and world.ended.setdefault(id_, (turn.state, answer.parts)) != (turn.state, answer.parts):
            faults.append(f"{id_} ended as {world.ended[id_]}, and as {(turn.state, answer.parts)}")
    for step in Step.objects.filter(turn__chat=row, kind="step"):
        if (str(step.turn_id), step.key, step.value["value"]) not in world.rolled:
            faults.append(f"{step.key} of {step.turn_id} is kept as {step.value}, which nobody rolled")
    return faults


def _stored(world: World) -> dict[str, Any] | None:
    row = Chat.objects.filter(id=world.chat).first()
    if row is None:
        return None
    messages = list(Message.objects.filter(chat=row))
    turns = list(row.turns.all())
    waiting = next((turn for turn in turns if turn.state == "waiting"), None)
    for turn in turns:
        if turn.state == "done":
            _check_answer(world, turn, messages)
    return {
        "head": None if row.head is None else str(row.head),
        "messages": {
            str(m.id): (m.role, m.parts, None if m.parent is None else str(m.parent), m.status) for m in messages
        },
        "turns": {str(turn.id): turn.state for turn in turns if turn.state in UNENDED},
        "parts": {str(turn.id): turn.parts for turn in turns},
        "question": str(waiting.questions.get(action="").id) if waiting else None,
    }


def _check_answer(world: World, turn: Turn, messages: list[Message]) -> None:
    """A finished one says what its plot says: nothing is lost in it, nothing doubled."""
    by_id = {message.id: message for message in messages}
    said, answered = text_of(by_id[turn.input].parts), text_of(by_id[turn.answer].parts)
    question = Question.objects.filter(turn=turn).first()
    kept = {step.key: step.value["value"] for step in turn.steps.filter(kind="step")}
    assert answered == world.plot.says(said, question.value if question else "", kept), answered


def _doubles(things: list[Any]) -> list[Any]:
    return sorted({thing for thing in things if things.count(thing) > 1})
