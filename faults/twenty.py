"""The twenty faults of failure-modes.md 3b, each a small function. Chance (the run's seed) chooses whom and when.

A fault begins what it is about, says `hit` at its moment, and brings back what it took. The invariants are looked at
afterwards; what a fault promises besides is said by `expect`.
"""

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import psycopg

from faults import look
from faults.house import Site, Store, Worker, until
from faults.proxy import AppendTrap, CommitTrap, Proxy
from faults.run import Run, Speech
from providers import fake_openai

SLACK_S = 1.0  # a busy machine
TURNS = 50  # of a rolling deploy
LAGGING = 500  # entries that a replica lacks
OUTAGE_S = 30.0
FREEZE_S = 20.0
NO_SQLITE = "SQLite is a file: there is no connection to stand before"


class Fault(msgspec.Struct):
    """`left_out`: why it cannot be done here; empty: it can."""

    number: int
    title: str
    aim: str
    do: Callable[[Run], Awaitable[None]]
    left_out: Callable[[Site], str]


TWENTY: dict[int, Fault] = {}


def fault(number: int, title: str, aim: str, left_out: Callable[[Site], str] = lambda site: "") -> Callable:
    def keep(do: Callable[[Run], Awaitable[None]]) -> Callable[[Run], Awaitable[None]]:
        TWENTY[number] = Fault(number, title, aim, do, left_out)
        return do

    return keep


def needs_postgres(site: Site) -> str:
    return "" if site.is_postgres else NO_SQLITE


# ------------------------------------------------------------------------------------- workers that die


@fault(1, "kill -9 of the worker before the `say` commits", "D2", needs_postgres)
async def killed_before_commit(run: Run) -> None:
    await _killed_at_say(run, is_applied=False)


@fault(2, "kill -9 after the commit, before `ok`", "D2", needs_postgres)
async def killed_before_ok(run: Run) -> None:
    await _killed_at_say(run, is_applied=True)


async def _killed_at_say(run: Run, is_applied: bool) -> None:
    victim, other = run.workers()
    await run.streaming(other, victim)
    mine = await run.tab(victim)
    await run.tab(other, mine.chat)
    if run.chance.random() < 0.5:
        await run.say(mine, 20, 0)
    id_ = run.fresh_id()
    trap = CommitTrap(victim.database, (b'INSERT INTO "chat_turn"', id_.encode()), is_applied, kills(run, victim))
    said = await run.say(mine, 60, 30, id=id_)
    run.expect(trap.fired.done(), "the worker was killed at the commit")
    await mine.until_ended(said.turn)


@fault(3, "kill -9 of the owner mid-stream", "D1 D3")
async def killed_mid_stream(run: Run) -> None:
    victim, other = run.workers()
    waits, question = await run.waiting(victim)
    said, viewer = await run.streaming(victim, other)
    await run.say(viewer, 20, 50)  # queued behind it
    how = run.variant("between chunk and append", "between append and reply", "at any time")
    if how == "at any time":
        await run.pause(0, 0.5)
        kills(run, victim)()
    else:
        words = (b'"delta"', said.tab.chat.replace("-", "").encode())
        trap = AppendTrap(victim.redis, words, how == "between append and reply", kills(run, victim))
        await asyncio.wait_for(trap.fired, 20)
    await run.answer(waits, question)
    await viewer.until_ended(said.turn)
    start = next(
        seen.at
        for connection in viewer.record.connections
        for seen in connection.seen
        if seen.frame["type"] == "turn_start" and seen.frame["turn"] == said.turn and seen.frame["attempt"] > 1
    )
    bound = run.house.dead_after_s + run.house.sweep_s + 2 * SLACK_S
    run.expect(start - run.hit_at < bound, f"taken over after {start - run.hit_at:.1f} s, bound {bound:.0f} s")


@fault(4, "kill -9 between the commit of the end and `turn_end`", "D2", needs_postgres)
async def killed_before_turn_end(run: Run) -> None:
    victim, other = run.workers()
    said, viewer = await run.streaming(victim, other, tokens=60, rate=40)
    words = (b'UPDATE "chat_turn"', b"'done'", said.turn.replace("-", "").encode())
    trap = CommitTrap(victim.database, words, True, kills(run, victim))
    await asyncio.wait_for(trap.fired, 30)
    await viewer.until_ended(said.turn)


@fault(5, "SIGSTOP of the owner for 20 s, then SIGCONT", "D5")
async def frozen_owner(run: Run) -> None:
    victim, other = run.workers()
    said, viewer = await run.streaming(victim, other, tokens=700)
    run.hit()
    victim.signal(signal.SIGSTOP)
    await asyncio.sleep(2 * run.house.dead_after_s)
    victim.signal(signal.SIGCONT)
    await viewer.until_ended(said.turn)


@fault(6, "SIGTERM with 50 live turns, then kill -9 half way through the drain", "D2 D3")
async def killed_in_drain(run: Run) -> None:
    victim, other = run.workers()
    for _ in range(0, TURNS - 1, TURNS // 5):
        await asyncio.gather(*(_turn_without_a_tab(run, victim) for _ in range(TURNS // 5)))
    said, viewer = await run.streaming(victim, other, tokens=250, rate=8)
    victim.end()
    await asyncio.sleep((4 if run.house.is_quick else 20) / 2)
    run.expect(victim.is_running, "the worker still drained when it was killed")
    kills(run, victim)()
    await viewer.until_ended(said.turn, 120)


async def _turn_without_a_tab(run: Run, worker: Worker) -> None:
    chat = (await run.rest(worker, "POST", "chats/", {"flow": "talk", "title": ""}))["id"]
    run.chats.append(chat)
    id_ = run.fresh_id()
    text = run.words(run.chance.randint(200, 260), id_, rate=8)
    await run.rest(worker, "POST", f"chats/{chat}/turns/", {"text": text}, id_)


# --------------------------------------------------------------------------------------- Redis


@fault(7, "Redis killed and back empty (or FLUSHALL) while streaming", "D3")
async def emptied_redis(run: Run) -> None:
    one, other = run.workers()
    waits, question = await run.waiting(one)
    said, viewer = await run.streaming(one, other)
    epoch = viewer.view.epoch
    run.hit()
    if run.variant("FLUSHALL", "killed") == "FLUSHALL":
        with run.house.store.client() as store:
            store.flushall()
    else:
        run.house.store.kill(forget=True)
        await run.pause(0, 2)
        await run.house.store.start()
    await viewer.until(lambda: viewer.view.epoch != epoch, 20)
    await run.answer(waits, question)
    await viewer.until_ended(said.turn)


@fault(8, "Redis frozen for 20 s", "D3")
async def frozen_redis(run: Run) -> None:
    one, other = run.workers()
    said, viewer = await run.streaming(one, other, tokens=400)
    idle = await run.tab(other)
    await run.say(idle, 5, 0)
    run.hit()
    run.house.store.signal(signal.SIGSTOP)
    thawing = time.monotonic() + FREEZE_S
    try:
        await asyncio.sleep(2)
        while time.monotonic() < thawing - 4:
            pong = await idle.ping(2)
            run.expect(pong is not None and pong < SLACK_S, f"a ping took {pong} s")
            id_ = run.fresh_id()
            began = time.monotonic()
            reply = await idle.ask_once("say", 6, id=id_, text=run.words(5, id_))
            took = time.monotonic() - began
            run.expect(reply is not None and took < 3 + SLACK_S, f"a say was answered after {took:.1f} s: {reply}")
            await asyncio.sleep(2)
        run.expect(_came(viewer, "degraded"), "the sockets were told that it is degraded")
        await asyncio.sleep(max(0.0, thawing - time.monotonic()))
    finally:
        run.house.store.signal(signal.SIGCONT)
    await viewer.until_ended(said.turn)
    run.expect(_came(viewer, "restored"), "the sockets were told that it is restored")


@fault(9, "Redis fails over to a replica that lags 500 entries", "D1")
async def lagging_replica(run: Run) -> None:
    house = run.house
    one, other = run.workers()
    master = house.store
    lag = await Proxy("127.0.0.1", master.port).open()
    replica = Store(house.directory / f"redis-{run.fresh_id()}")
    try:
        await replica.start("--replicaof", "127.0.0.1", str(lag.port))
        await until(lambda: _is_synced(replica), 30, "the replica is in step")
        said, viewer = await run.streaming(one, other, tokens=1500, rate=120)
        lag.freeze()
        behind = viewer.view.seq
        await viewer.until(lambda: viewer.view.seq >= behind + LAGGING, 60)
        run.hit()
        with replica.client() as client:
            client.replicaof("NO", "ONE")
        master.kill()
        house.store = replica
        for worker in house.workers:
            worker.redis.target = ("127.0.0.1", replica.port)
            worker.redis.cut()
        await viewer.until_ended(said.turn)
    finally:
        await lag.close()
        if house.store is not replica:
            replica.kill()


def _is_synced(replica: Store) -> bool:
    with replica.client() as client:
        return client.info("replication").get("master_link_status") == "up"


# ------------------------------------------------------------------------------------- the network


@fault(10, "all sockets cut; all clients back within 1 s", "D3")
async def cut_sockets(run: Run) -> None:
    one, other = run.workers()
    said = []
    for _ in range(5):
        speech, _ = await run.streaming(one, other, tokens=300, rate=10, chars=1)
        said.append(speech)
    while len(run.tabs) < run.house.herd:
        chat = said[len(run.tabs) % len(said)].tab.chat
        await asyncio.gather(*(run.tab(run.chance.choice(run.house.workers), chat) for _ in range(10)))
    count = _count(run.house, b'FROM "chat_message"')
    run.hit()
    for worker in run.house.workers:
        worker.door.cut()
    began = {tab.record.name: len(tab.record.connections) for tab in run.tabs}
    for tab in run.tabs:
        await tab.until(lambda tab=tab: _is_back(tab, began[tab.record.name]), 20)
    back = max(
        next(seen.at for seen in connection.seen if seen.frame["type"] == "welcome") - run.hit_at
        for tab in run.tabs
        for connection in tab.record.connections[began[tab.record.name] :]
        if connection.session
    )
    run.note(f"{len(run.tabs)} back after {back:.1f} s, {count[0]} queries of messages")
    run.expect(back < 5 + SLACK_S, f"all were back after {back:.1f} s")
    if run.house.is_postgres:
        run.expect(count[0] <= len(said), f"{count[0]} queries of messages for {len(said)} chats")
    for speech in said:
        await speech.tab.until_ended(speech.turn)


def _is_back(tab: object, began: int) -> bool:
    return any(connection.session for connection in tab.record.connections[began:])


def _count(site: Site, words: bytes) -> list[int]:
    """How often the workers say these words to the database from now on."""
    count = [0]

    def look_at(_: object, data: bytes) -> bool:
        count[0] += data.count(words)
        return True

    for worker in site.workers:
        if worker.database is not None:
            worker.database.up = look_at
    return count


@fault(15, "half-open TCP: packets of one socket are dropped", "D6")
async def half_open(run: Run) -> None:
    one, other = run.workers()
    own = await Proxy("127.0.0.1", one.port).open()
    try:
        lost = await run.tab(one, door=f"127.0.0.1:{own.port}")
        viewer = await run.tab(other, lost.chat)
        said = await run.say(viewer, 300, 10)
        await lost.until_text(said.turn, 20)
        session = lost.record.connections[-1].session
        run.hit()
        own.freeze()
        began, shown = time.monotonic(), len(viewer.text(said.turn))
        await until(lambda: not run.house.look.undead([session], []), 40, "the server finds the dead socket")
        took = time.monotonic() - began
        run.note(f"found after {took:.1f} s")
        run.expect(took < 35 + 2 * SLACK_S, f"found after {took:.1f} s")
        run.expect(len(viewer.text(said.turn)) > shown or said.turn in viewer.view.ended, "the turn went on")
        lost.cut()
        await viewer.until_ended(said.turn)
    finally:
        await own.close()


@fault(16, "a slow reader, 1 KB/s for 60 s, in a turn of 200 tokens/s", "D3")
async def slow_reader(run: Run) -> None:
    one, other = run.workers()
    own = await Proxy("127.0.0.1", one.port).open()
    try:
        slow = await run.tab(one, door=f"127.0.0.1:{own.port}")
        viewer = await run.tab(one, slow.chat)
        said = await run.say(viewer, 14_000, 200)
        await asyncio.sleep(10)
        before, marked = one.memory(), len(viewer.record.connections[-1].seen)
        run.hit()
        for pipe in own.pipes:
            pipe.bytes_per_s = 1024
        await asyncio.sleep(50)
        run.expect(slow.view.seq < viewer.view.seq - 500, "the slow reader lags")
        grown = (one.memory() - before) / 2**20
        seen = viewer.record.connections[-1].seen
        p99 = [_p99_gap_ms([one.at for one in part]) for part in (seen[:marked], seen[marked:])]
        run.note(f"+{grown:.1f} MiB; another viewer's p99 gap {p99[0]:.0f} ms before, {p99[1]:.0f} ms after")
        run.expect(grown <= 2, f"the worker grew by {grown:.1f} MiB")
        await asyncio.sleep(10)
        own.heal()
        await viewer.until_ended(said.turn)
        await slow.until_ended(said.turn)
    finally:
        await own.close()


def _p99_gap_ms(moments: list[float]) -> float:
    gaps = sorted(b - a for a, b in zip(moments, moments[1:], strict=False))
    return gaps[int(len(gaps) * 0.99)] * 1000 if gaps else 0.0


# ------------------------------------------------------------------------------------- the database


@fault(11, "the database refuses connections for 30 s", "D2", needs_postgres)
async def refusing_database(run: Run) -> None:
    one, other = run.workers()
    said, viewer = await run.streaming(one, other, tokens=250, rate=20)
    idle = await run.tab(other)
    first = await run.say(idle, 5, 0)
    await idle.until_ended(first.turn)
    run.hit()
    for worker in run.house.workers:
        worker.database.refuse()
    healing = time.monotonic() + OUTAGE_S
    shown = len(viewer.text(said.turn))
    id_ = run.fresh_id()
    text = run.words(5, id_)
    began = time.monotonic()
    reply = await idle.ask_once("say", 6, id=id_, text=text)
    took = time.monotonic() - began
    code = reply.get("code") if reply else None
    run.expect(code == "unavailable" and took < 2 + SLACK_S, f"a say was answered {code} after {took:.1f} s")
    pong = await idle.ping(2)
    run.expect(pong is not None, "pings are answered")
    await asyncio.sleep(5)
    run.expect(len(viewer.text(said.turn)) > shown, "the stream went on")
    await asyncio.sleep(max(0.0, healing - time.monotonic()))
    for worker in run.house.workers:
        worker.database.heal()
    await idle.say(text, id=id_)
    await viewer.until_ended(said.turn)
    rows = await run.call(look.turns, run.chats)
    run.expect(all(row.takeovers == 0 for row in rows), "nobody was judged dead")


@fault(12, "the database locked for 20 s (a row; SQLite: its one writer)", "D6")
async def locked_database(run: Run) -> None:
    one, other = run.workers()
    locked = await run.tab(one)
    first = await run.say(locked, 5, 0)
    await locked.until_ended(first.turn)
    free = await run.tab(one)
    run.hit()
    holding = run.spawn(run.call(hold, run.house, "chat_chat", locked.chat, FREEZE_S))
    await asyncio.sleep(0.5)
    id_ = run.fresh_id()
    text = run.words(5, id_)
    while not holding.done():
        pong = await locked.ping(2)
        run.expect(pong is not None and pong < SLACK_S, f"a ping took {pong} s")
        began = time.monotonic()
        reply = await locked.ask_once("say", 6, id=id_, text=text)
        took = time.monotonic() - began
        run.expect(
            reply is not None and took < 2 + SLACK_S, f"a say in the locked chat was answered after {took:.1f} s"
        )
        if run.house.is_postgres and not holding.done():
            began = time.monotonic()
            said = await run.say(free, 5, 0)
            await free.until_ended(said.turn)
            took = time.monotonic() - began
            run.expect(took < 3 + SLACK_S, f"a turn of another chat took {took:.1f} s")
    await locked.say(text, id=id_)


def hold(site: Site, table: str, chat: str, seconds: float) -> None:
    """The row of the chat, in SQLite the whole file."""
    if site.is_postgres:
        with psycopg.connect(site.database_url) as connection:
            connection.execute(f"SELECT 1 FROM {table} WHERE id = %s FOR UPDATE", [chat])
            time.sleep(seconds)
    else:
        connection = sqlite3.connect(site.database_url.removeprefix("sqlite:///"), timeout=30)
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.close()


@fault(13, "the connection to the database cut exactly in COMMIT, applied or not", "D2", needs_postgres)
async def cut_in_commit(run: Run) -> None:
    victim, other = run.workers()
    what, how = run.variant(*((what, how) for what in ("say", "end", "ask", "answer") for how in _COMMITS))
    mine = await run.tab(victim, flow="talk" if what in ("say", "end") else "ask")
    await run.tab(other, mine.chat, flow="talk" if what in ("say", "end") else "ask")
    id_ = run.fresh_id()
    words = {
        "say": (b'INSERT INTO "chat_turn"', id_.encode()),
        "end": (b'UPDATE "chat_turn"', b"'done'"),
        "ask": (b'INSERT INTO "chat_question"',),
        "answer": (b'UPDATE "chat_question"', b"'accept'"),
    }[what]
    trap = CommitTrap(victim.database, words, how == "applied", run.hit)
    said = await run.say(mine, 40, 20, id=id_)
    if what in ("ask", "answer"):
        question = await mine.until(lambda: mine.view.turns.get(said.turn, {}).get("question"), 40)
        await run.answer(said, question["question"])
    await mine.until_ended(said.turn)
    run.expect(trap.fired.done(), "the connection was cut at the commit")


_COMMITS = ("applied", "not applied")


@fault(14, "disk full for the database, then Redis at maxmemory", "D2", needs_postgres)
async def full_stores(run: Run) -> None:
    one, other = run.workers()
    said, viewer = await run.streaming(one, other, tokens=250, rate=20)
    idle = await run.tab(other)
    first = await run.say(idle, 5, 0)
    await idle.until_ended(first.turn)
    run.hit()
    await run.call(look.execute, *fill(_TABLES))
    try:
        reply = await _say_once(run, idle)
        run.expect(reply is not None and reply["type"] == "error", f"a say on a full disk was answered {reply}")
        await run.pause(2, 4)
    finally:
        await run.call(look.execute, *empty(_TABLES))
    await run.say(idle, 5, 0)
    with run.house.store.client() as store:
        store.config_set("maxmemory", "1")
        try:
            reply = await _say_once(run, idle)
            run.note(f"at maxmemory a say is answered {reply and (reply.get('code') or reply['type'])}")
            await run.pause(2, 4)
        finally:
            store.config_set("maxmemory", "0")
    await run.say(idle, 5, 0)
    await viewer.until_ended(said.turn)


async def _say_once(run: Run, tab: object) -> dict | None:
    id_ = run.fresh_id()
    return await tab.ask_once("say", 6, id=id_, text=run.words(5, id_))


_TABLES = ("chat_chat", "chat_message", "chat_turn", "chat_command", "chat_step")
_FUNCTION = (
    "CREATE OR REPLACE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
    "'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
)


def fill(tables: tuple[str, ...]) -> list[str]:
    """SQL that makes each write to these tables of PostgreSQL fail as on a full disk."""
    trigger = "CREATE TRIGGER disk_is_full BEFORE INSERT OR UPDATE ON {} EXECUTE FUNCTION disk_is_full()"
    return [_FUNCTION, *(trigger.format(table) for table in tables)]


def empty(tables: tuple[str, ...]) -> list[str]:
    return [f"DROP TRIGGER disk_is_full ON {table}" for table in tables]


# ------------------------------------------------------------------------------------- the provider


@fault(17, "provider 429 with Retry-After, then 500, then success; 429 for ever", "D2")
async def refusing_provider(run: Run) -> None:
    one, other = run.workers()
    mine, another = await run.tab(one), await run.tab(other)
    run.hit()
    said, refused = await asyncio.gather(
        run.say(mine, 20, 0, statuses=[429, 500], retry_after=1), run.say(another, 20, 0, status=429, retry_after=1)
    )
    await mine.until_ended(said.turn)
    await another.until_ended(refused.turn)
    gaps = _gaps(run, said)
    run.expect(len(gaps) == 2 and gaps[0] >= 1, f"three requests, the second not before Retry-After: {gaps}")
    usage = await run.call(look.usage, said.turn)
    run.expect(usage.get("output_tokens") == 20 + _FIRST_TOKENS, f"one bill: {usage}")
    run.expect(1 <= len(_gaps(run, refused)) <= 3, "429 for ever is given up")
    await _expect_end(run, refused, "provider_rate_limited", look.FIRST)


@fault(18, "provider hangs, cuts, sends half a character or broken JSON", "D4")
async def breaking_provider(run: Run) -> None:
    one, other = run.workers()
    wanted = {
        "hang": "provider_timeout", "cut": "provider_cut", "half_char": "provider_cut", "bad_json": "provider_error",
    }  # fmt: skip
    tabs = [await run.tab(run.chance.choice((one, other))) for _ in wanted]
    run.hit()
    after = run.chance.randint(2, 15)
    said = await asyncio.gather(
        *(run.say(tab, 20, 50, fault=how, after=after) for tab, how in zip(tabs, wanted, strict=True))
    )
    for speech, code in zip(said, wanted.values(), strict=True):
        await speech.tab.until_ended(speech.turn)
        kept = look.FIRST + "".join(fake_openai.numbered(20, 5)[:after])
        await _expect_end(run, speech, code, kept)


_FIRST_TOKENS = len(fake_openai.tokens_of(look.FIRST))


def _gaps(run: Run, said: Speech) -> list[float]:
    """Seconds between the requests of its second step."""
    began = [
        request.began
        for request in run.house.model.seen.requests
        if f"#{said.id}" in request.body["messages"][-1]["content"]
        and "[first]" not in request.body["messages"][-1]["content"]
    ]
    return [b - a for a, b in zip(began, began[1:], strict=False)]


async def _expect_end(run: Run, said: Speech, code: str, text: str) -> None:
    row = next(row for row in await run.call(look.turns, [said.tab.chat]) if row.id == said.turn)
    run.expect((row.state, row.error) == ("error", code), f"the end is {row.state} {row.error}, not {code}")
    parts = said.tab.view.messages[said.ok["answer"]]["parts"]
    stored = "".join(part.get("text", "") for part in parts if part["kind"] == "text")
    run.expect(stored == text, f"{code}: {stored!r} is kept, not {text!r}")


# ------------------------------------------------------------------------------------- races and clocks


@fault(19, "two tabs on two workers send one id in one millisecond, and both stop as the answer ends", "D2")
async def two_tabs(run: Run) -> None:
    one, other = run.workers()
    tabs = [await run.tab(one)]
    tabs.append(await run.tab(other, tabs[0].chat))
    for _ in range(5):
        id_, tokens = run.fresh_id(), run.chance.randint(10, 30)
        text = run.words(tokens, id_, rate=100)
        run.hit()
        oks = await asyncio.gather(*(tab.say(text, id=id_) for tab in tabs))
        run.expect(oks[0] == oks[1], f"one id, two answers: {oks}")
        turn = oks[0]["turn"]
        await tabs[0].until_text(turn, len(look.FIRST) + 5 * run.chance.randint(tokens - 4, tokens))
        stops = await asyncio.gather(*(tab.command("stop", turn=turn) for tab in tabs))
        codes = [stop.get("code", "ok") for stop in stops]
        run.expect(set(codes) <= {"ok", "turn_not_running"}, f"stops were answered {codes}")
        await asyncio.gather(*(tab.until_ended(turn) for tab in tabs))


def needs_compiler(site: Site) -> str:
    if not site.is_postgres:
        return "SQLite takes the time from its own process"
    return "" if shutil.which("cc") else "there is no C compiler to make a clock that is wrong"


@fault(20, "the clock of one worker is off by an hour, and steps", "D5", needs_compiler)
async def wrong_clock(run: Run) -> None:
    victim, other = run.workers()
    clock = await run.call(_wrong_clock, run.house.directory)
    victim.end()
    await victim.ended(60)
    run.skewed = victim.name
    await victim.start(look.worker_id, LD_PRELOAD=str(clock))
    run.hit()
    said, viewer = await run.streaming(other, victim, tokens=500, rate=20)
    mine = await run.tab(victim)
    for _ in range(4):
        speech = await run.say(mine, 60, 20)
        await mine.until_ended(speech.turn)
        mine.cut()  # its token is looked at again
        await run.pause(1, 3)
    await viewer.until_ended(said.turn)
    rows = await run.call(look.turns, run.chats)
    run.expect(all(row.attempt == 1 for row in rows), f"attempts are {[row.attempt for row in rows]}")
    refused = [c.code for tab in run.tabs for c in tab.record.connections if c.code == 1008]
    run.note(f"{len(refused)} sockets were refused their token, which was from the future or past for it")
    victim.kill()  # heal starts it with the right clock


_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
static int (*real)(clockid_t, struct timespec *);
static time_t off(void) {
    struct timespec t;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    real(CLOCK_MONOTONIC, &t);
    return (t.tv_sec / 4) % 2 ? 3600 : -3600;
}
int clock_gettime(clockid_t id, struct timespec *t) {
    time_t by = off();
    int done = real(id, t);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) t->tv_sec += by;
    return done;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


def _wrong_clock(directory: Path) -> Path:
    """A library that makes the time of day wrong by an hour, and steps every four seconds."""
    source, library = directory / "clock.c", directory / "clock.so"
    source.write_text(_CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True)
    return library


# ------------------------------------------------------------------------------------------------- small


def kills(run: Run, worker: Worker) -> Callable[[], None]:
    """For a trap to do: kill -9, which is the moment of the fault."""

    def kill() -> None:
        run.hit()
        worker.kill()

    return kill


def _came(tab: object, kind: str) -> bool:
    return any(seen.frame["type"] == kind for c in tab.record.connections for seen in c.seen)
