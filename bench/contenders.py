"""The processes of a measurement: the model, Headrace, floor and peer, each where it belongs.

Servers run on the first core; model, load generator and stores on the others. Each has a fresh directory.
"""

import contextlib
import http.client
import math
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
END_S = 30.0
FILL_S = 600.0
HEADRACES = {"headrace", "accepting", "filled", "storeless", "counted"}
CREWS = {"two": 2, "three": 3, "four": 4}  # workers of one Headrace, each with a port, on one database and one store
DRAIN_S = 3  # that the turns of a crew's worker have to end, which may take 20 by default
STORES = ("valkey-server", "redis-server")

# Bounds that protect one installation from one user; a measurement is one user, and one address.
RAISED = {
    "HEADRACE_SOCKETS_PER_USER": "100000",
    "HEADRACE_SOCKETS_PER_ADDRESS": "100000",
    "HEADRACE_TURNS_PER_USER": "100000",
    "HEADRACE_TURNS_PER_WORKER": "2000",
    "HEADRACE_COMMANDS_PER_S": "1000",
    "HEADRACE_COMMANDS_BURST": "1000",
}


PATH = "/chat/bench?chat_id={chat}"
PATHS = {"bare": "/relay/{chat}", "socketio": "/socket.io/?EIO=4&transport=websocket&chat={chat}"}
# The tiny form of a takeover: what takes seconds by default, in fractions of them.
QUICK = {"HEADRACE_BEAT_S": "0.5", "HEADRACE_DEAD_AFTER_S": "2", "HEADRACE_SWEEP_S": "0.5"}


class Contender(msgspec.Struct):
    """A server that can be measured, by its workers' ports and processes.

    `path`: its sockets', with {chat}. `ready`: the frame after which one is open. `words`: what its clients speak,
    where that is not frames of JSON.
    """

    name: str
    ports: list[int]
    pids: list[int]
    path: str
    ready: str = ""
    words: str = ""
    store: int = 0

    @property
    def port(self) -> int:
        return self.ports[0]


class Start(msgspec.Struct):
    """How a process was started, so that it can be again."""

    command: list[str]
    env: dict[str, str]
    cores: set[int]


class NotMeasured(Exception):
    """Why there is no figure, in a sentence."""


class Look(msgspec.Struct):
    """What a browser of an operator sends, and the addresses of the pages."""

    cookie: str
    token: str
    pages: dict[str, str]


class House:
    """All processes of one run of the bench."""

    def __init__(self, is_tiny: bool = False) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        self.directory = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
        self._is_tiny = is_tiny
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._starts: dict[str, Start] = {}
        self._leaving: set[str] = set()
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

    def only(self, names: Iterable[str]) -> None:
        """These contenders run and no others: what idles beside a measurement takes its share of the core.

        Raises NotMeasured.
        """
        wanted = list(dict.fromkeys(names))
        for name in [name for name in self._contenders if name not in wanted]:
            for process in self._of(name):
                self._end(process)
                del self._processes[process]
            del self._contenders[name]
            data = self.directory / name
            _wait(lambda data=data: not _store_of(data), f"the store of {name} has ended")
            shutil.rmtree(data, ignore_errors=True)
        self.start(wanted)

    def start(self, names: Iterable[str]) -> None:
        """Headraces: headrace, accepting (it runs no turns), filled (it has many rows), storeless and counted
        (bench/altered.py), crews. Floors: bare, hard. Peers: layer, socketio, resumable. Side by side.
        """
        wanted = [name for name in dict.fromkeys(names) if name not in self._contenders]
        if set(wanted) & (HEADRACES | set(CREWS)) and not self._prepared.exists():
            self._prepare()
        with ThreadPoolExecutor(max(1, len(wanted))) as threads:
            started = {name: threads.submit(self._starter(name), name) for name in wanted}
        self._contenders |= {name: future.result() for name, future in started.items() if not future.exception()}
        for future in started.values():
            future.result()

    def _starter(self, name: str) -> Callable[[str], Contender]:
        if name in CREWS:
            return self._crew
        if name in HEADRACES:
            return self._headrace
        return self._hard if name == "hard" else self._peer

    def renew(self, name: str) -> Contender:
        """The same contender in fresh processes, on its own data; whichever of the old ones still run are ended."""
        contender = self.get(name)
        processes = self._of(name)
        for process in processes:
            self._end(process)
        for place, process in enumerate(processes):
            contender.pids[place] = self._again(process, contender.ports[place])
        contender.store = self._pin_store(self.directory / name)
        return contender

    def mend(self, name: str) -> Contender:
        """Those processes of a contender that have ended, or are told to, started again; the others go on."""
        contender = self.get(name)
        for place, process in enumerate(self._of(name)):
            if self._processes[process].poll() is not None or process in self._leaving:
                self._end(process)
                contender.pids[place] = self._again(process, contender.ports[place])
        return contender

    def leaves(self, name: str) -> None:
        """The first worker of a crew is told to end by whoever measures that."""
        self._leaving.add(self._of(name)[0])

    def _of(self, name: str) -> list[str]:
        return [f"{name}-{place}" for place in range(CREWS[name])] if name in CREWS else [name]

    def _again(self, process: str, port: int) -> int:
        start = self._starts[process]
        pid = self._start(process, start.command, start.env, start.cores)
        self._wait_up(process, port)
        return pid

    def _end(self, process: str) -> None:
        self._leaving.discard(process)
        running = self._processes[process]
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(END_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()

    def get(self, name: str) -> Contender:
        return self._contenders[name]

    def log_of(self, name: str) -> str:
        """What it printed."""
        return "\n".join(self._log(process).read_text(errors="replace") for process in self._of(name))

    def tokens(self, name: str, count: int) -> list[str]:
        """Access tokens of `count` fresh users of that Headrace; empty ones where there are no users."""
        if name not in self._environments:
            return [""] * count
        return _run(["-m", "bench.prepare", "tokens", str(count)], self._environments[name]).split()

    def history(self, name: str, count: int) -> tuple[str, str]:
        """A chat of that Headrace with so many stored messages: its user's access token, and its id."""
        said = _run(["-m", "bench.prepare", "history", str(count)], self._environments[name], FILL_S)
        token, chat = said.split()
        return token, chat

    def fill(self, count: int) -> Look:
        """So many chats, turns and sessions for the Headrace `filled`, and how to look at them."""
        said = _run(["-m", "bench.pages", "fill", str(count)], self._environments["filled"], FILL_S)
        return msgspec.json.decode(said, type=Look)

    def queries(self) -> dict[str, int]:
        """Of each page of the Headrace `filled`."""
        return msgspec.json.decode(_run(["-m", "bench.pages", "queries"], self._environments["filled"]))

    def look(self, look: Look, path: str, times: int) -> float:
        """The 95th percentile of so many looks at a page, in milliseconds, after one that is not counted."""
        connection = http.client.HTTPConnection("127.0.0.1", self.get("filled").port, timeout=START_S)
        api = {"Authorization": f"Bearer {look.token}"}
        took = []
        for _ in range(times + 1):
            begun = time.perf_counter()
            connection.request("GET", path, headers=api if path.startswith("/api/") else {"Cookie": look.cookie})
            answer = connection.getresponse()
            answer.read()
            took.append((time.perf_counter() - begun) * 1000)
            if answer.status != 200:
                raise SystemExit(f"bench: {path} answered {answer.status}")
        connection.close()
        return sorted(took[1:])[max(0, math.ceil(0.95 * times) - 1)]

    def _headrace(self, name: str) -> Contender:
        data = self.directory / name
        shutil.copytree(self._prepared, data, dirs_exist_ok=True)
        turns = "off" if name == "accepting" else "on"
        command = ["-m", "bench.altered", name] if name in ("storeless", "counted") else ["manage.py", "serve"]
        port, pid = self._worker(name, command, self._environment(data, HEADRACE_TURNS=turns, **RAISED))
        self._environments[name] = self._starts[name].env
        return Contender(name, [port], [pid], PATH, "snapshot", store=self._pin_store(data))

    def _crew(self, name: str) -> Contender:
        """Its first worker starts the store that they share."""
        data = self.directory / name
        shutil.copytree(self._prepared, data, dirs_exist_ok=True)
        quick = QUICK if self._is_tiny else {}
        env = self._environment(data, HEADRACE_DRAIN_TURNS_S=str(DRAIN_S), **RAISED, **quick)
        first, *others = self._of(name)
        made = [self._worker(first, ["manage.py", "serve"], env)]
        store = self._pin_store(data)
        made += [self._worker(other, ["manage.py", "serve"], env) for other in others]
        self._environments[name] = env
        ports, pids = zip(*made, strict=True)
        return Contender(name, list(ports), list(pids), PATH, "snapshot", store=store)

    def _worker(self, process: str, command: list[str], env: dict[str, str]) -> tuple[int, int]:
        """Port and pid, once it answers."""
        port = free_port()
        pid = self._start(process, command, {**env, "PORT": str(port)}, cpu.SERVER_CORES)
        self._wait_up(process, port)
        return port, pid

    def _hard(self, name: str) -> Contender:
        port = free_port()
        pid = self._start(name, ["-m", "bench.peers.hard", str(port)], {}, cpu.SERVER_CORES)
        _wait(lambda: _listens(port) or self._processes[name].poll() is not None, f"{name} listens")
        if self._processes[name].poll() is not None:
            raise NotMeasured(f"{name} did not start:\n{self.log_of(name)}")
        return Contender(name, [port], [pid], "/{chat}")

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
        path = PATHS.get(name, "/chat/{chat}")
        words = "socketio" if name == "socketio" else ""
        return Contender(name, [port], [pid], path, words=words, store=self._pin_store(data))

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
        self._starts[name] = Start(command, env, cores)
        return process.pid

    def _wait_up(self, name: str, port: int) -> None:
        process = self._processes[name]
        _wait(lambda: _is_up(port) or process.poll() is not None, f"{name} answers")
        if process.poll() is not None:
            raise NotMeasured(f"{name} did not start:\n{self._log(name).read_text(errors='replace')}")

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
        with contextlib.suppress(SystemExit):  # a store that ends later would write into what was removed
            _wait(lambda: not any(_store_of(self.directory / name) for name in self._contenders), "all stores ended")
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def house(is_tiny: bool = False) -> Iterator[House]:
    built = House(is_tiny)
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


def _run(command: list[str], env: dict[str, str], within_s: float = START_S) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=within_s
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
