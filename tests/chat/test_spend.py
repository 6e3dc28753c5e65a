"""What turns use is counted once, with the row that says it, and nothing is begun or called past a budget."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from accounts.models import Budget, Spent
from accounts.spend import Spender
from chat.models import Chat, Command, Turn
from chat.turns import orders
from chat.turns.store import asking, beginning, moves, running
from flows.models import Provider
from providers.base import Chunk
from providers.scripted import Scripted
from streams import database
from streams.errors import WireError
from tests.chat.conftest import ASKS, TALK, TWO
from tests.chat.test_store import ASKED, WORKER, Talk
from tests.chat.view import text_of

Bounds = Callable[..., None]


@pytest.fixture
async def talk(user: Any, publish: Any, scripted: Any) -> Talk:
    await database.write(scripted)
    return Talk(user, await publish(TALK))


def usage(tokens: int, cost: int = 0) -> dict[str, Any]:
    return {"input_tokens": tokens, "output_tokens": 0, "cached_tokens": 0, "cost_micros": cost, "model": "m"}


async def limited(tokens: int = 100, period: str = "day", **of: Any) -> Budget:
    return await database.write(lambda: Budget.objects.create(period=period, limit_tokens=tokens, **of))


async def spent() -> list[tuple[int, int]]:
    """(tokens, cost) of each budget that something was counted for, in the order they were made."""
    rows = Spent.objects.order_by("budget_id", "start")
    return await database.read(lambda: list(rows.values_list("tokens", "cost_micros")))


async def use_up(budget: Budget) -> None:
    def fill() -> None:
        Spent.objects.create(budget=budget, start=database.now().date(), tokens=budget.limit_tokens)

    await database.write(fill)


# -------------------------------------------------------------------------------------------------- counted


async def test_an_end_counts_what_its_turn_used(talk: Talk):
    await limited(user=talk.user)
    await limited(1000, "month", flow=talk.flow.id)
    await talk.end((await talk.say()).run, usage=usage(30, 7))
    assert await spent() == [(30, 7), (30, 7)]


async def test_an_end_whose_reply_was_lost_counts_once(talk: Talk):
    await limited(user=talk.user)
    order = (await talk.say()).run
    for _ in range(3):
        await talk.end(order, usage=usage(30))
    assert await spent() == [(30, 0)]


async def test_steps_a_question_and_the_end_count_what_each_used_more(talk: Talk):
    await limited(user=talk.user)
    order = (await talk.say()).run
    for _ in range(2):  # once more where the reply was lost
        await database.write(running.keep_steps, order, [], usage(10))
    assert await spent() == [(10, 0)]
    question, _ = await database.write(asking.ask, order, ASKED, [], [], usage(25))
    assert await spent() == [(25, 0)]
    again = (await talk.answer(question)).run
    await talk.end(again, usage=usage(60))
    assert await spent() == [(60, 0)]


async def test_a_released_turn_has_counted_and_its_next_run_counts_the_rest(talk: Talk):
    await limited(user=talk.user)
    order = (await talk.say()).run
    await database.write(lambda: Turn.objects.update(running_at=database.now() - timedelta(seconds=60)))
    for _ in range(2):
        await database.write(running.release, order, [], [], usage(40))
    assert await spent() == [(40, 0)]
    assert 60_000 <= (await database.read(Turn.objects.get)).ran_ms < 90_000, "counted once"
    claim = (order.turn, order.chat, order.attempt, None, WORKER, False)
    again = (await database.write(running.claim, *claim)).run
    await talk.end(again, usage=usage(70))
    assert await spent() == [(70, 0)]


async def test_what_a_fenced_run_used_is_not_counted(talk: Talk):
    await limited(user=talk.user)
    order = (await talk.say()).run
    await database.write(running.claim, order.turn, order.chat, order.attempt, WORKER, str(uuid.uuid4()), True)
    for write in (
        lambda: running.finish(order, "done", [], usage=usage(40)),
        lambda: running.keep_steps(order, [], usage(40)),
        lambda: running.release(order, [], [], usage(40)),
    ):
        with pytest.raises(orders.Fenced):
            await database.write(write)
    assert await spent() == []


async def test_a_transaction_that_is_undone_has_counted_nothing(talk: Talk, monkeypatch: pytest.MonkeyPatch):
    await limited(user=talk.user)
    order = (await talk.say()).run
    with monkeypatch.context() as broken:
        broken.setattr(moves, "insert", lambda row: 1 / 0)  # the answer's row
        with pytest.raises(ZeroDivisionError):
            await talk.end(order, usage=usage(30))
    assert await spent() == []
    await talk.end(order, usage=usage(30))
    assert await spent() == [(30, 0)]


async def test_turns_that_end_at_once_sum_right(talk: Talk, bounds: Bounds):
    bounds(turns_per_user=50)
    await limited(10**6, user=talk.user)
    await limited(10**6, "month", flow=talk.flow.id)
    talks = [Talk(talk.user, talk.flow) for _ in range(20)]
    orders_ = [(await each.say()).run for each in talks]
    pairs = zip(talks, orders_, strict=True)
    await asyncio.gather(*(each.end(order, usage=usage(1 + n, 2)) for n, (each, order) in enumerate(pairs)))
    assert await spent() == [(210, 40), (210, 40)]


async def test_a_turn_knows_the_key_that_said_it(talk: Talk):
    key = uuid.uuid4()
    order = (await talk.say(key=str(key))).run
    assert order.spender == Spender(talk.user.id, key, talk.flow.id)
    assert (await database.read(Turn.objects.get)).key == key


# -------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("act", ["say", "regenerate", "edit"])
async def test_nothing_is_begun_past_a_budget_and_nothing_stored(talk: Talk, act: str):
    first = await talk.say()
    await talk.end(first.run)
    await use_up(await limited(user=talk.user))
    fields = {} if act == "say" else {"act": act, "message": first.reply["message"]}
    refusal = await talk.refused(**fields)
    assert refusal.code == "quota_exceeded" and 0 < refusal.extra["retry_after"] <= 86400
    counts = [await database.read(model.objects.count) for model in (Turn, Command)]
    assert counts == [1, 1]


async def test_the_first_say_of_a_chat_past_a_budget_makes_no_chat(talk: Talk):
    await use_up(await limited(flow=talk.flow.id))
    assert (await talk.refused()).code == "quota_exceeded"
    assert await database.read(Chat.objects.count) == 0


async def test_a_refused_say_goes_through_by_the_same_id_once_there_is_more(talk: Talk):
    budget = await limited(user=talk.user)
    await use_up(budget)
    begin = talk.begin()
    with pytest.raises(WireError):
        await database.write(beginning.begin_turn, begin)
    await database.write(lambda: Budget.objects.update(limit_tokens=1000))
    assert (await database.write(beginning.begin_turn, begin)).run


@pytest.mark.parametrize("by", ["answer", "say"])
async def test_an_answer_past_a_budget_is_refused_and_the_question_stays_open(talk: Talk, by: str):
    question = await talk.ask((await talk.say()).run)
    await use_up(await limited(user=talk.user))
    with pytest.raises(WireError) as refusal:
        await (talk.answer(question) if by == "answer" else talk.say("Green"))
    assert refusal.value.code == "quota_exceeded"
    assert await talk.states() == ["waiting"]


async def test_another_s_budget_is_none_of_ours(talk: Talk, make_user: Callable[..., Any]):
    await use_up(await limited(user=await database.write(make_user, "bert")))
    assert (await talk.say()).run


# -------------------------------------------------------------------------------------------------- in a run


async def test_a_run_that_uses_up_a_budget_ends_before_its_next_call_and_keeps_its_text(staged, model_calls):
    stage = await staged(TWO)
    await limited(1, user=stage.user)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    answer = await tab.until_ended(turn)
    await stage.at_rest(one)
    row = await stage.turn(turn)
    assert (row.state, row.error["code"]) == ("error", "quota_exceeded")
    assert row.error["text"].startswith("Your budget is used up until 20") and row.error["text"].endswith("UTC.")
    assert text_of(answer["parts"]) == "Model says one hello.|Between." and len(model_calls) == 1
    used = row.usage["input_tokens"] + row.usage["output_tokens"]
    assert used > 1 and await spent() == [(used, 0)]
    refused = await tab.say("more")
    assert refused["code"] == "quota_exceeded" and refused["retry_after"] > 0


async def test_a_turn_that_a_killed_worker_left_is_counted_once(staged):
    stage = await staged(TWO)
    await limited(10**6, user=stage.user)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hang"))["turn"]
    await tab.until_shown(turn, "Between.|One two")
    assert len(await spent()) == 1  # the first call, with its step
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    await tab.until_ended(turn)
    await stage.at_rest(two)
    row = await stage.turn(turn)
    assert row.state == "done"
    assert await spent() == [(row.usage["input_tokens"] + row.usage["output_tokens"], 0)]


async def test_what_it_cost_is_counted_by_the_provider_s_prices(staged):
    stage = await staged(ASKS)
    await database.write(lambda: Provider.objects.update(prices={"input": 10**6, "output": 10**6}))
    await limited(10**6, user=stage.user)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    question = await tab.until_question(turn)
    await stage.at_rest(one)
    [(tokens, cost)] = await spent()
    assert tokens == cost > 0
    await tab.command("answer", question=question, value="Anna")
    await tab.until_ended(turn)
    await stage.at_rest(one)
    row = await stage.turn(turn)
    assert await spent() == [(row.usage["cost_micros"], row.usage["cost_micros"])] != [(tokens, cost)]


async def test_a_call_that_was_stopped_counts_what_it_streamed(staged):
    stage = await staged(TALK)
    await limited(user=stage.user)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("stuck"))["turn"]
    await tab.until_shown(turn, "Five six")
    await tab.command("stop")
    await tab.until_ended(turn)
    await stage.at_rest(one)
    assert ((await stage.turn(turn)).state, await spent()) == ("stopped", [(2, 0)])


async def test_a_provider_that_does_not_say_what_was_used_is_counted_by_what_it_streamed(staged, monkeypatch):
    async def stream(self: Any, request: Any) -> Any:
        yield Chunk(text="One two three", tokens=3)
        yield Chunk(text=" four", tokens=1, finish="stop")

    monkeypatch.setattr(Scripted, "stream", stream)
    stage = await staged(TALK)
    await limited(user=stage.user)
    one = await stage.worker()
    tab = await stage.tab(one)
    await tab.until_ended((await tab.say("hello"))["turn"])
    await stage.at_rest(one)
    assert await spent() == [(4, 0)]


@pytest.mark.parametrize("on_takeover", ["restart", "continue"])
async def test_a_turn_taken_over_past_a_budget_keeps_the_text_that_was_delivered(staged, on_takeover: str):
    stage = await staged(TWO)
    await database.write(lambda: Provider.objects.update(on_takeover=on_takeover))
    budget = await limited(user=stage.user)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hang"))["turn"]
    await tab.until_shown(turn, "Between.|One two")
    await database.write(lambda: Budget.objects.filter(id=budget.id).update(limit_tokens=1))
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    answer = await tab.until_ended(turn)
    await stage.at_rest(two)
    assert (await stage.turn(turn)).error["code"] == "quota_exceeded"
    assert text_of(answer["parts"]).startswith("First.|Between.|One two")
