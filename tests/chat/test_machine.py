"""Log, store, snapshot and runners together, with every fault of durability.md at any step of three workers.

Two clients in one chat say, answer, stop and come back, at whichever worker. A worker dies, freezes and wakes, waits
for one call, gets no reply, or one that comes when it had given up; the store is emptied or falls back to an older
state; control messages come late, twice or never; who lives is taken for dead. After each of these the invariants of
durability.md 7 hold, and once it is calm every client shows what is stored. What is checked stands in `world.py`.

MACHINE_EXAMPLES: how many. HYPOTHESIS=random: others than in the run before. MACHINE_SEED: one, as a failure names it.
"""

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from chat.turns import sweep
from flows import build, handlers
from flows.models import Provider
from providers import scripted as scripted_models
from streams import database, redis
from tests.chat.conftest import ANSWERS, ASKS, _create, graph_of, node
from tests.chat.incarnation import mortal
from tests.chat.world import REPEAT, WORKERS, Plot, World, rolls, watched

STEPS_AHEAD = 24
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "50"))
SEED = int(os.environ.get("MACHINE_SEED", "0"))

# As ASKS, with a model that goes on from what a lost run delivered.
GOES_ON = graph_of(
    node("start", "start"),
    node("first", "llm", provider="talker", model="m", prompt="one {{ input.text }}"),
    node("hello", "message", text="Between."),
    node("ask", "question", text="Your name?"),
    node("second", "llm", provider="talker", model="m", prompt="two {{ ask.value }}"),
    node("end", "end"),
)

FATES = ["dies", "dies", "freezes", "freezes", "holds", "fails", "loses", "strays", "doubles", "empty", "roll_back"]
# At which call of a worker: one of those that durability.md 4 and 5 turn on, or just the so-and-so-many-th.
NAMED = [
    "write:begin_turn", "append:turn_start", "append:delta", "append:part_end", "append:node", "write:keep_steps",
    "write:ask", "append:question", "write:answer", "append:answered", "write:finish", "append:turn_end", "write:stop",
    "write:release", "read:claimable", "write:claim", "append:fence", "read", "read:standing", "read:owed_rows",
    "read:owed_event", "append:turn_queued", "append:chat", "write:mark_told", "write:partial", "read:_read",
]  # fmt: skip
DUTIES = ["sweep", "sweep", "sweep", "beat", "told", "stops", "tops"]


class Machine(RuleBasedStateMachine):
    """What people and faults do, by chance; each leaves the workers somewhere in the middle of things.

    Hypothesis draws the seed alone: what may come next hangs on what the workers did, and they run on real stores.
    """

    user: Any
    plots: list[Plot]
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None
        self.told: list[str] = []
        self.since_calm = 0

    def go(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def goes_on(self, told: str, steps: int | None = None) -> None:
        """Some steps; then what holds at any moment."""
        steps = self.chance.randint(0, 20) if steps is None else steps
        self.told.append(f"{told}, {steps} steps")
        self.go(self.world.some_steps(steps))
        self.go(self.world.check())

    @initialize(seed=st.just(SEED) if SEED else st.integers(1, 2**32))
    def begin(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = World(self.user, self.chance.choice(self.plots))
        self.told.append(f"MACHINE_SEED={seed} {self.world.plot.name}")
        self.go(self.world.begin())
        for _ in range(self.chance.randint(0, 3)):
            self.will_befall()
        self.world.clients[0].send("say", text="a")

    @rule()
    def happens(self) -> None:
        self.since_calm += 1
        acts: dict[Callable[[], None], int] = {
            self.command: 6,
            self.come_back: 2,
            self.will_befall: 6,
            self.remember_the_log: 1,
            self.is_missed: 3,
            self.come_to: 4 if self.stopped() else 0,
            self.attends: 4,
            self.hear: 1 if self.world.letters else 0,
            self.go_on: 2,
            self.calm_down: 1 if self.since_calm > 8 else 0,
        }
        [act] = self.chance.choices(list(acts), list(acts.values()))
        act()

    def worker(self) -> int:
        """One that has something in hand more often than others."""
        world = self.world
        tabs = [client.connection.life for client in world.clients if client.connection is not None]
        busy = [slot for slot, life in enumerate(world.lives) if life.manager.runs._by_attempt or life in tabs]
        return self.chance.choice(busy if busy and self.chance.random() < 0.7 else range(WORKERS))

    # ----------------------------------------------------------------------------------- people

    def command(self) -> None:
        who = self.chance.randrange(2)
        client = self.world.clients[who]
        answers = [message["id"] for message in client.view.messages.values() if message["role"] == "assistant"]
        asked = [turn["question"]["question"] for turn in client.view.turns.values() if turn.get("question")]
        if asked and self.chance.random() < 0.6:
            client.send("answer", question=asked[0], value="Ada")
            told = "answers"
        else:
            told = self.chance.choice(["says", "says", "stops", "regenerates"])
            if told == "stops":
                client.send("stop")
            elif told == "regenerates" and answers:
                client.send("regenerate", message=self.chance.choice(answers))
            else:
                client.send("say", text=self.chance.choice(["a", "b c"]))
        self.goes_on(f"{who} {told}")

    def come_back(self) -> None:
        who, worker = self.chance.randrange(2), self.chance.randrange(WORKERS)
        world, life = self.world, self.world.lives[worker]
        self.go(world.cut(world.clients[who]))
        if not (life.is_dead or life.is_frozen):
            self.go(world.connect(world.clients[who], life))
        self.goes_on(f"{who} comes to {worker}")

    # ----------------------------------------------------------------------------------- faults

    def will_befall(self) -> None:
        fate, worker = self.chance.choice(FATES), self.worker()
        if self.chance.random() < 0.4:
            name, nth = "step", self.chance.randint(1, STEPS_AHEAD)
        else:
            name, nth = self.chance.choice(NAMED), self.chance.choice([1, 1, 2])
        world, life = self.world, self.world.lives[worker]
        is_done = fate in ("dies", "freezes", "holds") and self.chance.random() < 0.5
        self.told.append(f"{worker} {fate} {'after' if is_done else 'at'} {name} {nth}")
        if fate == "empty":
            life.at_call("acts", name, nth, act=world.kept.empty)
        elif fate == "roll_back":
            life.at_call("acts", name, nth, act=world.kept.roll_back)
        else:
            life.at_call(fate, name, nth, is_done=is_done)

    def remember_the_log(self) -> None:
        self.told.append("the log is on disk")
        self.world.kept.remember()

    def is_missed(self) -> None:
        """It seems dead: it is, or was frozen, or only slow. Mostly another one's sweep is next."""
        stopped = self.stopped()
        worker = self.chance.choice(stopped) if stopped else self.worker()
        self.told.append(f"{worker} was not seen for long")
        self.go(self.world.seems_dead(self.world.lives[worker]))
        others = [slot for slot in range(WORKERS) if slot != worker and slot not in stopped]
        if others and self.chance.random() < 0.7:
            self.attend_to(self.chance.choice(others), "sweep", self.chance.randint(10, 60))

    # --------------------------------------------------------------------------------- what goes on

    def stopped(self) -> list[int]:
        lives = enumerate(self.world.lives)
        return [slot for slot, life in lives if life.is_dead or life.is_frozen or life.is_held]

    def come_to(self) -> None:
        """What was frozen or held goes on, in the middle of everything; after who died comes another."""
        world, slot = self.world, self.chance.choice(self.stopped())
        life = world.lives[slot]
        if life.is_dead:
            self.go(world.succeed(slot))
        else:
            life.thaw()
            life.let_go()
        self.goes_on(f"{slot} comes to")
        self.go(world.notice())

    def attends(self) -> None:
        self.attend_to(self.chance.randrange(WORKERS), self.chance.choice(DUTIES))

    def attend_to(self, worker: int, duty: str, steps: int | None = None) -> None:
        self.go(self.world.begins(worker, duty))
        self.goes_on(f"{worker} attends to {duty}", steps)

    def hear(self) -> None:
        worker = self.chance.randrange(WORKERS)
        by, message = self.chance.choice(self.world.letters)
        self.go(self.world.hears(worker, by, message))
        self.goes_on(f"{worker} hears {message['kind']}")

    def go_on(self) -> None:
        self.goes_on("it goes on", self.chance.randint(10, 60))

    def calm_down(self) -> None:
        self.since_calm = 0
        self.calms_down()

    def calms_down(self) -> None:
        self.told.append("calm")
        self.go(self.world.calm())
        self.go(self.world.check_calm())

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            self.calms_down()
        except BaseException as error:
            error.add_note("\n".join(self.told))
            for slot, life in enumerate(self.world.lives):
                error.add_note(f"{slot}: {life.trail[-60:]}")
            for client in self.world.clients:
                heard = "\n".join(client.heard[-40:])
                error.add_note(f"client {client.name}, no reply to {client.unanswered}, heard\n{heard}")
            raise
        finally:
            self.go(self.world.end())


@pytest.fixture
def calm_loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.mark.timeout(60 + 6 * EXAMPLES)
def test_any_order_of_faults_keeps_the_invariants(make_user, scripted, redis_url, calm_loop, monkeypatch, settings):
    user = make_user("anna")
    settings.HEADRACE = msgspec.structs.replace(
        settings.HEADRACE, provider_fresh_s=3600, log_retry_s=0.01, commands_burst=10_000, refusals_per_minute=10_000
    )
    for slug in ("model", "talker"):
        scripted(slug, default="Model says {input}.", repeat=REPEAT)
    Provider.objects.filter(slug="talker").update(on_takeover="continue")
    monkeypatch.setattr(scripted_models, "POUR_TOKENS", 3)  # an answer comes in some pieces
    monkeypatch.setattr(sweep, "CLAIMS_OVER_S", 0)
    monkeypatch.setitem(handlers._handlers, "rolls", rolls)

    async def published(graph: dict[str, Any], **fields: Any) -> Any:
        flow = await database.write(lambda: _create(user.id, graph, fields))
        await build.publish(flow.id, user.id)
        return flow

    async def plots() -> list[Plot]:
        asks = await published(ASKS)
        return [
            Plot("answers", await published(ANSWERS)),
            Plot("asks", asks),
            Plot("rolls", asks, skill="rolls"),
            Plot("goes on", await published(GOES_ON, double_text="interrupt"), goes_on=True),
        ]

    Machine.user, Machine.loop = user, calm_loop
    Machine.plots = calm_loop.run_until_complete(plots())
    mortal(monkeypatch)
    watched(monkeypatch)
    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # timing is part of it: a smaller case is another
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    calm_loop.run_until_complete(redis.aclose())
