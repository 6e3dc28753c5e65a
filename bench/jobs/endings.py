"""Jobs about turns that end before their time: told to stop, or their worker killed or drained."""

import asyncio
import os
import random
import time

import msgspec

from bench.client import Failed, Socket
from bench.job import ANSWER_S, Job, Result, Watch, close, is_delta, open_sockets, percentiles, say, seen

POLL_S = 0.005
LONG_TOKENS = 100_000  # no answer of a measurement comes to its end by itself
FIRST_S = 30.0


async def stop(job: Job) -> Result:
    """`senders` that stop a paced answer at some moment, `says` times in all: until the model's reader hangs up."""
    sockets = await open_sockets(job, job.senders)
    chance = random.Random(job.seed)
    sent: dict[str, float] = {}

    async def sender(place: int, socket: Socket) -> None:
        for turn in range(max(1, job.says // job.senders)):
            tag = f"{job.seed}.{place}.{turn}."
            socket.frames.clear()
            end = socket.wait(b'"turn_end"')
            say(socket, tag, LONG_TOKENS, job, rate=job.rate)
            await _shown(socket)
            await asyncio.sleep(chance.uniform(0.05, 0.5))
            sent[tag] = socket.send(type="stop", id=f"stop{turn}")
            await end

    watch = Watch(job)
    watch.begin()
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*(sender(i, socket) for i, socket in enumerate(sockets)))
        told = await _closed(job, sent)
    watch.end()
    close(sockets)
    return watch.result(percentiles([told[tag]["closed_at"] - at for tag, at in sent.items()]))


async def _shown(socket: Socket) -> None:
    """Returns once a first text is here."""
    async with asyncio.timeout(FIRST_S):
        while True:
            if any(is_delta(payload) for _, payload in socket.frames):
                return
            await asyncio.sleep(POLL_S)


async def _closed(job: Job, tags: dict[str, float]) -> dict[str, dict]:
    """What the model told of them, once all its readers have hung up."""
    while True:
        told = await seen(job, f"{job.seed}.")
        if all(told[tag]["closed_at"] for tag in tags):
            return told
        await asyncio.sleep(POLL_S)


class _Event(msgspec.Struct):
    type: str = ""
    attempt: int = 0


_event = msgspec.json.Decoder(_Event).decode


async def takeover(job: Job) -> Result:
    """Answers that the first worker runs and a socket of the second shows, when the first gets `signal`.

    `since_signal`: to the next event. `gap`: from the last event of the old run to the first of the new one, which
    tells of a worker that is given time to end first. `to_text`: from the new run's first event to its first text.
    The worst of all.
    """
    shown = [
        await open_sockets(msgspec.structs.replace(job, tokens=[token]), 2, is_one_chat=True)
        for token in job.tokens[: job.turns]
    ]
    for i, (mine, _) in enumerate(shown):
        say(mine, f"{job.seed}.{i}.", LONG_TOKENS, job, rate=job.rate)
    await asyncio.gather(*(_shown(viewer) for _, viewer in shown))
    await asyncio.sleep(random.Random(job.seed).uniform(0.2, 1.2))
    watch = Watch(job)
    watch.begin()
    os.kill(job.watch["server"][0], job.signal)
    hit = time.monotonic()
    async with asyncio.timeout(ANSWER_S):
        taken = await asyncio.gather(*(_taken_up(viewer, hit) for _, viewer in shown))
    watch.end()
    for i, (_, viewer) in enumerate(shown):
        viewer.send(type="stop", id=f"stop{i}")
    async with asyncio.timeout(ANSWER_S):
        await _closed(job, {f"{job.seed}.{i}.": 0.0 for i in range(job.turns)})
    close([socket for pair in shown for socket in pair])
    last, first, text = (list(times) for times in zip(*taken, strict=True))
    figures = {
        "since_signal_s": max(at - hit for at in first),
        "gap_s": max(new - old for old, new in zip(last, first, strict=True)),
        "to_text_s": max(new - old for old, new in zip(first, text, strict=True)),
    }
    return watch.result(figures)


async def _taken_up(viewer: Socket, hit: float) -> tuple[float, float, float]:
    """When the old run's last event came, the new run's first event and its first text."""
    while True:
        if viewer.closed is not None:
            raise Failed(f"the second worker closed: {viewer.closed!r}")
        last, first = hit, None
        for at, payload in viewer.frames:
            if first is not None and is_delta(payload):
                return last, first, at
            if first is None and _begins_anew(payload):
                first = at
            elif first is None:
                last = at
        await asyncio.sleep(POLL_S)


def _begins_anew(payload: bytes) -> bool:
    if b'"turn_start"' not in payload[:48]:
        return False
    return _event(payload).attempt > 1
