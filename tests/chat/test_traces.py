"""Traces that failed without a rule of durability, each as a test of its name, with workers that die between calls.

A worker here is a manager with its own log and hub; several live in this process, so a second one, a frozen one that
wakes and a later incarnation are shown. By the same names stand elsewhere what only the scripts decide (1, 2a, 2c, 10,
11, 16, B1: `tests/streams/test_log.py`), the rings (2b, 6e: `tests/streams/test_hub.py`), zombies in a new epoch (3c:
`test_fence.py`) and models that go on (6c, B4: `test_takeover.py`). There are no handlers that wait in memory, so of B6
stands what holds for all. Any order of them is `test_machine.py`; several processes under real faults are `faults/`.
"""

import asyncio
import itertools
import json
from typing import Any

import pytest

from chat import snapshot
from chat.models import Question, Step
from chat.protocol import Stop
from chat.turns.orders import Begin
from chat.turns.store import beginning, chats, stopping
from flows import handlers
from streams import database
from streams.errors import WireError
from streams.models import Worker
from tests.chat.conftest import ANSWERS, ASKS, TALK, TWO
from tests.chat.incarnation import Incarnation
from tests.chat.stage import LONG_AGO, Kept, Stage, Tab
from tests.chat.view import View, text_of
from tests.waiting import until

# ------------------------------------------------------------------------ 1: an append that is sent again


@pytest.mark.parametrize("event", ["turn_start", "delta", "turn_end"])
async def test_trace_01_an_append_that_is_sent_again_is_shown_once_and_taken_over_once(staged, event: str):
    stage = await staged(ANSWERS)
    one = await stage.worker()
    tab = await stage.tab(one)
    one.at_call("doubles", f"append:{event}")
    turn = (await tab.say("hello"))["turn"]
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]) == "You said hello.|Model says hello."
    assert tab.types(turn).count(event) == [each["type"] for each in await stage.events(turn)].count(event)
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_01_an_append_that_runs_when_it_was_given_up_stands_in_the_answer_once(staged):
    stage = await staged(ANSWERS)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    late = one.at_call("strays", "append:delta", 2)  # the model's
    turn = (await tab.say("hang"))["turn"]
    await late.reached()
    await stage.at_rest(one)
    assert (await stage.turn(turn)).worker is None
    late.go()
    await looks_on.until_shown(turn, "One two")
    await stage.sweep(two)
    answer = await looks_on.until_ended(turn)
    assert text_of(answer["parts"]) == "You said hang.|One two three four."
    await stage.at_rest(two)
    await stage.agrees(tab, looks_on)


# --------------------------------------------------------------------- 2: a store that falls back


async def test_trace_02a_numbers_of_a_log_that_fell_back_are_of_another_epoch(staged):
    stage = await staged(ANSWERS)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    kept = Kept(stage.chat)
    held = one.at_call("holds", "append:delta", 2)
    turn = (await tab.say("hello"))["turn"]
    kept.remember()
    await held.reached()
    await looks_on.until_shown(turn, "You said hello.")
    before = looks_on.view.epoch
    await kept.roll_back()
    held.go()
    await stage.at_rest(one)
    await stage.at_rest(two)
    await looks_on.until_ended(turn)
    assert before not in (tab.view.epoch, looks_on.view.epoch)
    await stage.agrees(tab, looks_on)


async def test_trace_02b_an_end_that_fell_out_of_the_log_reaches_who_had_missed_it(staged):
    stage = await staged(ANSWERS)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    kept = Kept(stage.chat)
    held = one.at_call("holds", "append:turn_end")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    kept.remember()
    await looks_on.until_shown(turn, "Model says hello.")
    two.manager.hub._on_message = lambda *_: None  # what is published is lost
    held.go()
    await tab.until_ended(turn)
    await stage.at_rest(one)
    await one.does(one.manager.telling.mark_told())
    await kept.roll_back()
    assert turn in looks_on.view.turns
    await stage.notice(looks_on)
    assert text_of((await looks_on.until_ended(turn))["parts"]) == "You said hello.|Model says hello."
    await stage.notice(tab)
    await stage.agrees(tab, looks_on)


# --------------------------------------------------------------------- 3: a new epoch is learned late


async def test_trace_03a_text_of_a_new_epoch_stands_once(staged):
    stage = await staged(ANSWERS)
    one = await stage.worker()
    tab = await stage.tab(one)
    held = one.at_call("holds", "append:delta")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await stage.empty()
    held.go()
    await stage.notice(tab)
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]) == "You said hello.|Model says hello."
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_03b_an_epoch_that_another_began_is_begun_with_the_whole_state(staged):
    stage = await staged(ANSWERS)
    one, two = await stage.worker(), await stage.worker()
    tab = await stage.tab(one)
    held = one.at_call("holds", "append:delta")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await stage.empty()
    other = await stage.tab(two)
    assert (await other.say("next"))["queued"]
    await other.until(lambda: "turn_queued" in other.types())
    held.go()
    await stage.notice(tab)
    await tab.until_ended(turn)
    await until(lambda: len(tab.view.ended) == 2, 10)
    await stage.at_rest(one)
    await stage.at_rest(two)
    await stage.agrees(tab, other)


async def test_trace_03_a_title_that_a_new_epoch_swallowed_is_told_there(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    made = await database.write(chats.create_chat, stage.user.id, str(stage.flow.id), "")
    stage.chat = str(made.id)
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    held = one.at_call("holds", "write:begin_turn")
    tab.send("say", text="hello")
    await held.reached()
    await stage.empty()
    await stage.notice(looks_on)
    held.go()
    await looks_on.until(lambda: looks_on.view.ended)
    await stage.at_rest(one)
    await stage.sweep(one)
    await looks_on.until(lambda: looks_on.view.title == "hello")


# ----------------------------------------------------- 4: text that was shown, while the turn waits


async def test_trace_04a_stopped_while_waiting_keeps_its_text(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    await tab.until_question(turn)
    assert (await tab.command("stop"))["type"] == "ok"
    answer = await tab.until_ended(turn)
    assert (answer["status"], text_of(answer["parts"])) == ("stopped", "Model says one hello.|Between.")
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_04b_emptied_while_waiting_keeps_its_text(staged, model_calls):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    question = await tab.until_question(turn)
    await stage.empty()
    await stage.notice(tab)
    assert tab.text(turn) == "Model says one hello.|Between."
    assert (await tab.command("answer", question=question, value="Ada"))["type"] == "ok"
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]) == "Model says one hello.|Between.|Model says two Ada."
    assert [call.said for call in model_calls] == ["one hello", "two Ada"]
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_04c_emptied_and_its_owner_killed_keeps_every_step(staged, model_calls):
    stage = await staged(TWO)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hang"))["turn"]
    await tab.until_shown(turn, "First.|Between.|One two")
    await stage.empty()
    two, tab = await stage.succeeds(one, tab)
    assert tab.text(turn) == "First."
    await stage.sweep(two)
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]) == "First.|Between.|One two three four."
    assert [call.said for call in model_calls] == ["one hang", "two hang", "two hang"]
    await stage.at_rest(two)
    await stage.agrees(tab)


# ---------------------------------------------------------------- 5: a commit whose answer is lost


async def test_trace_05_lost_answer_of_begin_is_run_and_answered_again(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    one.at_call("loses", "write:begin_turn")
    refusal = await tab.say("hello", id="again")
    assert (refusal["code"], refusal["retryable"]) == ("unavailable", True)
    reply = await tab.say("hello", id="again")
    await stage.sweep(one)
    answer = await tab.until_ended(reply["turn"])
    assert text_of(answer["parts"]) == "Model says hello."
    assert len(await stage.turns()) == 1
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_05_lost_answer_of_answer_is_run_and_answered_again(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    question = await tab.until_question(turn)
    one.at_call("loses", "write:answer")
    sent = {"question": question, "value": "Ada", "id": "again"}
    assert (await tab.command("answer", **sent))["code"] == "unavailable"
    assert (await tab.command("answer", **sent))["type"] == "ok"
    await stage.sweep(one)
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]) == "Model says one hello.|Between.|Model says two Ada."
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_05_lost_answer_of_a_claim_is_claimed_again(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hang"))["turn"]
    await tab.until_shown(turn, "One two")
    two, tab = await stage.succeeds(one, tab)
    two.at_call("loses", "write:claim")
    await stage.sweep(two)
    assert (await stage.turn(turn)).attempt == 2 and not two.manager.runs._by_attempt
    await stage.sweep(two)
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]) == "One two three four."
    assert (await stage.turn(turn)).attempt == 3
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_05_lost_answer_of_an_end_is_told_once_and_its_next_turn_runs(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    held = one.at_call("holds", "append:delta")
    one.at_call("doubles", "write:finish")
    first = (await tab.say("hello"))["turn"]
    await held.reached()
    second = (await tab.say("next"))["turn"]
    held.go()
    await tab.until_ended(first)
    await stage.at_rest(one)
    await stage.sweep(one)
    answer = await tab.until_ended(second)
    assert text_of(answer["parts"]) == "Model says next."
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_05_lost_answer_of_a_question_is_told_by_the_sweep(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    one.at_call("doubles", "write:ask")
    turn = (await tab.say("hello"))["turn"]
    await stage.at_rest(one)
    await stage.sweep(one)
    assert await tab.until_question(turn)
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_05_lost_answer_of_a_stop_of_a_queued_turn_is_told_by_the_sweep(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("stuck"))["turn"]
    second = (await tab.say("next"))["turn"]
    one.at_call("loses", "write:stop")
    assert (await tab.command("stop", turn=second, id="again"))["code"] == "unavailable"
    assert (await tab.command("stop", turn=second, id="again"))["type"] == "ok"
    await stage.sweep(one)
    assert (await tab.until_ended(second))["status"] == "stopped"
    await tab.command("stop", turn=first)
    await tab.until_ended(first)
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_05_a_begin_on_its_way_is_not_claimed_by_its_own_sweep(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    held = one.at_call("holds", "write:begin_turn", is_done=True)
    command = tab.send("say", text="hello")
    await held.reached()
    await stage.sweep(one)
    held.go()
    turn = (await tab.reply(command))["turn"]
    await tab.until_ended(turn)
    assert (await stage.turn(turn)).attempt == 1


async def test_trace_05_an_answer_on_its_way_is_not_claimed_by_its_own_sweep(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    question = await tab.until_question(turn)
    held = one.at_call("holds", "write:answer", is_done=True)
    tab.send("answer", question=question, value="Ada")
    await held.reached()
    await stage.sweep(one)
    held.go()
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]) == "Model says one hello.|Between.|Model says two Ada."
    assert (await stage.turn(turn)).attempt == 2


async def test_trace_05_the_next_turn_of_an_end_on_its_way_is_not_claimed_by_its_own_sweep(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    before = one.at_call("holds", "append:delta")
    tab.send("say", text="hello")
    await before.reached()
    second = (await tab.say("next"))["turn"]
    held = one.at_call("holds", "write:finish", is_done=True)
    before.go()
    await held.reached()
    await stage.sweep(one)
    held.go()
    await tab.until_ended(second)
    assert (await stage.turn(second)).attempt == 1


# --------------------------------------------------------------- 6: restart, journal and what is shown


@pytest.fixture
def dice(monkeypatch) -> None:
    """A handler `dice`: one step that shows another number each time it is done, and a line after it."""
    rolled = itertools.count(1)

    async def handle(params: dict[str, Any], ctx: Any) -> None:
        async def roll() -> int:
            number = next(rolled)
            await ctx.write(f"Rolled {number}.")
            return number

        number = await ctx.step("roll", roll)
        await ctx.write(f"It is {number}.")
        await ctx.stream.ask("Again?")

    monkeypatch.setitem(handlers._handlers, "dice", handle)


async def test_trace_06a_a_step_cut_before_its_commit_is_shown_once(staged, dice):
    stage = await staged(TALK, skill="dice")
    one = await stage.worker()
    tab = await stage.tab(one)
    held = one.at_call("holds", "write:keep_steps")
    turn = (await tab.say("go"))["turn"]
    await held.reached()
    await tab.until_shown(turn, "Rolled 1.")
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    await tab.until_question(turn)
    assert tab.text(turn) == "Rolled 2.|It is 2."
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_06a_a_step_cut_after_its_commit_is_not_done_again(staged, dice):
    stage = await staged(TALK, skill="dice")
    one = await stage.worker()
    tab = await stage.tab(one)
    one.dies_at_call("write:keep_steps", is_done=True)
    turn = (await tab.say("go"))["turn"]
    await until(lambda: one.is_dead, 10)
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    await tab.until_question(turn)
    assert tab.text(turn) == "Rolled 1.|It is 1."
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_06b_nodes_that_are_simply_done_again_are_shown_once(staged):
    stage = await staged(ANSWERS)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hang"))["turn"]
    await tab.until_shown(turn, "You said hang.|One two")
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]) == "You said hang.|One two three four."
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_06c_an_open_part_stands_until_the_next_run_begins_it_anew(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hang"))["turn"]
    await tab.until_shown(turn, "One two")
    two, tab = await stage.succeeds(one, tab)
    begun = two.at_call("holds", "append:delta", 2)  # the first one shows what was delivered
    await stage.sweep(two)
    await begun.reached()
    await tab.until_attempt(turn, 2)
    assert tab.text(turn) == "One two"
    begun.go()
    assert text_of((await tab.until_ended(turn))["parts"]) == "One two three four."
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_06d_killed_before_its_first_event_the_message_is_shown(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    looks_on = await stage.tab(one)
    one.dies_at_call("append:turn_start")
    reply = await tab.say("hello")
    await until(lambda: one.is_dead, 10)
    two, looks_on = await stage.succeeds(one, looks_on)
    await stage.sweep(two)
    await looks_on.until_ended(reply["turn"])
    assert text_of(looks_on.view.messages[reply["message"]]["parts"]) == "hello"
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_trace_06d_killed_before_the_next_turns_first_event_its_message_is_shown(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    held = one.at_call("holds", "append:delta")
    first = (await tab.say("hello"))["turn"]
    await held.reached()
    second = (await tab.say("next"))["turn"]
    await tab.until_state(second, "queued")
    one.dies_at_call("write:finish", is_done=True)
    held.go()
    await until(lambda: one.is_dead, 10)
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    await tab.until_ended(first)
    await tab.until_ended(second)
    await stage.at_rest(two)
    await stage.agrees(tab)


# ---------------------------------------------------- 7: events owed after a commit, lost with the committer


async def test_trace_07a_a_question_whose_asker_died_is_told(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    one.dies_at_call("write:ask", is_done=True)
    turn = (await tab.say("hello"))["turn"]
    await until(lambda: one.is_dead, 10)
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    question = await tab.until_question(turn)
    await stage.at_rest(two)
    await stage.agrees(tab)
    assert (await tab.command("answer", question=question, value="Ada"))["type"] == "ok"
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]) == "Model says one hello.|Between.|Model says two Ada."


async def test_trace_07b_the_end_of_a_waiting_turn_whose_stopper_died_is_told(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    await tab.until_question(turn)
    await stage.at_rest(one)
    one.dies_at_call("write:stop", is_done=True)
    tab.send("stop", id="again")
    await until(lambda: one.is_dead, 10)
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    assert (await tab.until_ended(turn))["status"] == "stopped"
    assert (await tab.command("stop", id="again"))["type"] == "ok"
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_07b_the_end_of_a_queued_turn_whose_stopper_died_is_told(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("stuck"))["turn"]
    second = (await tab.say("next"))["turn"]
    await tab.until_state(second, "queued")
    one.dies_at_call("write:stop", is_done=True)
    tab.send("stop", turn=second)
    await until(lambda: one.is_dead, 10)
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    assert (await tab.until_ended(second))["status"] == "stopped"
    await tab.command("stop", turn=first)
    await tab.until_ended(first)
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_07c_an_end_whose_worker_died_before_it_was_told_is_told(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    one.dies_at_call("append:turn_end")
    turn = (await tab.say("hello"))["turn"]
    await until(lambda: one.is_dead, 10)
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    assert text_of((await tab.until_ended(turn))["parts"]) == "Model says hello."
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_07c_an_end_of_an_outage_that_its_worker_did_not_outlive_is_told(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    away = one.at_call("fails", "append:turn_end")
    turn = (await tab.say("hello"))["turn"]
    await away.reached()
    await stage.at_rest(one)
    assert ((await stage.turn(turn)).state, turn in tab.view.ended) == ("done", False)
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    assert text_of((await tab.until_ended(turn))["parts"]) == "Model says hello."
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_07d_the_end_by_too_many_takeovers_whose_claimer_died_is_told(staged):
    stage = await staged(TALK)
    life = await stage.worker()
    tab = await stage.tab(life)
    turn = (await tab.say("stuck"))["turn"]
    for attempt in range(1, 5):
        await tab.until_attempt(turn, attempt)
        await tab.until_shown(turn, "Five six")
        life, tab = await stage.succeeds(life, tab)
        if attempt == 4:
            life.dies_at_call("write:finish", is_done=True)
        await stage.sweep(life)
    await until(lambda: life.is_dead, 10)
    life, tab = await stage.succeeds(life, tab)
    await stage.sweep(life)
    answer = await tab.until_ended(turn)
    assert (answer["status"], text_of(answer["parts"])) == ("error", "Five six")
    assert (await stage.turn(turn)).error["code"] == "worker_lost"
    await stage.at_rest(life)
    await stage.agrees(tab)


async def test_trace_07e_a_queued_turn_whose_accepter_died_is_told(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("stuck"))["turn"]
    await tab.until_shown(first, "Five six")
    one.dies_at_call("write:begin_turn", is_done=True)
    tab.send("say", text="next", id="again")
    await until(lambda: one.is_dead, 10)
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    second = (await tab.say("next", id="again"))["turn"]
    assert (await tab.until_state(second, "queued"))["place"] == 1
    await stage.agrees(tab)
    await tab.command("stop", turn=first)
    await tab.until_ended(second)
    await stage.at_rest(two)
    await stage.agrees(tab)


# ---------------------------------------------------------------- 8: a woken zombie, buried meanwhile


async def buried(stage, one, two) -> None:
    await stage.seems_dead(one)
    await stage.sweep(two)
    worker = one.manager.worker
    assert await database.read(lambda: Worker.objects.get(id=worker).buried_at is not None)


async def test_trace_08_a_turn_begun_under_a_buried_id_is_taken_up(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab = await stage.tab(one)
    await buried(stage, one, two)
    one.dies_at_call("append:turn_start")
    turn = (await tab.say("hello"))["turn"]
    await until(lambda: one.is_dead, 10)
    await tab.close()
    tab = await stage.tab(two, tab.view)
    await stage.sweep(two)
    assert text_of((await tab.until_ended(turn))["parts"]) == "Model says hello."
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_08_what_is_owed_under_a_buried_id_is_told(staged):
    stage = await staged(ASKS)
    one, two = await stage.worker(), await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    await tab.until_question(turn)
    await stage.at_rest(one)
    await one.does(one.manager.telling.mark_told())
    await buried(stage, one, two)
    one.dies_at_call("write:stop", is_done=True)
    tab.send("stop")
    await until(lambda: one.is_dead, 10)
    await tab.close()
    tab = await stage.tab(two, tab.view)
    await stage.sweep(two)
    assert (await tab.until_ended(turn))["status"] == "stopped"
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_08_a_turn_of_a_worker_born_during_a_sweep_is_not_taken_for_abandoned(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    held = one.at_call("holds", "read:claimable")
    sweep = one.does(one.manager.sweep.sweep())
    await held.reached()
    two = await stage.worker()
    tab = await stage.tab(two)
    turn = (await tab.say("stuck"))["turn"]
    held.go()
    await sweep
    assert (await stage.turn(turn)).attempt == 1
    await tab.command("stop")
    await tab.until_ended(turn)


@pytest.mark.parametrize("at", ["write:claim", "read:owed_rows", "write:bury_idle"])
async def test_trace_08_a_burier_that_dies_leaves_the_dead_ones_turns_to_the_next(staged, at: str):
    stage = await staged(TALK)
    one, two, three = [await stage.worker() for _ in range(3)]
    tab, looks_on = await stage.tab(one), await stage.tab(three)
    turn = (await tab.say("hang"))["turn"]
    await looks_on.until_shown(turn, "One two")
    await stage.died(one)
    two.dies_at_call(at, is_done=True)
    await stage.sweep(two)
    await until(lambda: two.is_dead, 10)
    await stage.died(two)
    await stage.sweep(three)
    assert text_of((await looks_on.until_ended(turn))["parts"]) == "One two three four."
    await stage.at_rest(three)
    await stage.agrees(looks_on)


async def test_trace_08_an_end_that_commits_while_its_worker_is_buried_is_told(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    ending, claiming = one.at_call("holds", "write:finish"), two.at_call("holds", "write:claim")
    turn = (await tab.say("hello"))["turn"]
    await ending.reached()
    await stage.seems_dead(one)
    sweeping = asyncio.create_task(stage.sweep(two))
    await claiming.reached()
    one.dies_at_call("append:turn_end")
    ending.go()
    await until(lambda: one.is_dead, 10)
    claiming.go()
    await sweeping
    assert text_of((await looks_on.until_ended(turn))["parts"]) == "Model says hello."
    assert (await stage.turn(turn)).attempt == 1
    await stage.died(one)
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_trace_08_a_beat_undoes_a_burial(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("stuck"))["turn"]
    await stage.seems_dead(one)
    await one.does(one.manager.sweep.beat())
    await stage.sweep(two)
    assert (await stage.turn(turn)).attempt == 1
    await tab.command("stop")
    await tab.until_ended(turn)


# --------------------------------------------------------------------- 9: the position of a snapshot


async def test_trace_09_a_snapshot_taken_at_any_step_goes_on_without_hole_or_double(staged):
    """At each call of a run one snapshot begins; each of its three reads falls some calls later than the one before."""
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    readers: list[Reader] = []

    async def look() -> None:
        async with turns:
            for reader in readers:
                await reader.go_on()
            readers.extend([Reader(stage, every) for every in (1, 2, 5)])
            for reader in readers[-3:]:
                await reader.begin()

    turns = asyncio.Lock()
    held = one.at_call("holds", "append:turn_start")
    turn = (await tab.say("hello"))["turn"]
    one.on_step = look
    held.go()
    question = await tab.until_question(turn)
    await tab.command("answer", question=question, value="Ada")
    await tab.until_ended(turn)
    await stage.at_rest(one)
    one.on_step = None
    assert len(readers) > 20
    events = (await stage.log.read(stage.chat, 0)).entries
    for reader in readers:
        view = await reader.end()
        for seq, frame in events:
            if seq > view.seq:
                view.apply(json.loads(frame))
        assert (view.messages, view.turns) == (tab.view.messages, {})


class Reader:
    """A snapshot whose second and third read each come `every` steps after the one before."""

    def __init__(self, stage: Stage, every: int) -> None:
        self.stage, self.every, self.steps = stage, every, 0
        self.life = Incarnation()
        self.held = [self.life.at_call("holds", "read:_read"), self.life.at_call("holds", "read", 2)]
        self.task = self.life.does(snapshot.take(stage.log, stage.chat))

    async def begin(self) -> None:
        await self.held[0].reached()

    async def go_on(self) -> None:
        self.steps += 1
        if self.held and self.steps % self.every == 0:
            self.held.pop(0).go()
            if self.held:
                await self.held[0].reached()

    async def end(self) -> View:
        for call in self.held:
            call.go()
        view = View()
        view.apply(json.loads((await self.task)[0]))
        return view


# ------------------------------------------------------------ 11: a queued turn's event comes late


async def test_trace_11_what_was_queued_is_not_told_over_the_question_that_it_asks(staged):
    stage = await staged(ASKS)
    one, two = await stage.worker(), await stage.worker()
    tab, other = await stage.tab(one), await stage.tab(two)
    begins, late = two.at_call("holds", "append:delta"), one.at_call("holds", "append:turn_queued")
    first = (await other.say("hello"))["turn"]
    await begins.reached()
    second = (await tab.say("next"))["turn"]
    await late.reached()
    begins.go()
    await other.command("answer", question=await other.until_question(first), value="Ada")
    question = await tab.until_question(second)
    late.go()
    await stage.at_rest(one)
    await stage.at_rest(two)
    assert tab.view.turns[second]["question"]["question"] == question
    assert "turn_queued" not in [event["type"] for event in await stage.events(second)]
    await stage.agrees(tab, other)


# --------------------------------------------------------------------------------- 12: what a stop hits


async def test_trace_12a_a_stop_between_running_and_waiting_ends_the_turn(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    held = one.at_call("holds", "write:ask")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await database.write(stopping.stop, stage.chat, stage.user.id, "s1", None, None)  # its message is lost
    held.go()
    await stage.at_rest(one)
    await stage.sweep(one)
    answer = await tab.until_ended(turn)
    assert (answer["status"], text_of(answer["parts"])) == ("stopped", "Model says one hello.|Between.")
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_12b_a_stop_sent_again_does_not_hit_the_next_turn(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("stuck"))["turn"]
    second = (await tab.say("stuck again"))["turn"]
    one.at_call("loses", "write:stop")
    assert (await tab.command("stop", id="again"))["code"] == "unavailable"
    await one.does(one.manager.runs.poll_stops())
    assert (await tab.until_ended(first))["status"] == "stopped"
    await tab.until_state(second, "running")
    assert (await tab.command("stop", id="again"))["type"] == "ok"
    assert (await stage.turn(second)).stop_at is None
    await tab.command("stop")
    await tab.until_ended(second)
    await stage.at_rest(one)
    await stage.agrees(tab)


# --------------------------------------------------------------- 13: a command sent again does nothing


async def test_trace_13_the_winner_of_a_question_may_send_again_and_others_are_late(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab, other = await stage.tab(one), await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    question = await tab.until_question(turn)
    won = await tab.command("answer", question=question, value="Ada", id="won")
    await tab.until_ended(turn)
    assert await tab.command("answer", question=question, value="Ada", id="won") == won
    late = await other.command("answer", question=question, value="Bea", id="late")
    assert late["code"] == "question_closed"


@pytest.mark.parametrize("act", ["regenerate", "edit"])
async def test_trace_13_a_branch_sent_again_is_one_turn(staged, act: str):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    reply = await tab.say("hello")
    await tab.until_ended(reply["turn"])
    fields = {"message": reply["answer"]} if act == "regenerate" else {"message": reply["message"], "text": "again"}
    once = await tab.command(act, id="b1", **fields)
    await tab.until_ended(once["turn"])
    assert await tab.command(act, id="b1", **fields) == once
    assert len(await stage.turns()) == 2
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_13_a_say_sent_again_is_known_before_it_is_refused(staged, bounds):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    running = await tab.say("stuck", id="r")
    queued = await tab.say("next", id="q")
    bounds(queue_length=1, turns_per_user=1)
    assert (await tab.say("more"))["code"] == "queue_full"
    assert await tab.say("stuck", id="r") == running
    assert await tab.say("next", id="q") == queued
    await tab.command("stop")
    await tab.until_ended(queued["turn"])
    await stage.at_rest(one)
    await stage.agrees(tab)


# ------------------------------------------------------------- 14: no end forgets who waits behind it


async def test_trace_14_a_say_that_meets_an_end_is_run(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, other = await stage.tab(one), await stage.tab(two)
    ending, beginning = one.at_call("holds", "write:finish"), two.at_call("holds", "write:begin_turn")
    tab.send("say", text="hello")
    await ending.reached()
    command = other.send("say", text="next")
    await beginning.reached()
    ending.go()
    beginning.go()
    second = (await other.reply(command))["turn"]
    assert text_of((await tab.until_ended(second))["parts"]) == "Model says next."
    await stage.at_rest(one)
    await stage.at_rest(two)
    await stage.agrees(tab, other)


async def _stopped(stage: Stage, tab: Tab, turn: str) -> None:
    await tab.command("stop")


async def _expired(stage: Stage, tab: Tab, turn: str) -> None:
    await database.write(lambda: Question.objects.filter(turn=turn).update(expires=LONG_AGO))
    await stage.sweep(tab.life)


async def _said_over(stage: Stage, tab: Tab, turn: str) -> None:
    await tab.say("an answer that it does not take", parent=tab.view.turns[turn]["answer"])


@pytest.mark.parametrize("ends", [_stopped, _expired, _said_over])
async def test_trace_14_what_ends_a_waiting_turn_runs_the_next_one(staged, ends):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    held = one.at_call("holds", "write:ask")
    first = (await tab.say("hello"))["turn"]
    await held.reached()
    second = (await tab.say("next"))["turn"]
    held.go()
    await tab.until_question(first)
    await ends(stage, tab, first)
    await tab.until_ended(first)
    await tab.until_question(second)
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_14_the_end_of_a_lost_turn_runs_the_next_one(staged, bounds):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("stuck"))["turn"]
    second = (await tab.say("next"))["turn"]
    two, tab = await stage.succeeds(one, tab)
    bounds(max_takeovers=0)
    await stage.sweep(two)
    assert (await tab.until_ended(first))["status"] == "error"
    assert (await tab.until_ended(second))["status"] == "done"
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_trace_14_a_turn_queued_behind_a_process_that_runs_none_is_taken_up(staged):
    stage = await staged(TALK)
    one, web = await stage.worker(), await stage.worker()
    web.manager.runs.runs_turns = False
    tab = await stage.tab(web)
    turn = (await tab.say("hello"))["turn"]
    assert (await stage.turn(turn)).worker is None
    await stage.sweep(web)
    assert (await stage.turn(turn)).worker is None
    await stage.sweep(one)
    await tab.until_ended(turn)
    assert (await stage.turn(turn)).takeovers == 0
    await stage.at_rest(one)
    await stage.agrees(tab)


# ----------------------------------------------------------------- 15: interrupt, deletion, what waits


async def test_trace_15_an_interrupt_is_one_transaction(staged):
    stage = await staged(TALK, double_text="interrupt")
    one = await stage.worker()
    tab = await stage.tab(one)
    ending = one.at_call("holds", "write:finish")
    first = (await tab.say("stuck"))["turn"]
    await tab.until_shown(first, "Five six")
    second = (await tab.say("next"))["turn"]
    await ending.reached()
    states = [(turn.state, turn.stop_at is not None) for turn in await stage.turns()]
    assert states == [("running", True), ("queued", False)]
    third = (await tab.say("last"))["turn"]
    assert (await tab.until_ended(second))["status"] == "stopped"
    ending.go()
    assert (await tab.until_ended(first))["status"] == "stopped"
    assert text_of((await tab.until_ended(third))["parts"]) == "Model says last."
    assert [turn.attempt for turn in await stage.turns()] == [1, 0, 1]
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_15_an_interrupt_ends_what_waits_and_runs_at_once(staged):
    stage = await staged(ASKS, double_text="interrupt")
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("hello"))["turn"]
    await tab.until_question(first)
    reply = await tab.say("over", parent=tab.view.turns[first]["answer"])
    assert reply["queued"] is False
    assert (await tab.until_ended(first))["status"] == "stopped"
    await tab.until_question(reply["turn"])
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_a_deleted_chat_closes_its_sockets_on_a_worker_that_no_message_reached(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab = await stage.tab(two)
    await tab.until_ended((await tab.say("hello"))["turn"])
    one.manager.control.others = 0  # it has not heard of the other as yet
    await stage.commands(one, "delete_chat", stage.chat, stage.user.id)
    await tab.until(lambda: tab.closed)
    assert tab.closed == (1000, "chat_deleted")


async def test_trace_15_a_deleted_chat_ends_its_turns_and_takes_no_say_again(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("stuck", id="once"))["turn"]
    await tab.until_shown(first, "Five six")
    second = (await tab.say("next"))["turn"]
    await tab.until_state(second, "queued")
    await stage.commands(one, "delete_chat", stage.chat, stage.user.id)
    await tab.until(lambda: tab.closed)
    assert tab.closed == (1000, "chat_deleted")
    await stage.at_rest(one)
    assert [turn.state for turn in await stage.turns()] == ["stopped", "stopped"]
    begin = Begin(
        act="say",
        command="once",
        chat=stage.chat,
        user=stage.user.id,
        user_name="anna",
        flow=str(stage.flow.id),
        text="stuck",
    )
    with pytest.raises(WireError, match="chat_not_found"):
        await database.write(beginning.begin_turn, begin)
    assert len(await stage.turns()) == 2
    ends = [event["turn"] for event in await stage.events() if event["type"] == "turn_end"]
    assert sorted(ends) == sorted([first, second])


async def test_trace_15_a_say_while_a_turn_waits_is_its_answer_or_ends_it(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("hello"))["turn"]
    question = await tab.until_question(first)
    reply = await tab.say("Ada")
    assert (reply["question"], reply["turn"], "message" in reply) == (question, first, False)
    assert (await tab.until_ended(first))["status"] == "done"
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_trace_15_an_expired_question_of_a_worker_that_died_is_the_sweeps(staged):
    stage = await staged(ASKS)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say("hello"))["turn"]
    await looks_on.until_question(turn)
    await stage.died(one)
    await database.write(lambda: Question.objects.filter(turn=turn).update(expires=LONG_AGO))
    await stage.sweep(two)
    assert (await looks_on.until_ended(turn))["status"] == "error"
    assert (await stage.turn(turn)).error["code"] == "question_expired"
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_trace_15_a_rejecting_flow_refuses_while_a_turn_waits(staged):
    stage = await staged(ASKS, double_text="reject")
    one = await stage.worker()
    tab = await stage.tab(one)
    first = (await tab.say("hello"))["turn"]
    await tab.until_question(first)
    refusal = await tab.say("over", parent=tab.view.turns[first]["answer"])
    assert refusal["code"] == "turn_running"
    assert (await tab.say("Ada"))["turn"] == first


# ------------------------------------------------------------ B2: an owed event comes with its turn_start


async def test_trace_b2a_an_owed_question_in_a_new_epoch_comes_with_the_text_of_the_row(staged):
    stage = await staged(ASKS)
    one, two = await stage.worker(), await stage.worker()
    tab = await stage.tab(one)
    asking = one.at_call("dies", "write:ask", is_done=True)
    held = one.at_call("holds", "write:ask")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await stage.empty()
    looks_on = await stage.tab(two)
    assert looks_on.text(turn) == ""
    held.go()
    await asking.reached()
    await stage.died(one)
    await stage.sweep(two)
    await looks_on.until_question(turn)
    assert looks_on.text(turn) == "Model says one hello.|Between."
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_trace_b2b_a_claim_that_ends_a_turn_shows_its_message_first(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    one.dies_at_call("append:turn_start")
    reply = await tab.say("hello")
    await until(lambda: one.is_dead, 10)
    await stage.died(one)
    await looks_on.until(lambda: looks_on.socket.is_mine or not looks_on.view.turns)
    await stage.commands(two, "stop_turn", looks_on.socket.identity, stage.chat, Stop(id="s1"))
    await stage.sweep(two)
    assert (await looks_on.until_ended(reply["turn"]))["status"] == "stopped"
    assert text_of(looks_on.view.messages[reply["message"]]["parts"]) == "hello"
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_trace_b2c_an_end_in_a_new_epoch_comes_with_its_turn_start(staged):
    stage = await staged(ANSWERS)
    one = await stage.worker()
    tab = await stage.tab(one)
    held = one.at_call("holds", "append:turn_end")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    await stage.empty()
    held.go()
    await stage.at_rest(one)
    assert [event["type"] for event in await stage.events(turn)] == ["turn_start", "turn_end"]
    assert text_of((await tab.until_ended(turn))["parts"]) == "You said hello.|Model says hello."
    await stage.agrees(tab)


async def test_trace_b2d_what_an_unheard_attempt_kept_does_not_replace_what_was_delivered_in_silence(staged, dice):
    stage = await staged(TALK, skill="dice")
    one, two, three = [await stage.worker() for _ in range(3)]
    tab, looks_on = await stage.tab(one), await stage.tab(three)
    held = one.at_call("holds", "write:keep_steps")
    turn = (await tab.say("go"))["turn"]
    await held.reached()
    await tab.until_shown(turn, "Rolled 1.")
    await stage.died(one)
    two.at_call("holds", "append:turn_start")
    two.dies_at_call("write:keep_steps", is_done=True)
    await stage.sweep(two)
    await until(lambda: two.is_dead, 10)
    await stage.died(two)
    await database.write(stopping.stop, stage.chat, stage.user.id, "s1", None, None)
    await stage.sweep(three)
    answer = await looks_on.until_ended(turn)
    assert (answer["status"], text_of(answer["parts"])) == ("stopped", "Rolled 1.")
    await stage.at_rest(three)
    await stage.agrees(looks_on)


# ------------------------------------------------------------ B3: a snapshot between a claim and its fence


async def test_trace_b3_a_snapshot_between_a_claim_and_its_fence_has_no_hole(staged, monkeypatch):
    goes = asyncio.Event()

    async def counts(params: dict[str, Any], ctx: Any) -> None:
        await ctx.write("0")
        await goes.wait()
        await ctx.write("1")

    monkeypatch.setitem(handlers._handlers, "counts", counts)
    stage = await staged(TALK, skill="counts")
    one, two = await stage.worker(), await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("go"))["turn"]
    await tab.until_shown(turn, "0")
    await stage.seems_dead(one)
    fence = two.at_call("holds", "append:fence")
    await stage.sweep(two)
    await fence.reached()
    assert (await stage.turn(turn)).attempt == 2
    looks_on = await stage.tab(two)
    assert looks_on.text(turn) == "0"
    goes.set()
    await looks_on.until_shown(turn, "0|1")
    fence.go()
    assert text_of((await looks_on.until_ended(turn))["parts"]) == "0|1"
    await stage.at_rest(one)
    await stage.at_rest(two)
    await stage.agrees(tab, looks_on)


# ------------------------------------------------------------------- B4: which parts are open is known


async def test_trace_b4_an_open_part_of_a_new_epoch_is_not_taken_for_whole(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    held = one.at_call("holds", "append:delta")
    turn = (await tab.say("hang"))["turn"]
    await held.reached()
    await stage.empty()
    held.go()
    await stage.notice(looks_on)
    await looks_on.until_shown(turn, "One two")
    begun, *rest = await stage.events(turn)
    assert (begun["type"], begun["parts"]) == ("turn_start", [])
    assert [event["type"] for event in rest] == ["part", "delta"]
    await stage.died(one)
    await stage.sweep(two)
    assert text_of((await looks_on.until_ended(turn))["parts"]) == "One two three four."
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_trace_b4_a_released_turn_keeps_no_open_part(staged):
    stage = await staged(TWO)
    one, two = await stage.worker(), await stage.worker()
    looks_on = await stage.tab(two)
    tab = await stage.tab(one)
    turn = (await tab.say("hang"))["turn"]
    await tab.until_shown(turn, "First.|Between.|One two")
    [run] = one.manager.runs._by_attempt.values()
    await one.does(run.release())
    row = await stage.turn(turn)
    assert (row.worker, text_of(row.parts)) == (None, "First.|Between.")
    await stage.sweep(two)
    answer = await looks_on.until_ended(turn)
    assert text_of(answer["parts"]) == "First.|Between.|One two three four."
    assert (await stage.turn(turn)).takeovers == 0
    await stage.at_rest(two)
    await stage.agrees(looks_on, tab)


# ---------------------------------------------------------- B5: an older place in the queue comes last


async def test_trace_b5_an_older_place_that_comes_last_is_not_shown(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, other = await stage.tab(one), await stage.tab(two)
    first = (await tab.say("stuck"))["turn"]
    await tab.until_shown(first, "Five six")
    second = (await tab.say("stuck again"))["turn"]
    await tab.until_state(second, "queued")
    slow = two.at_call("holds", "append:turn_queued")
    third = (await other.say("last"))["turn"]
    await slow.reached()
    await tab.command("stop", turn=first)
    await tab.until_state(second, "running")
    assert (await tab.until_state(third, "queued"))["place"] == 1
    slow.go()
    await stage.at_rest(two)
    places = [event["place"] for event in await stage.events(third) if event["type"] == "turn_queued"]
    assert places == [1, 2]
    await tab.until(lambda: tab.types(third).count("turn_queued") == 2)
    assert [view.turns[third]["place"] for view in (tab.view, other.view)] == [1, 1]
    await two.does(two.manager.telling.mark_told())
    fresh = await stage.tab(one)
    assert fresh.view.turns[third]["place"] == 1
    await tab.command("stop", turn=second)
    await tab.until_ended(third)
    await stage.at_rest(one)
    await stage.agrees(tab, other, fresh)


# ------------------------------------------------------- B6: a question that was read before its answer


async def test_trace_b6_an_owed_question_that_was_read_before_its_answer_is_refused_behind_it(staged):
    stage = await staged(ASKS)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say("hello"))["turn"]
    question = await tab.until_question(turn)
    await stage.seems_dead(one)  # it has not marked what it told
    late = two.at_call("holds", "append:question")
    sweeping = asyncio.create_task(stage.sweep(two))
    await late.reached()
    assert (await tab.command("answer", question=question, value="stuck"))["type"] == "ok"
    await tab.until_shown(turn, "Five six")
    late.go()
    await sweeping
    await stage.at_rest(two)
    assert [tab.view.turns[turn]["state"], looks_on.view.turns[turn]["state"]] == ["running", "running"]
    assert [event["type"] for event in await stage.events(turn)].count("question") == 1
    await tab.command("stop")
    await looks_on.until_ended(turn)
    await stage.at_rest(one)
    await stage.at_rest(two)
    await stage.agrees(tab, looks_on)


# --------------------------------------------------------------- B7: no fence reaches an effect outside


async def test_trace_b7_a_woken_zombie_does_its_step_and_what_it_got_is_not_kept(staged, monkeypatch):
    wakes, begins, rolled = asyncio.Event(), itertools.count(1), []

    async def handle(params: dict[str, Any], ctx: Any) -> None:
        attempt = next(begins)
        if attempt == 1:
            await wakes.wait()

        async def roll() -> int:
            rolled.append(attempt)
            await ctx.write(f"Rolled by {attempt}.")
            return attempt

        await ctx.write(f"It is {await ctx.step('roll', roll)}.")
        await ctx.stream.ask("Again?")

    monkeypatch.setitem(handlers._handlers, "late", handle)
    stage = await staged(TALK, skill="late")
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say("go"))["turn"]
    await tab.until_attempt(turn, 1)  # told, so that nothing of it is left to be refused but what comes after the step
    await stage.seems_dead(one)
    await stage.sweep(two)
    await looks_on.until_question(turn)
    wakes.set()
    await stage.at_rest(one)
    assert rolled == [2, 1]
    assert await database.read(lambda: [step.value["value"] for step in Step.objects.filter(turn=turn)]) == [2]
    assert looks_on.text(turn) == tab.text(turn) == "Rolled by 2.|It is 2."
    await stage.at_rest(two)
    await stage.agrees(tab, looks_on)
