"""What the twenty faults are for a peer. Those that need nothing of Headrace's own are its functions, as they are.

No questions, queues and stops: a peer has none, or none that works between two workers.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import psycopg

from faults import twenty
from faults.house import Worker, until
from faults.peers.run import PeerRun
from faults.proxy import CommitTrap, Proxy
from faults.run import Speech
from providers import fake_openai

NOT_FOR_PEERS = {20: "nothing of a peer's compares the clocks of two workers"}
TABLES = ("peers_chat", "peers_message", "peers_turn", "peers_command")
FOUND_S = 35.0  # a dead socket, if anybody looks

Do = Callable[[PeerRun], Awaitable[None]]


# ------------------------------------------------------------------------------------- workers that die


def killed_at_say(is_applied: bool) -> Do:
    async def do(run: PeerRun) -> None:
        victim, other = run.workers()
        await run.streaming(other, victim)
        mine = await run.tab(victim)
        await run.tab(other, mine.chat)
        id_ = run.fresh_id()
        trap = CommitTrap(victim.database, _words_of_say(id_), is_applied, twenty.kills(run, victim))
        await run.say(mine, 60, 30, id=id_)
        await _fires(trap)

    return do


async def killed_mid_stream(run: PeerRun) -> None:
    victim, other = run.workers()
    await run.streaming(victim, other)
    await run.pause(0, 0.5)
    twenty.kills(run, victim)()


async def killed_before_turn_end(run: PeerRun) -> None:
    victim, other = run.workers()
    await run.streaming(victim, other, tokens=60, rate=40)
    trap = CommitTrap(victim.database, _WORDS_OF_END, True, twenty.kills(run, victim))
    await _fires(trap, 30)


async def killed_in_drain(run: PeerRun) -> None:
    victim, other = run.workers()
    for _ in range(0, twenty.TURNS - 1, twenty.TURNS // 5):
        await asyncio.gather(*(_turn(run, victim) for _ in range(twenty.TURNS // 5)))
    await run.streaming(victim, other, tokens=250, rate=8)
    run.hit()
    victim.end()
    await asyncio.sleep((4 if run.house.is_quick else 20) / 2)
    run.note("still drained when it was killed" if victim.is_running else "had ended before it was killed")
    victim.kill()


async def _turn(run: PeerRun, worker: Worker) -> Speech:
    return await run.say(await run.tab(worker), run.chance.randint(200, 260), 8)


def _words_of_say(id_: str) -> tuple[bytes, ...]:
    return b'INSERT INTO "peers_turn"', id_.encode()


_WORDS_OF_END = (b'UPDATE "peers_turn"', b"'done'")


async def _fires(trap: CommitTrap, within_s: float = 1.0) -> None:
    """Else nothing was done to the peer, and nothing may be told of it."""
    try:
        await asyncio.wait_for(trap.fired, within_s)
    except TimeoutError:
        raise RuntimeError("the trap did not see its commit") from None


# --------------------------------------------------------------------------------------- Redis


async def emptied_redis(run: PeerRun) -> None:
    one, other = run.workers()
    await run.streaming(one, other)
    run.hit()
    if run.variant("FLUSHALL", "killed") == "FLUSHALL":
        with run.house.store.client() as store:
            store.flushall()
    else:
        run.house.store.kill(forget=True)
        await run.pause(0, 2)
        await run.house.store.start()


async def frozen_redis(run: PeerRun) -> None:
    one, other = run.workers()
    await run.streaming(one, other, tokens=400)
    idle = await run.tab(other)
    await idle.until_ended((await run.say(idle, 5, 0)).turn)
    run.hit()
    run.house.store.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(2)
        said = run.spawn(run.say(idle, 5, 0))
        await asyncio.sleep(twenty.FREEZE_S - 2)
    finally:
        run.house.store.signal(signal.SIGCONT)
    await said


# ------------------------------------------------------------------------------------- the network


async def cut_sockets(run: PeerRun) -> None:
    one, other = run.workers()
    said = [(await run.streaming(one, other, tokens=300, rate=10, chars=1))[0] for _ in range(5)]
    while len(run.tabs) < run.house.herd:
        chat = said[len(run.tabs) % len(said)].tab.chat
        await asyncio.gather(*(run.tab(run.chance.choice(run.house.workers), chat) for _ in range(10)))
    run.hit()
    began = {tab: len(tab.record.connections) for tab in run.tabs}
    for worker in run.house.workers:
        worker.door.cut()
    await until(lambda: all(_is_back(tab.record.connections[began[tab] :]) for tab in run.tabs), 60, "all are back")


def _is_back(connections: list) -> bool:
    return any(not connection.ended for connection in connections)


async def half_open(run: PeerRun) -> None:
    one, other = run.workers()
    own = await Proxy("127.0.0.1", one.port).open()
    try:
        lost = await run.tab(one, door=f"127.0.0.1:{own.port}")
        viewer = await run.tab(other, lost.chat)
        said = await run.say(viewer, 300, 10)
        await until(lambda: len(lost.text(said.turn)) > 20, 30, "a stream")
        run.hit()
        own.freeze()
        await asyncio.sleep(2 if run.house.is_quick else FOUND_S)
        lost.cut()
        await lost.until_ended(said.turn)
    finally:
        await own.close()


# ------------------------------------------------------------------------------------- the database


async def refusing_database(run: PeerRun) -> None:
    one, other = run.workers()
    await run.streaming(one, other, tokens=250, rate=20)
    idle = await run.tab(other)
    await idle.until_ended((await run.say(idle, 5, 0)).turn)
    run.hit()
    for worker in run.house.workers:
        worker.database.refuse()
    said = run.spawn(run.say(idle, 5, 0))
    await asyncio.sleep(twenty.OUTAGE_S)
    for worker in run.house.workers:
        worker.database.heal()
    await said


async def locked_database(run: PeerRun) -> None:
    one, _ = run.workers()
    locked, free = await run.tab(one), await run.tab(one)
    for tab in (locked, free):
        await tab.until_ended((await run.say(tab, 5, 0)).turn)
    run.hit()
    holding = run.spawn(run.call(twenty.hold, run.house, "peers_chat", locked.chat, twenty.FREEZE_S))
    await asyncio.sleep(0.5)
    await asyncio.gather(run.say(locked, 5, 0), run.say(free, 5, 0))
    await holding


async def cut_in_commit(run: PeerRun) -> None:
    victim, other = run.workers()
    what, how = run.variant(*((what, how) for what in ("say", "end") for how in ("applied", "not applied")))
    mine = await run.tab(victim)
    await run.tab(other, mine.chat)
    id_ = run.fresh_id()
    words = _words_of_say(id_) if what == "say" else _WORDS_OF_END
    trap = CommitTrap(victim.database, words, how == "applied", run.hit)
    said = await run.say(mine, 40, 20, id=id_)
    await mine.until_ended(said.turn)
    await _fires(trap)


async def full_stores(run: PeerRun) -> None:
    one, other = run.workers()
    await run.streaming(one, other, tokens=250, rate=20)
    idle = await run.tab(other)
    await idle.until_ended((await run.say(idle, 5, 0)).turn)
    run.hit()
    await run.call(_execute, run.house.database_url, twenty.fill(TABLES))
    try:
        said = run.spawn(run.say(idle, 5, 0))
        await run.pause(2, 4)
    finally:
        await run.call(_execute, run.house.database_url, twenty.empty(TABLES))
    await idle.until_ended((await said).turn)
    with run.house.store.client() as store:
        store.config_set("maxmemory", "1")
        try:
            await run.say(await run.tab(other), 5, 0)
            await run.pause(2, 4)
        finally:
            store.config_set("maxmemory", "0")


def _execute(database_url: str, statements: list[str]) -> None:
    with psycopg.connect(database_url) as connection:
        for statement in statements:
            connection.execute(statement)


# ------------------------------------------------------------------------------- the provider, two tabs


async def refusing_provider(run: PeerRun) -> None:
    one, other = run.workers()
    mine, another = await run.tab(one), await run.tab(other)
    run.hit()
    _, refused = await asyncio.gather(
        run.say(mine, 20, 0, statuses=[429, 500], retry_after=1), run.say(another, 20, 0, status=429, retry_after=1)
    )
    run.answers[refused.id] = ""


async def breaking_provider(run: PeerRun) -> None:
    one, other = run.workers()
    ways = ("hang", "cut", "half_char", "bad_json")
    tabs = [await run.tab(run.chance.choice((one, other))) for _ in ways]
    run.hit()
    after = run.chance.randint(2, 15)
    said = await asyncio.gather(
        *(run.say(tab, 20, 50, fault=how, after=after) for tab, how in zip(tabs, ways, strict=True))
    )
    for speech in said:
        run.answers[speech.id] = "".join(fake_openai.numbered(20, run.size)[:after])


async def two_tabs(run: PeerRun) -> None:
    one, other = run.workers()
    tabs = [await run.tab(one)]
    tabs.append(await run.tab(other, tabs[0].chat))
    for _ in range(5):
        id_, tokens = run.fresh_id(), run.chance.randint(10, 30)
        run.hit()
        said, _ = await asyncio.gather(*(run.say(tab, tokens, 100, id=id_) for tab in tabs))
        await asyncio.gather(*(tab.until_ended(said.turn) for tab in tabs))


TWENTY: dict[int, Do] = {
    1: killed_at_say(is_applied=False),
    2: killed_at_say(is_applied=True),
    3: killed_mid_stream,
    4: killed_before_turn_end,
    5: twenty.frozen_owner,
    6: killed_in_drain,
    7: emptied_redis,
    8: frozen_redis,
    9: twenty.lagging_replica,
    10: cut_sockets,
    11: refusing_database,
    12: locked_database,
    13: cut_in_commit,
    14: full_stores,
    15: half_open,
    16: twenty.slow_reader,
    17: refusing_provider,
    18: breaking_provider,
    19: two_tabs,
}
