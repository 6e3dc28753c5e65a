"""Long runs: many turns while workers die and freeze or are restarted in turn, sockets that come and go, bad inputs.

Each is a function of a run, like a fault; the invariants are looked at afterwards. What it measured stands in its
notes: seconds from a blow to the next event of a turn that it hit, gaps, the curve of memory and keys.
"""

import asyncio
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import msgspec

from faults import hostile, look
from faults.client import Tab, next_event
from faults.house import Worker
from faults.run import SETTLE_S, Run, Speech
from tests.chat.view import NOT_EVENTS

TALKERS = 50  # chats that talk at once while workers are struck
SAMPLE_S = 10.0
CONNECTS_A_SECOND = 50
CHURNED_CHATS = 200  # the same all the time: what grows is a leak
WAITS_MOST_S = 3.0  # of anybody in a rolling restart
GOOD_TABS = 12  # whose answers are to keep their pace beside hostile clients
HOSTILE_CLIENTS = 10
PACE = 50  # tokens a second
CALM_WINDOW_S = 20.0  # before the attack
GAP_MS = 250.0  # p99 between two events, at most
CAUGHT_SHARE = 0.1  # of the bad inputs, by a bound of a user or an address
LARGE_FRAMES = 300
LARGE_MIB = 20.0  # by which a worker may have grown after them


class Amount(msgspec.Struct, frozen=True):
    turns: int
    minutes: float


class Blow(msgspec.Struct):
    """`hit`: tabs whose turn the worker ran at that moment."""

    at: float
    kind: str
    hit: list[Tab]


# --------------------------------------------------------------------------------------- killed and frozen


async def kills(run: Run, amount: Amount) -> None:
    """So many turns, while workers are killed and frozen by chance and come back."""
    talkers = min(TALKERS, amount.turns)
    owners: dict[Tab, Worker] = {}  # of the turn that it waits for
    blows: list[Blow] = []
    striking = asyncio.create_task(_strike(run, owners, blows))
    counts = [amount.turns // talkers + (i < amount.turns % talkers) for i in range(talkers)]
    try:
        await asyncio.gather(*(_talk(run, count, owners) for count in counts))
    finally:
        striking.cancel()
        await asyncio.gather(striking, return_exceptions=True)
    await run.house.heal()
    _note_waits(run, blows)


async def _talk(run: Run, turns: int, owners: dict[Tab, Worker]) -> None:
    tab = await run.tab(run.chance.choice(run.house.workers))
    for _ in range(turns):
        said = await run.say(tab, run.chance.randint(20, 120), run.chance.choice((20, 50, 100)))
        if tab.connection is not None:
            owners[tab] = run.house.at(tab.connection.record.worker)
        await tab.until_ended(said.turn, 180)
        owners.pop(tab, None)


async def _strike(run: Run, owners: dict[Tab, Worker], blows: list[Blow]) -> None:
    while True:
        await run.pause(2, 6)
        victim = run.chance.choice(run.house.workers)
        kind = run.chance.choice(("kill -9", "SIGSTOP"))
        blows.append(Blow(time.time(), kind, [tab for tab, owner in owners.items() if owner is victim]))
        if kind == "kill -9":
            victim.kill()
            await run.pause(0, 3)
            await victim.start(look.worker_id)
        else:
            victim.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(run.chance.uniform(0.5, 2) * run.house.dead_after_s)
            finally:
                victim.signal(signal.SIGCONT)


def _note_waits(run: Run, blows: list[Blow]) -> None:
    for kind in ("kill -9", "SIGSTOP"):
        struck = [blow for blow in blows if blow.kind == kind]
        found = [next_event(tab.record, blow.at, SETTLE_S) for blow in struck for tab in blow.hit]
        waits = [wait for wait in found if wait is not None]
        if waits:
            run.note(
                f"{len(struck)} x {kind}, {len(waits)} turns hit: to the next event median "
                f"{statistics.median(waits):.1f} s, worst {max(waits):.1f} s"
            )


# ----------------------------------------------------------------------------------------- rolling restart


async def rolling(run: Run, amount: Amount) -> None:
    """All workers restarted one after the other, while so many turns run."""
    rate = 2.0
    tokens = int(rate * 45 * len(run.house.workers))  # longer than all restarts take
    tabs: list[Tab] = []
    for first in range(0, amount.turns, TALKERS):
        count = min(TALKERS, amount.turns - first)
        tabs += await asyncio.gather(*(run.tab(run.chance.choice(run.house.workers)) for _ in range(count)))
    said = await asyncio.gather(*(run.say(tab, tokens, rate) for tab in tabs))
    await asyncio.gather(*(speech.tab.until_text(speech.turn, 40, 120) for speech in said))
    began = time.time()
    for worker in run.house.workers:
        worker.end()
        await worker.ended(90)
        await worker.start(look.worker_id)
    ended = time.time()
    running = sum(speech.turn not in speech.tab.view.ended for speech in said)
    run.expect(running > amount.turns / 2, f"only {running} of {amount.turns} turns still ran after the restarts")
    gaps = sorted(gap for speech in said if (gap := _longest_gap(speech, began, ended)) is not None)
    await asyncio.gather(*(speech.tab.until_ended(speech.turn, 300) for speech in said))
    over = sum(gap > WAITS_MOST_S for gap in gaps)
    run.note(
        f"{len(gaps)} of {len(said)} turns ran when {len(run.house.workers)} restarts began, which took "
        f"{ended - began:.0f} s: longest gap between events median {statistics.median(gaps):.1f} s, worst "
        f"{gaps[-1]:.1f} s, over {WAITS_MOST_S:g} s: {over}"
    )
    run.expect(not over, f"{over} of {len(gaps)} waited over {WAITS_MOST_S:g} s for the next event")


def _longest_gap(speech: Speech, since: float, until: float) -> float | None:
    """Of a turn's events, in seconds, as long as it ran; null: it had ended before."""
    shown = [
        seen
        for connection in speech.tab.record.connections
        for seen in connection.seen
        if seen.frame["type"] == "snapshot" or seen.frame["type"] not in NOT_EVENTS
    ]
    end = next((seen.at for seen in shown if seen.frame["type"] == "turn_end"), until)
    if end < since:
        return None
    until = min(end, until)
    times = [since, *(seen.at for seen in shown if since <= seen.at <= until), until]
    return max(b - a for a, b in zip(times, times[1:], strict=False))


# -------------------------------------------------------------------------------------------------- churn


async def churn(run: Run, amount: Amount) -> None:
    """Sockets come, some talk, and go, with and without a close frame; memory, descriptors and keys are noted."""
    chats = [run.fresh_chat() for _ in range(CHURNED_CHATS)]
    ends = time.monotonic() + amount.minutes * 60
    visits: set[asyncio.Task] = set()
    failed: list[str] = []
    seen = 0
    curve = run.spawn(_sample(run, ends))
    while time.monotonic() < ends:
        if len(visits) < 4 * CONNECTS_A_SECOND:
            visit = asyncio.create_task(_visit(run, run.chance.choice(chats), failed))
            visits.add(visit)
            visit.add_done_callback(visits.discard)
            seen += 1
        await asyncio.sleep(1 / CONNECTS_A_SECOND)
    await asyncio.gather(*visits)
    points = await curve
    run.expect(not failed, f"{len(failed)} visits failed: {failed[:3]}")
    run.note(f"{seen} visits")
    for name in points[0]:
        run.note(f"{name}: {_curve([values[name] for values in points])}")


def _curve(values: list[float]) -> str:
    """A dozen points of it, and how its last third compares with the one before."""
    third = max(1, len(values) // 3)
    last, before = statistics.mean(values[-third:]), statistics.mean(values[-2 * third : -third] or values[:1])
    shown = " ".join(f"{value:,.0f}" for value in values[:: max(1, len(values) // 12)])
    return f"{shown} (last third {last / max(1.0, before):.2f} x the one before)"


async def _visit(run: Run, chat: str, failed: list[str]) -> None:
    try:
        tab = await run.tab(run.chance.choice(run.house.workers), chat)
        if run.chance.random() < 0.1:
            id_ = run.fresh_id()
            await tab.ask_once("say", 10, id=id_, text=run.words(20, id_, rate=100))
        await run.pause(0, 2)
        if run.chance.random() < 0.5:
            tab.stays_away = True
            tab.cut()
        await tab.close()
        if tab.fault:
            failed.append(tab.fault)
        run.tabs.remove(tab)  # 50 a second; what each saw its own view has looked at
    except Exception as error:
        failed.append(repr(error))


async def _sample(run: Run, ends: float) -> list[dict[str, float]]:
    points = []
    while time.monotonic() < ends:
        with run.house.store.client() as store:
            values: dict[str, float] = {"keys": await run.call(store.dbsize)}
        for worker in run.house.workers:
            values[f"{worker.name} MiB"] = worker.memory() / 2**20
            values[f"{worker.name} descriptors"] = worker.count_descriptors()
        points.append(values)
        await asyncio.sleep(min(SAMPLE_S, max(0.0, ends - time.monotonic())))
    return points


# ------------------------------------------------------------------------------------------------ attack


async def attack(run: Run, amount: Amount) -> None:
    """All bad inputs at all workers, while answers stream at a pace; then large frames at one that is busy."""
    attack_s = amount.minutes * 60
    tokens = int(PACE * (CALM_WINDOW_S + attack_s + 30))
    tabs = [await run.tab(run.house.workers[i % len(run.house.workers)]) for i in range(GOOD_TABS)]
    said = [await run.say(tab, tokens, PACE) for tab in tabs]
    await asyncio.gather(*(speech.tab.until_text(speech.turn, 40, 60) for speech in said))
    began = time.time()
    await asyncio.sleep(CALM_WINDOW_S)
    hit = time.time()
    report = await _attack(run, [worker.address for worker in run.house.workers], attack_s)
    ended = time.time()
    _judge(run, report)
    run.note(f"{sum(report.sent.values())} bad inputs of {len(report.sent)} kinds in {ended - hit:.0f} s")
    calm, attacked = (_gaps_ms(tabs, since, until) for since, until in ((began, hit), (hit, ended)))
    run.note(f"gaps between events of {GOOD_TABS} answers, ms: {_spread(calm)} before, {_spread(attacked)} meanwhile")
    run.expect(_at(attacked, 0.99) <= GAP_MS, f"p99 of the gaps is {_at(attacked, 0.99):.0f} ms")
    await _large_frames(run)
    await asyncio.gather(*(speech.tab.until_ended(speech.turn, 120) for speech in said))


def _judge(run: Run, report: hostile.Report) -> None:
    """Every kind was sent, and answered by itself but for some that a bound caught first."""
    for name, found in report.wrong.items():
        run.expect(False, f"{name}: {len(found)} of {report.sent[name]} answered by {sorted(set(found))[:3]}")
    run.expect(not (missing := hostile.kinds() - set(report.sent)), f"never sent: {sorted(missing)}")
    sent = sum(report.sent.values())
    run.expect(report.caught <= CAUGHT_SHARE * sent, f"{report.caught} of {sent} were caught by a bound")


async def _large_frames(run: Run) -> None:
    worker = run.house.workers[0]
    before = worker.memory()
    report = await _attack(run, [worker.address], 0, LARGE_FRAMES)
    grown = (worker.memory() - before) / 2**20
    run.note(f"{sum(report.sent.values())} frames of half a megabyte at a busy worker: {grown:+.1f} MiB")
    run.expect(report.sent == {"half a megabyte": LARGE_FRAMES} and not report.wrong, f"{report}")
    run.expect(grown <= LARGE_MIB, f"it grew by {grown:.1f} MiB")


async def _attack(run: Run, doors: list[str], seconds: float, large: int = 0) -> hostile.Report:
    job = hostile.Job(doors, run.house.token, "talk", seconds, HOSTILE_CLIENTS, large)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "faults.hostile", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(msgspec.json.encode(job))
    if process.returncode:
        raise RuntimeError("the hostile client failed")
    return msgspec.json.decode(out, type=hostile.Report)


def _gaps_ms(tabs: list[Tab], since: float, until: float) -> list[float]:
    """Between the events of each and the window's ends, sorted."""
    gaps = []
    for tab in tabs:
        shown = [seen for connection in tab.record.connections for seen in connection.seen]
        times = [seen.at for seen in shown if since <= seen.at <= until and seen.frame["type"] not in NOT_EVENTS]
        times = [since, *times, until]
        gaps += [(b - a) * 1000 for a, b in zip(times, times[1:], strict=False)]
    return sorted(gaps)


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _spread(ordered: list[float]) -> str:
    return f"p50 {_at(ordered, 0.5):.0f}, p99 {_at(ordered, 0.99):.0f}, most {_at(ordered, 1):.0f}"


SIEGES: dict[str, Callable[[Run, Amount], Awaitable[None]]] = {
    "kills": kills,
    "rolling": rolling,
    "churn": churn,
    "attack": attack,
}
