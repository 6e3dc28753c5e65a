"""What a run says becomes frames that fit, in batches that wait for each other, and the whole state in a new epoch."""

import asyncio
import functools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat import protocol
from chat.turns.outbox import Lost, Outbox, append_owed, frames_of, part_events
from streams import redis
from streams.log import Log
from tests.chat.incarnation import Incarnation, mortal
from tests.chat.view import View
from tests.waiting import until

LIMIT = 64 * 1024
TURN = str(uuid.uuid4())
UNITS = st.sampled_from(["a", "é", "水", "🎡", "\n", '"', "\\", "\x01", "\u2028", "a b\t"]) | st.text(min_size=1)
LONG = st.builds(lambda unit, count: unit * (count // len(unit)), UNITS, st.integers(0, 150_000))
SHORT = st.text(max_size=40)
DATA = st.none() | st.dictionaries(SHORT, SHORT | st.integers(-5, 5) | st.booleans(), min_size=1, max_size=3)
PARTS = st.builds(
    protocol.Part,
    id=st.just(""),
    kind=st.sampled_from(["text", "reasoning", "data"]),
    text=SHORT | LONG,
    data=DATA,
    node=st.none() | st.just("node"),
)


def message(text: str, parts: list[protocol.Part] | None = None, role: str = "user") -> protocol.Message:
    return protocol.Message(
        id=str(uuid.uuid4()),
        chat=TURN,
        role=role,
        parts=[protocol.Part(id="1.input#1", kind="text", text=text)] if parts is None else parts,
        parent=None,
        turn=TURN,
        status="done",
        client_id=None,
        feedback=None,
        created="2026-01-01T00:00:00.000Z",
    )


def turn_start(parts: list[protocol.Part], text: str = "hello") -> protocol.TurnStart:
    return protocol.TurnStart(
        turn=TURN, message=message(text), answer=TURN, attempt=1, version=1, skill="flow", parts=parts
    )


def turn_end(parts: list[protocol.Part], data: Any = None) -> protocol.TurnEnd:
    answer = message("", parts, "assistant")
    return protocol.TurnEnd(turn=TURN, status="done", message=answer, data=data, usage=None, error=None)


def numbered(frames: list[bytes]) -> list[bytes]:
    """As the log's script writes them, at a position as long as they get."""
    return [b'{"seq":1000000000000,' + frame for frame in frames]


def shown(frames: list[bytes]) -> View:
    """What a client shows of them, which asks for the right order too."""
    view = View()
    view.has_begun = True
    for seq, frame in enumerate(frames, 1):
        view.apply(json.loads(b'{"seq":%d,' % seq + frame))
    return view


def plain(parts: list[protocol.Part]) -> list[dict[str, Any]]:
    return msgspec.to_builtins(parts)


def with_ids(parts: list[protocol.Part]) -> list[protocol.Part]:
    return [msgspec.structs.replace(part, id=f"1.node#{i}") for i, part in enumerate(parts, 1)]


# ------------------------------------------------------------------------------------------------ frames


@given(LONG)
def test_a_delta_is_split_into_events_that_fit_and_keeps_its_text(text: str):
    frames = frames_of([protocol.Delta(part="1.node#1", text=text)])
    assert all(len(frame) <= LIMIT for frame in numbered(frames))
    assert "".join(json.loads(b"{" + frame)["text"] for frame in frames) == text


@given(st.lists(PARTS, max_size=6).map(with_ids))
def test_a_turn_start_that_overflows_is_spread_and_shows_the_same(parts: list[protocol.Part]):
    start = turn_start(parts)
    frames = frames_of([start])
    assert all(len(frame) <= LIMIT for frame in numbered(frames))
    assert shown(frames).turns[TURN]["parts"] == plain(parts)
    whole = protocol.encode_event(start)
    assert (frames == [whole]) is (len(whole) + 32 <= LIMIT)


@given(st.lists(PARTS, max_size=3).map(with_ids), LONG)
def test_a_turn_start_exceeds_the_bound_by_its_users_message_alone(parts: list[protocol.Part], text: str):
    frames = numbered(frames_of([turn_start(parts, text)]))
    assert len(frames[0]) <= max(LIMIT, len(msgspec.json.encode(message(text))) + 1024)
    assert all(len(frame) <= LIMIT for frame in frames[1:])


@given(st.lists(PARTS, max_size=6).map(with_ids), DATA)
def test_a_turn_end_leaves_out_the_parts_that_do_not_fit(parts: list[protocol.Part], data: Any):
    end = turn_end(parts, data)
    [frame] = frames_of([end])
    told = json.loads(b"{" + frame)
    assert len(numbered([frame])[0]) <= LIMIT
    fits = len(protocol.encode_event(end)) + 32 <= LIMIT
    assert told["message"]["parts"] == (plain(parts) if fits else None)
    assert told["data"] == data


def test_a_turn_end_leaves_out_data_that_do_not_fit_and_keeps_parts_that_do():
    parts = [protocol.Part(id="1.node#1", kind="text", text="short")]
    [frame] = frames_of([turn_end(parts, {"all": "x" * LIMIT})])
    told = json.loads(b"{" + frame)
    assert (told["data"], told["message"]["parts"]) == (None, plain(parts))


@given(st.lists(PARTS, max_size=6).map(with_ids))
def test_an_answer_told_by_a_state_and_an_end_is_what_is_stored(parts: list[protocol.Part]):
    view = shown(frames_of([turn_start(parts), turn_end(parts)]))
    [answer] = [message for message in view.messages.values() if message["role"] == "assistant"]
    assert answer["parts"] == plain(parts)


@given(PARTS, st.booleans())
def test_a_part_as_events_is_the_part(part: protocol.Part, is_open: bool):
    [part] = with_ids([part])
    if is_open:
        part = msgspec.structs.replace(part, data=None)
    frames = frames_of([turn_start([]), *part_events(TURN, part, is_open=is_open)])
    assert shown(frames).turns[TURN]["parts"] == plain([part])
    assert (b"part_end" in frames[-1][:20]) is not is_open


# --------------------------------------------------------------------------------- batches on a real log


class Sender:
    """An outbox of a worker whose appends can be held, the state it restates, and what it lost."""

    def __init__(self, epoch: str, log: Log, chat: str) -> None:
        self.life = Incarnation()
        self.state: list[protocol.Event] | None = []
        self.lost: list[Lost] = []
        self.outbox = Outbox(log, chat, TURN, 1, epoch, self._restate, self.lost.append)

    async def _restate(self) -> list[protocol.Event] | None:
        return self.state

    async def does(self, act: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Its task is this worker's, so that its appends are steps."""

        async def call() -> None:
            act(*args, **options)

        await self.life.does(call())

    def delta(self, text: str, tokens: int = 1) -> Any:
        return self.does(self.outbox.delta, "1.node#1", text, tokens)


@pytest.fixture
async def log(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Log]:
    mortal(monkeypatch)
    log = Log()
    yield log
    await log.aclose()
    await redis.aclose()


@pytest.fixture
def chat() -> str:
    return str(uuid.uuid4())


@pytest.fixture
async def sender(log: Log, chat: str) -> AsyncIterator[Sender]:
    sender = Sender((await log.read(chat, 0)).epoch, log, chat)
    await sender.does(sender.outbox.put, turn_start([]))
    await sender.does(sender.outbox.put, protocol.PartStart(turn=TURN, part="1.node#1", kind="text"))
    await sender.outbox.flush()
    yield sender
    sender.outbox.close()


async def written(log: Log, chat: str) -> list[dict[str, Any]]:
    return [json.loads(frame) for _, frame in (await log.read(chat, 0)).entries]


async def is_blocked(work: Coroutine[Any, Any, None]) -> asyncio.Task:
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait([task], timeout=0.02)
    assert not done
    return task


async def test_deltas_that_come_while_a_batch_is_on_its_way_are_one_event(sender: Sender, log: Log, chat: str):
    held = sender.life.at_call("holds", "append:delta")
    for text in ("a", "b", "c"):
        await sender.delta(text)
    await held.reached()
    held.go()
    await sender.outbox.flush()
    texts = [event["text"] for event in await written(log, chat) if event["type"] == "delta"]
    assert texts == ["a", "bc"]


async def test_what_can_wait_goes_with_the_text_that_comes_at_once(sender: Sender, log: Log, chat: str):
    before = len(await written(log, chat))
    held = sender.life.at_call("holds", "append:delta")
    await sender.does(sender.outbox.put, protocol.Progress(turn=TURN, text="begun"), can_wait=True)
    await sender.delta("text")
    await held.reached()
    assert len(await written(log, chat)) == before
    held.go()
    await sender.outbox.flush()
    assert [event["type"] for event in (await written(log, chat))[before:]] == ["progress", "delta"]


async def test_what_can_wait_goes_by_itself_before_long(sender: Sender, log: Log, chat: str):
    sent = sender.life.at_call("holds", "append:progress")
    await sender.does(sender.outbox.put, protocol.Progress(turn=TURN, text="begun"), can_wait=True)
    await sent.reached()
    sent.go()


async def test_what_can_wait_keeps_its_place(sender: Sender, log: Log, chat: str):
    before = len(await written(log, chat))
    held = sender.life.at_call("holds", "append:delta")
    await sender.delta("one")
    await held.reached()
    await sender.does(sender.outbox.put, protocol.Progress(turn=TURN, text="step"), can_wait=True)
    held.go()
    await sender.delta(" two")
    await sender.outbox.flush()
    assert [event["type"] for event in (await written(log, chat))[before:]] == ["delta", "progress", "delta"]


async def test_deltas_of_other_parts_and_other_events_keep_their_order(sender: Sender, log: Log, chat: str):
    held = sender.life.at_call("holds", "append")
    await sender.does(sender.outbox.put, protocol.Progress(turn=TURN, text="first"))
    await held.reached()
    for part, text in (("1.a", "1"), ("1.a", "2"), ("1.b", "3"), ("1.a", "4")):
        await sender.does(sender.outbox.delta, part, text)
    await sender.does(sender.outbox.put, protocol.PartEnd(part="1.a"))
    await sender.does(sender.outbox.delta, "1.b", "5")
    held.go()
    await sender.outbox.flush()
    told = [(event["part"], event.get("text")) for event in (await written(log, chat))[3:]]
    assert told == [("1.a", "12"), ("1.b", "3"), ("1.a", "4"), ("1.a", None), ("1.b", "5")]


async def test_an_append_whose_answer_was_lost_is_in_the_log_once(sender: Sender, log: Log, chat: str):
    sender.life.at_call("doubles", "append:delta")
    await sender.delta("once")
    await sender.outbox.flush()
    assert [event["text"] for event in await written(log, chat) if event["type"] == "delta"] == ["once"]


@pytest.mark.parametrize(("text", "tokens"), [("word", 4001), ("x" * (1024 * 1024 + 1), 1)])
async def test_a_provider_is_not_read_while_too_much_waits(sender: Sender, text: str, tokens: int):
    held = sender.life.at_call("holds", "append:delta")
    await sender.delta("on its way")
    await held.reached()
    await sender.outbox.room()
    await sender.delta(text, tokens)
    waits = await is_blocked(sender.outbox.room())
    held.go()
    async with asyncio.timeout(5):
        await waits


async def test_what_a_handler_sends_counts_for_what_waits(sender: Sender):
    held = sender.life.at_call("holds", "append")
    await sender.delta("on its way")
    await held.reached()
    for _ in range(20):
        await sender.does(sender.outbox.put, protocol.Progress(turn=TURN, data="x" * 60_000))
    waits = await is_blocked(sender.outbox.room())
    held.go()
    async with asyncio.timeout(5):
        await waits


async def test_a_fenced_run_is_told_and_whoever_waits_on_it(sender: Sender, log: Log, chat: str):
    await append_owed(log, chat, TURN, 2, [], sender.outbox.epoch, False)
    await sender.delta("too late")
    with pytest.raises(Lost, match="fenced"):
        await sender.outbox.flush()
    with pytest.raises(Lost, match="fenced"):
        await sender.outbox.room()
    assert [lost.reason for lost in sender.lost] == ["fenced"]
    assert "delta" not in [event["type"] for event in await written(log, chat)]


async def test_a_log_that_is_out_of_reach_loses_the_run(sender: Sender):
    sender.life.at_call("loses", "append:delta")
    await sender.delta("nobody knows")
    with pytest.raises(Lost, match="unavailable"):
        await sender.outbox.flush()


# ------------------------------------------------------------------------------------------- new epochs


async def emptied(chat: str) -> None:
    held = redis.blocking_client()
    for key in held.scan_iter(f"{redis.key('')}*"):
        held.delete(key)


async def test_a_new_epoch_begins_with_the_whole_state_and_drops_what_waited(sender: Sender, log: Log, chat: str):
    held = sender.life.at_call("holds", "append:delta")
    await sender.delta("so ")
    await held.reached()
    await sender.delta("far")
    await emptied(chat)
    part = protocol.Part(id="1.node#1", kind="text", text="so far")
    sender.state = [turn_start([]), *part_events(TURN, part, is_open=True)]
    held.go()
    await sender.outbox.flush()
    await sender.delta(", and on")
    await sender.outbox.flush()
    events = await written(log, chat)
    assert [event["type"] for event in events] == ["turn_start", "part", "delta", "delta"]
    assert [event["text"] for event in events[2:]] == ["so far", ", and on"]
    assert sender.outbox.epoch == (await log.read(chat, 0)).epoch


async def test_what_can_wait_goes_by_itself_in_a_new_epoch_too(sender: Sender, log: Log, chat: str):
    held = sender.life.at_call("holds", "append:delta")
    await sender.delta("so ")
    await held.reached()
    waiting = functools.partial(sender.outbox.put, can_wait=True)
    await sender.does(waiting, protocol.Progress(turn=TURN, text="dropped"))
    await until(lambda: sender.outbox._later is None, 5)
    await emptied(chat)
    sender.state = [turn_start([])]
    held.go()
    await sender.outbox.flush()
    sent = sender.life.at_call("holds", "append:progress")
    await sender.does(waiting, protocol.Progress(turn=TURN, text="alone"))
    await sent.reached()
    sent.go()


async def test_what_a_new_epoch_drops_holds_nobody_back(sender: Sender, chat: str):
    held = sender.life.at_call("holds", "append:delta")
    await sender.delta("so ")
    await held.reached()
    await sender.delta("far", tokens=100_000)
    await emptied(chat)
    sender.state = [turn_start([])]
    held.go()
    await sender.outbox.flush()
    async with asyncio.timeout(5):
        await sender.outbox.room()


async def test_a_new_epoch_while_one_restates_is_restated_again(sender: Sender, log: Log, chat: str):
    held = sender.life.at_call("holds", "append:delta")
    again = sender.life.at_call("holds", "append:turn_start")
    await sender.delta("text")
    await held.reached()
    await emptied(chat)
    sender.state = [turn_start([])]
    held.go()
    await again.reached()
    await emptied(chat)
    again.go()
    await sender.outbox.flush()
    assert [event["type"] for event in await written(log, chat)] == ["turn_start"]
    assert sender.lost == []


async def test_an_end_that_the_state_holds_is_told_once(sender: Sender, log: Log, chat: str):
    held = sender.life.at_call("holds", "append:turn_end")
    await sender.does(sender.outbox.put, turn_end([]))
    await held.reached()
    await emptied(chat)
    sender.state = [turn_start([]), turn_end([])]
    held.go()
    await sender.outbox.flush()
    assert [event["type"] for event in await written(log, chat)] == ["turn_start", "turn_end"]


async def test_a_run_that_lost_its_turn_says_nothing_in_a_new_epoch(sender: Sender, log: Log, chat: str):
    await emptied(chat)
    sender.state = None
    await sender.delta("ghost")
    with pytest.raises(Lost, match="fenced"):
        await sender.outbox.flush()
    assert await written(log, chat) == []


async def test_an_owed_event_is_told_the_present_epoch_and_writes_nothing(sender: Sender, log: Log, chat: str):
    before = sender.outbox.epoch
    await emptied(chat)
    epoch = await append_owed(log, chat, TURN, 1, [turn_start([]), turn_end([])], before, True)
    assert epoch == (await log.read(chat, 0)).epoch != before
    assert await written(log, chat) == []
    assert await append_owed(log, chat, TURN, 1, [turn_start([]), turn_end([])], epoch, True) is None
    assert [event["type"] for event in await written(log, chat)] == ["turn_start", "turn_end"]
