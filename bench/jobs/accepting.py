"""Jobs that look at how messages are accepted: says alone, and whole turns."""

import asyncio
import time
import uuid

import msgspec

from bench.client import Failed, Http, Socket
from bench.job import ANSWER_S, Job, Result, Watch, close, counted, open_sockets, percentiles

TRANSACTIONS = "bench_transactions_total"  # of bench/altered.py
OFTEN = 0.5  # a turn: what is done less often is not done for it
REFUSALS = ('"busy"', '"unavailable"')  # an honest no: counted, not timed


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

    before = await counted(job) if job.is_counted else {}
    watch = Watch(job)
    watch.begin()
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*map(sender, sockets))
    watch.end()
    after = await counted(job) if job.is_counted else {}
    close(sockets)
    figures = percentiles(delays) | {"per_s": len(delays) / watch.wall_s, "refused": refused}
    note = ""
    if job.is_counted:
        kinds = _of_turns(before, after, len(delays))
        figures["transactions_a_turn"] = sum(kinds.values())
        note = ", ".join(f"{name} {count:.2f}" for name, count in kinds.items())
    return watch.result(figures, note=note)


def _of_turns(before: dict[str, float], after: dict[str, float], turns: int) -> dict[str, float]:
    """Transactions a turn by what they do; those that come with the time and not with turns are left out."""
    grown = {name: (after[name] - before.get(name, 0)) / max(turns, 1) for name in after}
    return {
        name.split('"')[1]: count for name, count in grown.items() if name.startswith(TRANSACTIONS) and count >= OFTEN
    }
