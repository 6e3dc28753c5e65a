"""A turn that another worker takes up goes on where it was cut, or begins anew, as its model's row says."""

import asyncio
from typing import Any

import pytest

from flows import handlers
from flows.context import LLMCall
from flows.models import Provider
from providers.base import LLMMessage
from streams import database
from tests.chat.conftest import ASKS, TALK, TWO, graph_of, node
from tests.chat.stage import Stage, Tab
from tests.chat.view import text_of
from tests.waiting import until

REASONS = {"reasoning": "I think. ", "fault": {"kind": "cut", "after_tokens": 5, "wait_s": 3600, "times": 1}}


@pytest.fixture
def goes_on(staged: Any) -> Any:
    """`await goes_on(graph)`: a stage whose model goes on where it was cut. `rules` come before the others."""

    async def make(graph: dict[str, Any], skill: str = "", rules: tuple[dict[str, Any], ...] = ()) -> Stage:
        stage = await staged(graph, skill)

        def change() -> None:
            row = Provider.objects.get(slug="model")
            row.on_takeover = "continue"
            row.options["rules"] = [*rules, *row.options["rules"]]
            row.save()

        await database.write(change)
        return stage

    return make


def shown_since(tab: Tab, turn: str, before: str) -> list[str]:
    """What the tab shows of the turn from now on; its text must only grow."""
    texts = [before]
    apply = tab.view.apply

    def watched(frame: dict[str, Any]) -> None:
        apply(frame)
        if frame["type"] == "delta":  # what is open comes in one batch with its `turn_start`
            texts.append(tab.text(turn))

    tab.view.apply = watched  # type: ignore[method-assign]
    return texts


async def test_trace_06c_delivered_text_stands_and_the_model_goes_on_from_it(goes_on):
    stage = await goes_on(TWO)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say("hang"))["turn"]
    await looks_on.until_shown(turn, "First.|Between.|One two")
    texts = shown_since(looks_on, turn, looks_on.text(turn))
    await stage.died(one)
    await stage.sweep(two)
    answer = await looks_on.until_ended(turn)
    assert text_of(answer["parts"]) == "First.|Between.|One two three four."
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:], strict=False)), texts
    assert len(answer["parts"]) == len({part["id"] for part in answer["parts"]}) == 3
    assert (await stage.turn(turn)).attempt == 2
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_each_lost_worker_is_gone_on_from(goes_on):
    again = {"match": "often", "text": "One two three four five six.", "pace_tokens_per_s": 0,
             "fault": {"kind": "cut", "after_tokens": 2, "wait_s": 3600, "times": 2}}  # fmt: skip
    stage = await goes_on(TALK, rules=(again,))
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("often"))["turn"]
    await tab.until_shown(turn, "One two")
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    await tab.until_shown(turn, "One two three four")
    three, tab = await stage.succeeds(two, tab)
    await stage.sweep(three)
    assert text_of((await tab.until_ended(turn))["parts"]) == "One two three four five six."
    assert (await stage.turn(turn)).attempt == 3
    await stage.at_rest(three)
    await stage.agrees(tab)


async def test_trace_b4_text_that_was_gone_on_from_is_not_taken_for_whole_though_nothing_followed(goes_on):
    stage = await goes_on(TALK)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hang"))["turn"]
    await tab.until_shown(turn, "One two")
    two, tab = await stage.succeeds(one, tab)
    two.dies_at_call("append:delta", 2)  # the first one shows what was delivered
    await stage.sweep(two)
    await until(lambda: two.is_dead)
    three, tab = await stage.succeeds(two, tab)
    assert tab.text(turn) == "One two"
    await stage.sweep(three)
    assert text_of((await tab.until_ended(turn))["parts"]) == "One two three four."
    await stage.at_rest(three)
    await stage.agrees(tab)


async def test_a_run_that_went_on_and_is_released_keeps_no_part_of_the_step_that_was_cut(goes_on):
    often = {"match": "often", "text": "One two three four five six.",
             "fault": {"kind": "cut", "after_tokens": 2, "wait_s": 3600, "times": 2}}  # fmt: skip
    stage = await goes_on(TALK, rules=(often,))
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("often"))["turn"]
    await tab.until_shown(turn, "One two")
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    await tab.until_shown(turn, "One two three four")
    [run] = two.manager.runs._by_attempt.values()
    await two.does(run.release())
    assert (await stage.turn(turn)).parts == []
    three = await stage.worker()
    await stage.sweep(three)
    answer = await tab.until_ended(turn)
    assert [part["text"] for part in answer["parts"]] == ["One two three four five six."]
    await stage.at_rest(three)
    await stage.agrees(tab)


async def test_what_a_model_thought_stands_with_its_text(goes_on):
    stage = await goes_on(TALK, rules=({"match": "muse", "text": "One two three.", **REASONS},))
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say("muse"))["turn"]
    await looks_on.until_shown(turn, "One two")
    await stage.died(one)
    await stage.sweep(two)
    answer = await looks_on.until_ended(turn)
    assert [(part["kind"], part["text"]) for part in answer["parts"]] == [
        ("reasoning", "I think. "),
        ("text", "One two three."),
    ]
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_a_model_that_cannot_go_on_begins_its_part_anew(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say("hang"))["turn"]
    await looks_on.until_shown(turn, "One two")
    await stage.died(one)
    await stage.sweep(two)
    answer = await looks_on.until_ended(turn)
    assert text_of(answer["parts"]) == "One two three four."
    starts = [event for event in await stage.events(turn) if event["type"] == "turn_start"]
    assert starts[-1]["parts"] == [] and starts[-1]["attempt"] == 2
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_a_released_turn_goes_on_where_it_was_cut(goes_on):
    stage = await goes_on(TWO)
    one, two = await stage.worker(), await stage.worker()
    looks_on, tab = await stage.tab(two), await stage.tab(one)
    turn = (await tab.say("hang"))["turn"]
    await looks_on.until_shown(turn, "First.|Between.|One two")
    texts = shown_since(looks_on, turn, looks_on.text(turn))
    [run] = one.manager.runs._by_attempt.values()
    await one.does(run.release())
    await stage.sweep(two)
    assert text_of((await looks_on.until_ended(turn))["parts"]) == "First.|Between.|One two three four."
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:], strict=False)), texts
    await stage.at_rest(two)
    await stage.agrees(looks_on, tab)


async def test_a_stop_before_the_cut_step_is_reached_keeps_what_was_delivered(goes_on):
    stage = await goes_on(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say("hang"))["turn"]
    await looks_on.until_shown(turn, "One two")
    await stage.died(one)
    held = two.at_call("holds", "append:fence")
    sweeping = asyncio.create_task(stage.sweep(two))
    await held.reached()
    assert (await looks_on.command("stop"))["type"] == "ok"
    held.go()
    await sweeping
    answer = await looks_on.until_ended(turn)
    assert (answer["status"], text_of(answer["parts"])) == ("stopped", "One two")
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_what_a_handler_shows_otherwise_the_second_time_replaces_what_was_delivered(goes_on, monkeypatch):
    said = iter(["before", "after"])

    async def handle(params: dict[str, Any], ctx: Any) -> None:
        await ctx.write(next(said))
        await ctx.llm(LLMCall(provider="model", model="m", messages=(LLMMessage("user", "hang"),)))

    monkeypatch.setitem(handlers._handlers, "tried", handle)
    stage = await goes_on(TALK, skill="tried")
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    turn = (await tab.say("go"))["turn"]
    await looks_on.until_shown(turn, "before|One two")
    await stage.died(one)
    await stage.sweep(two)
    answer = await looks_on.until_ended(turn)
    assert text_of(answer["parts"]) == "after|One two three four."
    await stage.at_rest(two)
    await stage.agrees(looks_on)


async def test_after_an_answer_the_text_that_follows_the_question_goes_on(goes_on):
    stage = await goes_on(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    await tab.command("answer", question=await tab.until_question(turn), value="hang")
    await tab.until_shown(turn, "One two")
    two, tab = await stage.succeeds(one, tab)
    await stage.sweep(two)
    answer = await tab.until_ended(turn)
    assert text_of(answer["parts"]).endswith("One two three four.")
    assert [part["kind"] for part in answer["parts"]] == ["text", "text", "question", "text"]
    await stage.at_rest(two)
    await stage.agrees(tab)


NUL = graph_of(
    node("start", "start"),
    node("say", "message", text="{{ input.text | url_decode }}"),
    node("end", "end"),
)


async def test_a_zero_character_that_a_template_made_is_in_no_row(staged):
    stage = await staged(NUL)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("a%00b"))["turn"]
    assert text_of((await tab.until_ended(turn))["parts"]) == "ab"
    row = await stage.turn(turn)
    assert (row.state, row.attempt) == ("done", 1)
    assert "\\u0000" not in str(row.nodes) and "\x00" not in str(row.nodes)
    await stage.at_rest(one)
    await stage.agrees(tab)


async def test_however_many_turns_are_released_at_once_there_is_one_look(staged):
    stage = await staged(TALK)
    one = await stage.worker()
    before = len(one.manager.tasks.all())
    for _ in range(20):
        one.manager._heed({"kind": "released"})
    assert len(one.manager.tasks.all()) == before + 1
    await stage.at_rest(one)


async def test_a_worker_that_drains_takes_messages_that_others_run(staged):
    stage = await staged(TALK)
    one, two = await stage.worker(), await stage.worker()
    tab, looks_on = await stage.tab(one), await stage.tab(two)
    one.manager.is_draining = True
    reply = await tab.say("hello")
    assert (reply["type"], reply["queued"]) == ("ok", False)
    assert (await stage.turn(reply["turn"])).worker is None
    await two.does(two.manager.sweep._take_released())
    assert text_of((await looks_on.until_ended(reply["turn"]))["parts"]) == "Model says hello."
    await stage.at_rest(two)
    await stage.agrees(tab, looks_on)
