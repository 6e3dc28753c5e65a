"""What a run makes of its handler: results and parts that the wire can carry, an end whatever comes back."""

import asyncio
from typing import Any

import pytest

from chat.models import Question, Step
from chat.turns.journal import KEY_CHARS, PART_CHARS
from flows import handlers
from flows.context import Handler
from flows.models import Provider
from providers.base import Chunk, Usage
from providers.scripted import Scripted
from streams import database
from tests.chat.conftest import ASKS, TALK, graph_of, node
from tests.chat.view import text_of


@pytest.fixture
def answered_by(staged, monkeypatch):
    """`await answered_by(handler)`: the tab and the turn that this handler answers, ended."""

    async def make(handler: Handler) -> tuple[Any, Any]:
        monkeypatch.setitem(handlers._handlers, "tried", handler)
        stage = await staged(TALK, skill="tried")
        one = await stage.worker()
        tab = await stage.tab(one)
        id_ = (await tab.say("go"))["turn"]
        await tab.until_ended(id_)
        await stage.at_rest(one)
        await stage.agrees(tab)
        return tab, await stage.turn(id_)

    return make


async def test_what_a_handler_returns_is_the_turns_data(answered_by):
    async def handle(params: dict[str, Any], ctx: Any) -> Any:
        return {"list": [1, None, "two"]}

    tab, turn = await answered_by(handle)
    assert (turn.state, turn.data) == ("done", {"list": [1, None, "two"]})
    assert tab.frames[-1]["data"] == turn.data


async def test_a_zero_character_is_left_out_and_its_name_is_not(answered_by):
    async def handle(params: dict[str, Any], ctx: Any) -> Any:
        kept = await ctx.step("k", says)
        await ctx.write(kept)
        return ["a\x00b", "\\u0000", "\\\x00\x00\\\\u0000", kept]

    async def says() -> str:
        return "c\x00d"

    tab, turn = await answered_by(handle)
    assert turn.data == ["ab", "\\u0000", "\\\\\\u0000", "cd"]


async def test_vars_that_are_not_json_end_the_turn_as_a_fault_of_the_flow(answered_by):
    async def handle(params: dict[str, Any], ctx: Any) -> None:
        ctx.vars["bad"] = object()

    _, turn = await answered_by(handle)
    assert (turn.state, turn.error["code"], turn.attempt) == ("error", "flow_error", 1)


async def test_a_result_that_is_not_json_ends_the_turn_as_a_fault_of_the_flow(answered_by):
    async def handle(params: dict[str, Any], ctx: Any) -> Any:
        await ctx.write("text")
        return object()

    _, turn = await answered_by(handle)
    assert (turn.state, turn.error["code"], turn.attempt) == ("error", "flow_error", 1)


async def test_a_result_that_an_event_cannot_hold_is_stored_and_left_out_of_it(answered_by):
    async def handle(params: dict[str, Any], ctx: Any) -> Any:
        await ctx.write("text")
        return "x" * 70_000

    tab, turn = await answered_by(handle)
    end = next(frame for frame in tab.frames if frame["type"] == "turn_end")
    assert (turn.state, len(turn.data), end["data"]) == ("done", 70_000, None)
    assert text_of(end["message"]["parts"]) == "text"


@pytest.mark.parametrize("data", ["x" * 70_000, object()], ids=["too large", "no json"])
async def test_a_part_whose_data_no_event_can_hold_is_refused_to_its_handler(answered_by, data: Any):
    async def handle(params: dict[str, Any], ctx: Any) -> None:
        await ctx.write("before")
        await ctx.write("", kind="data", data=data)

    _, turn = await answered_by(handle)
    assert (turn.state, turn.error["code"]) == ("error", "flow_error")


async def test_data_of_a_part_are_shown_and_stored(answered_by):
    async def handle(params: dict[str, Any], ctx: Any) -> None:
        await ctx.write("named", kind="data", data={"rows": (1, 2)})

    tab, _ = await answered_by(handle)
    end = next(frame for frame in tab.frames if frame["type"] == "turn_end")
    [part] = end["message"]["parts"]
    assert (part["kind"], part["text"], part["data"]) == ("data", "named", {"rows": [1, 2]})


async def test_a_handler_that_fails_ends_its_turn_and_keeps_its_text(answered_by):
    async def handle(params: dict[str, Any], ctx: Any) -> None:
        await ctx.write("so far")
        raise KeyError("a fault of its own")

    tab, turn = await answered_by(handle)
    assert (turn.state, turn.error["code"]) == ("error", "flow_error")
    end = next(frame for frame in tab.frames if frame["type"] == "turn_end")
    assert text_of(end["message"]["parts"]) == "so far"


async def test_a_claim_that_cannot_reach_the_log_gives_the_turn_back_as_it_was(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    turn = (await tab.say("hello"))["turn"]
    question = await tab.until_question(turn)
    await tab.command("answer", question=question, value="hang")
    await tab.until_shown(turn, "One two")
    before = (await stage.turn(turn)).parts
    two, tab = await stage.succeeds(one, tab)
    two.at_call("loses", "append:fence")
    await stage.sweep(two)
    await stage.at_rest(two)
    row = await stage.turn(turn)
    assert (row.state, row.worker, row.parts) == ("running", None, before)
    await stage.sweep(two)
    answer = await tab.until_ended(turn)
    assert [part["kind"] for part in answer["parts"]] == ["text", "text", "question", "text"]
    await stage.at_rest(two)
    await stage.agrees(tab)


async def test_a_question_is_asked_when_all_that_was_said_is_in_the_log(staged):
    stage = await staged(ASKS)
    one = await stage.worker()
    tab = await stage.tab(one)
    held, asking = one.at_call("holds", "append:delta"), one.at_call("holds", "write:ask")
    turn = (await tab.say("hello"))["turn"]
    await held.reached()
    reached = asyncio.create_task(asking.reached())
    assert not (await asyncio.wait([reached], timeout=0.05))[0]
    held.go()
    await reached
    texts = [event["text"] for event in await stage.events() if event["type"] == "delta"]
    assert "".join(texts) == "Model says one hello.Between."
    asking.go()
    await tab.until_question(turn)


# ------------------------------------------------------------------------------------- bounds of what is stored


def large_graph(count: int) -> dict[str, Any]:
    """An end whose data name a text of 20 KB `count` times."""
    return graph_of(
        node("start", "start"),
        node("large", "prompt", text="x" * 20_000),
        node("end", "end", data={f"n{number}": "{{ large.text }}" for number in range(count)}),
    )


async def ended(stage: Any) -> Any:
    one = await stage.worker()
    tab = await stage.tab(one)
    id_ = (await tab.say("go"))["turn"]
    await tab.until_ended(id_)
    await stage.at_rest(one)
    return await stage.turn(id_)


async def test_an_end_that_names_a_large_text_many_times_ends_as_a_fault_of_the_node(staged, bounds):
    bounds(data_bytes=100_000)
    turn = await ended(await staged(large_graph(5)))
    assert (turn.state, turn.error["code"], turn.data) == ("error", "flow_error", None)
    assert "“end”" in turn.error["text"] and "100000 bytes" in turn.error["text"]


async def test_an_end_within_the_bound_is_stored_whole(staged, bounds):
    bounds(data_bytes=101_000)
    turn = await ended(await staged(large_graph(5)))
    assert (turn.state, sum(map(len, turn.data.values()))) == ("done", 100_000)


async def test_nodes_that_hold_too_much_together_end_as_a_fault_of_the_last(staged, bounds):
    bounds(results_bytes=50_000)
    texts = [node(f"n{number}", "prompt", text="x" * 20_000) for number in range(3)]
    turn = await ended(await staged(graph_of(node("start", "start"), *texts, node("end", "end"))))
    assert turn.error["code"] == "flow_error" and "“n2”" in turn.error["text"]


@pytest.mark.parametrize("what", ["data", "vars", "step", "part", "event"])
async def test_what_a_handler_hands_over_is_bounded(answered_by, bounds, what: str):
    bounds(data_bytes=1000, vars_bytes=1000, event_bytes=4096)
    large = "x" * 4000

    async def makes() -> str:
        return large

    async def handle(params: dict[str, Any], ctx: Any) -> Any:
        match what:
            case "data":
                return large
            case "vars":
                ctx.vars["large"] = large
            case "step":
                await ctx.step("k", makes)
            case "part":
                await ctx.write("", kind="data", data=large)
            case "event":
                await ctx.stream.send("status", data=large)

    _, turn = await answered_by(handle)
    assert (turn.state, turn.error["code"]) == ("error", "flow_error")
    assert "too large" in turn.error["text"]


async def test_parts_without_text_count_for_the_answers_bound(answered_by, bounds):
    bounds(answer_bytes=10_000)

    async def handle(params: dict[str, Any], ctx: Any) -> None:
        for _ in range(1000):
            await ctx.write("", kind="data", data="x" * 100)

    tab, turn = await answered_by(handle)
    assert turn.error["code"] == "answer_too_long"
    assert 40 < sum(event == "part" for event in tab.types()) < 100


async def test_a_run_shows_outputs_of_nodes_up_to_a_bound(staged, bounds):
    bounds(node_outputs_bytes=10_000)
    texts = [node(f"n{number}", "prompt", text="x" * 3000) for number in range(6)]
    stage = await staged(graph_of(node("start", "start"), *texts, node("end", "end")))
    turn = await ended(stage)
    ends = [event for event in await stage.events(str(turn.id)) if event.get("state") == "end"]
    assert [bool(event.get("output")) for event in ends if event["kind"] == "prompt"] == 3 * [True] + 3 * [False]


async def test_what_a_vendor_says_of_tokens_is_kept_within_reason(staged, bounds, monkeypatch):
    async def stream(self: Any, request: Any) -> Any:
        yield Chunk(text="Hi", tokens=1)
        yield Chunk(usage=Usage(input_tokens=-5, output_tokens=2**70, cached_tokens=10**400), finish="stop")

    monkeypatch.setattr(Scripted, "stream", stream)
    stage = await staged(TALK)
    await database.write(lambda: Provider.objects.update(prices={"input": 100, "output": 10**14}))
    turn = await ended(stage)
    usage = turn.usage
    assert (turn.state, usage["input_tokens"], usage["output_tokens"], usage["cached_tokens"]) == (
        "done",
        0,
        10**9,
        10**9,
    )
    assert usage["cost_micros"] == 10**17


async def test_a_number_beyond_64_bits_of_a_handler_is_a_fault_of_the_flow(answered_by):
    async def handle(params: dict[str, Any], ctx: Any) -> Any:
        return {"large": 2**64}

    _, turn = await answered_by(handle)
    assert (turn.state, turn.error["code"]) == ("error", "flow_error")


@pytest.mark.parametrize("key", ["a" * 201, "a\x00b"])
async def test_a_key_that_no_row_takes_is_refused_before_the_step_is_done(answered_by, key: str):
    done: list[str] = []

    async def acts() -> str:
        done.append("acted")
        return "kept"

    async def handle(params: dict[str, Any], ctx: Any) -> Any:
        await ctx.step("a" * 200, acts)
        await ctx.step(key, acts)

    _, turn = await answered_by(handle)
    assert (turn.state, turn.error["code"], done) == ("error", "flow_error", ["acted"])


@pytest.mark.parametrize("name", [{"key": "a" * 201}, {"key": "a\x00b"}, {"scope": "a" * 117}])
async def test_a_question_whose_name_no_row_takes_is_refused(answered_by, name: dict[str, str]):
    async def handle(params: dict[str, Any], ctx: Any) -> Any:
        if "scope" in name:
            await ctx.node_start(name["scope"], 1, "question", "Ask")
        await ctx.stream.ask("Tea?", key=name.get("key"))

    _, turn = await answered_by(handle)
    assert (turn.state, turn.error["code"]) == ("error", "flow_error")


def test_names_are_as_long_as_their_columns():
    columns = [(Step, "key"), (Question, "key"), (Question, "part")]
    lengths = [model._meta.get_field(name).max_length for model, name in columns]
    assert lengths == [KEY_CHARS, KEY_CHARS, PART_CHARS]
