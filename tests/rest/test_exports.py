"""Chats as files: what is in them, page by page the same as at once, and what of it a process holds."""

import asyncio
import threading
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from chat import api as chat_api
from chat import export, shapes
from chat.models import Chat, Message, Turn
from flows.models import Flow
from streams.clock import stamp
from streams.database import write
from streams.errors import WireError
from streams.turnstile import Turnstile
from tests.conftest import Live
from tests.rest.conftest import Api, code_of
from tests.rest.remote import HELLO, Remote, chat_with
from tests.rest.test_chats import new_chat, say
from tests.waiting import until, wait_until

Make = Callable[..., Api]
MakeFlow = Callable[..., Flow]

pytestmark = pytest.mark.django_db(transaction=True)  # other threads read


def body_of(response: Any) -> bytes:
    return async_to_sync(read)(response)


async def read(response: Any) -> bytes:
    return b"".join([chunk async for chunk in response])


def bounds(settings: Any, **some: Any) -> None:
    settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, **some)


# ---------------------------------------------------------------------------------------------- what is in them


def test_a_chat_is_exported_as_the_branch_that_is_shown_or_as_the_whole_tree(api: Make, make_flow: MakeFlow) -> None:
    anna, bert = api("anna"), api("bert")
    chat = new_chat(anna.user, make_flow(anna.user, "Guide"), 'Of "mills"\r\nX-Evil: 1')
    first = say(chat, "first", age_s=30)
    left = say(chat, "**left**", first.id, "assistant", age_s=20)
    say(chat, "right", first.id, "assistant", age_s=10)
    Chat.objects.filter(id=chat.id).update(head=left.id)
    text = anna.get(f"chats/{chat.id}/export/")
    assert text["Content-Type"] == "text/markdown; charset=utf-8"
    assert text["Content-Disposition"] == 'attachment; filename="Of-mills-X-Evil-1.md"'
    assert text["X-Content-Type-Options"] == "nosniff"
    body = body_of(text).decode()
    assert body.index("first") < body.index("**left**") and "right" not in body and "Guide" in body
    tree = msgspec.json.decode(body_of(anna.get(f"chats/{chat.id}/export/?as=json")))
    assert [row["parts"][0]["text"] for row in tree["messages"]] == ["first", "**left**", "right"]
    assert tree["head"] == str(left.id)
    assert code_of(anna.get(f"chats/{chat.id}/export/?as=pdf")) == (400, "validation_error")
    assert code_of(bert.get(f"chats/{chat.id}/export/")) == (404, "not_found")


PARTS: list[list[dict[str, Any]]] = [
    [],
    [{"id": "1.a#1", "kind": "text", "text": ""}],
    [
        {"id": "1.a#1", "kind": "text", "text": "Grüße, 世界 🌊\n\n> not a quote"},
        {"id": "1.a#2", "kind": "data", "data": 5},
    ],
    [{"id": "1.a#1", "kind": "image", "data": {"file": "f", "mime": "image/png", "name": "mill.png", "bytes": 3}}],
    [
        {
            "id": "1.a#1",
            "kind": "question",
            "data": {"question": "q", "text": "Name?", "action": "accept", "label": "A"},
        }
    ],
    [{"id": "1.a#1", "kind": "question", "data": {"question": "q", "text": "Name?", "action": "decline"}}],
    [{"id": "1.a#1", "kind": "text", "text": "long " * 200}],
]


def filled(chat: Chat) -> Chat:
    """With a tree of messages of all kinds, some of the same time; its head is an answer that is being written."""
    began, parent, rows = datetime(2024, 5, 1, tzinfo=UTC), None, []
    for number in range(40):
        role = ("user", "assistant", "notice")[number % 3]
        at = began + timedelta(microseconds=number // 4 * 500_000)
        rows.append(Message(chat=chat, role=role, parts=PARTS[number % 7], parent=parent, created=at, id=uuid4()))
        if number % 5:
            parent = rows[-1].id
    Message.objects.bulk_create(rows)
    turn = Turn.objects.create(
        chat=chat, user=chat.user, number=1, input=parent, state="running", created=timezone.now()
    )
    Chat.objects.filter(id=chat.id).update(head=turn.answer)
    chat.refresh_from_db()
    return chat


def json_at_once(chat: Chat) -> bytes:
    return msgspec.json.encode(
        {
            "headrace": 1,
            "id": str(chat.id),
            "title": chat.title,
            "flow": chat.flow and chat.flow.slug,
            "head": chat.head and str(chat.head),
            "created": stamp(chat.created),
            "messages": [shapes.message_of(row) for row in chat.messages.order_by("created", "id")],
        }
    )


def markdown_at_once(chat: Chat) -> bytes:
    rows = {row.id: row for row in chat.messages.all()}
    parents = dict(chat.turns.values_list("answer", "input")) | {row.id: row.parent for row in rows.values()}
    lines = [f"# {chat.title or chat.id}"]
    for row in [rows[id_] for id_ in reversed(shapes.ancestors(parents, chat.head)) if id_ in rows]:
        who = _("You") if row.role == Message.Role.USER else chat.flow.name if chat.flow else _("Answer")
        lines.append(f"## {who} ({stamp(row.created)})")
        lines.extend(text for part in row.parts if (text := export._part(part)))
    return ("\n\n".join(lines) + "\n").encode()


@pytest.mark.parametrize("page_bytes", [1, 700, 10_000_000])
@pytest.mark.parametrize("has_flow", [True, False])
def test_page_by_page_is_the_same_to_the_byte_as_at_once(
    api: Make, make_flow: MakeFlow, settings: Any, monkeypatch: pytest.MonkeyPatch, page_bytes: int, has_flow: bool
) -> None:
    bounds(settings, export_page_bytes=page_bytes)
    monkeypatch.setattr(export, "MEASURED_AT_ONCE", 7)
    anna = api("anna")
    flow = make_flow(anna.user) if has_flow else None
    full, empty = filled(new_chat(anna.user, flow, "Of mills")), new_chat(anna.user, flow)
    for chat in (full, empty):
        assert body_of(anna.get(f"chats/{chat.id}/export/?as=json")) == json_at_once(chat)
        for language in ("en", "de"):
            shown = body_of(anna.get(f"chats/{chat.id}/export/", **{"Accept-Language": language}))
            with translation.override(language):
                assert shown == markdown_at_once(chat)


# --------------------------------------------------------------------------------------------------- how much


@pytest.mark.parametrize("form", ["md", "json"])
async def test_what_is_held_does_not_grow_with_the_chat(make_user: Any, make_flow: MakeFlow, form: str) -> None:
    chat = await write(heavy, make_user, make_flow)
    guest = Turnstile(lambda: (1, 0, 0), "busy", "").enter()
    tracemalloc.start()
    try:
        response = await asyncio.to_thread(export.as_file, chat, form, guest)
        sent = 0
        async for chunk in response:
            sent += len(chunk)
        _current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent > 30_000_000
    assert peak < 6_000_000


def heavy(make_user: Any, make_flow: MakeFlow) -> Chat:
    """30 MB, in 300 messages."""
    user = make_user("anna")
    chat, parent = new_chat(user, make_flow(user)), None
    for number in range(300):
        parent = say(chat, f"{number:05}" * 20_000, parent, age_s=300 - number).id
    Chat.objects.filter(id=chat.id).update(head=parent)
    return Chat.objects.select_related("flow").get(id=chat.id)


def test_so_many_are_exported_at_once(api: Make, make_flow: MakeFlow, settings: Any) -> None:
    anna = api("anna")
    chat = new_chat(anna.user, make_flow(anna.user))
    bounds(settings, exports_at_once=1, requests_waiting=0)
    first = anna.get(f"chats/{chat.id}/export/?as=json")
    assert first.status_code == 200
    assert code_of(anna.get(f"chats/{chat.id}/export/?as=json")) == (429, "busy")  # until it is read
    body_of(first)
    second = anna.get(f"chats/{chat.id}/export/?as=json")
    assert second.status_code == 200
    second.close()  # or dropped
    body_of(anna.get(f"chats/{chat.id}/export/?as=json"))
    assert not chat_api._exports._inside


def test_one_user_exports_so_many_and_leaves_the_rest_to_others(api: Make, make_flow: MakeFlow, settings: Any) -> None:
    bounds(settings, exports_at_once=3, exports_per_user=2)
    anna, bert = api("anna"), api("bert")
    hers, his = [f"chats/{new_chat(who.user, make_flow(who.user)).id}/export/" for who in (anna, bert)]
    held = [anna.get(hers), anna.get(hers)]
    third = anna.get(hers)
    assert code_of(third) == (429, "busy") and third["Retry-After"]
    body_of(bert.get(his))
    for each in held:
        body_of(each)
    body_of(anna.get(hers))
    assert not chat_api._exports._inside


def test_who_waits_to_come_in_is_counted_as_if_he_were() -> None:
    turnstile, came = Turnstile(lambda: (1, 20, 20), "busy", ""), []
    first = turnstile.enter("bert", 1)
    waiting = threading.Thread(target=lambda: came.append(turnstile.enter("anna", 1)), daemon=True)
    waiting.start()
    wait_until(lambda: turnstile._waiting, what="she waits")
    with pytest.raises(WireError):
        turnstile.enter("anna", 1)
    first.leave()
    waiting.join(20)
    with pytest.raises(WireError):
        turnstile.enter("anna", 1)
    came[0].leave()
    assert turnstile.enter("anna", 1)


def test_a_guest_leaves_once() -> None:
    turnstile = Turnstile(lambda: (2, 0, 0), "busy", "")
    guest, _other = turnstile.enter(), turnstile.enter()
    guest.leave()
    guest.leave()
    with turnstile.take(), pytest.raises(WireError):
        turnstile.enter()
    assert turnstile.enter()


# ------------------------------------------------------------------------------------------------- how it ends


async def big_chat(anna: Remote) -> str:
    """Larger than what connections take unread."""
    chat = await chat_with(anna, HELLO)

    def fill() -> None:
        row = Chat.objects.get(id=chat)
        for number in range(60):
            say(row, "x" * 200_000, age_s=60 - number)

    await write(fill)
    return chat


async def none_is_inside() -> None:
    await until(lambda: not chat_api._exports._inside, what="the place is given back")


async def test_reading_ends_with_the_reader(anna: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, ended = await big_chat(anna), []

    def close(content: Any, plain: Any = export._Content.close) -> None:
        plain(content)
        ended.append(content)

    monkeypatch.setattr(export._Content, "close", close)
    async with anna.http.get(f"{anna.url}/api/chats/{chat}/export/?as=json") as response:
        assert response.status == 200
        await response.content.readexactly(1000)
        assert len(chat_api._exports._inside) == 1 and not ended
        response.close()
    await none_is_inside()
    assert ended and not ended[0]._has_ended  # it was not read to its end for nobody


async def test_who_leaves_before_the_answer_has_begun_takes_no_place(
    anna: Remote, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = await chat_with(anna, HELLO)
    bounds(settings, send_timeout_s=0.2, command_hop_s=30)
    reads, go_on = threading.Event(), threading.Event()

    def slow(*args: Any, plain: Any = export.tree) -> Any:
        reads.set()
        assert go_on.wait(20)
        return plain(*args)

    monkeypatch.setattr(export, "tree", slow)
    asking = asyncio.create_task(anna("GET", f"chats/{chat}/export/?as=json"))
    await until(reads.is_set, what="the first page is read")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    go_on.set()
    await none_is_inside()


async def test_an_answer_that_nobody_closes_gives_its_place_back_after_all(
    make_user: Any, make_flow: MakeFlow, settings: Any
) -> None:
    user = await write(make_user, "anna")
    chat = await write(lambda: filled(new_chat(user, make_flow(user))))
    bounds(settings, export_s=0.5, export_page_bytes=1)
    turnstile = Turnstile(lambda: (1, 0, 0), "busy", "")
    response = await sync_to_async(export.as_file)(chat, "json", turnstile.enter())
    await sync_to_async(lambda: connection.close())()  # as a request does at its end
    assert await anext(aiter(response))  # and no more
    await until(lambda: not turnstile._inside, what="the place is given back")


def test_what_fails_before_anything_is_read_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    turnstile = Turnstile(lambda: (1, 0, 0), "busy", "")
    monkeypatch.setattr(export, "_json", {}.__getitem__)
    with pytest.raises(KeyError):
        export.as_file(Chat(), "json", turnstile.enter())
    assert not turnstile._inside


async def test_what_fails_before_the_first_page_is_an_error_as_any(
    anna: Remote, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = await chat_with(anna, HELLO)

    def fail(*_args: Any) -> None:
        raise WireError("unavailable")

    for form, name in (("json", "tree"), ("md", "branch")):
        monkeypatch.setattr(export, name, fail)
        status, body, _headers = await anna("GET", f"chats/{chat}/export/?as={form}")
        assert (status, body["error"]["code"]) == (503, "unavailable")
    await none_is_inside()


@pytest.mark.parametrize("form", ["md", "json"])
async def test_what_fails_later_breaks_the_connection_off(
    live: Live, anna: Remote, settings: Any, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    chat = await big_chat(anna)
    if form == "md":
        head = (await anna("GET", f"chats/{chat}/messages/?limit=1"))[1]["results"][0]["id"]
        await write(lambda: Chat.objects.filter(id=chat).update(head=head))
        await write(lambda: link(chat))
    bounds(settings, export_s=0.001)  # its reader takes too long
    with pytest.raises(aiohttp.ClientPayloadError):
        async with anna.http.get(f"{anna.url}/api/chats/{chat}/export/?as={form}") as response:
            assert response.status == 200
            await response.read()
    await none_is_inside()
    assert "export_cut" in caplog.text and "Traceback" not in caplog.text


def link(chat: str) -> None:
    """Its messages follow each other."""
    rows = list(Message.objects.filter(chat=chat).order_by("created", "id"))
    for before, row in zip(rows, rows[1:], strict=False):
        row.parent = before.id
    Message.objects.bulk_update(rows, ["parent"])
