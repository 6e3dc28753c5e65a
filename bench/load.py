"""The load generator: one job in a process of its own. `python -m bench.load < job.json` prints the result as JSON.

Open loop: what was due is counted from when it was due. A result says how busy the generator's cores were; where
they had no spare time, it measured itself and is void.
"""

import asyncio
import gc
import hashlib
import os
import random
import resource
import sys
import time
import uuid

import msgspec
import uvloop

from bench import cpu, stamp
from bench.client import LOOK_BYTES, Failed, Http, Socket

OPENINGS_AT_ONCE = 32
SETTLE_S = 0.5
ANSWER_S = 120.0
REFUSALS = ('"busy"', '"unavailable"')  # an honest no: counted, not timed


class Job(msgspec.Struct, kw_only=True):
    """What to measure, and on whom. `watch`: pids by name whose CPU is counted; `ours`: all of the bench."""

    kind: str
    port: int
    path: str
    ready: str
    model_port: int
    tokens: list[str]  # of users: one a socket
    watch: dict[str, int]
    ours: list[int]
    seed: int
    # burst, wire
    viewers: int = 1
    turns: int = 1
    answer_tokens: int = 20
    # paced
    rate: float = 0
    window_s: float = 0
    spread_s: float = 0
    # first token: says a second; accept: at once
    says: int = 0
    says_per_s: float = 0
    senders: int = 0
    post: str = ""  # accept over HTTP: the path


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


class Watch:
    """CPU of the watched processes and of the machine, from `begin` to `end`."""

    def __init__(self, job: Job) -> None:
        self._pids = {**job.watch, "load": os.getpid()}
        self._ours = {*job.ours, os.getpid()}

    def begin(self) -> None:
        self._at, self._before = time.monotonic(), self._look()

    def end(self) -> None:
        self.wall_s = time.monotonic() - self._at
        after = self._look()
        spent = {name: after[name] - self._before[name] for name in after}
        ours, busy = spent.pop("ours"), spent.pop("busy")
        self.cpu_s = spent
        beside = sum(value for name, value in spent.items() if name != "server")
        self.generator_share = beside / self.wall_s / len(cpu.OTHER_CORES)
        self.foreign_share = max(0.0, (busy - ours) / self.wall_s)

    def _look(self) -> dict[str, float]:
        found = {name: cpu.used_s(pid) for name, pid in self._pids.items()}
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


# ------------------------------------------------------------------------------------------------- jobs


async def burst(job: Job) -> Result:
    """A model that pours to `viewers` of one chat, `turns` times: from its first byte to the last viewer's last."""
    sockets = await open_sockets(job, job.viewers, is_one_chat=True)
    await _answer(job, sockets, "warm", 20)
    watch = Watch(job)
    watch.begin()
    took, is_equal = 0.0, True
    for turn in range(job.turns):
        tag = f"{job.seed}.{turn}."
        frames = await _answer(job, sockets, tag, job.answer_tokens)
        told = (await seen(job, tag))[tag]
        took += max(of_socket[-1][0] for of_socket in frames) - told["first_at"]
        is_equal &= all(sha1_of(of_socket) == told["sha1"] for of_socket in frames)
    watch.end()
    rate = job.turns * job.answer_tokens / took
    server = watch.cpu_s["server"] / (job.turns * job.answer_tokens) * 1e6
    close(sockets)
    return watch.result({"tokens_per_s": rate, "cpu_s_per_million": server}, is_equal)


async def _answer(job: Job, sockets: list[Socket], tag: str, tokens: int) -> list[list[tuple[float, str]]]:
    """One poured turn: the deltas that each viewer got."""
    for socket in sockets:
        socket.frames.clear()
    ends = [socket.wait(b'"turn_end"') for socket in sockets]
    say(sockets[0], tag, tokens, job)
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*ends)
    return [deltas_of(socket) for socket in sockets]


async def paced(job: Job) -> Result:
    """`turns` at `rate` tokens a second, each in its chat: how long each token was on its way, within the window."""
    sockets = await open_sockets(job, job.turns)
    tokens = int(job.rate * (job.spread_s + 2 * SETTLE_S + job.window_s + 1))
    ends = [socket.wait(b'"turn_end"') for socket in sockets]
    places = random.Random(job.seed)
    begun = time.monotonic()
    for i, socket in enumerate(sockets):
        await asyncio.sleep(max(0.0, begun + (i + places.random()) * job.spread_s / job.turns - time.monotonic()))
        say(socket, f"{job.seed}.{i}.", tokens, job, rate=job.rate, seed=job.seed + i)
    await asyncio.sleep(max(0.0, begun + job.spread_s + 2 * SETTLE_S - time.monotonic()))
    watch = Watch(job)
    watch.begin()
    first = time.monotonic()
    await asyncio.sleep(job.window_s)
    last = time.monotonic()
    watch.end()
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*ends)
    told = await seen(job, f"{job.seed}.")
    delays: list[float] = []
    frames, is_equal = 0, True
    for i, socket in enumerate(sockets):
        deltas = deltas_of(socket)
        is_equal &= sha1_of(deltas) == told[f"{job.seed}.{i}."]["sha1"]
        for at, text in deltas:
            if first <= at < last:
                frames += 1
                delays += stamp.delays_s(text, at)
    close(sockets)
    figures = percentiles(delays) | {
        "tokens": len(delays),
        "tokens_a_frame": len(delays) / max(frames, 1),
        "model_late_p99_ms": max(answer["late_p99_ms"] for answer in told.values()),
        "cpu_s_per_million": watch.cpu_s["server"] / max(len(delays), 1) * 1e6,
    }
    return watch.result(figures, is_equal)


async def first_token(job: Job) -> Result:
    """From when a say was due to its first delta, less what the provider took; says come by chance, open loop."""
    sockets = await open_sockets(job, job.senders)
    for i, socket in enumerate(sockets):
        end = socket.wait(b'"turn_end"')
        say(socket, f"warm.{i}.", 1, job)
        await end
        socket.frames.clear()
    idle = asyncio.Queue()
    for socket in sockets:
        idle.put_nowait(socket)
    chance = random.Random(job.seed)
    watch = Watch(job)
    watch.begin()
    due = time.monotonic()
    running: list[asyncio.Task] = []
    for i in range(job.says):
        due += chance.expovariate(job.says_per_s)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        running.append(asyncio.create_task(_first(job, idle, f"{job.seed}.{i}.", due)))
    async with asyncio.timeout(ANSWER_S):
        answered = await asyncio.gather(*running)
    watch.end()
    told = await seen(job, f"{job.seed}.")
    delays, is_equal = [], True
    for tag, due, deltas in answered:
        answer = told[tag]
        delays.append(deltas[0][0] - due - (answer["first_at"] - answer["received_at"]))
        is_equal &= sha1_of(deltas) == answer["sha1"]
    close(sockets)
    return watch.result(percentiles(delays), is_equal)


async def _first(job: Job, idle: asyncio.Queue, tag: str, due: float) -> tuple[str, float, list[tuple[float, str]]]:
    socket = await idle.get()
    end = socket.wait(b'"turn_end"')
    say(socket, tag, job.answer_tokens, job)
    await end
    deltas = deltas_of(socket)
    socket.frames.clear()
    idle.put_nowait(socket)
    return tag, due, deltas


async def accept(job: Job) -> Result:
    """`senders` that each say again as soon as they were answered, until `says` were sent; each in a fresh chat."""
    if job.post:
        connections = [await Http.open("127.0.0.1", job.port) for _ in range(job.senders)]
        one = _poster(job, connections)
        sockets = []
    else:
        sockets = await open_sockets(job, job.says)
        one = _sayer(sockets)
    left = list(range(job.says))[::-1]
    delays: list[float] = []
    refused = 0

    async def sender(place: int) -> None:
        nonlocal refused
        while left:
            begun = time.monotonic()
            if await one(place, left.pop()):
                delays.append(time.monotonic() - begun)
            else:
                refused += 1

    watch = Watch(job)
    watch.begin()
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*(sender(place) for place in range(job.senders)))
    watch.end()
    close(sockets)
    figures = percentiles(delays) | {"per_s": len(delays) / watch.wall_s, "refused": refused}
    return watch.result(figures)


def _sayer(sockets: list[Socket]):
    async def one(place: int, number: int) -> bool:
        socket = sockets[number]
        ok = socket.wait(b'"ok"')
        socket.send(type="say", id=f"s{number}", text="How does an answer survive?")
        return await _is_accepted(ok)

    return one


async def _is_accepted(ok: asyncio.Future) -> bool:
    try:
        await ok
    except Failed as error:
        if any(code in str(error) for code in REFUSALS):
            return False
        raise
    return True


def _poster(job: Job, connections: list[Http]):
    async def one(place: int, number: int) -> bool:
        body = msgspec.json.encode({"id": f"s{number}", "text": "How does an answer survive?"})
        path = job.post.format(chat=uuid.uuid4())
        status, answer = await connections[place].request("POST", path, body)
        if status == 500:  # "database is locked": what such a server answers under load
            return False
        if status != 202:
            raise Failed(f"the peer answered {status}: {answer[:200]!r}")
        return True

    return one


async def turns(job: Job) -> Result:
    """As `accept`, but each sender waits for the end of its turn, and says again in its own chat."""
    sockets = await open_sockets(job, job.senders)
    left = job.says
    delays: list[float] = []
    refused = 0

    async def sender(socket: Socket) -> None:
        nonlocal left, refused
        while left > 0:
            left -= 1
            ok, end = socket.wait(b'"ok"'), socket.wait(b'"turn_end"')
            begun = socket.send(type="say", id=f"t{left}", text="How does an answer survive?")
            try:
                delays.append((await ok)[0] - begun)
            except Failed as error:
                end.exception()  # the same one
                if not any(code in str(error) for code in REFUSALS):
                    raise
                refused += 1
                continue
            await end

    watch = Watch(job)
    watch.begin()
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*map(sender, sockets))
    watch.end()
    close(sockets)
    return watch.result(percentiles(delays) | {"per_s": len(delays) / watch.wall_s, "refused": refused})


async def wire(job: Job) -> Result:
    """Bytes of one answer, from its say to its end, over the bytes of its text; of deltas alone, and of all."""
    [socket] = await open_sockets(job, 1)
    await _answer(job, [socket], "warm", 20)
    socket.frames.clear()
    before = socket.nbytes
    watch = Watch(job)
    watch.begin()
    end = socket.wait(b'"turn_end"')
    say(socket, f"{job.seed}.", job.answer_tokens, job, rate=job.rate, seed=job.seed)
    async with asyncio.timeout(ANSWER_S):
        await end
    watch.end()
    told = (await seen(job, f"{job.seed}."))[f"{job.seed}."]
    text = job.answer_tokens * stamp.TOKEN_CHARS
    sizes = [len(payload) + _head_bytes(len(payload)) for _, payload in socket.frames if is_delta(payload)]
    close([socket])
    figures = {
        "deltas_over_text": sum(sizes) / text,
        "all_over_text": (socket.nbytes_at_end - before) / text,
        "frames": len(sizes),
    }
    return watch.result(figures, sha1_of(deltas_of(socket)) == told["sha1"])


JOBS = {
    "burst": burst,
    "paced": paced,
    "first_token": first_token,
    "accept": accept,
    "turns": turns,
    "wire": wire,
}


# ------------------------------------------------------------------------------------------ what they share


async def open_sockets(job: Job, count: int, is_one_chat: bool = False) -> list[Socket]:
    """Each in a fresh chat, or all in one; open and greeted."""
    chats = [str(uuid.uuid4()) for _ in range(1 if is_one_chat else count)]
    ready = f'"{job.ready}"'.encode() if job.ready else None
    gate = asyncio.Semaphore(OPENINGS_AT_ONCE)

    async def one(i: int) -> Socket:
        async with gate:
            path = job.path.format(chat=chats[i % len(chats)])
            return await Socket.open("127.0.0.1", job.port, path, job.tokens[i % len(job.tokens)], ready)

    return list(await asyncio.gather(*(one(i) for i in range(count))))


def say(socket: Socket, tag: str, tokens: int, job: Job, rate: float = 0, seed: int | None = None) -> float:
    told = f"tag={tag} tokens={tokens} rate={rate:g} seed={job.seed if seed is None else seed}"
    return socket.send(type="say", id=uuid.uuid4().hex, text=told)


async def seen(job: Job, prefix: str) -> dict[str, dict]:
    """What the model sent, by tag."""
    connection = await Http.open("127.0.0.1", job.model_port)
    _, body = await connection.request("GET", f"/seen?{prefix}")
    connection.close()
    return msgspec.json.decode(body)


def is_delta(payload: bytes) -> bool:
    return b'"delta"' in payload[:LOOK_BYTES]


def deltas_of(socket: Socket) -> list[tuple[float, str]]:
    found = [(at, _delta(payload).text) for at, payload in socket.frames if is_delta(payload)]
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


def _head_bytes(payload: int) -> int:
    return 2 if payload < 126 else 4 if payload < 65536 else 10


def close(sockets: list[Socket]) -> None:
    for socket in sockets:
        socket.close()


async def main() -> None:
    gc.disable()  # its pauses would be measured as the server's; the process is short
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        result = await JOBS[job.kind](job)
    except (Failed, TimeoutError) as error:
        sys.exit(f"{job.kind}: {error or 'it took too long'}")
    await asyncio.sleep(0)  # so that closes are sent
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    uvloop.run(main())
