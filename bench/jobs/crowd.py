"""Jobs with many sockets at once: a thousand viewers, one slow among a hundred, a thousand that come back."""

import asyncio
import socket as system
import time
import uuid

import msgspec

from bench import stamp
from bench.client import Socket, SocketIoViewer, Viewer, handshake
from bench.job import (
    ANSWER_S,
    Job,
    Result,
    Watch,
    answer,
    close,
    deltas_of,
    is_delta,
    open_paths,
    open_sockets,
    percentiles,
    resident_bytes,
    say,
    seen,
    sha1_of,
)

SLOW_BUFFER_BYTES = 4096


async def fan_out(job: Job) -> Result:
    """Answers of one chat to very many viewers: frames that a CPU second of its servers delivers."""
    kind = SocketIoViewer if job.words == "socketio" else Viewer
    viewers = await open_sockets(job, job.viewers, is_one_chat=True, kind=kind)
    await answer(job, viewers, "warm", 1)
    frames = reads = 0
    delays: list[float] = []
    is_equal = True
    watch = Watch(job)
    spent = wall_s = 0.0
    for turn in range(job.turns):
        tag = f"{job.seed}.{turn}."
        for viewer in viewers:
            viewer.keep()
        watch.begin()
        say(viewers[0], tag, job.answer_tokens, job, rate=job.rate, seed=job.seed)
        await _all_ended(viewers)
        watch.end()
        spent, wall_s = spent + watch.cpu_s["server"], wall_s + watch.wall_s
        told = (await seen(job, tag)).get(tag)
        for viewer in viewers:
            viewer.replay()
        wanted = _events(viewers[0])
        for viewer in viewers:
            reads += len(viewer.reads)
            frames += len(viewer.frames)
            is_equal &= _has_all(viewer, told, wanted)
            if job.rate:
                delays += [late for at, text in _deltas(viewer) for late in stamp.delays_s(text, at)]
            viewer.frames.clear()
    close(viewers)
    figures = percentiles(delays) | {
        "frames_a_core": frames / max(spent, 1e-6),
        "frames_a_s": frames / wall_s,
        "frames_a_read": frames / max(reads, 1),
    }
    return watch.result(figures, is_equal)


async def _all_ended(viewers: list[Viewer]) -> None:
    async with asyncio.timeout(ANSWER_S):
        for viewer in viewers:  # in turn: the last to end is the last to be found
            await viewer.ended()


def _deltas(viewer: Viewer) -> list[tuple[float, str]]:
    return deltas_of(viewer) if any(is_delta(payload) for _, payload in viewer.frames) else []


def _has_all(viewer: Viewer, told: dict | None, wanted: list[bytes]) -> bool:
    """The model's text where there is a model, else what the first viewer has: each frame of it."""
    if told is not None and told["sha1"]:
        return sha1_of(deltas_of(viewer)) == told["sha1"]
    return _events(viewer) == wanted


def _events(viewer: Viewer) -> list[bytes]:
    """Without what is told to one socket or one user."""
    alone = (b'"ok"', b'"chats"')
    return [payload for _, payload in viewer.frames if not any(kind in payload[:48] for kind in alone)]


async def slow(job: Job) -> Result:
    """Poured answers, then a paced one, to many viewers of one chat: what they feel of one more that reads slowly.

    The poured ones put it behind by more than what the kernel's buffers hold.
    """
    viewers = await open_sockets(job, job.viewers, is_one_chat=True)
    await answer(job, viewers, "warm", 1)
    reading = asyncio.create_task(_read_slowly(job, viewers[0])) if job.has_slow else None
    if reading is not None:
        await asyncio.sleep(0.5)  # it is greeted
    tag = f"{job.seed}."
    before = resident_bytes(job)
    for turn in range(job.turns):
        await answer(job, viewers, f"{job.seed}.poured{turn}.", job.answer_tokens)
    for viewer in viewers:
        viewer.frames.clear()
    ends = [viewer.wait(b'"turn_end"') for viewer in viewers]
    watch = Watch(job)
    watch.begin()
    say(viewers[0], tag, int(job.rate * job.window_s), job, rate=job.rate, seed=job.seed)
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*ends)
    watch.end()
    grown = (resident_bytes(job) - before) / 2**20
    told = (await seen(job, tag))[tag]
    delays = [late for viewer in viewers for at, text in deltas_of(viewer) for late in stamp.delays_s(text, at)]
    is_equal = all(sha1_of(deltas_of(viewer)) == told["sha1"] for viewer in viewers)
    figures = percentiles(delays) | {"grown_mib": grown}
    if reading is not None:
        figures["slow_was_closed"] = float(reading.done())
        reading.cancel()
        [taken] = await asyncio.gather(reading)
        figures["slow_took_bytes"] = taken
    close(viewers)
    return watch.result(figures, is_equal)


async def _read_slowly(job: Job, beside: Socket) -> int:
    """A viewer of the same chat with small buffers; its bytes until it is cancelled."""
    loop = asyncio.get_running_loop()
    taken = 0
    with system.socket() as line:
        line.setsockopt(system.SOL_SOCKET, system.SO_RCVBUF, SLOW_BUFFER_BYTES)
        line.setblocking(False)
        await loop.sock_connect(line, ("127.0.0.1", job.port))
        await loop.sock_sendall(line, handshake(f"127.0.0.1:{job.port}", beside.path, job.tokens[0]))
        try:
            while data := await loop.sock_recv(line, max(1, job.bytes_per_s // 10)):
                taken += len(data)
                await asyncio.sleep(0.1)
            return taken  # it was closed
        except (asyncio.CancelledError, OSError):
            return taken


class _Numbered(msgspec.Struct):
    type: str = ""
    seq: int = 0
    epoch: str = ""


_numbered = msgspec.json.Decoder(_Numbered).decode


async def storm(job: Job) -> Result:
    """Sockets of chats with an answer, all cut at once: until the last one is back and has what it missed.

    Where sockets are told no position they only shake hands again: the floor.
    """
    chats = max(1, job.sockets // job.sockets_a_chat)
    viewers = await open_sockets(msgspec.structs.replace(job, chats=job.chats or _names(chats)), job.sockets)
    ends = [viewer.wait(b'"turn_end"') for viewer in viewers]
    for i, viewer in enumerate(viewers[:chats]):
        say(viewer, f"{job.seed}.{i}.", job.answer_tokens, job)
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*ends)
    back = [viewer.path + _position(viewer) for viewer in viewers]
    has_positions = back[0] != viewers[0].path
    watch = Watch(job)
    watch.begin()
    for viewer in viewers:
        viewer.transport.abort()
    begun = time.monotonic()
    async with asyncio.timeout(ANSWER_S):
        again = await open_paths(job, back, "turn_end" if has_positions else "")
    took = time.monotonic() - begun
    watch.end()
    is_equal, snapshots = True, 0
    if has_positions:
        told = await seen(job, f"{job.seed}.")
        for i, viewer in enumerate(again):
            is_equal &= sha1_of(deltas_of(viewer)) == told[f"{job.seed}.{i % chats}."]["sha1"]
            snapshots += sum(b'"snapshot"' in payload[:48] for _, payload in viewer.frames)
    close(again)
    return watch.result({"last_ms": took * 1000, "snapshots_a_chat": snapshots / chats}, is_equal)


def _names(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def _position(viewer: Socket) -> str:
    """Where it stood before the parts of its answer, as the address tells it; empty where nothing is numbered."""
    found = [_numbered(payload) for _, payload in viewer.frames]
    epoch = next((frame.epoch for frame in found if frame.epoch), "")
    start = next((frame.seq for frame in found if frame.type == "turn_start"), 0)
    return f"&epoch={epoch}&seq={start}" if epoch else ""
