"""Stop: the provider's connection is closed at once, what was written is kept, the queue goes on."""

import statistics
import time
import uuid
from typing import Any

import pytest

from chat.models import Message
from streams import database
from tests.chat.conftest import graph_of, node
from tests.chat.view import View, text_of
from tests.sockets.tabs import Tab, fake
from tests.waiting import until

ENDLESS = {"tokens": 100_000, "rate": 200}
SILENT = {"tokens": 5, "first_s": 3600}
ASKING = graph_of(
    node("start", "start"),
    node("hello", "message", text="Before."),
    node("ask", "question", text="Your name?"),
    node("model", "llm", provider="model", model="m", prompt="{{ ask.value }}"),
    node("end", "end"),
)
THINKS_THEN_ASKS = graph_of(
    node("start", "start"),
    node("model", "llm", provider="model", model="m", prompt="{{ input.text }}"),
    node("ask", "question", text="Your name?"),
    node("end", "end"),
)


async def begun(tab: Tab, text: str) -> dict[str, Any]:
    """Say, and the reply, once the first token is shown."""
    reply = await tab.say(text)
    assert reply["type"] == "ok", reply
    await tab.until_text(1, reply["turn"])
    return reply


async def stored(id_: str) -> Message:
    return await database.read(lambda: Message.objects.get(id=id_))


async def test_stop_closes_the_providers_connection_and_no_token_follows(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    took_ms, requests = [], []
    async with tab(flow, chat) as one:
        for _ in range(20):
            said = await begun(one, fake(**ENDLESS))
            request = model.seen.requests[-1]
            at = time.monotonic()
            assert (await one.command("stop"))["turn"] == said["turn"]
            await until(lambda request=request: request.closed, what="the provider's connection is closed")
            took_ms.append((request.closed - at) * 1000)
            assert (await one.until_ended(said["turn"]))["status"] == "stopped"
            requests.append(request)
    assert len({request.n for request in requests}) == 20
    assert [request.tokens_after_close for request in requests] == [0] * 20
    assert model.seen.open == 0
    said = f"median {statistics.median(took_ms):.1f} ms, most {max(took_ms):.1f} ms"
    print(f"\nfrom stop to the provider's closed connection, n=20: {said}")  # noqa: T201


async def test_stopped_answer_keeps_what_was_shown(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        said = await one.say(fake(**ENDLESS))
        await one.until_text(200)
        await one.command("stop")
        await one.until_ended(said["turn"])
    answer = await stored(said["answer"])
    shown = text_of(one.view.last_shown)
    assert (answer.status, answer.turn) == ("stopped", uuid.UUID(said["turn"]))
    assert len(shown) >= 200 and text_of(answer.parts) == shown
    assert model.seen.requests[0].text.startswith(shown)


async def test_stop_before_the_first_token_stores_an_empty_answer(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        said = await one.say(fake(**SILENT))
        await until(lambda: model.seen.requests, what="the provider was asked")
        await one.command("stop", turn=said["turn"])
        end = await one.until("turn_end")
        await until(lambda: model.seen.requests[0].closed, what="the provider's connection is closed")
    assert (end["status"], end["message"]["parts"], end["error"]) == ("stopped", [], None)
    assert model.seen.requests[0].tokens == 0
    assert (await stored(said["answer"])).parts == []


async def test_stop_at_once_after_the_say_ends_the_turn(modelled, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        await one.send(type="say", id="s", text=fake(**ENDLESS))
        await one.send(type="stop", id="x")
        end = await one.until("turn_end")
        assert end["status"] == "stopped"
        assert one.view.replies["s"]["turn"] == one.view.replies["x"]["turn"] == end["turn"]


async def test_stop_of_the_running_turn_lets_the_queue_go_on(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        first = await begun(one, fake(**ENDLESS))
        second = await one.say(fake(text="I am second."))
        assert second["queued"] is True
        await one.command("stop")
        await one.until_ended(second["turn"])
    assert [turn for _, turn in one.view.ends] == [first["turn"], second["turn"]]
    assert one.view.messages[first["answer"]]["status"] == "stopped"
    assert text_of(one.view.messages[second["answer"]]["parts"]) == "I am second."


async def test_stop_of_a_queued_turn_takes_it_out_and_moves_the_others_up(modelled, model, tab):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        first = await begun(one, fake(**ENDLESS))
        second, third = await one.say("two"), await one.say(fake(text="three"))
        await until_shown(one, third["turn"], place=2)
        assert (await one.command("stop", turn=second["turn"]))["turn"] == second["turn"]
        await until_shown(one, third["turn"], place=1)
        assert second["turn"] in one.view.ended and first["turn"] in one.view.turns
        await one.command("stop", turn=first["turn"])
        await one.until_ended(third["turn"])
    assert len(model.seen.requests) == 2, "the turn that was taken out ran"
    taken_out = await stored(second["answer"])
    assert (taken_out.status, taken_out.parts) == ("stopped", [])


async def until_shown(tab: Tab, turn: str, place: int) -> None:
    while tab.view.turns.get(turn, {}).get("place") != place:
        await tab.recv()


async def test_stop_while_it_waits_for_an_answer_ends_the_turn(modelled, model, tab):
    flow, chat = await modelled(ASKING), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        said = await one.say("hello")
        question = await one.until("question")
        reply = await one.command("stop")
        await one.until_ended(said["turn"])
        late = await one.command("answer", question=question["question"], value="Ada")
    assert reply["turn"] == said["turn"]
    assert late["code"] == "question_closed"
    answer = await stored(said["answer"])
    assert answer.status == "stopped"
    assert [part["kind"] for part in answer.parts] == ["text", "question"]
    assert "value" not in answer.parts[1]["data"]
    assert not model.seen.requests


async def test_stop_while_it_waits_lets_the_queue_go_on(modelled, model, tab):
    flow, chat = await modelled(THINKS_THEN_ASKS), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        first = await begun(one, fake(tokens=200, rate=100))
        second = await one.say(fake(tokens=5))
        assert second["queued"] is True
        await one.until("question")
        assert one.view.turns[second["turn"]]["state"] == "queued", "what was queued before stays behind the question"
        await one.command("stop")
        await one.until_ended(first["turn"])
        asked = await one.until("question")
    assert asked["turn"] == second["turn"]
    assert [len(request.sent) for request in model.seen.requests] == [200, 5]


@pytest.mark.parametrize("what", ["an ended turn", "nothing that runs", "an unknown turn"])
async def test_stop_of_what_does_not_run_is_refused_and_ends_nothing(modelled, tab, what):
    flow, chat = await modelled(), str(uuid.uuid4())
    async with tab(flow, chat) as one:
        said = await one.say(fake(tokens=2))
        await one.until("turn_end")
        turn = {"an ended turn": said["turn"], "an unknown turn": str(uuid.uuid4())}.get(what)
        error = await one.command("stop", **({"turn": turn} if turn else {}))
        assert (error["type"], error["code"]) == ("error", "turn_not_running")
        assert (await one.say(fake(tokens=2)))["type"] == "ok"
        await one.until("turn_end")
    assert len(one.view.ends) == 2


async def test_two_tabs_that_stop_at_once_end_it_once(modelled, tab):
    flow, chat, view = await modelled(), str(uuid.uuid4()), View()
    async with tab(flow, chat, view) as one, tab(flow, chat) as two:
        await two.until("snapshot")
        await begun(one, fake(**ENDLESS))
        await one.send(type="stop", id="same")
        await two.send(type="stop", id="same")
        await one.until("turn_end")
        await two.until("turn_end")
        while "same" not in view.replies or "same" not in two.view.replies:
            await (one if "same" not in view.replies else two).recv()
        assert view.replies["same"] == two.view.replies["same"]
        await one.say(fake(tokens=2))
        await one.until("turn_end")
    assert len(view.ends) == 2
