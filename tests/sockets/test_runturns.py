"""Workers without sockets, as an operator runs them: a server that runs no turns, and `manage.py runturns` besides."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server import ROOT, HeadraceServer, manage
from tests.sockets.conftest import TALK
from tests.sockets.tabs import fake
from tests.sockets.test_restart import QUICK, House
from tests.waiting import until, wait_until

HANGS_ONCE = fake(tokens=100, fault="hang", after=30, times=1)
CALLED = {"HEADRACE_SWEEP_S": "600"}  # takes what it is called to, and looks for nothing by itself


@pytest.fixture(scope="module")
def house(make_server: Callable[..., HeadraceServer]) -> House:
    server = make_server(**QUICK, HEADRACE_TURNS="off", HEADRACE_METRICS_EVERY_S="1")
    server.start()
    return House(server, manage("token", "admin", env=server.env).stdout.strip())


class Worker:
    """One `manage.py runturns` beside the server."""

    def __init__(self, house: House, log: Path, **env: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "runturns"],
                env={**house.server.env, "HEADRACE_TURNS": "on", **env},
                cwd=ROOT,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def end(self) -> int:
        """SIGTERM, and the status it ended with."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def start(house: House, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """`start(**CALLED)`: a worker that lives and can be called."""
    workers: list[Worker] = []

    def make(**env: str) -> Worker:
        before = set(figures(house, "headrace_worker_info"))
        worker = Worker(house, tmp_path / f"worker-{len(workers)}", **env)
        workers.append(worker)
        wait_until(lambda: set(figures(house, "headrace_worker_info")) - before, 30, "it has left its first figures")
        return worker

    yield make
    for worker in workers:
        worker.kill()


def figures(house: House, name: str) -> dict[str, float]:
    """Worker -> value of one series of the server's page."""
    with urllib.request.urlopen(f"{house.server.url}/metrics", timeout=10) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {sample.labels["worker"]: sample.value for sample in samples}


async def test_say_is_answered_by_a_worker_without_sockets(house, model, start):
    flow = await house.publish(TALK, model)
    worker = await asyncio.to_thread(start, **CALLED)
    async with house.tab(flow, str(uuid.uuid4())) as one:
        said = await one.say(fake(text="Good evening."))
        await one.until_ended(said["turn"])
        stored = await one.until_stored(said["turn"])
    assert [part["text"] for part in stored["parts"]] == ["Good evening."]
    assert await asyncio.to_thread(worker.end) == 0
    assert "Traceback" not in worker.log


async def test_worker_that_is_told_to_end_gives_its_turn_to_another(house, model, start):
    """At once: the other one looks for nothing by itself."""
    flow = await house.publish(TALK, model)
    first = await asyncio.to_thread(start, **CALLED)
    async with house.tab(flow, str(uuid.uuid4())) as one:
        said = await one.say(HANGS_ONCE)
        await one.until_text(10, said["turn"])
        second = await asyncio.to_thread(start, **CALLED)
        assert await asyncio.to_thread(first.end) == 0
        end = await one.until_ended(said["turn"])
        attempts = {frame["attempt"] for frame in one.frames if frame["type"] == "turn_start"}
    assert attempts == {2, 3}  # nobody had the first one
    assert end["message"]["status"] == "done"
    assert await asyncio.to_thread(second.end) == 0
    assert "Traceback" not in first.log + second.log


async def test_killed_worker_is_taken_over_from_and_that_is_counted(house, model, start):
    flow = await house.publish(TALK, model)
    first = await asyncio.to_thread(start, **CALLED)
    async with house.tab(flow, str(uuid.uuid4())) as one:
        said = await one.say(HANGS_ONCE)
        await one.until_text(10, said["turn"])
        await asyncio.to_thread(start)
        first.kill()
        await one.until_ended(said["turn"])
    taken = await until(lambda: asyncio.to_thread(lambda: sum(figures(house, "headrace_takeovers_total").values())))
    assert taken == 1


def test_worker_that_may_run_nothing_is_refused_in_a_sentence(house):
    done = manage("runturns", env=house.server.env)
    assert done.returncode == 1
    assert "HEADRACE_TURNS is off" in done.stderr and done.stderr.count("\n") == 1
