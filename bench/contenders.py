"""The processes of a measurement: the model, Headrace, floor and peer, each where it belongs.

Servers run on the first core; model, load generator and stores on the others. Each has a fresh directory.
"""

import contextlib
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bench import cpu

ROOT = Path(__file__).resolve().parent.parent
START_S = 90.0
HEADRACES = {"headrace", "accepting"}
STORES = ("valkey-server", "redis-server")

# Bounds that protect one installation from one user; a measurement is one user, and one address.
RAISED = {
    "HEADRACE_SOCKETS_PER_USER": "100000",
    "HEADRACE_SOCKETS_PER_ADDRESS": "100000",
    "HEADRACE_TURNS_PER_USER": "100000",
    "HEADRACE_COMMANDS_PER_S": "1000",
    "HEADRACE_COMMANDS_BURST": "1000",
}


class Contender(msgspec.Struct):
    """A server that can be measured. `path`: its sockets', with {chat}. `ready`: the frame after which it is open."""

    name: str
    port: int
    path: str
    ready: str = ""
    pid: int = 0
    store: int = 0


class House:
    """All processes of one run of the bench."""

    def __init__(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        self.directory = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._secret = secrets.token_hex(32)
        self._prepared = self.directory / "prepared"
        self._contenders: dict[str, Contender] = {}
        self._environments: dict[str, dict[str, str]] = {}
        self.model_port = free_port()
        self.model_pid = self._start("model", ["-m", "bench.model", str(self.model_port)], {}, cpu.OTHER_CORES)
        _wait(lambda: _listens(self.model_port), "the model listens")

    @property
    def model(self) -> str:
        return f"http://127.0.0.1:{self.model_port}/v1"

    def pids(self) -> list[int]:
        """Everything that is ours, for telling others' load from our own."""
        mine = [process.pid for process in self._processes.values()]
        return [*mine, *(contender.store for contender in self._contenders.values() if contender.store)]

    def start(self, names: Iterable[str]) -> None:
        """Of headrace, accepting (Headrace that runs no turns), bare, layer; side by side."""
        wanted = list(names)
        if set(wanted) & HEADRACES:
            self._prepare()
        with ThreadPoolExecutor(len(wanted)) as threads:
            starts = {name: self._headrace if name in HEADRACES else self._peer for name in wanted}
            started = {name: threads.submit(start, name) for name, start in starts.items()}
        self._contenders |= {name: future.result() for name, future in started.items()}

    def get(self, name: str) -> Contender:
        return self._contenders[name]

    def log_of(self, name: str) -> str:
        """What it printed."""
        return self._log(name).read_text(errors="replace")

    def tokens(self, name: str, count: int) -> list[str]:
        """Access tokens of `count` fresh users of that Headrace; empty ones where there are no users."""
        if name not in self._environments:
            return [""] * count
        return _run(["-m", "bench.prepare", "tokens", str(count)], self._environments[name]).split()

    def _headrace(self, name: str) -> Contender:
        port = free_port()
        data = self.directory / name
        shutil.copytree(self._prepared, data)
        env = self._environment(data, PORT=str(port), HEADRACE_TURNS="off" if name == "accepting" else "on", **RAISED)
        pid = self._start(name, ["manage.py", "serve"], env, cpu.SERVER_CORES)
        self._wait_up(name, port)
        self._environments[name] = env
        return Contender(name, port, "/chat/bench?chat_id={chat}", "snapshot", pid, self._pin_store(data))

    def _prepare(self) -> None:
        """A directory with tables, provider and flows; copied for each Headrace."""
        _run(["-m", "bench.prepare", "flows", self.model], self._environment(self._prepared))
        _wait(lambda: not _store_of(self._prepared), "the store of the preparation has ended")
        shutil.rmtree(self._prepared / "redis", ignore_errors=True)

    def _peer(self, name: str) -> Contender:
        port = free_port()
        data = self.directory / name
        env = self._environment(data, BENCH_MODEL=self.model)
        pid = self._start(name, ["-m", "bench.peers.serve", name, str(port)], env, cpu.SERVER_CORES)
        self._wait_up(name, port)
        path = "/relay/{chat}" if name == "bare" else "/chat/{chat}"
        return Contender(name, port, path, "", pid, self._pin_store(data))

    def _environment(self, data: Path, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "ENV_FILE": os.devnull,
            "DATA_DIR": str(data),
            "SECRET_KEY": self._secret,
            "HEADRACE_ALLOW_PRIVATE_PROVIDERS": "on",
            "LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
            **more,
        }

    def _start(self, name: str, command: list[str], env: dict[str, str], cores: set[int]) -> int:
        with self._log(name).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=env or {**os.environ, "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=output,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        self._processes[name] = process
        return process.pid

    def _wait_up(self, name: str, port: int) -> None:
        process = self._processes[name]
        _wait(lambda: _is_up(port) or process.poll() is not None, f"{name} answers")
        if process.poll() is not None:
            raise SystemExit(f"bench: {name} did not start:\n{self.log_of(name)}")

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _pin_store(self, data: Path) -> int:
        """The embedded store was started by the server, on its core: it goes to the others."""
        pid = _store_of(data)
        if pid:
            cpu.pin(pid, cpu.OTHER_CORES)
        return pid

    def close(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def house() -> Iterator[House]:
    built = House()
    try:
        yield built
    finally:
        built.close()


def fresh_chat() -> str:
    return str(uuid.uuid4())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _store_of(data: Path) -> int:
    """The process of the embedded store of a directory (its working directory is `data/redis`); 0: there is none."""
    wanted = os.path.realpath(data / "redis")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.joinpath("comm").read_text().strip() in STORES and os.readlink(entry / "cwd") == wanted:
                    return int(entry.name)
            except OSError:
                continue
    return 0


def _run(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=START_S
    )
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _wait(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not check():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: not within {START_S:.0f} s: {what}")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
