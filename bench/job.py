"""What a job of the load generator is, what it gives, and what all jobs share: sockets, says, what came of them."""

import asyncio
import hashlib
import os
import re
import time
import uuid

import msgspec

from bench import cpu
from bench.client import LOOK_BYTES, Failed, Http, Socket, SocketIo

OPENINGS_AT_ONCE = 32
ANSWER_S = 120.0


class Job(msgspec.Struct, kw_only=True):
    """What to measure, and on whom. `watch`: pids by name whose CPU is counted; `ours`: all of the bench."""

    kind: str
    ports: list[int]  # of a contender's servers, one a worker
    path: str
    ready: str
    words: str  # what its clients speak: "" for frames of JSON, "socketio"
    model_port: int
    tokens: list[str]  # of users: one a socket
    watch: dict[str, list[int]]
    ours: list[int]
    seed: int
    chats: list[str] = []  # that are there already; else fresh ones
    idle: int = 0  # sockets beside, each in a chat of its own
    # burst, wire, fan-out, slow
    viewers: int = 1
    turns: int = 1
    answer_tokens: int = 20
    batch: int = 1  # frames in one write, of a floor that can
    has_slow: bool = False
    bytes_per_s: int = 1024  # that the slow one reads
    # paced
    rate: float = 0
    window_s: float = 0
    spread_s: float = 0
    is_counted: bool = False  # what the server's /metrics say of the window, too
    # first token, stop: says a second; accept: at once
    says: int = 0
    says_per_s: float = 0
    senders: int = 0
    post: str = ""  # accept over HTTP: the path
    # storm, memory
    sockets: int = 0
    sockets_a_chat: int = 1
    # takeover: the signal that the owner gets
    signal: int = 0

    @property
    def port(self) -> int:
        return self.ports[0]


class Result(msgspec.Struct, kw_only=True):
    """`figures` by name. `cpu_s` by process within the window; `wall_s` its length."""

    figures: dict[str, float]
    wall_s: float
    cpu_s: dict[str, float]
    generator_share: float  # of its core or cores: load, model, and the store that stands beside them
    foreign_share: float  # cores that others kept busy
    is_equal: bool = True
    note: str = ""


class Delta(msgspec.Struct):
    text: str = ""
    type: str = ""


_delta = msgspec.json.Decoder(Delta).decode
_of_socketio = msgspec.json.Decoder(tuple[str, Delta]).decode


class Watch:
    """CPU of the watched processes and of the machine, from `begin` to `end`."""

    def __init__(self, job: Job) -> None:
        self._pids = {**job.watch, "load": [os.getpid()]}
        self._ours = {*job.ours, os.getpid()}

    def begin(self) -> None:
        self._at, self._before = time.monotonic(), self._look()

    def end(self) -> None:
        self.wall_s = time.monotonic() - self._at
        after = self._look()
        spent = {name: max(0.0, after[name] - self._before[name]) for name in after}  # less: one was killed
        ours, busy = spent.pop("ours"), spent.pop("busy")
        self.cpu_s = spent
        beside = sum(value for name, value in spent.items() if name != "server")
        self.generator_share = beside / self.wall_s / len(cpu.OTHER_CORES)
        self.foreign_share = max(0.0, (busy - ours) / self.wall_s)

    def _look(self) -> dict[str, float]:
        found = {name: sum(map(cpu.used_s, pids)) for name, pids in self._pids.items()}
        found["ours"] = sum(cpu.used_s(pid) for pid in self._ours)
        found["busy"] = cpu.busy_s()
        return found

    def result(self, figures: dict[str, float], is_equal: bool = True, note: str = "") -> Result:
        return Result(
            figures=figures,
            wall_s=self.wall_s,
            cpu_s=self.cpu_s,
            generator_share=self.generator_share,
            foreign_share=self.foreign_share,
            is_equal=is_equal,
            note=note,
        )


async def open_sockets(job: Job, count: int, is_one_chat: bool = False, kind: type[Socket] | None = None) -> list:
    """Each in a fresh chat, or all in one; open and greeted; over the workers in turn."""
    chats = job.chats or [str(uuid.uuid4()) for _ in range(1 if is_one_chat else count)]
    return await open_paths(job, [job.path.format(chat=chats[i % len(chats)]) for i in range(count)], job.ready, kind)


async def open_paths(job: Job, paths: list[str], ready: str, kind: type[Socket] | None = None) -> list:
    """A socket for each path; `OPENINGS_AT_ONCE` of them shake hands at a time."""
    made = kind or (SocketIo if job.words == "socketio" else Socket)
    waited = f'"{ready}"'.encode() if ready else None
    gate = asyncio.Semaphore(OPENINGS_AT_ONCE)

    async def one(i: int) -> Socket:
        async with gate:
            port, token = job.ports[i % len(job.ports)], job.tokens[i % len(job.tokens)]
            return await made.open("127.0.0.1", port, paths[i], token, waited)

    return list(await asyncio.gather(*(one(i) for i in range(len(paths)))))


async def open_idle(job: Job) -> list[Socket]:
    """The sockets that are only there, of the users that the others have not."""
    beside = msgspec.structs.replace(job, chats=[], tokens=job.tokens[1:] or job.tokens)
    return await open_sockets(beside, job.idle)


async def answer(job: Job, sockets: list[Socket], tag: str, tokens: int) -> list[list[tuple[float, str]]]:
    """One poured turn: the deltas that each viewer got."""
    for socket in sockets:
        socket.frames.clear()
    ends = [socket.wait(b'"turn_end"') for socket in sockets]
    say(sockets[0], tag, tokens, job)
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*ends)
    return [deltas_of(socket) for socket in sockets]


def say(socket: Socket, tag: str, tokens: int, job: Job, rate: float = 0, seed: int | None = None) -> float:
    told = f"tag={tag} tokens={tokens} rate={rate:g} seed={job.seed if seed is None else seed}"
    if job.batch > 1:
        told += f" batch={job.batch}"
    return socket.send(type="say", id=uuid.uuid4().hex, text=told)


async def seen(job: Job, prefix: str) -> dict[str, dict]:
    """What the model sent, by tag."""
    connection = await Http.open("127.0.0.1", job.model_port)
    _, body = await connection.request("GET", f"/seen?{prefix}")
    connection.close()
    return msgspec.json.decode(body)


def resident_bytes(job: Job) -> int:
    """Memory of the server's processes that is in RAM."""
    return sum(map(cpu.resident_bytes, job.watch["server"]))


def is_delta(payload: bytes) -> bool:
    return b'"delta"' in payload[:LOOK_BYTES]


def text_of(payload: bytes) -> str:
    """Of a delta."""
    return _of_socketio(payload[2:])[1].text if payload[:2] == b"42" else _delta(payload).text


def deltas_of(socket: Socket) -> list[tuple[float, str]]:
    found = [(at, text_of(payload)) for at, payload in socket.frames if is_delta(payload)]
    if not found:
        raise Failed(f"no delta came; the last frame: {socket.frames[-1:]!r}")
    return found


def sha1_of(deltas: list[tuple[float, str]]) -> str:
    return hashlib.sha1("".join(text for _, text in deltas).encode(), usedforsecurity=False).hexdigest()


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds) or [0.0]
    at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000
    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": ordered[-1] * 1000}


def head_bytes(payload: int) -> int:
    return 2 if payload < 126 else 4 if payload < 65536 else 10


def close(sockets: list[Socket]) -> None:
    for socket in sockets:
        socket.close()


async def counted(job: Job) -> dict[str, float]:
    """What the server's `/metrics` say now: series by name and labels, without the worker's."""
    connection = await Http.open("127.0.0.1", job.port)
    _, body = await connection.request("GET", "/metrics")
    connection.close()
    found: dict[str, float] = {}
    for row in body.decode().splitlines():
        if row and row[0] != "#":
            series, _, value = row.rpartition(" ")
            name = _WORKER.sub("", series).replace("{}", "")
            found[name] = found.get(name, 0.0) + float(value)
    return found


_WORKER = re.compile(r',?worker="[^"]*"')
