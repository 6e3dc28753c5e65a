"""One measurement after the other: rounds in which floor, peer and Headrace take turns, and what came of them."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable

import msgspec

from bench import cpu
from bench.contenders import ROOT, Contender, House, NotMeasured
from bench.job import Job, Result

DURABILITY = (
    "SQLite, WAL, synchronous NORMAL, BEGIN IMMEDIATE; Valkey on a Unix socket, append-only file, fsync every second."
)
JOB_S = 600
FOREIGN_SHARE = 0.2  # of a core: more than that kept busy by others, and a measurement is made again
TRIES = 3
BUSY_SHARE = 0.9  # of the generator's cores: above it the row measured the generator

Measured = dict[str, list[Result]]


class Goal(msgspec.Struct, frozen=True):
    """`how`: "ratio" or "difference" to `against`, else the "value" itself, of the column `of`.

    `is_least`: a bound from below.
    """

    text: str
    bound: float
    how: str = "ratio"
    against: str = ""
    is_least: bool = False
    of: str = "headrace"

    def reached(self, line: "Line") -> list[float]:
        """What was reached in each round."""
        ours = line.columns.get(self.of, [])
        if self.how == "value":
            return ours
        others = line.columns.get(self.against, [])
        pairs = zip(ours, others, strict=False)
        if self.how == "ratio":
            return [mine / other for mine, other in pairs if other]
        return [mine - other for mine, other in pairs]

    def is_met(self, reached: list[float]) -> bool:
        middle = statistics.median(reached)
        return middle >= self.bound if self.is_least else middle <= self.bound


class Line(msgspec.Struct):
    """A figure of a row: for each contender one value a round."""

    name: str
    unit: str
    columns: dict[str, list[float]]
    goals: list[Goal] = []


class Row(msgspec.Struct):
    """`notes`: settings and circumstances; `void`: why it does not count, where it does not."""

    name: str
    title: str
    lines: list[Line]
    notes: list[str] = []
    void: str = ""


class Bench:
    """What rows need: the processes, how many rounds, whether this only shows that it works."""

    def __init__(self, house: House, rounds: int, is_tiny: bool, say: Callable[[str], None]) -> None:
        self.house = house
        self.rounds = rounds
        self.is_tiny = is_tiny
        self.say = say
        self._seed = 0

    def pick(self, whole: float, tiny: float) -> float:
        return tiny if self.is_tiny else whole

    def some(self, *sizes: tuple) -> tuple[tuple, ...]:
        """Of a row's sizes: all, or the first one."""
        return sizes[:1] if self.is_tiny else sizes

    def interleave(self, makers: dict[str, Callable[[], Result]], what: str) -> Measured:
        """Each maker once a round, another one first in each."""
        found: Measured = {name: [] for name in makers}
        names = list(makers)
        for turn in range(self.rounds):
            order = names[turn % len(names) :] + names[: turn % len(names)]
            for name in order:
                result = self._undisturbed(makers[name])
                found[name].append(result)
                figures = "  ".join(f"{key} {value:,.4g}" for key, value in result.figures.items())
                self.say(f"  {what} round {turn + 1} {name}: {figures}")
        return found

    def _undisturbed(self, make: Callable[[], Result]) -> Result:
        """The first one beside which little else ran, else that of `TRIES` beside which the least did."""
        best = make()
        for _ in range(0 if self.is_tiny else TRIES - 1):
            if best.foreign_share <= FOREIGN_SHARE:
                break
            self.say(f"  (others kept {best.foreign_share:.2f} cores busy)")
            best = min(best, make(), key=lambda result: result.foreign_share)
        return best

    def run(self, kind: str, name: str, *, users: int = 1, **fields: object) -> Result:
        """One job of the load generator. Raises NotMeasured."""
        contender = self.house.get(name)
        self._seed += 1
        path = str(fields.pop("path", contender.path))
        tokens = list(fields.pop("tokens", ()))
        job = Job(
            kind=kind,
            ports=contender.ports,
            path=path,
            ready=contender.ready,
            words=contender.words,
            model_port=self.house.model_port,
            tokens=tokens or self.house.tokens(name, users),
            watch=self._watched(contender),
            ours=self.house.pids(),
            seed=self._seed,
            **fields,
        )
        done = subprocess.run(
            [sys.executable, "-m", "bench.load"],
            input=msgspec.json.encode(job),
            capture_output=True,
            cwd=ROOT,
            timeout=JOB_S,
            preexec_fn=_go_beside,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise NotMeasured(f"{name}: {said[-2000:]}\n{self.house.log_of(name)[-4000:]}")
        result = msgspec.json.decode(done.stdout, type=Result)
        if not result.is_equal:
            raise NotMeasured(f"{name}: {kind}: the text at a viewer was not the model's")
        return result

    def _watched(self, contender: Contender) -> dict[str, list[int]]:
        found = {"server": contender.pids, "model": [self.house.model_pid]}
        if contender.store:
            found["store"] = [contender.store]
        return found

    def void(self, measured: "Measured") -> str:
        """As `void_of`; a tiny form is no measurement, and never void."""
        return "" if self.is_tiny else void_of(measured)


def _go_beside() -> None:
    os.sched_setaffinity(0, cpu.OTHER_CORES)


def line(name: str, unit: str, measured: Measured, figure: str, goals: list[Goal]) -> Line:
    columns = {who: [result.figures[figure] for result in results] for who, results in measured.items() if results}
    return Line(name, unit, columns, goals)


def void_of(measured: Measured) -> str:
    """Why these measurements do not count; empty where they do."""
    for name, results in measured.items():
        share = statistics.median(result.generator_share for result in results)
        if share > BUSY_SHARE:
            return f"the generator had no spare time beside {name} ({share:.0%} of its cores)"
    for name, results in measured.items():
        foreign = statistics.median(result.foreign_share for result in results)
        if foreign > FOREIGN_SHARE:
            return f"others kept {foreign:.2f} cores busy beside {name}"
    return ""


def busy_note(measured: Measured) -> str:
    """How much was spent by whom, as medians in cores."""
    said = []
    for name, results in measured.items():
        names = results[0].cpu_s
        spent = {who: statistics.median(r.cpu_s.get(who, 0.0) / r.wall_s for r in results) for who in names}
        said.append(f"{name}: " + ", ".join(f"{who} {share:.2f}" for who, share in spent.items()))
    return "cores used: " + "; ".join(said)
