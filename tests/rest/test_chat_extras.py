"""Undoing a deletion, and feedback."""

from collections.abc import Callable
from typing import Any

import pytest

from chat.models import Chat
from flows.models import Flow
from tests.rest.conftest import Api, code_of
from tests.rest.remote import HELLO, Remote, chat_with, in_state
from tests.rest.test_chats import new_chat, say

Make = Callable[..., Api]
MakeFlow = Callable[..., Flow]


async def test_a_deletion_is_undone_by_its_owner_only(anna: Remote, bert: Remote) -> None:
    chat = await chat_with(anna, HELLO)

    async def listed() -> list[str]:
        return [row["id"] for row in (await anna("GET", "chats/"))[1]["results"]]

    assert (await anna("DELETE", f"chats/{chat}/"))[0] == 204
    assert await listed() == [] and (await anna("GET", f"chats/{chat}/"))[0] == 404
    status, body, _ = await bert("POST", f"chats/{chat}/restore/")
    assert (status, body["error"]["code"]) == (404, "not_found")
    status, restored, _ = await anna("POST", f"chats/{chat}/restore/")
    assert (status, restored["deleted"]) == (200, False)
    assert (await anna("POST", f"chats/{chat}/restore/"))[1] == restored  # nothing to undo
    assert await listed() == [chat]
    status, reply, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "again"})
    assert status == 202 and await in_state(anna, reply["turn"], "done")


def test_a_purged_debug_chat_does_not_come_back(api: Make, make_flow: MakeFlow) -> None:
    anna = api("anna")
    chat = new_chat(anna.user, make_flow(anna.user), kind=Chat.Kind.DEBUG, deleted=True)
    assert code_of(anna.post(f"chats/{chat.id}/restore/")) == (404, "not_found")


def test_feedback_is_given_changed_and_taken_back(api: Make, make_flow: MakeFlow) -> None:
    anna, bert = api("anna"), api("bert")
    chat = new_chat(anna.user, make_flow(anna.user))
    said = say(chat, "hi")
    answer = say(chat, "hello", said.id, "assistant")
    path = f"messages/{answer.id}/feedback/"
    hostile = "<img src=x onerror=alert(1)> [x](javascript:alert(1))"
    for body in ({"value": "up"}, {"value": "down", "comment": hostile}):
        given = anna.request("PUT", f"/api/{path}", body)
        assert (given.status_code, given.json()) == (200, {"comment": "", **body})
    shown = anna.get(f"chats/{chat.id}/messages/").json()["results"][0]
    assert shown["feedback"] == {"value": "down", "comment": hostile}
    assert code_of(bert.request("PUT", f"/api/{path}", {"value": "up"})) == (404, "not_found")
    assert code_of(bert.delete(path)) == (404, "not_found")
    assert code_of(anna.request("PUT", f"/api/messages/{said.id}/feedback/", {"value": "up"})) == (404, "not_found")
    assert anna.delete(path).status_code == 204
    assert anna.get(f"chats/{chat.id}/messages/").json()["results"][0]["feedback"] is None


@pytest.mark.parametrize(
    "body",
    [{}, {"value": "meh"}, {"value": None}, {"value": ["up"]}, {"value": "up", "comment": 5}]
    + [{"value": "up", "comment": text} for text in ("x" * 2001, "a\0b", None)],
)
def test_feedback_that_does_not_fit(api: Make, make_flow: MakeFlow, body: dict[str, Any]) -> None:
    anna = api("anna")
    chat = new_chat(anna.user, make_flow(anna.user))
    answer = say(chat, "hello", role="assistant")
    response = anna.request("PUT", f"/api/messages/{answer.id}/feedback/", body)
    assert code_of(response) == (400, "validation_error")
