"""Refreshes, second tabs and cuts in the middle of an answer: the text is the provider's, no gap, no double."""

import asyncio
import random
import uuid
from typing import Any

import pytest

from tests.chat.view import View, text_of
from tests.sockets.tabs import Tab, fake
from tests.waiting import until

SEED = 20
CUTS = 50
LONG = {"tokens": 2000, "rate": 1000}  # two seconds of 10,000 characters
EVENTS = {"turn_start", "node", "part", "delta", "part_end", "turn_end", "chat"}


def events_of(tab: Tab) -> list[tuple[int, dict[str, Any]]]:
    return [(frame["seq"], frame) for frame in tab.frames if frame["type"] in EVENTS]


async def answered(tab: Tab, text: str) -> dict[str, Any]:
    """Say, and its end."""
    reply = await tab.say(text)
    assert reply["type"] == "ok", reply
    return await tab.until("turn_end")


async def test_refresh_in_mid_answer_shows_what_the_provider_sent(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as first:
        await first.say(fake(tokens=400, rate=1000))
        await first.until_text(500)
        first.abort()
    async with tab(flow, chat) as fresh:
        welcome, snapshot = await fresh.recv(), await fresh.recv()
        assert (welcome["resumed"], snapshot["type"]) == (False, "snapshot")
        assert [turn["state"] for turn in snapshot["turns"]] == ["running"]
        assert len(fresh.text()) >= 500
        end = await fresh.until("turn_end")
    assert text_of(fresh.view.last_shown) == text_of(end["message"]["parts"]) == model.seen.requests[0].text


async def test_two_tabs_get_the_same_events_at_the_same_positions(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one, tab(flow, chat) as two:
        await two.until("snapshot")
        said = await one.say(fake(tokens=600, rate=2000))
        await asyncio.gather(one.until("turn_end"), two.until("turn_end"))
        assert said["type"] == "ok"
    mine, others = events_of(one), events_of(two)
    assert mine == others
    assert [seq for seq, _ in mine] == list(range(1, len(mine) + 1))
    assert text_of(two.view.last_shown) == model.seen.requests[0].text


@pytest.mark.parametrize("acks_every", [0, 1], ids=["without acks", "with acks"])
async def test_fifty_random_cuts_in_one_answer_lose_and_double_nothing(modelled, model, tab, bounds, acks_every):
    bounds(sockets_per_user=100, acks_per_s=1e6, acks_burst=10**6, ack_window_bytes=4096)
    flow, chat, view = await modelled(), str(uuid.uuid4()), View()
    chance = random.Random(SEED + acks_every)
    at = sorted(chance.randrange(1, 10_000) for _ in range(CUTS))
    async with tab(flow, chat) as witness:
        await witness.until("snapshot")
        watching = asyncio.create_task(witness.until("turn_end"))
        connections: list[Tab] = []
        in_mid_answer = 0
        for cut, chars in enumerate([*at, 10_000]):
            async with tab(flow, chat, view) as one:
                one.acks_every = acks_every
                connections.append(one)
                welcome = await one.recv()
                assert welcome["resumed"] is (cut > 0)
                if cut == 0:
                    await one.say(fake(**LONG))
                await one.until_text(chars)
                if cut < CUTS:
                    in_mid_answer += model.seen.requests[0].ended is None
                    one.abort()
                elif not view.ended:
                    await one.until("turn_end")
        await watching
    seen = [event for one in connections for event in events_of(one)]
    assert seen == events_of(witness)
    assert sum(frame["type"] == "snapshot" for one in connections for frame in one.frames) == 1
    assert text_of(view.last_shown) == model.seen.requests[0].text
    said = f"{in_mid_answer} while the provider was sending, {len(seen)} events"
    print(f"\n{CUTS} cuts, {said}")  # noqa: T201
    assert in_mid_answer > CUTS / 10, "the model must not be done before its reader is"


async def test_any_position_of_a_finished_answer_resumes_exactly(modelled, live, tab, anna, token_of):
    flow, chat, view = await modelled(), str(uuid.uuid4()), View()
    async with tab(flow, chat, view) as whole:
        await answered(whole, fake(tokens=400, rate=2000))
    events, token = events_of(whole), await token_of(anna)
    chance = random.Random(SEED)
    for seq in [0, len(events), *(chance.randrange(len(events)) for _ in range(15))]:
        address = f"/chat/{flow.id}?chat_id={chat}&epoch={view.epoch}&seq={seq}"
        async with live.open(address, token) as again:
            welcome = await again.recv()
            assert (welcome["resumed"], welcome["seq"]) == (True, len(events))
            for event in events[seq:]:
                assert ((await again.recv())["seq"], again.frames[-1]) == event
            await again.send(type="ping", t=1)
            assert (await again.recv())["type"] == "pong"


@pytest.mark.parametrize("where", ["ahead of the top", "another epoch"])
async def test_position_that_is_not_there_gets_a_snapshot(modelled, tab, where):
    flow, chat, view = await modelled(), str(uuid.uuid4()), View()
    async with tab(flow, chat, view) as whole:
        end = await answered(whole, fake(tokens=5))
    epoch = view.epoch if where == "ahead of the top" else "0123456789abcdef"
    seq = view.seq + 1 if where == "ahead of the top" else view.seq
    async with tab(flow, chat, epoch=epoch, seq=seq) as again:
        welcome, snapshot = await again.recv(), await again.recv()
    assert welcome["resumed"] is False
    assert (snapshot["type"], snapshot["epoch"], snapshot["seq"]) == ("snapshot", view.epoch, view.seq)
    assert snapshot["messages"][-1] == end["message"]
    assert snapshot["chat"]["head"] == end["message"]["id"]


async def test_position_that_was_trimmed_gets_a_snapshot(modelled, tab, bounds):
    bounds(log_events=20)
    flow, chat, view = await modelled(), str(uuid.uuid4()), View()
    async with tab(flow, chat, view) as whole:
        while view.seq < 300:  # the log is trimmed in blocks of some hundred events
            end = await answered(whole, fake(tokens=100, rate=1000))
    async with tab(flow, chat, epoch=view.epoch, seq=1) as again:
        welcome, snapshot = await again.recv(), await again.recv()
    assert (welcome["resumed"], snapshot["type"]) == (False, "snapshot")
    assert snapshot["messages"][-1] == end["message"]
    assert again.view.messages == view.messages


async def test_open_sockets_of_a_lost_log_get_a_snapshot_of_a_new_epoch(modelled, model, tab, settings):
    from streams import redis

    flow, chat, view = await modelled(), str(uuid.uuid4()), View()
    async with tab(flow, chat, view) as one:
        await one.say(fake(tokens=1500, rate=1000))
        await one.until_text(1000)
        before = view.epoch
        client = redis.client()
        keys = [key async for key in client.scan_iter(f"{settings.REDIS_PREFIX}*")]
        await client.delete(*keys)
        snapshot = await one.until("snapshot")
        assert snapshot["epoch"] == view.epoch != before
        end = await one.until("turn_end")
    assert text_of(view.last_shown) == text_of(end["message"]["parts"]) == model.seen.requests[0].text


async def test_window_holds_back_what_is_not_acknowledged(modelled, model, tab, bounds):
    bounds(ack_window_bytes=2000, acks_per_s=1e6, acks_burst=10**6)
    flow, chat, view = await modelled(), str(uuid.uuid4()), View()
    async with tab(flow, chat, view) as held, tab(flow, chat) as free:
        await held.until("snapshot")
        await held.send(type="ack", seq=view.seq)
        await held.say(fake(tokens=1000, rate=4000))
        await free.until("turn_end")
        await held.send(type="ping", t="still here")
        await held.until("pong")
        assert not view.ended, "a window of 2,000 bytes let 10,000 through"
        unacked = [frame for frame in held.frames if frame["type"] in EVENTS]
        assert sum(len(str(frame)) for frame in unacked) < 2 * 2000
        while not view.ended:
            await held.send(type="ack", seq=view.seq)
            await held.recv()
    assert events_of(held) == events_of(free)
    assert text_of(view.last_shown) == model.seen.requests[0].text


async def test_ack_beyond_what_was_sent_is_refused(modelled, tab):
    flow, chat, view = await modelled(), str(uuid.uuid4()), View()
    async with tab(flow, chat, view) as one:
        await answered(one, fake(tokens=3))
        await one.send(type="ack", seq=view.seq + 1)
        error = await one.until("error")
        assert (error["code"], error["field"]) == ("bad_frame", "seq")
        assert (await answered(one, fake(tokens=3)))["status"] == "done"


async def test_turn_goes_on_without_any_socket(modelled, model, tab):
    flow, chat, view = await modelled(), str(uuid.uuid4()), View()
    async with tab(flow, chat, view) as one:
        await one.say(fake(tokens=300, rate=1000))
        await one.until_text(100)
        one.abort()
    await until(lambda: model.seen.requests[0].ended, what="the answer was sent to its end")
    async with tab(flow, chat, view) as one:
        assert (await one.recv())["resumed"] is True
        await one.until("turn_end")
    assert text_of(view.last_shown) == model.seen.requests[0].text
