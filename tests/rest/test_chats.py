"""Chats, turns and questions by REST. Turns run on a server in this process."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import msgspec
import pytest
from django.apps import apps
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from chat import shapes
from chat.models import Chat, Command, Message, Turn
from flows.models import Flow
from streams.database import write
from tests.rest.conftest import Api, bare, code_of
from tests.rest.remote import ASK, HELLO, Remote, chat_with, in_state, online

Make = Callable[..., Api]
MakeFlow = Callable[..., Flow]

# ------------------------------------------------------------------------------------------------------- chats


def new_chat(user: User, flow: Flow, title: str = "", **fields: Any) -> Chat:
    return Chat.objects.create(user=user, flow=flow, title=title, search_title=shapes.folded(title), **fields)


def say(chat: Chat, text: str, parent: Any = None, role: str = "user", age_s: float = 0) -> Message:
    part = {"id": f"1.{role}#1", "kind": "text", "text": text}
    created = timezone.now() - timedelta(seconds=age_s)
    return Message.objects.create(
        chat=chat, role=role, parts=[part], search_text=shapes.search_text([part]), parent=parent, created=created
    )


def titles(response: Any) -> list[str]:
    return [row["title"] for row in response.json()["results"]]


def test_a_chat_is_made_with_a_flow_that_is_online(api: Make, make_flow: MakeFlow) -> None:
    anna, bert = api("anna"), api("bert")
    make_flow(anna.user, "Open")
    make_flow(anna.user, "Offline", is_online=False)
    make_flow(anna.user, "Own", visibility="owner")
    made = bert.post("chats/", {"flow": "open", "title": "First"})
    assert made.status_code == 201
    chat = made.json()
    assert (chat["title"], chat["flow"]["slug"], chat["state"], chat["pinned"]) == ("First", "open", None, False)
    assert made["Location"] == f"/api/chats/{chat['id']}/"
    assert bert.get(f"chats/{chat['id']}/").json() == chat
    assert bert.get(f"chats/{chat['id'].replace('-', '').upper()}/").json() == chat
    assert code_of(bert.post("chats/", {"flow": "offline"})) == (409, "flow_offline")
    for ref in ("own", "nothing", str(uuid4()), "\0", ""):
        assert code_of(bert.post("chats/", {"flow": ref}))[1] in ("flow_not_found", "validation_error")


def test_row_31_another_s_chat_is_not_there_on_any_verb(api: Make, make_flow: MakeFlow) -> None:
    anna, bert = api("anna"), api("bert", is_staff=True)
    chat = new_chat(anna.user, make_flow(anna.user))
    verbs = [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "messages/"),
        ("POST", "turns/"),
    ]
    for method, path in verbs:
        foreign = bert.request(method, f"/api/chats/{chat.id}/{path}")
        assert code_of(foreign) == (404, "not_found")
        for ref in (uuid4(), "x"):
            assert bare(foreign) == bare(bert.request(method, f"/api/chats/{ref}/{path}"))
    chat.refresh_from_db()
    assert not chat.deleted


def test_lists_show_one_s_own_chats_pinned_ones_first(api: Make, make_flow: MakeFlow) -> None:
    anna, bert = api("anna"), api("bert")
    flow = make_flow(anna.user)
    for title in ("old", "pinned", "new", "deleted", "debug"):
        new_chat(anna.user, flow, title, pinned=title == "pinned", deleted=title == "deleted")
    Chat.objects.filter(title="debug").update(kind="debug")
    new_chat(bert.user, flow, "foreign")
    assert titles(anna.get("chats/")) == ["pinned", "new", "old"]
    paged, url = [], "/api/chats/?limit=1"
    while url:
        page = anna.client.get(url, headers=anna.headers).json()
        paged += [row["title"] for row in page["results"]]
        url = page["next"]
    assert paged == ["pinned", "new", "old"]


def test_chats_are_searched_by_title_and_text(api: Make, make_flow: MakeFlow) -> None:
    anna, bert = api("anna"), api("bert")
    flow = make_flow(anna.user)
    say(new_chat(anna.user, flow, "Rivers"), "Of water and WHEELS")
    say(new_chat(anna.user, flow, "Mills"), "nothing")
    say(new_chat(bert.user, flow, "Wheels"), "wheels")
    assert titles(anna.get("chats/?q=wheels")) == ["Rivers"]
    assert titles(anna.get("chats/?q=mill")) == ["Mills"]
    assert titles(anna.get("chats/?q=%00%25_")) == []


@pytest.mark.parametrize(
    "query",
    ["Übergröße", "übergrösse", "ÄRGER", "a\u0308rger", "智能对话", 'say "stop"', "first\nsecond", "100 %", "c:\\new"],
)
def test_a_text_is_found_as_it_is_read(api: Make, make_flow: MakeFlow, query: str) -> None:
    anna = api("anna")
    flow = make_flow(anna.user)
    said = 'Übergröße und Ärger, 智能对话平台: say "stop" at 100 % in c:\\new\nfirst\nsecond'
    say(new_chat(anna.user, flow, "found"), said)
    say(new_chat(anna.user, flow, "other"), "Ueber nichts")
    assert titles(anna.get(f"chats/?q={quote(query)}")) == ["found"]


@pytest.mark.parametrize("query", ["text", "kind", "input", "1.user#1", "\\n", "\\u00dc", "[", "_ber", "100_"])
def test_how_a_message_is_kept_is_not_searched(api: Make, make_flow: MakeFlow, query: str) -> None:
    anna = api("anna")
    say(new_chat(anna.user, make_flow(anna.user), "kept"), "Über\n100 %")
    assert titles(anna.get(f"chats/?q={quote(query)}")) == []


@pytest.mark.parametrize("query", ["ÜBERGRÖSSE", "u\u0308bergröße", "москва", "智能", "MILL", "100 %"])
def test_a_title_is_found_as_it_is_read(api: Make, make_flow: MakeFlow, query: str) -> None:
    anna = api("anna")
    make_flow(anna.user, "Open")
    for title in ("Übergröße МОСКВА 智能对话: mills 100 %", "Ueber nichts"):
        assert anna.post("chats/", {"flow": "open", "title": title}).status_code == 201
    assert titles(anna.get(f"chats/?q={quote(query)}")) == ["Übergröße МОСКВА 智能对话: mills 100 %"]


def test_titles_of_before_are_found_once_they_are_filled_in(
    api: Make, make_flow: MakeFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = api("anna")
    flow = make_flow(anna.user)
    for number in range(5):
        new_chat(anna.user, flow, f"Größe {number}" if number else "")
    known = dict(Chat.objects.values_list("id", "search_title"))
    Chat.objects.update(search_title="")
    migration = import_module("chat.migrations.0010_fill_search_title")
    monkeypatch.setattr(migration, "BATCH", 2)
    migration.fill(apps, None)
    assert dict(Chat.objects.values_list("id", "search_title")) == known
    assert titles(anna.get(f"chats/?q={quote('GRÖSSE 3')}")) == ["Größe 3"]


def test_messages_of_before_are_found_once_they_are_filled_in(
    api: Make, make_flow: MakeFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = api("anna")
    flow = make_flow(anna.user)
    for number in range(5):
        say(new_chat(anna.user, flow, f"{number}"), f"Größe {number}")
    known = dict(Message.objects.values_list("id", "search_text"))
    Message.objects.update(search_text="")
    migration = import_module("chat.migrations.0007_fill_search_text")
    monkeypatch.setattr(migration, "BATCH", 2)
    migration.fill(apps, None)
    assert dict(Message.objects.values_list("id", "search_text")) == known
    assert titles(anna.get(f"chats/?q={quote('größe 3')}")) == ["3"]


def test_a_list_costs_the_same_queries_whatever_its_length(api: Make, make_flow: MakeFlow) -> None:
    anna = api("anna")
    flow = make_flow(anna.user)

    def queries(path: str) -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert anna.get(path).status_code == 200
        return len(captured)

    new_chat(anna.user, flow)
    anna.get("chats/")
    one = queries("chats/"), queries("flows/")
    for number in range(5):
        new_chat(anna.user, flow)
        make_flow(anna.user, f"Flow {number}")
    assert (queries("chats/"), queries("flows/")) == one


@pytest.mark.parametrize("body", [{"title": 5}, {"title": ""}, {"title": "x" * 201}, {"head": "x"}, {"pinned": "yes"}])
def test_fields_of_a_chat_that_do_not_fit(api: Make, make_flow: MakeFlow, body: dict[str, Any]) -> None:
    anna = api("anna")
    chat = new_chat(anna.user, make_flow(anna.user))
    assert code_of(anna.patch(f"chats/{chat.id}/", body)) == (400, "validation_error")


def test_messages_come_newest_first_or_by_branch(api: Make, make_flow: MakeFlow) -> None:
    anna = api("anna")
    chat = new_chat(anna.user, make_flow(anna.user))
    first = say(chat, "first", age_s=30)
    left = say(chat, "left", first.id, "assistant", age_s=20)
    right = say(chat, "right", first.id, "assistant", age_s=10)
    deep = say(chat, "deep", left.id, age_s=5)

    def texts(query: str = "") -> list[str]:
        return [row["parts"][0]["text"] for row in anna.get(f"chats/{chat.id}/messages/{query}").json()["results"]]

    assert texts() == ["deep", "right", "left", "first"]
    assert texts("?limit=2") == ["deep", "right"]
    assert texts(f"?branch={deep.id}") == ["deep", "left", "first"]
    assert texts(f"?branch={right.id}") == ["right", "first"]
    for branch in ("x", "", uuid4()):
        assert code_of(anna.get(f"chats/{chat.id}/messages/?branch={branch}")) == (404, "message_not_found")


def test_a_page_of_messages_is_bounded_in_bytes_too(api: Make, make_flow: MakeFlow, settings: Any) -> None:
    anna = api("anna")
    chat = new_chat(anna.user, make_flow(anna.user))
    for age_s in range(5):
        say(chat, f"{age_s}" * 100, age_s=age_s)
    weight = len(msgspec.json.encode(Message.objects.first().parts))
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, page_bytes=2 * weight)
    found, path = [], f"chats/{chat.id}/messages/"
    while path:
        shown = anna.get(path).json()
        found.append([row["parts"][0]["text"][0] for row in shown["results"]])
        path = (shown["next"] or "").partition("/api/")[2]
    assert found == [["0", "1"], ["2", "3"], ["4"]]


def test_a_branch_may_end_in_an_answer_that_is_being_written(api: Make, make_flow: MakeFlow) -> None:
    anna = api("anna")
    chat = new_chat(anna.user, make_flow(anna.user))
    said = say(chat, "said")
    turn = Turn.objects.create(
        chat=chat, user=anna.user, number=1, input=said.id, state="running", created=timezone.now()
    )
    rows = anna.get(f"chats/{chat.id}/messages/?branch={turn.answer}").json()["results"]
    assert [row["id"] for row in rows] == [str(said.id)]


# ------------------------------------------------------------------------------------------------------- turns


async def test_a_turn_without_a_socket(anna: Remote) -> None:
    chat = await chat_with(anna, HELLO)
    status, reply, headers = await anna("POST", f"chats/{chat}/turns/", {"text": "World"})
    assert status == 202 and set(reply) == {"message", "turn", "answer", "queued"}
    assert headers["Location"] == f"/api/turns/{reply['turn']}/"
    ended = await in_state(anna, reply["turn"], "done")
    assert [part["text"] for part in ended["parts"]] == ["Hello World"]
    assert (ended["message"], ended["answer"], ended["version"]) == (reply["message"], reply["answer"], 1)
    _, messages, _ = await anna("GET", f"chats/{chat}/messages/")
    assert [row["id"] for row in messages["results"]] == [reply["answer"], reply["message"]]
    _, shown, _ = await anna("GET", f"chats/{chat}/")
    assert (shown["title"], shown["head"], shown["state"]) == ("World", reply["answer"], None)


async def test_row_32_idempotency_keys(anna: Remote) -> None:
    path = f"chats/{await chat_with(anna, HELLO)}/turns/"
    first = await anna("POST", path, {"text": "one"}, Idempotency_Key="k-1")
    again = await anna("POST", path, {"text": "one"}, Idempotency_Key="k-1")
    assert first[:2] == again[:2] and first[0] == 202
    status, body, _ = await anna("POST", path, {"text": "two"}, Idempotency_Key="k-1")
    assert (status, body["error"]["code"]) == (422, "id_conflict")
    for key in ("", "a b", "x" * 65, "ä"):
        status, body, _ = await anna("POST", path, {"text": "one"}, Idempotency_Key=key)
        assert (status, body["error"]["code"]) == (400, "validation_error")
        assert set(body["error"]["fields"]) == {"Idempotency-Key"}
    assert await write(Message.objects.filter(role="user").count) == 1


@pytest.mark.parametrize("what", ["offline", "deleted", "hidden"])
async def test_an_idempotency_key_answers_the_same_whatever_became_of_the_flow(
    anna: Remote, bert: Remote, what: str
) -> None:
    flow = await online(anna, HELLO)
    _, chat, _ = await bert("POST", "chats/", {"flow": flow})
    path = f"chats/{chat['id']}/turns/"
    first = await bert("POST", path, {"text": "one"}, Idempotency_Key="k-1")
    match what:
        case "offline":
            await anna("POST", f"flows/{flow}/offline/")
        case "deleted":
            await anna("DELETE", f"flows/{flow}/")
        case "hidden":
            await anna("PATCH", f"flows/{flow}/", {"visibility": "owner"})
    again = await bert("POST", path, {"text": "one"}, Idempotency_Key="k-1")
    assert first[0] == 202 and again[:2] == first[:2]
    status, body, _ = await bert("POST", path, {"text": "one"}, Idempotency_Key="k-2")
    code = "flow_offline" if what == "offline" else "flow_not_found"
    assert body["error"]["code"] == code and status in (404, 409)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "validation_error"),
        ({"text": 5}, 400, "validation_error"),
        ({"text": ""}, 400, "empty_text"),
        ({"text": " \u200b\n"}, 400, "empty_text"),
        ({"text": "a\0b"}, 400, "bad_text"),
        ({"text": "x" * 32_001}, 413, "text_too_long"),
        ({"text": "x", "role": "assistant"}, 400, "unknown_field"),
        ({"text": "x", "seq": 1}, 400, "unknown_field"),
        ({"text": "x", "params": []}, 400, "validation_error"),
        ({"text": "x", "parent": "x"}, 400, "validation_error"),
        ({"text": "x", "parent": str(uuid4())}, 404, "message_not_found"),
        ({"text": "x", "files": [str(uuid4())]}, 404, "file_not_found"),
    ],
)
async def test_says_that_are_refused(anna: Remote, body: dict[str, Any], status: int, code: str) -> None:
    refused, answer, _ = await anna("POST", f"chats/{await chat_with(anna, HELLO)}/turns/", body)
    assert (refused, answer["error"]["code"]) == (status, code)
    assert await write(Turn.objects.count) == 0 and await write(Command.objects.count) == 0


async def test_what_is_said_asked_answered_and_written_is_found(anna: Remote) -> None:
    chat = await chat_with(anna, ASK)
    _, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "Grüße"})
    await in_state(anna, reply["turn"], "waiting")
    await anna("POST", f"chats/{chat}/turns/", {"text": "Jörg"})
    await in_state(anna, reply["turn"], "done")
    for query in ("grüße", "your name?", "hello jörg"):
        _, found, _ = await anna("GET", f"chats/?q={quote(query)}")
        assert [row["id"] for row in found["results"]] == [chat], query


async def test_a_flow_that_went_offline_takes_no_new_turn(anna: Remote) -> None:
    flow = await online(anna, HELLO)
    _, chat, _ = await anna("POST", "chats/", {"flow": flow})
    await anna("POST", f"flows/{flow}/offline/")
    status, body, _ = await anna("POST", f"chats/{chat['id']}/turns/", {"text": "x"})
    assert (status, body["error"]["code"]) == (409, "flow_offline")


async def test_a_turn_tells_its_steps_before_and_after_its_end(anna: Remote) -> None:
    chat = await chat_with(anna, ASK)
    _, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "hi"})
    waiting = await in_state(anna, reply["turn"], "waiting")
    assert [(row["node"], row["state"]) for row in waiting["nodes"]] == [("start", "end"), ("ask", "start")]
    await anna("POST", f"questions/{waiting['question']['question']}/answer/", {"value": "Anna"})
    ended = await in_state(anna, reply["turn"], "done")
    assert [row["node"] for row in ended["nodes"]] == ["start", "ask", "hello", "end"]
    assert {row["state"] for row in ended["nodes"]} == {"end"}
    assert all(row["ms"] is not None for row in ended["nodes"])


async def test_a_question_is_answered(anna: Remote, bert: Remote) -> None:
    chat = await chat_with(anna, ASK)
    _, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "hi"})
    waiting = await in_state(anna, reply["turn"], "waiting")
    question = waiting["question"]["question"]
    path = f"questions/{question}/answer/"
    status, body, _ = await bert("POST", path, {"value": "Bert"})
    assert (status, body["error"]["code"]) == (404, "not_found")
    status, answered, _ = await anna("POST", path, {"value": "Anna"}, Idempotency_Key="a")
    assert (status, answered) == (200, {"question": question, "turn": reply["turn"]})
    ended = await in_state(anna, reply["turn"], "done")
    assert ended["parts"][-1]["text"] == "Hello Anna"
    assert (await anna("POST", path, {"value": "Anna"}, Idempotency_Key="a"))[1] == answered
    status, body, _ = await anna("POST", path, {"value": "Other"})
    assert (status, body["error"]["code"]) == (409, "question_closed")


async def test_a_say_that_answers_the_open_question_says_so(anna: Remote) -> None:
    chat = await chat_with(anna, ASK)
    _, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "hi"})
    await in_state(anna, reply["turn"], "waiting")
    status, answered, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "Anna"})
    assert (status, set(answered), answered["turn"]) == (202, {"question", "turn"}, reply["turn"])


async def test_a_turn_is_stopped_by_its_owner_only(anna: Remote, bert: Remote) -> None:
    chat = await chat_with(anna, ASK)
    _, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "hi"})
    await in_state(anna, reply["turn"], "waiting")
    for path, method in ((f"turns/{reply['turn']}/stop/", "POST"), (f"turns/{reply['turn']}/", "GET")):
        status, body, _ = await bert(method, path)
        assert (status, body["error"]["code"]) == (404, "not_found")
    status, stopped, _ = await anna("POST", f"turns/{reply['turn']}/stop/")
    assert (status, stopped) == (200, {"turn": reply["turn"]})
    await in_state(anna, reply["turn"], "stopped")
    status, body, _ = await anna("POST", f"turns/{reply['turn']}/stop/")
    assert (status, body["error"]["code"]) == (409, "turn_not_running")


async def test_a_chat_is_renamed_pinned_and_deleted(anna: Remote) -> None:
    chat = await chat_with(anna, ASK)
    _, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "hi"})
    await in_state(anna, reply["turn"], "waiting")
    _, changed, _ = await anna("PATCH", f"chats/{chat}/", {"title": "New", "pinned": True, "head": reply["message"]})
    assert (changed["title"], changed["pinned"], changed["head"]) == ("New", True, reply["message"])
    status, body, _ = await anna("PATCH", f"chats/{chat}/", {"head": str(uuid4())})
    assert (status, body["error"]["code"]) == (404, "message_not_found")
    assert (await anna("DELETE", f"chats/{chat}/"))[0] == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "turns/"), ("GET", "messages/")):
        status, body, _ = await anna(method, f"chats/{chat}/{path}", {"text": "x"} if method == "POST" else None)
        assert (status, body["error"]["code"]) == (404, "not_found")
    assert await write(lambda: Turn.objects.get().state) == "stopped"


async def test_chats_of_a_deleted_flow_stay_readable(anna: Remote) -> None:
    flow = await online(anna, HELLO)
    _, chat, _ = await anna("POST", "chats/", {"flow": flow})
    _, reply, _ = await anna("POST", f"chats/{chat['id']}/turns/", {"text": "World"})
    await in_state(anna, reply["turn"], "done")
    assert (await anna("DELETE", f"flows/{flow}/"))[0] == 204
    _, messages, _ = await anna("GET", f"chats/{chat['id']}/messages/")
    assert len(messages["results"]) == 2
    status, body, _ = await anna("POST", f"chats/{chat['id']}/turns/", {"text": "x"})
    assert (status, body["error"]["code"]) == (404, "flow_not_found")


async def test_says_at_once_are_one_turn_after_the_other(anna: Remote) -> None:
    chat = await chat_with(anna, HELLO)
    path = f"chats/{chat}/turns/"
    replies = await asyncio.gather(*(anna("POST", path, {"text": f"{number}"}) for number in range(4)))
    assert {status for status, _, _ in replies} == {202}
    for _, reply, _ in replies:
        await in_state(anna, reply["turn"], "done")
