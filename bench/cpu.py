"""Processes and cores: who runs where, who used how much. Reads /proc (Linux)."""

import os
import platform
from pathlib import Path

import msgspec

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = {CORES[0]}
OTHER_CORES = set(CORES[1:]) or {CORES[0]}


def pin(pid: int, cores: set[int]) -> None:
    """All threads of a process; what it starts later inherits it."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:
            pass


def used_s(pid: int) -> float:
    """CPU seconds of a process so far, of threads that have ended too. 0 where it has gone.

    Nanoseconds fine where the kernel says so and all threads still live: those that ended count in ticks alone.
    """
    try:
        fine_s = sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in _tasks(pid)) / 1e9
    except (OSError, IndexError):
        fine_s = 0.0
    return max(fine_s, _used_in_ticks_s(pid))


def _tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def _used_in_ticks_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM. 0 where it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def busy_s() -> float:
    """CPU seconds that all of the machine's cores have worked."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / TICKS_PER_S


class Machine(msgspec.Struct, frozen=True):
    cpu: str
    cores: int
    memory_gb: int
    kernel: str
    python: str


def machine() -> Machine:
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return Machine(cpu, len(CORES), round(memory / 1024**2), platform.release(), platform.python_version())


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def children(pid: int) -> list[int]:
    """All that descend from `pid`, by the parents that /proc names now."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = entry.joinpath("stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found
