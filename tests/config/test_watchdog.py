"""A process whose event loop stands is ended and says where it stood; one that is slow, frozen or debugged is not."""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from config.watchdog import STATUS, TICK_S, TICKS, Stand, ticks_in
from tests.config.test_serve import state_of, workers_of
from tests.server import ROOT, START_S, HeadraceServer, environment, manage
from tests.sockets.tabs import Tab, tab_at
from tests.waiting import until, wait_until

BOUND_S = 2.0
QUICK = {
    "DJANGO_SETTINGS_MODULE": "tests.config.standing_settings",
    "HEADRACE_LOOP_STANDS_S": str(BOUND_S),
    "HEADRACE_DEAD_AFTER_S": "2",
    "HEADRACE_BEAT_S": "0.5",
    "HEADRACE_SWEEP_S": "0.5",
    "LOG_FORMAT": "json",
}
WAYS = ("waits", "counts", "matches")

# ---------------------------------------------------------------------------------------------- what is judged


def test_so_many_ticks_at_one_place_are_a_stand() -> None:
    stand, place = Stand(3), object()
    assert [stand.tick(place) for _ in range(5)] == [False, False, False, True, True]


@pytest.mark.parametrize("between", [None, object()])
def test_a_beat_or_another_place_between_is_none(between: object) -> None:
    stand, place = Stand(3), object()
    assert not any(stand.tick(where) for where in [place, place, place, between] * 5)


@pytest.mark.parametrize("bound_s", [0.6, 2, 29.9, 30, 30.1, 45, 86_400])
def test_the_loop_is_asked_each_second_or_oftener_whatever_the_bound(bound_s: float) -> None:
    ticks = ticks_in(bound_s)
    assert ticks >= TICKS and bound_s / ticks <= TICK_S
    assert ticks == TICKS or bound_s / (ticks - 1) > TICK_S  # and no oftener than that takes


def run(program: str, stdin: str | None = None) -> "subprocess.Popen[str]":
    """`program`: the body of a coroutine on a loop that is watched, with a bound of 0.6 s, once it beats."""
    lines = "\n".join(f"    {line}" for line in program.strip().splitlines())
    return subprocess.Popen(
        [sys.executable, "-c", f"{HEAD}{lines}\n{TAIL}"],
        cwd=ROOT,
        env=environment(ROOT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


HEAD = """
import asyncio, signal, time, uvloop
from config.watchdog import Watchdog

def work(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass

async def main():
    loop, watchdog = asyncio.get_running_loop(), Watchdog(0.6)
    watchdog.start()
    while watchdog._below is None:
        await asyncio.sleep(0)
"""
TAIL = """
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
print("came to its end")
"""


def end_of(process: "subprocess.Popen[str]", told: str = "") -> tuple[int, str]:
    output, errors = process.communicate(told, 60)
    return process.returncode, output + errors


def test_a_callback_that_stands_ends_the_process() -> None:
    status, output = end_of(run("work(30)"))
    assert status == STATUS
    assert "loop_stands" in output and "in work" in output


def test_a_round_that_is_long_because_there_is_much_to_do_goes_on() -> None:
    program = """
for _ in range(40):
    loop.call_soon(work, 0.06)
done = loop.create_future()
loop.call_soon(done.set_result, None)
await done
"""
    assert end_of(run(program)) == (0, "came to its end\n")


def test_a_loop_that_a_debugger_has_stopped_is_let_be() -> None:
    process = run("breakpoint()\nprint('went on')")
    wait_until(lambda: process.stdout is not None and process.stdout.readline().startswith(">"), what="it has stopped")
    began = time.monotonic()
    wait_until(lambda: process.poll() is not None or time.monotonic() > began + 2, what="more than the bound")
    status, output = end_of(process, "continue\n")
    assert status == 0 and "went on" in output


def test_the_timer_is_left_to_a_profiler_that_has_taken_it() -> None:
    program = """
rung = []
signal.signal(signal.SIGVTALRM, lambda *_: rung.append(1))
signal.setitimer(signal.ITIMER_VIRTUAL, 0.2, 0.2)
for _ in range(20):
    work(0.1)
    await asyncio.sleep(0)
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
print(len(rung) > 2)
"""
    assert end_of(run(program)) == (0, "True\ncame to its end\n")


# -------------------------------------------------------------------------------------------------- one process


@pytest.fixture(scope="module")
def installation(make_server: Callable[..., HeadraceServer]) -> HeadraceServer:
    return make_server(**QUICK)


@pytest.fixture
def alone(installation: HeadraceServer) -> Iterator[HeadraceServer]:
    """One process that nobody supervises."""
    yield installation.start()
    installation.kill()


def beats(server: HeadraceServer) -> int:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as page:
        return int(float(re.search(rb"^headrace_loop_delay_seconds_count\S* (\S+)", page.read(), re.MULTILINE)[1]))


def test_a_process_that_was_frozen_for_longer_than_the_bound_goes_on(alone: HeadraceServer) -> None:
    assert alone.process is not None
    for _ in range(2):
        os.killpg(alone.process.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        wait_until(lambda at=stopped: time.monotonic() > at + 2 * BOUND_S, what="more than the bound")
        os.killpg(alone.process.pid, signal.SIGCONT)
        seen = beats(alone)
        wait_until(lambda at=seen: beats(alone) > at + TICKS, what="more beats than the bound has ticks")
    assert alone.process.poll() is None and "loop_stands" not in alone.log


def test_a_process_that_nobody_supervises_ends_with_a_status_of_its_own(alone: HeadraceServer) -> None:
    assert alone.process is not None
    hold_up(http.client.HTTPConnection(alone.host, timeout=30), "matches")
    assert alone.process.wait(20) == STATUS
    alone.process = None
    assert "standing_urls.py" in told(alone)[-1]["stack"]


def told(server: HeadraceServer) -> list[dict[str, Any]]:
    """What watchdogs said last, a line each."""
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "loop_stands"]


def hold_up(connection: http.client.HTTPConnection, how: str) -> None:
    """The loop of the worker at its end; returns when its process has ended."""
    with pytest.raises(ConnectionError):
        connection.request("GET", f"/stand/{how}/")
        connection.getresponse()


# --------------------------------------------------------------------------------------------------- two workers


@pytest.fixture(scope="module")
def pair(make_server: Callable[..., HeadraceServer]) -> HeadraceServer:
    return make_server(WORKERS="2", **QUICK).start()


@pytest.mark.parametrize("how", WAYS)
async def test_a_worker_whose_loop_stands_is_replaced_and_others_clients_see_nothing(
    pair: HeadraceServer, how: str
) -> None:
    assert pair.process is not None
    demo, chief = [(await asyncio.to_thread(manage, "token", who, env=pair.env)).stdout.strip() for who in USERS]
    before, died = workers_of(pair.process.pid), pair.log.count("worker_died")
    async with AsyncExitStack() as stack:
        await until(lambda: before <= alive(pair, chief), START_S, "both workers are there")
        fallen, other = before
        lost, kept = [await tab_of(pair, worker, demo, stack) for worker in (fallen, other)]
        connection, name = connection_to(pair, fallen)
        holding = asyncio.create_task(asyncio.to_thread(hold_up, connection, how))
        while not holding.done():
            await talk(kept)
        await holding
        assert (await lost.closed()).code == 1006
        await until(lambda: len(workers_of(pair.process.pid) - before) == 1, what="another worker is there")
        assert pair.log.count("worker_died") == died + 1 and f'"status": {STATUS}' in pair.log
        await talk(kept)
        async with tab_at(pair.host, "guide", demo, chat_of(lost), lost.view) as back:
            await talk(back)
    last = told(pair)[-1]
    assert last["worker"] == name and "standing_urls.py" in last["stack"]


USERS = ("demo", "admin")


async def tab_of(server: HeadraceServer, worker: int, token: str, stack: AsyncExitStack) -> Tab:
    """Of this worker; it has talked."""
    connection, _ = connection_to(server, worker)
    opening = tab_at(server.host, "guide", token, str(uuid.uuid4()), sock=connection.sock)
    tab = await stack.enter_async_context(opening)
    await talk(tab)
    return tab


def connection_to(server: HeadraceServer, worker: int) -> tuple[http.client.HTTPConnection, str]:
    """One that this worker has taken, since the others are frozen meanwhile; and the worker's name."""
    assert server.process is not None
    others = workers_of(server.process.pid) - {worker}
    connection = http.client.HTTPConnection(server.host, timeout=30)
    try:
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda pid=pid: state_of(pid) == "T", what="it is frozen")
        connection.request("GET", "/who/")
        found = json.load(connection.getresponse())
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    assert found["pid"] == worker
    return connection, found["worker"]


def chat_of(tab: Tab) -> str:
    return next(frame["chat"] for frame in tab.frames if frame["type"] == "welcome")


def alive(server: HeadraceServer, chief: str) -> set[int]:
    """Processes of workers that have begun."""
    asked = urllib.request.Request(f"{server.url}/api/workers/", headers={"Authorization": f"Bearer {chief}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return {row["pid"] for row in json.load(answer)["results"] if row["alive"]}


async def talk(tab: Tab) -> None:
    reply = await tab.say("Hello")
    assert reply["type"] == "ok", reply
    assert (await tab.until_stored(reply["turn"]))["status"] == "done"


def test_workers_that_stood_are_not_counted_among_those_that_cannot_live(tmp_path: Any) -> None:
    program = (
        "import sys, subprocess; from config import serve\n"
        f"ends = iter([{STATUS}] * 8 + [1] * 100)\n"
        "serve._start_worker = lambda *_: subprocess.Popen(['sh', '-c', f'exit {next(ends)}'])\n"
        "try: serve.supervise(serve.listen('127.0.0.1', 0), 1)\n"
        "except serve.ServeError as error: sys.exit(str(error))\n"
    )
    env = environment(tmp_path / "data", HEADRACE_WORKER_RESTART_AFTER_S="0.01", LOG_FORMAT="json")
    done = subprocess.run(
        [sys.executable, "-c", f"import django; django.setup()\n{program}"],
        cwd=ROOT,
        env=env | {"DJANGO_SETTINGS_MODULE": "config.settings"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "6 workers died within 60 s" in done.stderr.splitlines()[-1]
    assert done.stderr.count(f'"status": {STATUS}') == 8
