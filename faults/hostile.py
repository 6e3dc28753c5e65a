"""A client that does all that a client must not, over and over: `python -m faults.hostile < job.json`.

In a process of its own, so that the good clients beside it are not slowed by its work. It prints as JSON how often
each input was sent and which answers were not those of the contract (failure modes 3a; audio is not among them).
"""

import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

ANSWER_S = 20.0
BAD_FRAMES = 10  # in 60 s; the next one closes
HALF_MEGABYTE = 512 * 1024
ELSEWHERE = "00000000-0000-4000-8000-000000000000"
AFTER = "a good frame behind them"
NO_TOKEN = "eyJhbGciOiJub25lIn0.eyJ0eXBlIjoiYWNjZXNzIn0."  # of the algorithm "none"
# What protects the worker from one user or address may come instead of the answer to the input itself.
PROTECTION = {"rate_limited", "too_many_errors", "too_many_connections", "429"}

Answer = str  # a code of the catalogue, a close code, or a status of HTTP


class Job(msgspec.Struct):
    """`doors`: host:port of the workers. `flow`: one that the token may chat with. `large`: that many large frames."""

    doors: list[str]
    token: str
    flow: str
    seconds: float
    clients: int
    large: int = 0


class Report(msgspec.Struct):
    """`caught`: what a bound of the user or the address answered first."""

    sent: dict[str, int] = {}
    wrong: dict[str, list[str]] = {}
    caught: int = 0

    def add(self, name: str, wanted: Answer, got: Answer) -> None:
        self.sent[name] = self.sent.get(name, 0) + 1
        if got in PROTECTION:
            self.caught += 1
        elif got != wanted:
            self.wrong.setdefault(name, []).append(f"{got}, not {wanted}")


def _say(**fields: Any) -> str:
    return json.dumps({"type": "say", "id": uuid.uuid4().hex, "text": "hello"} | fields)


def frames() -> dict[str, tuple[str | bytes, Answer]]:
    """On an open socket, which stays open."""
    return {
        "not JSON": ("{", "bad_json"),
        "no object": ("[]", "bad_frame"),
        "too deep": ('{"type":"ping","t":' + "[" * 60_000 + "]" * 60_000 + "}", "bad_frame"),
        "NaN": ('{"type":"ping","t":NaN}', "bad_json"),
        "unknown type": ('{"type":"shout"}', "unknown_type"),
        "no id": ('{"type":"say","text":"x"}', "bad_frame"),
        "bad id": (_say(id="a b"), "bad_frame"),
        "nothing to be seen": (_say(text=" \u200b"), "empty_text"),
        "too long": (_say(text="x" * 32_001), "text_too_long"),
        "NUL": (_say(text="a\0b"), "bad_text"),
        "server's field": (_say(role="system"), "unknown_field"),
        "unknown turn": (json.dumps({"type": "stop", "id": uuid.uuid4().hex, "turn": ELSEWHERE}), "turn_not_running"),
        "foreign file": (_say(files=[ELSEWHERE]), "file_not_found"),
        "binary": (b"\x00\xff" * 500, "bad_binary_frame"),
    }


def endings() -> dict[str, tuple[Opcode, bytes, Answer]]:
    """After which the protocol layer closes."""
    return {
        "no UTF-8": (Opcode.TEXT, b'{"type":"ping","t":"\xe9"}', "1007"),
        "half a megabyte": (Opcode.TEXT, b"x" * HALF_MEGABYTE, "1009"),
    }


def doorways(flow: str) -> dict[str, tuple[str, Answer]]:
    """Paths and queries; {token} stands for a good one."""
    fresh = f"/chat/{flow}?chat_id={ELSEWHERE[:-4]}%04x&token={{token}}" % random.getrandbits(16)
    return {
        "no token": (f"/chat/{flow}?chat_id={ELSEWHERE}", "unauthorized"),
        "token of no algorithm": (f"/chat/{flow}?chat_id={ELSEWHERE}&t={NO_TOKEN}", "unauthorized"),
        "used ticket": (f"/chat/{flow}?chat_id={ELSEWHERE}&ticket=used", "unauthorized"),
        "unknown flow": ("/chat/no-such-flow?t={token}", "flow_not_found"),
        "unknown dialect": (fresh.replace("token=", "dialect=morse&t="), "bad_request"),
        "bad position": (fresh.replace("token=", "epoch=x&seq=-1&t="), "bad_request"),
        "long query": (fresh.replace("token=", f"locale={'x' * 10_000}&t="), "bad_request"),
        "NUL in the path": ("/chat/a%00b?t={token}", "bad_request"),
    }


def requests() -> dict[str, tuple[str, str, dict[str, str], bytes | None, Answer]]:
    """Of REST: method, path, headers, body."""
    as_json = {"Content-Type": "application/json"}
    return {
        "body that is not JSON": ("POST", "flows/", as_json, b"{", "400"),
        "body of another type": ("POST", "flows/", {"Content-Type": "text/plain"}, b"x", "415"),
        "body of a wrong field": ("POST", "flows/", as_json, b'{"name":[1]}', "400"),
        "unknown id": ("GET", f"chats/{ELSEWHERE}/", {}, None, "404"),
        "id of no form": ("GET", "chats/..%2f..%2fetc/", {}, None, "404"),
        "forged cursor": ("GET", "chats/?cursor=AAAA", {}, None, "400"),
        "limit of nothing": ("GET", "chats/?limit=0", {}, None, "400"),
        "no token": ("GET", "chats/", {"Authorization": "Bearer x"}, None, "401"),
    }


def files() -> dict[str, tuple[str, bytes, Answer]]:
    return {
        "empty file": ("empty.txt", b"", "400"),
        "picture that is a script": ("a.png", b"<svg onload=alert(1)>", "415"),
        "file of eleven megabytes": ("long.txt", b"x" * (11 * 2**20), "413"),
        "name of dots": ("..", b"some text", "400"),
    }


def kinds() -> set[str]:
    """All that is sent."""
    return {AFTER, *frames(), *endings(), *doorways(""), *requests(), *files()}


class Hostile:
    """One of them."""

    def __init__(self, job: Job, report: Report, http: aiohttp.ClientSession) -> None:
        self._job, self._report, self._http = job, report, http
        self._chance = random.Random()

    async def run(self) -> None:
        ways: list[Callable[[], Awaitable[None]]] = [self._frames, self._endings, self._doorways, self._rest]
        deadline = time.monotonic() + self._job.seconds
        while time.monotonic() < deadline:
            await self._chance.choice(ways)()
            await asyncio.sleep(self._chance.uniform(0, 0.1))

    async def large(self, count: int) -> None:
        """So many frames of half a megabyte, each on a socket of its own, for the first one closes it."""
        for _ in range(count):
            await self._end("half a megabyte", *endings()["half a megabyte"])

    def _door(self) -> str:
        return self._chance.choice(self._job.doors)

    def _socket(self, path: str = "", **options: Any) -> connect:
        path = path or f"/chat/{self._job.flow}?chat_id={uuid.uuid4()}&t={self._job.token}"
        return connect(
            f"ws://{self._door()}{path.replace('{token}', self._job.token)}",
            compression=None, proxy=None, max_size=None, open_timeout=ANSWER_S, close_timeout=2, **options,
        )  # fmt: skip

    async def _frames(self) -> None:
        async with self._socket() as socket:
            if await _first(socket, "snapshot", "error") != "snapshot":
                self._report.caught += 1
                return
            chosen = self._chance.sample(sorted(frames().items()), BAD_FRAMES)
            for name, (data, wanted) in chosen:
                await socket.send(data)
                self._report.add(name, wanted, await _code(socket))
            await socket.send('{"type":"ping","t":1}')
            self._report.add(AFTER, "pong", await _first(socket, "pong", "error"))

    async def _endings(self) -> None:
        for name, ending in endings().items():
            await self._end(name, *ending)

    async def _end(self, name: str, opcode: Opcode, data: bytes, wanted: Answer) -> None:
        async with self._socket() as socket:
            if await _first(socket, "snapshot", "error") != "snapshot":
                self._report.caught += 1
                return
            socket.transport.write(Frame(opcode, data).serialize(mask=True))
            self._report.add(name, wanted, await _closed(socket))

    async def _doorways(self) -> None:
        for name, (path, wanted) in doorways(self._job.flow).items():
            try:
                async with self._socket(path) as socket:
                    self._report.add(name, wanted, await _code(socket))
            except InvalidStatus as refused:
                self._report.add(name, wanted, str(refused.response.status_code))

    async def _rest(self) -> None:
        bearer = {"Authorization": f"Bearer {self._job.token}"}
        for name, (method, path, headers, body, wanted) in requests().items():
            await self._request(name, wanted, method, path, headers=bearer | headers, data=body)
        name, (title, data, wanted) = self._chance.choice(sorted(files().items()))
        form = aiohttp.FormData()
        form.add_field("file", data, filename=title)
        await self._request(name, wanted, "POST", "files/", headers=bearer, data=form)

    async def _request(self, name: str, wanted: Answer, method: str, path: str, **options: Any) -> None:
        try:
            async with self._http.request(method, f"http://{self._door()}/api/{path}", **options) as response:
                self._report.add(name, wanted, str(response.status))
        except aiohttp.ClientError as error:
            if wanted != "413":  # refused before all of it was sent
                self._report.add(name, wanted, type(error).__name__)


async def _first(socket: ClientConnection, *types: str) -> str:
    """The type of the first frame that is one of these."""
    async with asyncio.timeout(ANSWER_S):
        while True:
            try:
                kind = json.loads(await socket.recv())["type"]
            except ConnectionClosed:
                return "error"
            if kind in types:
                return kind


async def _code(socket: ClientConnection) -> Answer:
    """Of the next error."""
    async with asyncio.timeout(ANSWER_S):
        while True:
            try:
                frame = json.loads(await socket.recv())
            except ConnectionClosed as closed:
                return str(closed.rcvd.code if closed.rcvd else "cut")
            if frame["type"] == "error":
                return frame["code"]
            if frame["type"] == "ok":
                return "ok"


async def _closed(socket: ClientConnection) -> Answer:
    async with asyncio.timeout(ANSWER_S):
        while True:
            try:
                await socket.recv()
            except ConnectionClosed as closed:
                return str(closed.rcvd.code if closed.rcvd else "cut")


async def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    report = Report()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as http:
        clients = [Hostile(job, report, http) for _ in range(job.clients)]
        if job.large:
            await asyncio.gather(*(client.large(job.large // job.clients) for client in clients))
        else:
            await asyncio.gather(*(client.run() for client in clients))
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    asyncio.run(main())
