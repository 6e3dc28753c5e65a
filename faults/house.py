"""The processes of the faults: stores of their own, some workers that know them only through proxies, a model.

Each worker has a proxy before its sockets (`door`), one to Redis and one to PostgreSQL: a fault can be worked on one
worker alone. Where there is no PostgreSQL the workers share a SQLite file, which has no connection to be cut.
"""

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis

from config import embedded
from faults.proxy import Proxy
from providers import fake_openai
from tests.local_stores import has_postgres
from tests.server import free_port

ROOT = Path(__file__).resolve().parent.parent
START_S = 90.0
POLL_S = 0.05
PREFIX = "hr:"

# Bounds that protect an installation from one user, and from one address: here all are one.
RAISED = {
    "HEADRACE_SOCKETS_PER_USER": "100000",
    "HEADRACE_SOCKETS_PER_ADDRESS": "100000",
    "HEADRACE_TURNS_PER_USER": "100000",
    "HEADRACE_REST_REQUESTS_PER_MINUTE": "1000000",
    "HEADRACE_COMMANDS_PER_S": "1000",
    "HEADRACE_COMMANDS_BURST": "1000",
}
# The short form: what takes seconds by default, in fractions of them.
QUICK = {
    "HEADRACE_BEAT_S": "0.5",
    "HEADRACE_DEAD_AFTER_S": "2",
    "HEADRACE_SWEEP_S": "0.5",
    "HEADRACE_COUNTERS_EVERY_S": "1",
    "HEADRACE_TOPS_EVERY_S": "1",
    "HEADRACE_DRAIN_TURNS_S": "4",
}


class Store:
    """A Redis server of ours, with an append-only file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self, *more: str) -> "Store":
        self.directory.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(self.directory), "save": "",
            "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
        }  # fmt: skip
        command = [str(embedded.binary()), *(word for name, value in options.items() for word in (f"--{name}", value))]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *more], stdout=log, stderr=log)  # noqa: ASYNC220
        await until(self.answers, START_S, "the store answers")
        return self

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def signal(self, number: int) -> None:
        if self.is_running:
            self._process.send_signal(number)

    def kill(self, *, forget: bool = False) -> None:
        """`forget`: its file goes too, so that it comes back empty."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if forget:
            shutil.rmtree(self.directory, ignore_errors=True)


class Worker:
    """One process that serves. `id`: of the worker's row; a restart has another."""

    command = ["manage.py", "serve"]
    ready = "/readyz"

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.port = free_port()
        self.door: Proxy | None = None
        self.redis: Proxy | None = None
        self.database: Proxy | None = None
        self.env: dict[str, str] = {}
        self.id = ""
        self.killed_at: dict[str, float] = {}  # by id
        self.descriptors = 0  # when it had started
        self.is_ending = False  # it was told to
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.door.port if self.door else self.port}"

    @property
    def proxies(self) -> list[Proxy]:
        return [proxy for proxy in (self.door, self.redis, self.database) if proxy]

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self, id_of: Callable[[int], str | None], **more: str) -> None:
        self.is_ending = False
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it takes milliseconds
                [sys.executable, *self.command],
                cwd=ROOT,
                env=self.env | more,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        await until(lambda: self.is_ready() or not self.is_running, START_S, f"{self.name} is ready")
        if not self.is_running:
            raise SystemExit(f"faults: {self.name} did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
        found: list[str] = []

        async def is_known() -> bool:
            found[:] = [id_ for id_ in [await asyncio.to_thread(id_of, self.pid)] if id_]
            return bool(found)

        await until(is_known, START_S, f"{self.name} has a row")
        self.id, self.descriptors = found[0], self.count_descriptors()

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready}", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """kill -9, and it is gone when this returns."""
        if self.is_running:
            self.killed_at[self.id] = time.time()
            self._process.kill()
            self._process.wait()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self.is_ending = True
        self.signal(signal.SIGTERM)

    async def ended(self, within_s: float) -> int:
        await until(lambda: not self.is_running, within_s, f"{self.name} has ended")
        return self._process.returncode

    def count_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def peers(self) -> str:
        """Whom its connections lead to: `41234 (12), …` by port."""
        ports = {}
        for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            ports[words[9]] = int(words[2].rpartition(":")[2], 16)
        found: Counter[int] = Counter()
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                name = os.readlink(entry)
            except OSError:
                continue
            found[ports.get(name.removeprefix("socket:[").rstrip("]"), 0)] += 1
        return ", ".join(f"{port} ({count})" for port, count in found.most_common(6))

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found


class Site:
    """Workers, and the stores that they share: a database of their own on this machine's PostgreSQL, and a Redis."""

    herd = 200  # clients that come back at once
    is_proxied = True

    def __init__(self, name: str, workers: int, is_quick: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"headrace-{name}-"))
        self.is_quick = is_quick
        self.dead_after_s = 2.0 if is_quick else 10.0
        self.sweep_s = 0.5 if is_quick else 3.0
        self.store = Store(self.directory / "redis")
        self.workers = [Worker(f"w{i}", self.directory / f"w{i}.log") for i in range(workers)]
        self.model: fake_openai.Server
        self.token = ""
        self._database = f"headrace-{name}-{secrets.token_hex(4)}"
        self._server = os.environ.get("DATABASE_URL") or "postgres://postgres@127.0.0.1:5432/postgres"
        self.is_postgres = self._server.startswith("postgres") and has_postgres(self._server)
        self._secret = secrets.token_hex(32)

    @property
    def database_url(self) -> str:
        if not self.is_postgres:
            return f"sqlite:///{self.directory / 'headrace.sqlite3'}"
        return urlunsplit(urlsplit(self._server)._replace(path=f"/{self._database}"))

    def id_of(self, pid: int) -> str | None:
        """What a worker's process is known as; null: not yet."""
        raise NotImplementedError

    async def open_stores(self) -> None:
        if self.is_postgres:
            self._administer(f'CREATE DATABASE "{self._database}"')
        await self.store.start()

    async def heal(self) -> None:
        """As it was before any fault; what was killed is started again."""
        if not self.store.is_running:
            await self.store.start()
        self.store.signal(signal.SIGCONT)
        for worker in self.workers:
            for proxy in worker.proxies:
                proxy.heal()
            if worker.redis is not None:
                worker.redis.target = ("127.0.0.1", self.store.port)
            if worker.is_running:
                worker.signal(signal.SIGCONT)
            else:
                await worker.start(self.id_of)
        await until(lambda: all(worker.is_ready() for worker in self.workers), START_S, "all workers are ready")

    def doors(self) -> list[str]:
        """Where a client finds a worker: a load balancer looks away from those that have ended or drain."""
        return [worker.address for worker in self.workers if worker.is_running and not worker.is_ending]

    def at(self, door: str) -> Worker:
        return next(worker for worker in self.workers if worker.address == door)

    async def close(self, *, keep: bool = False) -> None:
        """`keep`: the directory stays."""
        for worker in self.workers:
            worker.kill()
            for proxy in worker.proxies:
                await proxy.close()
        self.store.kill()
        if self.is_postgres:
            self._administer(f'DROP DATABASE IF EXISTS "{self._database}" WITH (FORCE)')
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def connect(self, worker: Worker, **more: str) -> None:
        """Its proxies, and the environment that knows of nothing else. No proxies: what passes there is not slowed."""
        if not self.is_proxied:
            worker.env = self.environment(self.database_url, self.store.url, PORT=str(worker.port), **more)
            return
        worker.door = await Proxy("127.0.0.1", worker.port).open()
        worker.redis = await Proxy("127.0.0.1", self.store.port).open()
        database = self.database_url
        if self.is_postgres:
            parts = urlsplit(database)
            worker.database = await Proxy(parts.hostname or "127.0.0.1", parts.port or 5432).open()
            user = parts.netloc.rpartition("@")[0]
            database = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{worker.database.port}"))
        store = f"redis://127.0.0.1:{worker.redis.port}/0"
        worker.env = self.environment(database, store, PORT=str(worker.port), **more)

    def environment(self, database: str, store: str, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "ENV_FILE": os.devnull,
            "DATA_DIR": str(self.directory / "data"),
            "SECRET_KEY": self._secret,
            "DATABASE_URL": database,
            "REDIS_URL": store,
            "REDIS_PREFIX": PREFIX,
            "HEADRACE_ALLOW_PRIVATE_PROVIDERS": "on",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "INFO",
            "PYTHONUNBUFFERED": "1",
            **RAISED,
            **(QUICK if self.is_quick else {}),
            **more,
        }

    def _administer(self, sql: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(sql)


class House(Site):
    """Headrace's. `look` (faults.look) reads the rows; it is there once `open` has returned."""

    look: Any

    def __init__(self, workers: int, is_quick: bool) -> None:
        super().__init__("faults", workers, is_quick)

    async def open(self) -> "House":
        await self.open_stores()
        self.model = await fake_openai.start()
        os.environ.update(self.environment(self.database_url, self.store.url))
        self.look = await asyncio.to_thread(_begin_django)
        self.token = await asyncio.to_thread(self.look.prepare, self.model.base_url)
        for worker in self.workers:
            await self.connect(worker)
        await asyncio.gather(*(worker.start(self.id_of) for worker in self.workers))
        return self

    def id_of(self, pid: int) -> str | None:
        return self.look.worker_id(pid)

    async def close(self, *, keep: bool = False) -> None:
        for worker in self.workers:
            worker.kill()
        await self.model.close()
        await asyncio.to_thread(self.look.close)
        await super().close(keep=keep)


def _begin_django() -> Any:
    """Rows are read by Headrace's own models, in this process: its environment must be there before."""
    import django

    django.setup()
    from faults import look

    return look


async def until(check: Callable[[], Any], within_s: float, what: str) -> Any:
    """What `check` (a function, or a coroutine function) gives once it is true. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while True:
        result = await check() if asyncio.iscoroutinefunction(check) else await asyncio.to_thread(check)
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")
        await asyncio.sleep(POLL_S)
