"""Turns from outside: two at once, questions and their answers, branches, repeated commands, chats and their lists."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from chat.models import Chat, Message, Turn
from flows import build
from flows import store as flow_store
from flows.models import Flow
from streams import database
from tests.chat.conftest import graph_of, node
from tests.chat.view import text_of
from tests.sockets.tabs import Tab, fake, tab_at
from tests.waiting import until

ENDLESS = fake(tokens=100_000, rate=200)
OPTIONS = [{"id": "tea", "label": "Green tea"}, {"id": "milk", "label": "Milk"}]
FORM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "title": "Name"},
        "age": {"type": "integer", "minimum": 1},
        "size": {"enum": ["S", "M"], "default": "M"},
        "news": {"type": "boolean", "default": False},
    },
    "required": ["name"],
}


def asking(text: str = "Your name?", **fields: Any) -> dict[str, Any]:
    """A flow that asks at once and says what was answered."""
    return graph_of(
        node("start", "start"),
        node("ask", "question", text=text, **fields),
        node("said", "message", text="You said {{ ask.value }} ({{ ask.label }})."),
        node("end", "end"),
    )


def branching(branches: list[str], **fields: Any) -> dict[str, Any]:
    """A flow that asks at once and says which branch was taken."""
    says = [node(f"is_{branch}", "message", text=f"Branch {branch}.") for branch in branches]
    edges = [{"from": "start", "to": "ask"}]
    for branch in branches:
        edges += [{"from": "ask", "to": f"is_{branch}", "branch": branch}, {"from": f"is_{branch}", "to": "end"}]
    nodes = [node("start", "start"), node("ask", "question", text="Which?", **fields), *says, node("end", "end")]
    return graph_of(*nodes, edges=edges)


Rest = Callable[..., Awaitable[Any]]


@pytest.fixture
async def rest(live: Any, anna: Any, token_of: Callable[..., Awaitable[str]]) -> Rest:
    """`await rest("GET", "chats/")`: anna's REST."""
    token = await token_of(anna)

    async def ask(method: str, path: str, body: Any = None) -> Any:
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.request(method, f"{live.url}/api/{path}", json=body) as response,
        ):
            assert response.status < 300, await response.text()
            return None if response.status == 204 else await response.json()

    return ask


@pytest.fixture(autouse=True)
def quick_sweeps(bounds: Callable[..., None]) -> None:
    """Questions expire at their time, not seconds later."""
    bounds(sweep_s=0.1)


@pytest.fixture
def unswept(bounds: Callable[..., None]) -> None:
    """Of a server that starts after this: nobody sweeps while the test runs."""
    bounds(sweep_s=3600)


async def begun(tab: Tab, text: str = ENDLESS, **fields: Any) -> dict[str, Any]:
    """Say, and the reply, once the first token is shown."""
    reply = await tab.say(text, **fields)
    assert reply["type"] == "ok", reply
    await tab.until_text(1, reply["turn"])
    return reply


async def answered(tab: Tab, text: str, **fields: Any) -> dict[str, Any]:
    """Say, and the end of its turn."""
    reply = await tab.say(text, **fields)
    assert reply["type"] == "ok", reply
    return await tab.until_ended(reply["turn"])


async def asked(tab: Tab, text: str = "hello") -> dict[str, Any]:
    """Say, and the question that comes."""
    reply = await tab.say(text)
    assert reply["type"] == "ok", reply
    return await tab.until("question")


async def until_head(tab: Tab, chat: str, head: str) -> None:
    async def is_head() -> bool:
        row = await database.read(lambda: Chat.objects.get(id=chat))
        return str(row.head) == head

    await until(is_head, what=f"the head is {head}")


async def stored(id_: str) -> Message:
    return await database.read(lambda: Message.objects.get(id=id_))


def new_chat() -> str:
    return str(uuid.uuid4())


# ------------------------------------------------------------------------------------------ two at once


async def test_queue_shows_places_and_runs_in_order(modelled, model, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one, tab(flow, chat) as two:
        await two.until("snapshot")
        first = await begun(one)
        waiting = [await one.say(fake(text=f"Number {number}.")) for number in (2, 3, 4)]
        assert [reply["queued"] for reply in (first, *waiting)] == [False, True, True, True]
        for place, reply in enumerate(waiting, 1):
            while two.view.turns.get(reply["turn"], {}).get("place") != place:
                await two.recv()
            assert reply["message"] in two.view.messages, "the message of a queued turn is shown"
        await one.command("stop")
        for reply in waiting:
            await one.until_ended(reply["turn"])
            await two.until_ended(reply["turn"])
    assert [turn for _, turn in one.view.ends] == [reply["turn"] for reply in (first, *waiting)]
    texts = [text_of(one.view.messages[reply["answer"]]["parts"]) for reply in waiting]
    assert texts == ["Number 2.", "Number 3.", "Number 4."]
    places = [f["place"] for f in two.frames if f["type"] == "turn_queued" and f["turn"] == waiting[2]["turn"]]
    assert sorted(set(places), reverse=True) == [3, 2, 1]


async def test_sixth_message_that_waits_is_refused_and_stored_nowhere(modelled, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        await begun(one)
        for _ in range(5):
            assert (await one.say("wait"))["queued"] is True
        refused = await one.say("too much")
        assert (refused["code"], refused["retryable"]) == ("queue_full", True)
        assert refused["retry_after"] > 0
        assert (await one.command("stop", turn=await last_queued(chat)))["type"] == "ok"
        assert (await one.say("again"))["queued"] is True
    texts = await database.read(lambda: [text_of(m.parts) for m in Message.objects.filter(chat=chat, role="user")])
    assert sorted(texts) == sorted([ENDLESS, *["wait"] * 5, "again"])


async def last_queued(chat: str) -> str:
    turn = await database.read(lambda: Turn.objects.filter(chat=chat, state="queued").order_by("number").last())
    return str(turn.id)


async def test_queued_message_hangs_on_the_answer_of_the_turn_before(modelled, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        first = await begun(one)
        second = await one.say(fake(text="Two."))
        third = await one.say(fake(text="Three."))
        await one.command("stop")
        await one.until_ended(third["turn"])
    messages = one.view.messages
    assert messages[second["message"]]["parent"] == first["answer"]
    assert messages[third["message"]]["parent"] == second["answer"]
    await until_head(one, chat, third["answer"])


async def test_reject_refuses_a_second_message_and_takes_it_afterwards(modelled, tab):
    flow, chat = await modelled(double_text="reject"), new_chat()
    async with tab(flow, chat) as one:
        first = await begun(one)
        for command in ({"text": "me too"}, {"text": "me too", "parent": first["message"]}):
            assert (await one.say(**command))["code"] == "turn_running"
        assert (await one.command("regenerate", message=first["message"]))["code"] == "turn_running"
        assert (await one.command("edit", message=first["message"], text="x"))["code"] == "turn_running"
        await one.command("stop")
        await one.until_ended(first["turn"])
        assert (await answered(one, fake(text="Now.")))["status"] == "done"
    assert len(one.view.ends) == 2


async def test_interrupt_stops_the_running_turn_empties_the_queue_and_runs(modelled, model, tab):
    flow, chat = await modelled(double_text="interrupt"), new_chat()
    async with tab(flow, chat) as one:
        first = await begun(one)
        second = await begun(one)
        third = await one.say(fake(text="Me."))
        await one.until_ended(third["turn"])
    assert one.view.messages[first["answer"]]["status"] == "stopped"
    assert one.view.messages[second["answer"]]["status"] == "stopped"
    assert text_of(one.view.messages[third["answer"]]["parts"]) == "Me."
    assert [turn for _, turn in one.view.ends] == [first["turn"], second["turn"], third["turn"]]
    assert all(request.closed for request in list(model.seen.requests)[:2])


async def test_interrupts_at_once_leave_the_last_one_running(modelled, tab):
    flow, chat = await modelled(double_text="interrupt"), new_chat()
    async with tab(flow, chat) as one:
        await begun(one)
        for number in range(3):
            await one.send(type="say", id=f"n{number}", text=fake(text=f"Number {number}."))
        while "n2" not in one.view.replies:
            await one.recv()
        last = one.view.replies["n2"]
        await one.until_ended(last["turn"])
        states = await database.read(lambda: list(Turn.objects.order_by("number").values_list("state", flat=True)))
    assert text_of(one.view.messages[last["answer"]]["parts"]) == "Number 2."
    assert states[0] == "stopped" and states[-1] == "done" and set(states[1:-1]) <= {"stopped", "done"}


async def test_interrupt_ends_a_turn_that_waits_and_runs_at_once(modelled, tab):
    flow, chat = await modelled(asking(options=OPTIONS), double_text="interrupt"), new_chat()
    async with tab(flow, chat) as one:
        first = await asked(one)
        second = await one.say("something else")
        assert second["queued"] is False
        again = await one.until("question")
        assert again["turn"] == second["turn"]
        await one.until_ended(first["turn"])
    assert [turn for _, turn in one.view.ends] == [first["turn"]]


async def test_sixth_running_turn_of_a_user_is_refused_until_one_ends(modelled, tab):
    flow = await modelled()
    async with contextlib.AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(tab(flow, new_chat())) for _ in range(6)]
        *five, sixth = tabs
        for one in five:
            await begun(one)
        refused = await sixth.say("me too")
        assert (refused["code"], refused["retryable"]) == ("busy", True)
        stopped = await five[0].command("stop")
        await five[0].until_ended(stopped["turn"])
        assert (await answered(sixth, fake(text="Now.")))["status"] == "done"


async def test_two_tabs_that_say_at_once_make_one_running_and_one_queued_turn(modelled, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one, tab(flow, chat) as two:
        said = fake(tokens=3, fault="hang", after=2)
        replies = await asyncio.gather(one.say(said), two.say(said))
        replies.sort(key=lambda reply: reply["queued"])
        assert [reply["queued"] for reply in replies] == [False, True]
        for reply in replies:
            await one.until_text(1, reply["turn"])
            await one.command("stop", turn=reply["turn"])
            await one.until_ended(reply["turn"])
            await two.until_ended(reply["turn"])
    assert one.view.messages == two.view.messages
    assert len(one.view.messages) == 4


# -------------------------------------------------------------------------------- a say where a turn waits


@pytest.mark.parametrize("text", ["Green tea", "  green TEA ", "tea"])
async def test_say_of_an_options_label_is_the_answer_and_no_message(modelled, tab, text):
    flow, chat = await modelled(asking(options=OPTIONS)), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        reply = await one.say(text)
        assert {key: reply.get(key) for key in ("question", "turn", "message")} == {
            "question": question["question"],
            "turn": question["turn"],
            "message": None,
        }
        end = await one.until_ended(question["turn"])
    assert text_of(end["message"]["parts"]) == "You said tea (Green tea)."
    assert await database.read(lambda: Message.objects.filter(chat=chat, role="user").count()) == 1


async def test_any_say_answers_a_question_for_free_text(modelled, tab):
    flow, chat = await modelled(asking()), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        assert (await one.say("Ada"))["question"] == question["question"]
        end = await one.until_ended(question["turn"])
    assert text_of(end["message"]["parts"]) == "You said Ada (Ada)."


@pytest.mark.parametrize("how", ["another text", "a parent", "a form is asked for"])
async def test_other_say_ends_the_waiting_turn_and_runs(modelled, tab, how):
    fields = {"schema": FORM} if how == "a form is asked for" else {"options": OPTIONS}
    flow, chat = await modelled(asking(**fields)), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        first = one.view.turns[question["turn"]]
        text = "coffee" if how == "another text" else "Green tea"
        more = {"parent": first["answer"]} if how == "a parent" else {}
        second = await one.say(text, **more)
        assert second["queued"] is False and second["message"]
        again = await one.until("question")
        assert again["turn"] == second["turn"]
        late = await one.command("answer", question=question["question"], value="tea")
        await one.until_ended(question["turn"])
    assert late["code"] == "question_closed"
    assert one.view.messages[first["answer"]]["status"] == "stopped"
    assert one.view.messages[second["message"]]["parent"] == first["answer"]


async def test_other_say_goes_behind_what_was_queued_before(modelled, tab):
    graph = graph_of(
        node("start", "start"),
        node("model", "llm", provider="model", model="m", prompt="{{ input.text }}"),
        node("ask", "question", text="Which?", options=OPTIONS),
        node("end", "end"),
    )
    flow, chat = await modelled(graph), new_chat()
    async with tab(flow, chat) as one:
        first = await begun(one, fake(tokens=50, rate=500))
        second = await one.say(fake(text="Second."))
        await one.until("question")
        third = await one.say(fake(text="Third."))
        assert third["queued"] is True
        assert (await one.until("question"))["turn"] == second["turn"]
        assert (await one.until_ended(first["turn"]))["status"] == "stopped"
        while one.view.turns[third["turn"]]["place"] != 1:
            await one.recv()
    assert [turn for _, turn in one.view.ends] == [first["turn"]]


async def test_reject_refuses_what_a_question_does_not_take(modelled, tab):
    flow, chat = await modelled(asking(options=OPTIONS), double_text="reject"), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        assert (await one.say("coffee"))["code"] == "turn_running"
        assert (await one.say("Milk"))["question"] == question["question"]
        end = await one.until_ended(question["turn"])
    assert text_of(end["message"]["parts"]) == "You said milk (Milk)."


# ---------------------------------------------------------------------------------------------- the tree


async def test_regenerate_makes_a_sibling_answer_and_moves_the_head(modelled, model, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        first = await answered(one, fake(text="Once."))
        again = await one.command("regenerate", message=first["message"]["id"])
        assert again["message"] == first["message"]["parent"], "the user's message is the same"
        end = await one.until_ended(again["turn"])
        await until_head(one, chat, again["answer"])
        third = await one.command("regenerate", message=first["message"]["parent"])
        await one.until_ended(third["turn"])
    answers = [first["message"], end["message"], one.view.messages[third["answer"]]]
    assert {answer["parent"] for answer in answers} == {first["message"]["parent"]}
    assert len({answer["id"] for answer in answers}) == 3
    assert [text_of(answer["parts"]) for answer in answers] == ["Once."] * 3
    assert await database.read(lambda: Message.objects.filter(chat=chat, role="user").count()) == 1


async def test_regenerated_answer_is_the_head_as_soon_as_it_runs(modelled, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        first = await begun(one)
        await until_head(one, chat, first["message"])
        await one.command("stop")
        await one.until_ended(first["turn"])
        await until_head(one, chat, first["answer"])
        again = await one.command("regenerate", message=first["answer"])
        await until_head(one, chat, again["answer"])
        await one.command("stop")


async def test_edit_makes_a_sibling_message_and_its_answer(modelled, model, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        first = await answered(one, fake(text="One."))
        second = await answered(one, fake(text="Two."))
        said = second["message"]["parent"]
        edited = await one.command("edit", message=said, text=fake(text="Two, better."))
        end = await one.until_ended(edited["turn"])
    messages = one.view.messages
    assert edited["message"] != said
    assert messages[edited["message"]]["parent"] == messages[said]["parent"] == first["message"]["id"]
    assert text_of(end["message"]["parts"]) == "Two, better."
    await until_head(one, chat, edited["answer"])


async def test_edit_of_the_first_message_has_no_parent(modelled, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        first = await answered(one, fake(text="One."))
        edited = await one.command("edit", message=first["message"]["parent"], text=fake(text="Anew."))
        await one.until_ended(edited["turn"])
    assert one.view.messages[edited["message"]]["parent"] is None


async def test_model_is_given_the_branch_that_was_said_to(modelled, model, tab):
    graph = graph_of(
        node("start", "start"),
        node("model", "llm", provider="model", model="m", prompt="{{ input.text }}", history=10),
        node("end", "end"),
    )
    flow, chat = await modelled(graph), new_chat()
    say = {text: '{"fake": {"echo": true}} ' + text for text in ("a", "b", "c", "d")}
    async with tab(flow, chat) as one:
        first = await answered(one, say["a"])
        await answered(one, say["b"])
        third = await answered(one, say["c"], parent=first["message"]["id"])
        edited = await one.command("edit", message=third["message"]["parent"], text=say["d"])
        await one.until_ended(edited["turn"])
    asked = [[message["content"] for message in request.body["messages"]] for request in model.seen.requests]
    assert asked == [
        [say["a"]],
        [say["a"], "a", say["b"]],
        [say["a"], "a", say["c"]],
        [say["a"], "a", say["d"]],
    ]


async def test_model_is_given_questions_as_text_and_no_answer_that_failed_empty(modelled, model, tab):
    graph = graph_of(
        node("start", "start"),
        node("model", "llm", provider="model", model="m", prompt="{{ input.text }}", history=10),
        node("ask", "question", text="Tea?", options=OPTIONS),
        node("end", "end"),
    )
    flow, chat = await modelled(graph), new_chat()
    fails, works = fake(status=400), '{"fake": {"echo": true}} a'
    async with tab(flow, chat) as one:
        assert (await answered(one, fails))["status"] == "error"
        question = await asked(one, works)
        await one.command("answer", question=question["question"], value="milk")
        await one.until_ended(question["turn"])
        await asked(one, works)
    given = [(message["role"], message["content"]) for message in model.seen.requests[-1].body["messages"]]
    assert given == [
        ("user", fails),
        ("user", works),
        ("assistant", "a"),
        ("assistant", "Tea?"),
        ("user", "Milk"),
        ("user", works),
    ]


@pytest.mark.parametrize("type_", ["say", "regenerate", "edit"])
async def test_message_of_another_chat_is_not_found(modelled, tab, type_):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, new_chat()) as other:
        foreign = (await answered(other, fake(text="Mine.")))["message"]["id"]
    async with tab(flow, chat) as one:
        await answered(one, fake(text="One."))
        fields = {"say": {"parent": foreign, "text": "x"}, "edit": {"message": foreign, "text": "x"}}
        error = await one.command(type_, **fields.get(type_, {"message": foreign}))
    assert error["code"] == "message_not_found"


async def test_edit_of_an_answer_is_not_found(modelled, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        end = await answered(one, fake(text="One."))
        error = await one.command("edit", message=end["message"]["id"], text="x")
    assert error["code"] == "message_not_found"


# ------------------------------------------------------------------------------------------- commands twice


async def test_same_command_on_another_socket_answers_the_same_and_does_nothing(modelled, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one, tab(flow, chat) as two:
        said = await one.command("say", id="s1", text=fake(text="Once."))
        assert await two.command("say", id="s1", text=fake(text="Once.")) == said
        end = await two.until_ended(said["turn"])
        message = end["message"]["id"]
        again = await one.command("regenerate", id="r1", message=message)
        assert await two.command("regenerate", id="r1", message=message) == again
        await two.until_ended(again["turn"])
        edited = await one.command("edit", id="e1", message=said["message"], text=fake(text="Twice."))
        assert await two.command("edit", id="e1", message=said["message"], text=fake(text="Twice.")) == edited
        await two.until_ended(edited["turn"])
    assert await database.read(lambda: Turn.objects.filter(chat=chat).count()) == 3


async def test_same_answer_on_another_socket_answers_the_same(modelled, tab):
    flow, chat = await modelled(asking()), new_chat()
    async with tab(flow, chat) as one, tab(flow, chat) as two:
        question = await asked(one)
        replies = [
            await socket.command("answer", id="a1", question=question["question"], value="Ada") for socket in (one, two)
        ]
        assert replies[0] == replies[1]
        end = await one.until_ended(question["turn"])
    assert text_of(end["message"]["parts"]) == "You said Ada (Ada)."
    assert end["status"] == "done"


async def test_same_id_with_another_body_is_a_conflict(modelled, tab):
    flow, chat = await modelled(asking()), new_chat()
    async with tab(flow, chat) as one, tab(flow, chat) as two:
        question = await asked(one)
        await one.command("answer", id="x", question=question["question"], value="Ada")
        await one.until_ended(question["turn"])
        for command in (
            {"type": "say", "text": "x"},
            {"type": "answer", "question": question["question"], "value": "Bo"},
            {"type": "stop"},
            {"type": "regenerate", "message": str(uuid.uuid4())},
        ):
            assert (await two.command(command.pop("type"), id="x", **command))["code"] == "id_conflict"
    assert await database.read(lambda: Turn.objects.filter(chat=chat).count()) == 1


# ------------------------------------------------------------------------------------------------- params


PARAMS = {
    "type": "object",
    "properties": {"tone": {"enum": ["kind", "curt"]}, "words": {"type": "integer", "default": 10, "maximum": 100}},
    "required": ["tone"],
}
WITH_PARAMS = graph_of(
    node("start", "start", params=PARAMS),
    node("said", "message", text="{{ input.params.tone }} {{ input.params.words }}"),
    node("end", "end"),
)


async def test_params_are_checked_and_defaults_filled_in(modelled, tab):
    flow, chat = await modelled(WITH_PARAMS), new_chat()
    async with tab(flow, chat) as one:
        welcome = await one.until("welcome")
        assert welcome["flow"]["params"]["required"] == ["tone"]
        end = await answered(one, "hello", params={"tone": "curt"})
        assert text_of(end["message"]["parts"]) == "curt 10"
        again = await one.command("regenerate", message=end["message"]["id"])
        again = await one.until_ended(again["turn"])
    assert text_of(again["message"]["parts"]) == "curt 10", "a sibling answer has the params of its message"


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "params.tone"),
        ({"tone": "loud"}, "params.tone"),
        ({"tone": "kind", "words": 101}, "params.words"),
        ({"tone": "kind", "words": "ten"}, "params.words"),
        ({"tone": "kind", "more": 1}, "params.more"),
    ],
)
async def test_params_that_do_not_fit_name_the_field_and_store_nothing(modelled, tab, params, field):
    flow, chat = await modelled(WITH_PARAMS), new_chat()
    async with tab(flow, chat) as one:
        error = await one.say("hello", params=params)
    assert (error["code"], error["field"]) == ("validation_error", field)
    assert not await database.read(lambda: Chat.objects.filter(id=chat).exists())


# ---------------------------------------------------------------------------------------------- questions


async def test_option_is_answered_by_its_id_and_takes_its_branch(modelled, tab):
    flow, chat = await modelled(branching(["tea", "milk"], options=OPTIONS)), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        assert question["options"] == OPTIONS and question["schema"] is None
        refused = await one.command("answer", question=question["question"], value="coffee")
        assert (refused["code"], refused["field"]) == ("invalid_answer", "value")
        assert (await one.command("answer", question=question["question"], value="milk"))["turn"] == question["turn"]
        end = await one.until_ended(question["turn"])
    told = next(frame for frame in one.frames if frame["type"] == "answered")
    assert (told["action"], told["value"]) == ("accept", "milk")
    part = end["message"]["parts"][0]
    assert (part["kind"], part["data"]["value"], part["data"]["label"]) == ("question", "milk", "Milk")
    assert part["data"]["action"] == "accept" and part["data"]["by"] == told["by"]
    assert text_of(end["message"]["parts"]) == "Branch milk."


async def test_form_is_checked_by_its_schema_and_filled_with_defaults(modelled, tab):
    graph = asking(schema=FORM)
    graph["nodes"][2]["fields"]["text"] = "{{ ask.value.name }} {{ ask.value.size }} {{ ask.value.news }}"
    flow, chat = await modelled(graph), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        assert question["schema"]["required"] == ["name"]
        for value, field, reason in (
            ({}, "name", "it is needed"),
            ({"name": "Ada", "age": 0}, "age", "it is less than 1"),
            ({"name": "Ada", "size": "XL"}, "size", "it is not one of the choices"),
            ({"name": "Ada", "more": 1}, "more", "there is no such field"),
            ("Ada", "value", "it must be an object"),
        ):
            refused = await one.command("answer", question=question["question"], value=value)
            assert (refused["code"], refused["field"]) == ("invalid_answer", field)
            assert refused["text"] == f"The answer does not fit: {reason}."
        await one.command("answer", question=question["question"], value={"name": "Ada"})
        end = await one.until_ended(question["turn"])
    assert text_of(end["message"]["parts"]) == "Ada M false"
    assert end["message"]["parts"][0]["data"]["value"] == {"name": "Ada", "size": "M", "news": False}


async def test_texts_of_an_answer_are_bound_as_what_is_said(modelled, tab, bounds):
    bounds(text_chars=40_000)
    flow, chat = await modelled(asking(schema=FORM)), new_chat()
    async with tab(flow, chat) as one:
        question = (await asked(one))["question"]
        refused = await one.command("answer", question=question, value={"name": "x" * 40_001})
        assert (refused["code"], refused["field"]) == ("invalid_answer", "name")
        assert refused["text"] == "The answer does not fit: it has more than 40000 characters."
        assert (await one.command("answer", question=question, value={"name": "x" * 40_000}))["type"] == "ok"


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_declined_question_takes_the_branch_declined(modelled, tab, action):
    flow, chat = await modelled(branching(["tea", "milk", "declined"], options=OPTIONS)), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        await one.command("answer", question=question["question"], action=action)
        end = await one.until_ended(question["turn"])
    assert text_of(end["message"]["parts"]) == "Branch declined."
    assert end["message"]["parts"][0]["data"]["action"] == action


async def test_only_the_first_answer_counts(modelled, tab):
    flow, chat = await modelled(asking()), new_chat()
    async with tab(flow, chat) as one, tab(flow, chat) as two:
        question = await asked(one)
        replies = await asyncio.gather(
            one.command("answer", question=question["question"], value="Ada"),
            two.command("answer", question=question["question"], value="Bo"),
        )
        end = await one.until_ended(question["turn"])
    assert sorted(reply.get("code", "ok") for reply in replies) == ["ok", "question_closed"]
    won = "Ada" if replies[0]["type"] == "ok" else "Bo"
    assert text_of(end["message"]["parts"]) == f"You said {won} ({won})."


async def test_unknown_question_is_not_found(modelled, tab):
    flow, chat = await modelled(asking()), new_chat()
    async with tab(flow, chat) as one:
        await asked(one)
        error = await one.command("answer", question=str(uuid.uuid4()), value="Ada")
    assert error["code"] == "question_not_found"


async def test_secret_answer_is_shown_nowhere(modelled, tab, rest):
    graph = asking("Your PIN?", secret=True)
    graph["nodes"][2]["fields"]["text"] = "It has {{ ask.value | size }} digits."
    flow, chat = await modelled(graph), new_chat()
    async with tab(flow, chat) as one, tab(flow, chat) as two:
        question = await asked(one)
        assert question["secret"] is True
        await one.command("answer", question=question["question"], value="7355608")
        end = await one.until_ended(question["turn"])
        await two.until_ended(question["turn"])
    assert text_of(end["message"]["parts"]) == "It has 7 digits."
    messages = await rest("GET", f"chats/{chat}/messages/")
    turn = await rest("GET", f"turns/{question['turn']}/")
    async with tab(flow, chat) as late:
        await late.until("snapshot")
    for seen in (one.frames, two.frames, late.frames, messages, turn):
        assert "7355608" not in json.dumps(seen)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"options": OPTIONS, "default": "milk"}, "You said milk (Milk)."),
        ({"default": "nobody"}, "You said nobody (nobody)."),
    ],
)
async def test_expired_question_is_answered_by_its_default(modelled, tab, fields, text):
    flow, chat = await modelled(asking(expires_s=1, **fields)), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        end = await one.until_ended(question["turn"])
    told = next(frame for frame in one.frames if frame["type"] == "answered")
    assert (told["action"], told["value"], told["by"]) == ("accept", fields["default"], None)
    assert (end["status"], text_of(end["message"]["parts"])) == ("done", text)


async def test_expired_question_takes_its_branch(modelled, tab):
    graph = branching(["tea", "milk", "expired"], options=OPTIONS, expires_s=1)
    flow, chat = await modelled(graph), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        end = await one.until_ended(question["turn"])
        late = await one.command("answer", question=question["question"], value="tea")
    assert (end["status"], text_of(end["message"]["parts"])) == ("done", "Branch expired.")
    assert late["code"] == "question_expired"


async def test_expired_question_without_branch_or_default_ends_the_turn(modelled, tab):
    flow, chat = await modelled(asking(expires_s=1)), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        end = await one.until_ended(question["turn"])
        late = await one.command("answer", question=question["question"], value="Ada")
        assert (await asked(one, "again"))["turn"] != question["turn"]
    assert (end["status"], end["error"]["code"], late["code"]) == ("error", "question_expired", "question_expired")


async def test_waiting_turn_is_told_to_a_tab_that_comes_later(modelled, tab):
    flow, chat = await modelled(asking(options=OPTIONS)), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
    async with tab(flow, chat) as late:
        snapshot = await late.until("snapshot")
        shown = snapshot["turns"][0]
        assert (shown["state"], shown["place"]) == ("waiting", None)
        assert {key: shown["question"][key] for key in ("question", "options", "expires")} == {
            key: question[key] for key in ("question", "options", "expires")
        }
        await late.command("answer", question=question["question"], value="tea")
        end = await late.until_ended(question["turn"])
    assert text_of(end["message"]["parts"]) == "You said tea (Green tea)."


# ------------------------------------------------------------------------------------------ chats and lists


async def test_first_message_names_the_chat_and_rest_renames_it(modelled, tab, rest):
    flow, chat = await modelled(asking()), new_chat()
    long = "How  do I build\na flow? " + "x" * 100
    async with tab(flow, chat) as one, tab(flow, chat) as two:
        await one.say(long)
        named = await two.until("chat")
        assert named["title"] == " ".join(long.split())[:60]
        await rest("PATCH", f"chats/{chat}/", {"title": "Building"})
        renamed = await two.until("chat")
        assert (renamed["title"], renamed["rev"] > named["rev"]) == ("Building", True)
        await one.say("Ada")
    async with tab(flow, chat) as late:
        snapshot = await late.until("snapshot")
    assert (snapshot["chat"]["title"], snapshot["chat"]["rev"]) == ("Building", renamed["rev"])


async def test_head_is_switched_by_rest_and_told(modelled, tab, rest):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        first = await answered(one, fake(text="One."))
        again = await one.command("regenerate", message=first["message"]["id"])
        await one.until_ended(again["turn"])
        await one.send(type="ping", t=0)
        await one.until("pong")
        await rest("PATCH", f"chats/{chat}/", {"head": first["message"]["id"]})
        assert (await one.until("chat"))["head"] == first["message"]["id"]
        second = await one.say(fake(text="Two."))
        await one.until_ended(second["turn"])
    assert one.view.messages[second["message"]]["parent"] == first["message"]["id"]


async def test_lists_of_the_users_other_sockets_are_told(modelled, live, tab, ben, token_of):
    flow, chat, elsewhere = await modelled(), new_chat(), new_chat()
    stranger = tab_at(live.host, str(flow.id), await token_of(ben), new_chat())
    async with tab(flow, chat) as one, tab(flow, elsewhere) as other, stranger as ben_s:
        await other.until("snapshot")
        await ben_s.until("snapshot")
        await begun(one, ENDLESS)
        told = (await other.until("chats"))["chat"]
        assert (told["id"], told["state"], told["title"]) == (chat, "running", ENDLESS[:60])
        assert (told["pinned"], told["deleted"]) == (False, False)
        await one.command("stop")
        while told["state"] is not None:
            told = (await other.until("chats"))["chat"]
        assert told["head"]
        await ben_s.send(type="ping", t="quiet")
        await ben_s.until("pong")
    assert [frame["type"] for frame in ben_s.frames] == ["welcome", "snapshot", "pong"]
    assert all(frame["type"] in ("welcome", "snapshot", "chats") for frame in other.frames)


async def test_say_by_rest_is_shown_on_sockets(modelled, tab, rest):
    flow, chat = await modelled(asking()), new_chat()
    async with tab(flow, chat) as one:
        first = await asked(one)
        by_rest = await rest("POST", f"chats/{chat}/turns/", {"text": "Ada"})
        assert by_rest == {"question": first["question"], "turn": first["turn"]}
        await one.until_ended(first["turn"])
        by_rest = await rest("POST", f"chats/{chat}/turns/", {"text": "again"})
        question = await one.until("question")
        assert (question["turn"], by_rest["queued"]) == (by_rest["turn"], False)
        await rest("POST", f"questions/{question['question']}/answer/", {"value": "Bo"})
        end = await one.until_ended(question["turn"])
        assert text_of(end["message"]["parts"]) == "You said Bo (Bo)."


async def test_deleted_chat_ends_its_turns_and_closes_its_sockets(modelled, model, tab, rest):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one, tab(flow, new_chat()) as other:
        running = await begun(one)
        queued = await one.say("later")
        await other.until("snapshot")
        await rest("DELETE", f"chats/{chat}/")
        closed = await one.closed()
        assert (closed.code, closed.reason) == (1000, "chat_deleted")
        assert any(frame["type"] == "chat" and frame.get("deleted") for frame in one.frames)
        told = await other.until("chats")
        while not told["chat"]["deleted"]:
            told = await other.until("chats")
    await until(lambda: model.seen.requests[0].closed, what="the provider's connection is closed")

    async def states() -> dict[str, str]:
        rows = await database.read(lambda: Turn.objects.filter(chat=chat))
        return {str(turn.id): turn.state for turn in await database.read(lambda: list(rows))}

    both = {running["turn"]: "stopped", queued["turn"]: "stopped"}

    async def have_stopped() -> bool:
        return await states() == both

    await until(have_stopped, what="its turns are stopped")
    async with tab(flow, chat) as late:
        assert (await late.recv())["code"] == "chat_not_found"
        assert (await late.closed()).code == 1008


async def test_deleted_chat_with_a_question_ends_its_turn(modelled, tab, rest):
    flow, chat = await modelled(asking()), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        await rest("DELETE", f"chats/{chat}/")
        assert (await one.closed()).reason == "chat_deleted"
    turn = await database.read(lambda: Turn.objects.get(id=question["turn"]))
    assert turn.state == "stopped"


# ------------------------------------------------------------------------------------- drafts and versions


def says(text: str) -> dict[str, Any]:
    return graph_of(node("start", "start", greeting=text), node("said", "message", text=text), node("end", "end"))


async def redraft(flow: Flow, graph: dict[str, Any]) -> None:
    row = await database.read(lambda: Flow.objects.get(id=flow.id))
    await database.write(lambda: flow_store.save_draft(flow.id, graph, row.revision))


async def built(flow: Flow, user: Any) -> None:
    await build.start_build(flow.id, user.id)

    async def is_built() -> bool:
        found = await build.build_of(flow.id)
        return found is not None and found.status == "success"

    await until(is_built, what="the draft is built")


async def test_debug_run_takes_the_built_draft_in_a_chat_of_its_own(modelled, live, anna, tab, rest, token_of):
    flow = await modelled(says("Published."))
    await redraft(flow, says("Draft."))
    await built(flow, anna)
    token = await token_of(anna)
    async with live.open(f"/chat/{flow.id}", token) as debug:
        welcome = await debug.recv()
        assert (welcome["flow"]["version"], welcome["flow"]["greeting"]) == (None, "Draft.")
        said = await debug.say("hello")
        end = await debug.until("turn_end")
        assert text_of(end["message"]["parts"]) == "Draft."
    await redraft(flow, says("Newer."))
    await built(flow, anna)
    chat = welcome["chat"]
    async with live.open(f"/chat/{flow.id}?chat_id={chat}", token) as debug:
        await debug.until("snapshot")
        again = await debug.say("hello")
        assert again["turn"] != said["turn"]
        end = await debug.until("turn_end")
        assert text_of(end["message"]["parts"]) == "Draft.", "a debug chat keeps the graph that it began with"
    async with tab(flow, new_chat()) as one:
        assert text_of((await answered(one, "hello"))["message"]["parts"]) == "Published."
    async with live.open(f"/chat/{flow.id}", token) as fresh:
        assert (await fresh.recv())["flow"]["greeting"] == "Newer."
    listed = [row["id"] for row in (await rest("GET", "chats/"))["results"]]
    assert listed and chat not in listed


async def test_version_id_runs_that_version_on_this_connection_alone(modelled, live, anna, tab, token_of):
    flow = await modelled(says("First."))
    await redraft(flow, says("Second."))
    await build.publish(flow.id, anna.id)
    chat = new_chat()
    async with tab(flow, chat, version_id=1) as old, tab(flow, chat) as new:
        welcome = await old.until("welcome")
        assert (welcome["flow"]["version"], welcome["flow"]["greeting"]) == (1, "First.")
        assert (await new.until("welcome"))["flow"]["version"] == 2
        first = await answered(old, "hello")
        second = await answered(new, "hello")
        starts = [frame for frame in old.frames if frame["type"] == "turn_start"]
        while len(starts) < 2:
            await old.recv()
            starts = [frame for frame in old.frames if frame["type"] == "turn_start"]
    assert [start["version"] for start in starts] == [1, 2]
    assert [text_of(end["message"]["parts"]) for end in (first, second)] == ["First.", "Second."]
    async with live.open(f"/chat/{flow.id}?version_id=1", await token_of(anna)) as debug:
        assert (await debug.recv())["flow"]["version"] == 1
        await debug.say("hello")
        end = await debug.until("turn_end")
    assert text_of(end["message"]["parts"]) == "First."
    kind = await database.read(lambda: Chat.objects.get(messages__id=end["message"]["id"]).kind)
    assert kind == "debug"


async def test_turn_stays_on_the_version_it_began_with(modelled, anna, tab):
    flow, chat = await modelled(asking()), new_chat()
    async with tab(flow, chat) as one:
        question = await asked(one)
        await redraft(flow, says("Second."))
        await build.publish(flow.id, anna.id)
        await one.command("answer", question=question["question"], value="Ada")
        end = await one.until_ended(question["turn"])
        assert text_of(end["message"]["parts"]) == "You said Ada (Ada)."
        assert text_of((await answered(one, "hello"))["message"]["parts"]) == "Second."


async def test_queued_turns_of_a_flow_that_went_offline_run_and_new_ones_are_refused(modelled, tab):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        await begun(one)
        queued = await one.say(fake(text="Still me."))
        await database.write(lambda: flow_store.offline(flow.id))
        assert (await one.say("me too"))["code"] == "flow_offline"
        await one.command("stop")
        end = await one.until_ended(queued["turn"])
        assert text_of(end["message"]["parts"]) == "Still me."
        assert (await one.say("and now?"))["code"] == "flow_offline"
        await one.send(type="ping", t=1)
        await one.until("pong")


async def test_deleted_flow_stops_its_turns_and_its_chats_stay_readable(modelled, tab, rest):
    flow, chat = await modelled(), new_chat()
    async with tab(flow, chat) as one:
        done = await answered(one, fake(text="Kept."))
        running = await begun(one)
        await rest("DELETE", f"flows/{flow.id}/")
        end = await one.until_ended(running["turn"])
    assert end["status"] == "stopped"
    messages = (await rest("GET", f"chats/{chat}/messages/"))["results"]
    assert done["message"] in messages and end["message"] in messages


async def test_deleted_flow_stops_its_turns_at_once_without_a_sweep(unswept, modelled, tab, rest):
    flow = await modelled()
    async with tab(flow, new_chat()) as one:
        running = await begun(one)
        await rest("DELETE", f"flows/{flow.id}/")
        assert (await one.until_ended(running["turn"]))["status"] == "stopped"
        assert (await one.say("more"))["code"] == "flow_not_found"


async def test_set_keeps_values_with_the_chat(modelled, tab):
    graph = graph_of(
        node("start", "start"),
        node("keep", "set", name="last", value="{{ input.text }}"),
        node("said", "message", text="{{ vars.before | default: 'nothing' }} then {{ vars.last }}"),
        node("again", "set", name="before", value="{{ input.text }}"),
        node("end", "end"),
    )
    flow, chat = await modelled(graph), new_chat()
    async with tab(flow, chat) as one, tab(flow, new_chat()) as other:
        texts = [text_of((await answered(one, text))["message"]["parts"]) for text in ("a", "b")]
        assert text_of((await answered(other, "c"))["message"]["parts"]) == "nothing then c"
    assert texts == ["nothing then a", "a then b"]
