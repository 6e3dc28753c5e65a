"""A run whose turn another has claimed falls silent at its next write, and nothing of it appears."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from chat.models import Chat, Command, Message, Question, Step, Turn
from chat.turns import orders
from chat.turns.store import asking, beginning, running
from flows.models import Provider
from providers import fake_openai
from streams import database
from tests.chat.conftest import ASKS, TALK, TWO
from tests.chat.incarnation import Incarnation
from tests.chat.stage import Stage
from tests.chat.view import text_of
from tests.sockets.tabs import fake
from tests.waiting import until


@pytest.fixture
async def model() -> AsyncIterator[fake_openai.Server]:
    server = await fake_openai.start()
    yield server
    await server.close()


async def taken_over(stage: Stage, one: Incarnation, two: Incarnation) -> None:
    """`one` seems dead and knows nothing of it; `two` takes what it runs."""
    await stage.seems_dead(one)
    await stage.sweep(two)


async def rows() -> list[list[dict[str, Any]]]:
    tables = (Chat, Turn, Message, Step, Question, Command)
    return await database.read(lambda: [list(table.objects.order_by("pk").values()) for table in tables])


@pytest.mark.parametrize(
    "at", ["append:turn_start", "append:delta", "write:keep_steps", "append:part_end", "write:finish"]
)
async def test_a_zombie_that_goes_on_anywhere_leaves_no_trace(staged, at: str):
    stage = await staged(TWO)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    held = one.at_call("holds", at)
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await taken_over(stage, one, two)
    answer = await looks_on.until_ended(turn)
    assert text_of(answer["parts"]) == "Model says one hello.|Between.|Model says two hello."
    await stage.at_rest(two)
    events, stored = await stage.events(), await rows()
    held.go()
    await stage.at_rest(one)
    assert await stage.events() == events
    assert await rows() == stored
    await stage.agrees(tab, looks_on)


async def test_a_zombie_that_wanted_to_ask_asks_nothing(staged):
    stage = await staged(ASKS)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    held = one.at_call("holds", "write:ask")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await taken_over(stage, one, two)
    question = await looks_on.until_question(turn)
    held.go()
    await stage.at_rest(one)
    assert await database.read(lambda: [str(row.id) for row in Question.objects.all()]) == [question]
    await stage.agrees(tab, looks_on)


async def test_a_question_that_was_answered_elsewhere_is_not_told_by_its_late_asker(staged):
    stage = await staged(ASKS)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    held = one.at_call("holds", "append:question")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await taken_over(stage, one, two)
    question = await looks_on.until_question(turn)
    await looks_on.command("answer", question=question, value="Ada")
    await looks_on.until_ended(turn)
    await stage.at_rest(two)
    events = await stage.events()
    held.go()
    await stage.at_rest(one)
    assert await stage.events() == events
    await stage.agrees(tab, looks_on)


async def test_an_end_that_was_told_by_another_is_not_told_again(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    held = one.at_call("holds", "append:turn_end")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await taken_over(stage, one, two)
    await looks_on.until_ended(turn)
    held.go()
    await stage.at_rest(one)
    await stage.agrees(tab, looks_on)


async def test_trace_03c_a_zombie_that_wakes_in_a_new_epoch_writes_no_ghost_there(staged):
    """Neither its fence nor the end is known in the new epoch, but its row says that it is another's."""
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    held = one.at_call("holds", "append:delta")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await taken_over(stage, one, two)
    await looks_on.until_ended(turn)
    await stage.at_rest(two)
    await stage.empty()
    await stage.notice(looks_on)
    held.go()
    await stage.at_rest(one)
    assert await stage.events() == []
    await stage.agrees(tab, looks_on)


async def test_trace_03c_a_begin_that_is_answered_in_a_new_epoch_writes_no_ghost_there(staged):
    """The epoch is taken before the transaction is sent, so it is the old one, in which nothing can be written."""
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    held = one.at_call("holds", "write:begin_turn", is_done=True)
    tab.send("say", text="hello")
    await held.reached()
    await taken_over(stage, one, two)
    await looks_on.until(lambda: looks_on.view.ended)
    await stage.at_rest(two)
    await stage.empty()
    await one.does(one.manager.hub.refresh(tab.socket.ring))
    held.go()
    await stage.at_rest(one)
    assert await stage.events() == []
    await stage.notice(looks_on)
    await stage.agrees(looks_on)


async def test_trace_03c_an_owed_event_that_was_read_before_a_new_epoch_is_not_written_there(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    first = (await tab.say("stuck"))["turn"]
    held = two.at_call("holds", "read:owed_event", is_done=True)
    second = (await looks_on.say("next"))["turn"]
    await held.reached()
    await tab.command("stop", turn=first)
    await tab.until_ended(second)
    await stage.at_rest(one)
    await one.does(one.manager.telling.mark_told())
    await stage.empty()
    await stage.notice(looks_on)
    held.go()
    await stage.at_rest(two)
    assert await stage.events() == []
    await stage.notice(tab)
    await stage.agrees(tab, looks_on)


async def test_a_zombie_closes_its_providers_stream(staged, model):
    stage = await staged(TALK)
    await database.write(
        lambda: Provider.objects.filter(slug="model").update(
            kind="openai_compatible", base_url=model.base_url, options={}
        )
    )
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say(fake(tokens=100_000, rate=400)))["turn"]
    await tab.until(lambda: tab.text(turn))
    one.freeze()
    await taken_over(stage, one, two)
    await looks_on.until_attempt(turn, 2)
    await looks_on.until(lambda: looks_on.text(turn))
    one.thaw()
    await until(lambda: model.seen.requests[0].closed, what="the zombie's connection is closed")
    await stage.at_rest(one)
    assert [request.closed is None for request in model.seen.requests] == [False, True]
    await looks_on.command("stop")
    await looks_on.until_ended(turn)
    await stage.at_rest(two)
    await stage.agrees(tab, looks_on)


async def test_a_stop_that_meets_a_zombie_ends_the_turn_of_the_other(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say("stuck"))["turn"]
    await tab.until_shown(turn, "Five six")
    await taken_over(stage, one, two)
    await looks_on.until_attempt(turn, 2)
    await looks_on.until_shown(turn, "Five six")
    assert (await tab.command("stop"))["type"] == "ok"  # the zombie's own run is stopped, its finish is fenced
    await two.does(two.manager.runs.poll_stops())
    assert (await looks_on.until_ended(turn))["status"] == "stopped"
    await stage.at_rest(one)
    await stage.at_rest(two)
    await stage.agrees(tab, looks_on)


# ------------------------------------------------------------------------------------------- the row's side


ASKED = orders.Asked(
    key="k", part="1.a#1", text="?", options=[], schema=None, secret=False, expires_s=60, default=None, on_expiry="end"
)
STEP = orders.PendingStep(key="s", kind="step", arguments_hash="", value={"value": 1, "opened": 0}, parts=[])
WRITES: dict[str, Callable[[orders.RunOrder], Any]] = {
    "keep_steps": lambda order: running.keep_steps(order, [STEP], None),
    "ask": lambda order: asking.ask(order, ASKED, [], [STEP], None),
    "release": lambda order: running.release(order, [], [STEP], None),
    "finish": lambda order: running.finish(order, "done", []),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("by", ["an older attempt", "an attempt that is to come", "the attempt that has ended"])
async def test_a_row_takes_nothing_from(staged, write: str, by: str):
    stage = await staged(TALK)
    begin = orders.Begin(
        act="say",
        command="c",
        chat=stage.chat,
        user=stage.user.id,
        user_name="anna",
        flow=str(stage.flow.id),
        text="hello",
        worker=stage.chat,
    )
    order = (await database.write(beginning.begin_turn, begin)).run
    if by == "an older attempt":
        await database.write(running.claim, order.turn, order.chat, 1, stage.chat, stage.chat, True)
    elif by == "an attempt that is to come":
        order = msgspec.structs.replace(order, attempt=2)
    else:
        await database.write(running.finish, order, "stopped", [])
    before = await rows()
    with pytest.raises(orders.Fenced):
        await database.write(WRITES[write], order)
    assert await rows() == before
