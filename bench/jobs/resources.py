"""Jobs that weigh a server: memory of sockets, of running turns, of waiting ones. The server is fresh: what was
freed once is not given back, and would hide what comes."""

import asyncio

import msgspec

from bench.client import Socket
from bench.job import ANSWER_S, Job, Result, Watch, close, open_sockets, resident_bytes, say

SETTLE_S = 2.0
LONG_TOKENS = 100_000
KIB = 1024


async def memory(job: Job) -> Result:
    """Resident memory of idle sockets, each in its chat, then of turns that run in some of these chats."""
    await _warm(job)
    watch = Watch(job)
    watch.begin()
    before = resident_bytes(job)
    sockets = await open_sockets(job, job.sockets)
    await asyncio.sleep(SETTLE_S)
    idle = resident_bytes(job)
    running = sockets[: job.turns]
    oks = [socket.wait(b'"ok"') for socket in running]
    for i, socket in enumerate(running):
        say(socket, f"{job.seed}.{i}.", LONG_TOKENS, job, rate=job.rate, seed=job.seed + i)
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*oks)
    await asyncio.sleep(job.window_s)
    busy = resident_bytes(job)
    watch.end()
    await _stop(running)
    close(sockets)
    figures = {
        "kib_a_socket": (idle - before) / KIB / len(sockets),
        "kib_a_turn": (busy - idle) / KIB / max(len(running), 1),
    }
    return watch.result(figures)


async def _warm(job: Job) -> None:
    """One answer, so that what is loaded once is loaded."""
    [socket] = await open_sockets(job, 1)
    end = socket.wait(b'"turn_end"')
    say(socket, "warm", 20, job)
    async with asyncio.timeout(ANSWER_S):
        await end
    close([socket])
    await asyncio.sleep(SETTLE_S / 4)


async def _stop(sockets: list[Socket]) -> None:
    """So that the next measurement has the model for itself."""
    ends = [socket.wait(b'"turn_end"') for socket in sockets]
    for i, socket in enumerate(sockets):
        socket.send(type="stop", id=f"stop{i}")
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*ends)


async def waiting(job: Job) -> Result:
    """What a turn that waits for an answer takes beyond one that is done, nobody looking at either."""
    watch = Watch(job)
    watch.begin()
    sizes = []
    for flow, kind in (("plain", b'"turn_end"'), ("plain", b'"turn_end"'), ("ask", b'"question"')):
        await _speak(msgspec.structs.replace(job, path=job.path.replace("/bench?", f"/{flow}?")), kind)
        await asyncio.sleep(SETTLE_S)
        sizes.append(resident_bytes(job))
    watch.end()
    warm, done, waits = sizes
    return watch.result({"kib_a_waiting_turn": ((waits - done) - (done - warm)) / KIB / job.sockets})


async def _speak(job: Job, until: bytes) -> None:
    """One message in each of so many chats, whose sockets then close."""
    sockets = await open_sockets(job, job.sockets)
    seen = [socket.wait(until) for socket in sockets]
    for i, socket in enumerate(sockets):
        socket.send(type="say", id=f"w{i}", text="How does an answer survive?")
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*seen)
    close(sockets)
