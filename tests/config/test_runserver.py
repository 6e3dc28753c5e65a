"""`manage.py runserver`: where it listens, how it closes, what it logs."""

import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import ROOT, HeadraceServer, environment, free_port, manage
from tests.waiting import wait_until
from tests.wire import opened


@pytest.fixture(scope="module")
def developing(make_server: Callable[..., HeadraceServer]) -> Iterator[HeadraceServer]:
    """Its address is what HOST and PORT say, and nothing on the command line."""
    server = make_server()
    with server._output.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "runserver", "--noreload"],
            cwd=ROOT,
            env=server.env,
            stdout=output,
            stderr=output,
        )

    def is_up() -> bool:
        assert process.poll() is None, server.log
        try:
            with urllib.request.urlopen(f"{server.url}/healthz", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    try:
        wait_until(is_up, 60, "runserver answers at PORT")
        yield server
    finally:
        process.terminate()
        process.wait(30)


async def test_refusal_keeps_its_code_and_reason_and_leaves_no_traceback(developing: HeadraceServer) -> None:
    async with opened(developing.host, f"/chat/guide?chat_id={uuid.uuid4()}") as socket:
        assert (await socket.recv())["code"] == "unauthorized"
        closed = await socket.closed()
    assert (closed.code, closed.reason) == (1008, "unauthorized")
    assert "Traceback" not in developing.log


async def test_socket_that_is_thrown_out_later_keeps_its_code_too(developing: HeadraceServer) -> None:
    token = manage("token", "demo", env=developing.env).stdout.strip()
    async with opened(developing.host, f"/chat/guide?chat_id={uuid.uuid4()}", token) as socket:
        await socket.until("snapshot")
        for _ in range(11):
            await socket.connection.send("{")
        closed = await socket.closed()
    assert (closed.code, closed.reason) == (1008, "too_many_errors")
    assert "Traceback" not in developing.log


def test_without_tables_it_says_what_to_run(tmp_path: Path) -> None:
    done = manage("runserver", "--noreload", env=environment(tmp_path / "data", PORT=str(free_port())))
    assert done.returncode == 1
    assert "migrations are not applied; run: manage.py setup" in done.stderr
    assert "Traceback" not in done.stderr
