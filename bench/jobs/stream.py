"""Jobs that look at how an answer streams: burst, paced, first token, wire."""

import asyncio
import random
import time

from bench import stamp
from bench.job import (
    ANSWER_S,
    Job,
    Result,
    Watch,
    answer,
    close,
    counted,
    deltas_of,
    head_bytes,
    is_delta,
    open_idle,
    open_sockets,
    percentiles,
    say,
    seen,
    sha1_of,
)

SETTLE_S = 0.5
# Series of `/metrics`: writes to Redis, and the calls that went out in them.
TRIPS = "headrace_redis_round_trip_seconds_count"
CALLS = "headrace_redis_flight_calls_sum"


async def burst(job: Job) -> Result:
    """A model that pours to `viewers` of one chat, `turns` times: from its first byte to the last viewer's last."""
    idle = await open_idle(job)
    sockets = await open_sockets(job, job.viewers, is_one_chat=True)
    await answer(job, sockets, "warm", 20)
    before = await _counts(job)
    watch = Watch(job)
    watch.begin()
    took, is_equal = 0.0, True
    for turn in range(job.turns):
        tag = f"{job.seed}.{turn}."
        frames = await answer(job, sockets, tag, job.answer_tokens)
        told = (await seen(job, tag))[tag]
        took += max(of_socket[-1][0] for of_socket in frames) - told["first_at"]
        is_equal &= all(sha1_of(of_socket) == told["sha1"] for of_socket in frames)
    watch.end()
    after = await _counts(job)
    rate = job.turns * job.answer_tokens / took
    server = watch.cpu_s["server"] / (job.turns * job.answer_tokens) * 1e6
    close(sockets + idle)
    figures = {"tokens_per_s": rate, "cpu_s_per_million": server}
    return watch.result(figures | _a_token(before, after), is_equal)


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
    before = await _counts(job)
    watch = Watch(job)
    watch.begin()
    first = time.monotonic()
    await asyncio.sleep(job.window_s)
    last = time.monotonic()
    watch.end()
    after = await _counts(job)
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
    return watch.result(figures | _a_token(before, after), is_equal)


async def _counts(job: Job) -> dict[str, float]:
    """What the server has counted, and how many tokens the model has written, both now."""
    if not job.is_counted:
        return {}
    written = sum(answer["tokens"] for answer in (await seen(job, f"{job.seed}.")).values())
    return await counted(job) | {"tokens": written}


def _a_token(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Round trips to Redis and calls in them for each token between two counts."""
    if not after:
        return {}
    tokens = max(after["tokens"] - before["tokens"], 1)
    grown = {name: (after[name] - before.get(name, 0)) / tokens for name in after if name.startswith("headrace_redis")}
    return {
        "trips_a_token": sum(value for name, value in grown.items() if name.startswith(TRIPS)),
        "calls_a_token": sum(value for name, value in grown.items() if name.startswith(CALLS)),
    }


async def first_token(job: Job) -> Result:
    """From when a say was due to its first delta, less what the provider took; says come by chance, open loop."""
    idle_beside = await open_idle(job)
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
    close(sockets + idle_beside)
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


async def wire(job: Job) -> Result:
    """Bytes of one answer, from its say to its end, over the bytes of its text; of deltas alone, and of all."""
    [socket] = await open_sockets(job, 1)
    await answer(job, [socket], "warm", 20)
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
    sizes = [len(payload) + head_bytes(len(payload)) for _, payload in socket.frames if is_delta(payload)]
    close([socket])
    figures = {
        "deltas_over_text": sum(sizes) / text,
        "all_over_text": (socket.nbytes_at_end - before) / text,
        "frames": len(sizes),
    }
    return watch.result(figures, sha1_of(deltas_of(socket)) == told["sha1"])
