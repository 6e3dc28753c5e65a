"""What tests of several rooms share: a store, servers, users and tokens, sockets, a model's fake server."""

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

from streams import database
from tests import stores
from tests.server import ROOT, HeadraceServer, free_port
from tests.serving import serving
from tests.waiting import wait_until
from tests.wire import Socket, opened

# How long an example takes says how busy the machine is. What never ends meets the time-out of its test.
# HYPOTHESIS=random looks for new examples; without it a run is the same as the one before.
hypothesis.settings.register_profile(
    "headrace",
    deadline=None,
    derandomize=os.environ.get("HYPOTHESIS") != "random",
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("headrace")


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The Redis of this test process: an embedded one, or with STORES=real that of the machine."""
    return settings.REDIS_ADDRESS()


@pytest.fixture(scope="session", autouse=True)
def tidy_stores() -> Iterator[None]:
    """Of stores that others use too, nothing of this run is left."""
    stores.empty_quickly()
    yield
    stores.tidy()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """The bridge keeps its connections, and a database with connections is not dropped."""
    yield
    database.close()


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
    """Headrace on the server that SERVER names."""
    port = free_port()
    async with serving(port):
        yield Live(f"127.0.0.1:{port}")


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
        server = HeadraceServer(tmp_path_factory.mktemp("server") / "data", **{**stores.of_a_server(), **env})
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
