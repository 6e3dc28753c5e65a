"""API keys: shown once, scoped, taken back; good at every door."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import ApiKey
from chat.models import Turn
from streams.database import read
from tests.conftest import Live
from tests.rest.conftest import Api, code_of
from tests.rest.remote import HELLO, Remote, chat_with, online, remote
from tests.sockets.refused import refusal

Make = Callable[..., Api]


def new_key(anna: Api, *scopes: str) -> tuple[str, Api]:
    """(its id, a client that uses it)."""
    made = anna.post("keys/", {"name": "script", "scopes": list(scopes)})
    assert made.status_code == 201, made.content
    by_key = Api()
    by_key.headers = {"Authorization": f"Bearer {made.json()['key']}"}
    return made.json()["id"], by_key


def test_a_key_is_shown_once_and_only_its_hash_is_kept(api: Make) -> None:
    anna = api("anna")
    made = anna.post("keys/", {"name": "script", "scopes": ["flows", "chat", "chat"]})
    key = made.json()["key"]
    assert key.startswith("hr_") and made["Cache-Control"] == "no-store"
    assert made.json()["scopes"] == ["chat", "flows"] and key.endswith(made.json()["hint"])
    listed = anna.get("keys/")
    assert [row["id"] for row in listed.json()["results"]] == [made.json()["id"]]
    assert key not in listed.content.decode()
    assert key not in str(list(ApiKey.objects.values()))
    assert api("bert").get("keys/").json()["results"] == []


@pytest.mark.parametrize(
    ("scope", "may", "may_not"),
    [
        ("chat", ["me/", "chats/", "flows/"], ["sessions/", "keys/", "nodes/", "providers/"]),
        ("flows", ["me/", "flows/", "nodes/"], ["chats/", "sessions/", "keys/", "providers/"]),
        ("sessions", ["me/", "sessions/"], ["chats/", "flows/", "nodes/", "keys/", "providers/"]),
    ],
)
def test_a_key_opens_what_its_scopes_name_and_nothing_else(
    api: Make, scope: str, may: list[str], may_not: list[str]
) -> None:
    _, by_key = new_key(api("chief", is_staff=True), scope)
    assert [by_key.get(path).status_code for path in may] == [200] * len(may)
    assert [code_of(by_key.get(path)) for path in may_not] == [(403, "forbidden")] * len(may_not)


def test_a_chat_key_reads_flows_but_changes_none(api: Make) -> None:
    anna = api("anna")
    _, by_key = new_key(anna, "chat")
    assert code_of(by_key.post("flows/", {"name": "x"})) == (403, "forbidden")
    assert code_of(by_key.patch("me/", {"theme": "dark"})) == (403, "forbidden")
    assert code_of(by_key.post("keys/", {"name": "x", "scopes": ["flows"]})) == (403, "forbidden")
    assert code_of(by_key.post("auth/revoke/", {"all": True})) == (403, "forbidden")


def test_a_key_that_was_taken_back_is_good_no_more(api: Make) -> None:
    anna, bert = api("anna"), api("bert")
    id_, by_key = new_key(anna, "chat")
    assert by_key.get("me/").status_code == 200
    assert code_of(bert.delete(f"keys/{id_}/")) == (404, "not_found")
    assert anna.delete(f"keys/{id_}/").status_code == 204
    assert code_of(by_key.get("me/")) == (401, "unauthorized")
    assert code_of(anna.delete(f"keys/{id_}/")) == (404, "not_found")
    assert anna.get("keys/").json()["results"] == []


def test_a_key_outlives_log_ins_and_passwords_but_not_its_user(api: Make) -> None:
    anna = api("anna")
    _, by_key = new_key(anna, "chat")
    anna.post("auth/revoke/", {"all": True})
    assert by_key.get("me/").status_code == 200
    anna.user.set_password("another")
    anna.user.save()
    assert by_key.get("me/").status_code == 200
    from accounts import tokens

    anna.user.is_active = False
    anna.user.save()
    tokens.forget([str(ApiKey.objects.get().login_id)])
    assert code_of(by_key.get("me/")) == (401, "unauthorized")


@pytest.mark.parametrize("key", ["hr_", "hr_x", "hr_" + "x" * 5000, "hr_\u00e4"])
def test_keys_that_nobody_has(db: None, key: str) -> None:
    response = Client(raise_request_exception=False).get("/api/me/", headers={"Authorization": f"Bearer {key}"})
    assert code_of(response) == (401, "unauthorized")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "", "scopes": ["chat"]},
        {"name": "x" * 101, "scopes": ["chat"]},
        {"name": "a\0", "scopes": ["chat"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": "chat"},
        {"name": "x", "scopes": ["admin"]},
        {"name": "x", "scopes": [None]},
    ],
)
def test_fields_of_a_key_that_do_not_fit(api: Make, body: dict[str, Any]) -> None:
    assert code_of(api("anna").post("keys/", body)) == (400, "validation_error")


def test_keys_of_one_user_are_bounded(api: Make, settings: Any) -> None:
    import msgspec

    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, keys_per_user=1)
    anna = api("anna")
    new_key(anna, "chat")
    assert code_of(anna.post("keys/", {"name": "x", "scopes": ["chat"]})) == (400, "validation_error")


async def test_a_key_opens_sockets_and_readers_by_its_scope_and_its_end_closes_them(anna: Remote, live: Live) -> None:
    flow = await online(anna, HELLO)
    chat = (await anna("POST", "chats/", {"flow": flow}))[1]["id"]
    _, good, _ = await anna("POST", "keys/", {"name": "chat", "scopes": ["chat"]})
    _, other, _ = await anna("POST", "keys/", {"name": "flows", "scopes": ["flows"]})
    refused = await refusal(live.open(f"/chat/{flow}?chat_id={chat}", other["key"]))
    assert (refused.code, refused.close) == ("forbidden", 1008)
    async with remote(live, other["key"]) as by_other:
        assert (await by_other("GET", f"chats/{chat}/events/"))[1]["error"]["code"] == "forbidden"
    async with live.open(f"/chat/{flow}?chat_id={chat}", good["key"]) as socket:
        await socket.until("snapshot")
        assert (await anna("DELETE", f"keys/{good['id']}/"))[0] == 204
        closed = await socket.closed(within_s=20)
        assert (closed.code, closed.reason) == (1008, "unauthorized")


async def test_a_key_goes_on_with_a_socket_by_its_scope_and_its_turns_count_for_it(anna: Remote, live: Live) -> None:
    flow = await online(anna, HELLO)
    chat = (await anna("POST", "chats/", {"flow": flow}))[1]["id"]
    keys = [(await anna("POST", "keys/", {"name": scope, "scopes": [scope]}))[1] for scope in ("chat", "chat", "flows")]
    first, second, other = keys
    async with live.open(f"/chat/{flow}?chat_id={chat}", first["key"]) as socket:
        await socket.until("snapshot")
        turns = [(await socket.say("one"))["turn"]]
        await socket.until("turn_end")
        await socket.send(type="auth", token=other["key"])
        refused = await socket.until("error")
        assert refused["code"] == "forbidden" and "id" not in refused
        turns.append((await socket.say("two"))["turn"])
        await socket.until("turn_end")
        await socket.send(type="auth", token=second["key"])
        turns.append((await socket.say("three"))["turn"])
    counted = await read(lambda: [str(Turn.objects.get(id=turn).key) for turn in turns])
    assert counted == [first["id"], first["id"], second["id"]]


async def test_a_ticket_that_a_key_bought_has_its_scopes(anna: Remote, live: Live) -> None:
    chat = await chat_with(anna, HELLO)
    _, key, _ = await anna("POST", "keys/", {"name": "flows", "scopes": ["flows"]})
    async with remote(live, key["key"]) as by_key:
        status, ticket, _ = await by_key("POST", "auth/ticket/")
    assert status == 201
    status, body, _ = await anna("GET", f"chats/{chat}/events/?ticket={ticket['ticket']}")
    assert (status, body["error"]["code"]) == (403, "forbidden")
