"""Every path and verb, tried as each kind of person; `docs/permissions.md` is what came out, and is held to it.

`WRITE_MATRIX=1` writes the document anew.
"""

import io
import os
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from django.contrib.auth.models import Permission
from django.utils import timezone

from accounts import store as accounts
from accounts import tokens
from accounts.models import ApiKey
from chat.files import store as files
from chat.models import Chat, Message, Question, Turn
from config import examples, openapi
from flows import graph, store
from flows.models import Provider
from streams.database import write
from streams.models import StreamSession
from tests.conftest import Live
from tests.rest.remote import ASK, remote
from tests.server import ROOT

DOCUMENT = ROOT / "docs" / "permissions.md"
PERSONS = ("owner", "other", "viewer", "staff", "nobody")
HEAD = """# Who may do what over REST

Tried on every path and verb, with things that belong to the first: their owner, another user, a viewer (may look at
stream sessions), staff, and nobody. *yes*: it is done, or refused for what was sent; a number: the refusal's status.
Another's things are not there (404), whoever asks; flows apart, which staff edits. API keys have their owner's rights
within their scopes. `tests/rest/test_matrix.py` holds this table.

| path | verb | owner | other | viewer | staff | nobody |
| --- | --- | --- | --- | --- | --- | --- |
"""
# Who may, by the first part of the path; what is not here is one's own.
OPEN = ("auth/token/", "auth/refresh/")
EVERYBODY = (
    "auth/revoke/", "auth/ticket/", "me/", "me/usage/", "keys/", "flows/", "flows/import/", "nodes/", "chats/",
    "files/",
)  # fmt: skip


def expected(path: str, verb: str) -> tuple[str, ...]:
    if path in OPEN:
        return ("yes",) * 5
    if path in EVERYBODY or (path, verb) == ("flows/{ref}/", "GET"):
        return ("yes", "yes", "yes", "yes", "401")
    if path.startswith(("providers/", "budgets/")):
        return ("403", "403", "403", "yes", "401")
    if path.startswith(("sessions/", "workers/")):
        return ("403", "403", "yes" if verb == "GET" else "403", "yes", "401")
    if path.startswith("flows/"):
        return ("yes", "404", "404", "yes", "401")
    return ("yes", "404", "404", "404", "401")


def make_things(owner: Any) -> dict[str, str]:
    """Fresh ones of `owner`: an operation may use them up."""
    now = timezone.now()
    flow = store.create_flow(owner.pk, "Flow", draft=ASK)
    version = store.publish(flow.id, graph.checksum(ASK), owner.pk)
    chat = Chat.objects.create(user=owner, flow=flow, last_number=1)
    said = Message.objects.create(chat=chat, role="user", parts=[], created=now)
    answer = Message.objects.create(chat=chat, role="assistant", parts=[], parent=said.id, created=now)
    inputs = {"user": {"id": str(owner.pk), "name": "x"}, "now": "2026-01-01T00:00:00Z", "vars": {}}
    turn = Turn.objects.create(
        chat=chat, user=owner, number=1, input=said.id, state="waiting", attempt=1, version=version, created=now,
        inputs=inputs,
    )  # fmt: skip
    question = Question.objects.create(
        turn=turn, key="ask:ask#1:1", part="1.ask#1", text="?", expires=now + timedelta(days=1)
    )
    ApiKey.objects.filter(user=owner).delete()  # of which there are few
    key, _value = accounts.create_key(owner.pk, "key", ["chat"])
    file = files.keep(owner.pk, "a.txt", "text/plain", 1, "", io.BytesIO(b"x"))
    provider = Provider.objects.create(slug=f"p-{flow.id}", kind="scripted")
    session = StreamSession.objects.create(user=owner, started=now, last_seen=now, state="connected")
    rows = {
        "flows": flow, "chats": chat, "turns": turn, "questions": question, "messages": answer, "keys": key,
        "files": file, "providers": provider, "sessions": session,
    }  # fmt: skip
    return {name: str(row.pk) for name, row in rows.items()}


async def outcome(http: aiohttp.ClientSession, url: str, verb: str, body: Any) -> str:
    """Of a reader's answer, which has no end, the head alone."""
    headers = {"If-Match": '"1"', "Content-Type": "application/json"}
    async with http.request(verb, url, json=body, headers=headers) as response:
        if response.status in (401, 403, 404) and response.content_type == "application/json":
            code = (await response.json())["error"]["code"]
            # What is named in the body is another matter than the path.
            return str(response.status) if code in ("unauthorized", "forbidden", "not_found") else "yes"
        assert response.status < 500, (verb, url, await response.text())
        return "yes"


@pytest.mark.timeout(300)
async def test_every_verb_of_every_path_as_every_person(live: Live, make_user: Any, token_of: Any) -> None:
    def people() -> dict[str, Any]:
        found = {name: make_user(name, is_staff=name == "staff") for name in PERSONS[:-1]}
        found["viewer"].user_permissions.add(Permission.objects.get(codename="view_streamsession"))
        return found

    users = await write(people)
    lines = []
    async with AsyncExitStack() as stack:
        clients = {}
        for name, user in users.items():
            clients[name] = (await stack.enter_async_context(remote(live, await token_of(user)))).http
        clients["nobody"] = await stack.enter_async_context(aiohttp.ClientSession())
        for (path, verb), operation in openapi.OPERATIONS.items():
            if path == "auth/revoke/":  # it ends the log-in that tries it
                found = {name: "yes" if name != "nobody" else "401" for name in PERSONS}
                async with clients["nobody"].post(f"{live.url}/api/{path}", json={}) as response:
                    assert response.status == 401
            else:
                found = {}
                for name, http in clients.items():
                    things = await write(make_things, users["owner"])
                    kind = path.split("/")[0]
                    url = f"{live.url}/api/{path}".replace("{ref}", things.get(kind, "")).replace("{number}", "1")
                    if path == "flows/{ref}/build/" and verb == "GET" or "build/events" in path:
                        async with clients["owner"].post(url.replace("events/", ""), json={}) as response:
                            assert response.status == 202
                    body = examples.BODIES.get(operation.body, {})
                    if path in OPEN:
                        user = users.get(name, users["owner"])
                        pair = await write(tokens.log_in, user)
                        password = {"username": user.username, "password": user.username}
                        body = {"refresh": pair.refresh} if "refresh" in path else password
                    found[name] = await outcome(http, url, verb, body)
            outcomes = tuple(found[name] for name in PERSONS)
            assert outcomes == expected(path, verb), (path, verb)
            lines.append(f"| `{path}` | {verb} | {' | '.join(outcomes)} |\n")
    table = HEAD + "".join(sorted(lines))
    if os.environ.get("WRITE_MATRIX"):
        DOCUMENT.write_text(table)
    assert DOCUMENT.read_text() == table, "WRITE_MATRIX=1 writes it anew"
