"""The table of admission under Daphne, which serves `runserver`: by error frames, for it tells no close codes."""

import json
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.server import ROOT, HeadraceServer, free_port
from tests.sockets.refused import TABLE, refusal
from tests.waiting import wait_until
from tests.wire import opened

HELLO = {
    "schema": 1,
    "nodes": [
        {"id": "start", "kind": "start"},
        {"id": "hello", "kind": "message", "fields": {"text": "Hello {{ input.text }}"}},
        {"id": "end", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "hello"}, {"from": "hello", "to": "end"}],
}
ROWS = [
    ("unauthorized", None, "/chat/{online}?chat_id={fresh}"),
    ("bad_request", "demo", "/chat/{online}?chat_id=mine"),
    ("not_supported", "demo", "/api/v1/chat/{online}?chat_id={fresh}"),
    ("flow_not_found", "demo", "/chat/{hidden}?chat_id={fresh}"),
    ("skill_not_found", "demo", "/chat/{online}/weather?chat_id={fresh}"),
    ("version_not_found", "demo", "/chat/{online}?version_id=9"),
    ("chat_not_found", "demo", "/chat/{online}?chat_id={foreign_chat}"),
    ("flow_offline", "demo", "/chat/{offline}?chat_id={fresh}"),
    ("forbidden", "demo", "/chat/{online}"),
    ("not_built", "admin", "/chat/{offline}"),
]
UNTRIED = {"going_away", "internal"}  # Daphne drains nothing; nobody foresees a fault from outside


class Daphne:
    """One process of it on an installation; `names` of flows and chats, `token` of users."""

    def __init__(self, server: HeadraceServer, **env: str) -> None:
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.names: dict[str, str] = {}
        self.token: dict[str | None, str | None] = {None: None}
        self._output = server.data_dir.parent / f"daphne-{self.port}.log"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(self.port), "config.asgi:application"],
                cwd=ROOT,
                env={**server.env, **env},
                stdout=output,
                stderr=output,
            )

    @property
    def log(self) -> str:
        return self._output.read_text(errors="replace")

    def wait(self) -> None:
        wait_until(self._is_up, 60, "Daphne answers")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            with urllib.request.urlopen(f"http://{self.host}/healthz", timeout=5):
                return True
        except OSError:
            return False

    def post(self, path: str, body: Any, who: str | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if who is not None:
            headers["Authorization"] = f"Bearer {self.token[who]}"
        request = urllib.request.Request(f"http://{self.host}/api/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def path(self, pattern: str) -> str:
        return pattern.format(**self.names, fresh=uuid.uuid4())

    def open(self, pattern: str, who: str | None, **options: Any) -> Any:
        return opened(self.host, self.path(pattern), self.token[who], **options)

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def installation(make_server: Callable[..., HeadraceServer]) -> HeadraceServer:
    return make_server(HEADRACE_SOCKETS_PER_USER="3")


@pytest.fixture(scope="module")
def daphne(installation: HeadraceServer) -> Iterator[Daphne]:
    daphne = Daphne(installation)
    try:
        daphne.wait()
        for name in ("admin", "demo"):
            body = {"username": name, "password": installation.passwords[name]}
            daphne.token[name] = daphne.post("auth/token/", body)["access"]
        _furnish(daphne)
        yield daphne
    finally:
        daphne.end()


def _furnish(daphne: Daphne) -> None:
    for name in ("online", "offline", "hidden"):
        visibility = "owner" if name == "hidden" else "everyone"
        flow = daphne.post("flows/", {"name": f"My {name}", "draft": HELLO, "visibility": visibility}, "admin")
        daphne.names[name] = flow["id"]
    daphne.post(f"flows/{daphne.names['online']}/publish/", {}, "admin")
    daphne.names["foreign_chat"] = daphne.post("chats/", {"flow": daphne.names["online"]}, "admin")["id"]


def check(refused: Any, code: str) -> None:
    close, is_retryable, _ = TABLE[code]
    assert refused.code == code
    assert refused.frame["retryable"] is is_retryable
    assert refused.close in (close, close + 3000)  # Daphne takes no 1008 and 1013 from an application


@pytest.mark.parametrize(("code", "who", "pattern"), ROWS, ids=[row[0] for row in ROWS])
async def test_refusal_is_an_error_frame_then_the_close(
    daphne: Daphne, code: str, who: str | None, pattern: str
) -> None:
    check(await refusal(daphne.open(pattern, who)), code)


async def test_too_many_sockets_of_a_user(daphne: Daphne) -> None:
    good = "/chat/{online}?chat_id={fresh}"
    async with daphne.open(good, "demo") as one, daphne.open(good, "demo") as two, daphne.open(good, "demo") as three:
        for socket in (one, two, three):
            assert (await socket.recv())["type"] == "welcome"
        check(await refusal(daphne.open(good, "demo")), "too_many_connections")


async def test_redis_that_is_away_is_unavailable(daphne: Daphne, installation: HeadraceServer) -> None:
    away = Daphne(installation, REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    try:
        away.wait()
        away.names, away.token = daphne.names, daphne.token
        check(await refusal(away.open("/chat/{online}?chat_id={fresh}", "demo")), "unavailable")
    finally:
        away.end()


def test_every_row_has_its_test() -> None:
    tried = {code for code, _, _ in ROWS} | {"too_many_connections", "unavailable"}
    assert tried == TABLE.keys() - UNTRIED


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        ("/chat/{online}?chat_id={fresh}", {"headers": {"Origin": "https://evil.example"}}),
        ("/chat/{online}?chat_id={fresh}", {"headers": {"Origin": "null"}}),
        ("/chat/{online}?chat_id={fresh}", {"subprotocols": ("graphql-ws",)}),
        ("/nowhere", {}),
    ],
)
async def test_handshake_that_is_refused_is_403(daphne: Daphne, pattern: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with daphne.open(pattern, "demo", **options):
            pass
    assert refused.value.response.status_code == 403


async def test_tokens_reach_no_log(daphne: Daphne) -> None:
    token = daphne.token["demo"]
    for path in ("/chat/{online}?chat_id={fresh}", "/chat/{online}?chat_id=mine"):
        async with daphne.open(f"{path}&t={token}", None) as socket:
            await socket.recv()
    assert token not in daphne.log


async def test_message_is_answered(daphne: Daphne) -> None:
    async with daphne.open("/chat/{online}?chat_id={fresh}", "demo", subprotocols=("headrace.v1",)) as socket:
        assert [(await socket.recv())["type"] for _ in range(2)] == ["welcome", "snapshot"]
        assert socket.connection.subprotocol == "headrace.v1"
        assert (await socket.say("there"))["type"] == "ok"
        end = await socket.until("turn_end")
    assert [part["text"] for part in end["message"]["parts"]] == ["Hello there"]


async def test_bad_frame_is_answered_and_the_socket_stays_open(daphne: Daphne) -> None:
    async with daphne.open("/chat/{online}?chat_id={fresh}", "demo") as socket:
        await socket.connection.send("{")
        assert (await socket.until("error"))["code"] == "bad_json"
        await socket.connection.send(b"\x00")
        assert (await socket.until("error"))["code"] == "bad_binary_frame"
        await socket.send(type="ping", t=1)
        assert (await socket.until("pong"))["t"] == 1
