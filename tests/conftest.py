"""What tests of several rooms share: a store, servers, users and tokens, sockets, a model's fake server."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from django.conf import settings

from tests.server import ROOT, HeadraceServer, free_port
from tests.waiting import until, wait_until
from tests.wire import Socket, opened

# How long an example takes says how busy the machine is. What never ends meets the time-out of its test.
hypothesis.settings.register_profile("headrace", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("headrace")


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The store of this test process (`REDIS_URL`, else an embedded one)."""
    return settings.REDIS_ADDRESS()


# ------------------------------------------------------------------------------ a server in this process


class Live(msgspec.Struct):
    """A server in this process and event loop, on the test's own database: rows can be looked at."""

    host: str

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def open(self, path: str, token: str | None = None, **options: Any) -> AbstractAsyncContextManager[Socket]:
        return opened(self.host, path, token, **options)


@pytest.fixture
async def live(transactional_db: None, redis_url: str) -> AsyncIterator[Live]:
    """Headrace as `manage.py serve` runs it, lifespan and socket protocol included."""
    from config.serve import Server, listen, server_config

    class Quiet(Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # signals stay pytest's
            yield

    port = free_port()
    server = Quiet(server_config(loop="none"))
    serving = asyncio.create_task(server.serve(sockets=[listen("127.0.0.1", port)]))
    await until(lambda: server.started or serving.done(), 15, "the server has started")
    try:
        yield Live(f"127.0.0.1:{port}")
    finally:
        server.should_exit = True
        async with asyncio.timeout(40):
            await serving


@pytest.fixture
def make_user(transactional_db: None) -> Callable[..., Any]:
    """`make_user("anna", is_staff=True)`: a user whose password is his name."""
    from django.contrib.auth import get_user_model

    def make(name: str = "anna", **fields: Any) -> Any:
        return get_user_model().objects.create_user(name, password=name, **fields)

    return make


@pytest.fixture
def token_of() -> Callable[[Any], Awaitable[str]]:
    """`await token_of(user)`: an access token of a log-in of its own."""
    from accounts.tokens import mint
    from streams.database import write

    async def token(user: Any) -> str:
        return await write(mint, user)

    return token


# -------------------------------------------------------------------------------- servers of their own


@pytest.fixture(scope="session")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., HeadraceServer]]:
    """`make_server(WORKERS="2")`: an installation of its own, set up but not started; killed at the end."""
    servers: list[HeadraceServer] = []

    def make(**env: str) -> HeadraceServer:
        server = HeadraceServer(tmp_path_factory.mktemp("server") / "data", **env)
        servers.append(server)
        server.setup()
        return server

    yield make
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def server(make_server: Callable[..., HeadraceServer]) -> HeadraceServer:
    """One running installation with the demo flows, shared by the tests of this process: leave it as it was."""
    return make_server().start()


# ----------------------------------------------------------------------------------- a model's fake server


@pytest.fixture(scope="session")
def fake_openai(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base address of `python -m providers.fake_openai`; which fault it plays is said by the model's name."""
    port = free_port()
    log: Path = tmp_path_factory.mktemp("fake_openai") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "providers.fake_openai", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: _listens(port) or process.poll() is not None, 15, "the fake server listens")
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
