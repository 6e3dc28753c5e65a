"""`python -m tests.local_stores COMMAND…`: run COMMAND with STORES=real and a PostgreSQL and a Redis behind it.

They are those of DATABASE_URL and REDIS_URL; without these, what listens on 127.0.0.1; else servers that are started
for this run and end with it, installed first where this is root and there is apt-get. Else it is one sentence.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import redis

from tests import stores
from tests.server import free_port
from tests.waiting import wait_until

DEBIANS_POSTGRES = "/usr/lib/postgresql"  # whose server programs are on no PATH
ADMIN = "postgres"


def main(command: list[str]) -> int:
    env = {**os.environ, "STORES": "real"}
    with ExitStack() as started:
        for name, given, answers, start in (
            ("DATABASE_URL", stores.DATABASE_URL, has_postgres, postgres),
            ("REDIS_URL", stores.REDIS_URL, has_redis, redis_server),
        ):
            if answers(given):
                env[name] = given
            elif os.environ.get(name):
                sys.exit(
                    f"tests: {name} names no server that answers and lets us in; leave it out for one of this machine."
                )
            else:
                env[name] = started.enter_context(start())
        return subprocess.run(command, env=env).returncode


def has_postgres(url: str) -> bool:
    """It answers, and lets us make databases."""
    try:
        with psycopg.connect(stores.at("/postgres", url), connect_timeout=5) as connection:
            return connection.execute("SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user").fetchone()[0]
    except psycopg.OperationalError:
        return False


def has_redis(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5) as client:
            return client.ping()
    except redis.RedisError:
        return False


@contextmanager
def postgres() -> Iterator[str]:
    """A cluster of this run: no password, nothing of it outlives a crash. Its programs do not run as root."""
    initdb = program("initdb", "postgresql")
    user = ADMIN if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    directory = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
    shutil.chown(directory, user)
    port = free_port()
    url = f"postgres://{ADMIN}@127.0.0.1:{port}/postgres"
    as_user = {"user": user, "cwd": directory, "stdout": subprocess.DEVNULL}
    subprocess.run([initdb, "-D", directory / "data", "-U", ADMIN, "-A", "trust", "-E", "UTF8"], check=True, **as_user)
    server = subprocess.Popen(
        [initdb.with_name("postgres"), "-D", directory / "data", "-p", str(port), "-k", directory]
        + [f"-c{name}" for name in ("listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off")],
        stderr=subprocess.DEVNULL,
        **as_user,
    )
    try:
        wait_until(lambda: server.poll() is not None or has_postgres(url), 60, "PostgreSQL answers")
        yield url
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(directory)


@contextmanager
def redis_server() -> Iterator[str]:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    config = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([program("redis-server", "redis-server"), *config], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: server.poll() is not None or has_redis(url), 60, "Redis answers")
        yield url
    finally:
        server.terminate()
        server.wait(60)


def program(name: str, package: str) -> Path:
    """Where it is, installed if need be."""
    found = find(name)
    if found is None and os.getuid() == 0 and shutil.which("apt-get"):
        print(f"== {package} for the tests on real stores", flush=True)  # noqa: T201
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for step in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(["apt-get", "-qq", *step], env=env, stdout=subprocess.DEVNULL, check=True)
        found = find(name)
    if found is None:
        sys.exit(f"tests: {name} is not here; install {package}, or set DATABASE_URL and REDIS_URL to servers.")
    return found


def find(name: str) -> Path | None:
    on_path = shutil.which(name)
    return Path(on_path) if on_path else max(Path(DEBIANS_POSTGRES).glob(f"*/bin/{name}"), default=None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
