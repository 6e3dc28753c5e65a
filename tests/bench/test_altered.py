"""The Headrace without a store: its log in memory answers as the store's does, so that only the store is missing."""

from bench.altered import MemoryLog
from streams.log import Appended, Batch, NewEpoch, Position

CHAT = "6f7f4a43-3a1c-4d2e-9d65-1c9a4b0a7a01"


def batch(epoch: str, *frames: bytes) -> Batch:
    return Batch(CHAT, epoch, "", 0, 0, frames)


async def test_events_are_numbered_and_read_after_a_position() -> None:
    log = MemoryLog()
    epoch = (await log.read(CHAT, 0)).epoch
    assert await log.append(batch(epoch, b'"type":"a"}', b'"type":"b"}')) == Appended(epoch, 1, 2)
    assert await log.append(batch(epoch, b'"type":"c"}')) == Appended(epoch, 3, 3)
    read = await log.read(CHAT, 1)
    assert (read.top, read.first) == (3, 1)
    assert read.entries == [(2, b'{"seq":2,"type":"b"}'), (3, b'{"seq":3,"type":"c"}')]
    assert (await log.read(CHAT, 0, limit=1)).entries == [(1, b'{"seq":1,"type":"a"}')]


async def test_a_top_is_told_without_events() -> None:
    log = MemoryLog()
    epoch = (await log.read(CHAT, 0, limit=0)).epoch
    await log.append(batch(epoch, b'"type":"a"}'))
    told: list[Position] = []
    await log.tops([CHAT], lambda chat, position: told.append(position))
    assert told == [Position(epoch, 1)]


async def test_a_writer_of_another_epoch_is_told_the_present_one() -> None:
    log = MemoryLog()
    epoch = (await log.read(CHAT, 0)).epoch
    assert await log.append(batch("0" * 16, b'"type":"a"}')) == NewEpoch(epoch)
