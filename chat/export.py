"""A chat as a file to keep: Markdown of the branch that is shown, or JSON of the whole tree.

Read and sent page by page, so that what a file takes of memory does not grow with what its chat says; of Markdown the
ids and parents of the chat's messages are held. What fails before the first page is there is an error like any other;
after it the connection breaks off, and nobody takes the file for whole.
"""

import asyncio
import functools
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import structlog
from asgiref.sync import async_to_sync
from django.conf import settings
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast, Length
from django.http import StreamingHttpResponse
from django.utils import translation
from django.utils.translation import gettext as _

from chat import shapes
from chat.models import Chat, Message, Turn
from streams import database
from streams.clock import stamp
from streams.errors import WireError
from streams.turnstile import Guest

FORMS = {"md": "text/markdown; charset=utf-8", "json": "application/json"}
NAME_CHARS = 60
MEASURED_AT_ONCE = 500  # messages: their ids and lengths are held
CUT_S = 5.0  # that a connection that was broken off has to be seen as gone

log = structlog.get_logger("headrace.export")


def as_file(chat: Chat, form: str, guest: Guest, abort: Callable[[], None] | None = None) -> StreamingHttpResponse:
    """`guest` leaves once the file is sent, or its reader has gone. `abort` drops the connection.

    Not on an event loop. Raises WireError unavailable.
    """
    try:
        content = _Content(chat, form, guest, abort)
        async_to_sync(content.begin)()
    except BaseException:
        guest.leave()
        raise
    response = StreamingHttpResponse(content, content_type=FORMS[form])
    response["Content-Disposition"] = f'attachment; filename="{_name(chat)}.{form}"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


class _Form(NamedTuple):
    """How a file is put together: its head, its pages with `between` from the second on, its end.

    `more(chat, from where)`: the next messages, and from where to go on. `page`: of some of them. Both read rows.
    """

    head: bytes
    between: bytes
    end: bytes
    more: Callable[[UUID, Any], tuple[list["Measured"], Any]]
    page: Callable[[list[UUID]], bytes]


class _Content:
    """What the answer sends. Django closes it with the answer, however that ends."""

    def __init__(self, chat: Chat, form: str, guest: Guest, abort: Callable[[], None] | None) -> None:
        self._form = _json(chat) if form == "json" else _markdown(chat)
        self._chat, self._where = chat.id, None
        self._groups: Iterator[list[UUID]] = iter(())
        self._guest, self._abort = guest, abort
        self._until = time.monotonic() + settings.HEADRACE.export_s
        self._first: bytes | None = None
        self._has_ended = False

    async def begin(self) -> None:
        """Its head and the first page, which says that the database answers."""
        self._first = self._form.head + await self._page(database.read)
        loop = asyncio.get_running_loop()
        # Who leaves meanwhile leaves an answer that nobody sends, and nobody closes.
        loop.call_later(settings.HEADRACE.send_timeout_s, self._leave_unsent)
        # No answer is read for longer. Of the guest alone: what is held else ends with the answer.
        loop.call_later(settings.HEADRACE.export_s, self._guest.leave)

    def _leave_unsent(self) -> None:
        if self._first is not None:
            self.close()

    def close(self) -> None:
        self._guest.leave()

    def __aiter__(self) -> "_Content":
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._next()
        except BaseException:
            self.close()
            raise

    async def _next(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._has_ended:
            raise StopAsyncIteration
        try:
            page = await self._page(self._read)
        except WireError as error:
            await self._cut(error)
            raise
        self._has_ended = not page
        return self._form.between + page if page else self._form.end

    async def _page(self, read: Callable[..., Any]) -> bytes:
        """The next; empty: there is none."""
        while True:
            for ids in self._groups:
                if page := await read(self._form.page, ids):
                    return page
            measured, self._where = await read(self._form.more, self._chat, self._where)
            if not measured:
                return b""
            self._groups = groups(measured)

    async def _read(self, fn: Callable[..., Any], *args: Any) -> Any:
        """On a database thread, behind commands, while there is time."""
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                return await database.read(fn, *args, until_done=True)
        except TimeoutError:
            raise WireError("slow_reader") from None

    async def _cut(self, error: WireError) -> None:
        """Drop the connection, where the server can; else the error does."""
        self.close()
        log.warning("export_cut", chat=str(self._chat), code=error.code)
        if self._abort is not None:
            self._abort()
            await asyncio.sleep(CUT_S)  # cancelled as soon as the connection is seen as gone


# --------------------------------------------------------------------------------------------------- as JSON


def _json(chat: Chat) -> _Form:
    whole = {
        "headrace": 1,
        "id": str(chat.id),
        "title": chat.title,
        "flow": chat.flow and chat.flow.slug,
        "head": chat.head and str(chat.head),
        "created": stamp(chat.created),
        "messages": [],
    }
    end = b"]}"
    return _Form(msgspec.json.encode(whole).removesuffix(end), b",", end, tree, _json_page)


def _json_page(ids: list[UUID]) -> bytes:
    return b",".join(msgspec.json.encode(shapes.message_of(row)) for row in _messages(ids))


# ----------------------------------------------------------------------------------------------- as Markdown


def _markdown(chat: Chat) -> _Form:
    page = functools.partial(_markdown_page, chat.flow and chat.flow.name, translation.get_language())
    return _Form(f"# {chat.title or chat.id}".encode(), b"", b"\n", functools.partial(branch, chat.head), page)


def _markdown_page(answerer: str | None, language: str | None, ids: list[UUID]) -> bytes:
    with translation.override(language):
        return "".join(f"\n\n{line}" for row in _messages(ids) for line in _lines(row, answerer)).encode()


def _lines(row: Message, answerer: str | None) -> Iterator[str]:
    who = _("You") if row.role == Message.Role.USER else answerer or _("Answer")
    yield f"## {who} ({stamp(row.created)})"
    yield from (text for part in row.parts if (text := _part(part)))


def _part(part: dict[str, Any]) -> str:
    data = part.get("data") or {}
    match part["kind"]:
        case "text":
            return part.get("text", "")
        case "question":
            return "\n".join(_question(data))
        case "image" | "data" if isinstance(data, dict) and "file" in data:
            return f"[{data.get('name', data['file'])}]"
    return ""


def _question(data: dict[str, Any]) -> Iterator[str]:
    yield f"> {data['text']}"
    if data.get("action") == "accept":
        yield f"> **{data.get('label') or data.get('value', '…')}**"


# ---------------------------------------------------------------------------------------- which, and how many


class Measured(NamedTuple):
    """A message before it is read. `length`: of its parts as text, about what they weigh."""

    created: datetime
    id: UUID
    length: int


def tree(chat: UUID, after: Measured | None) -> tuple[list[Measured], Measured | None]:
    """All messages, the oldest first."""
    rows = Message.objects.filter(chat=chat)
    if after is not None:
        beyond = Q(created__gt=after.created) | Q(created=after.created, id__gt=after.id)
        rows = rows.filter(beyond, created__gte=after.created)  # the latter finds its place in the index
    found = _measured(rows.order_by("created", "id")[:MEASURED_AT_ONCE])
    return found, found[-1] if found else after


def branch(leaf: UUID | None, chat: UUID, left: list[UUID] | None) -> tuple[list[Measured], list[UUID]]:
    """Those from the root to `leaf`; `left`: what is left of them."""
    ids = _path(chat, leaf) if left is None else left
    some = ids[:MEASURED_AT_ONCE]
    found = {each.id: each for each in _measured(Message.objects.filter(id__in=some))}
    return [found[id_] for id_ in some if id_ in found], ids[MEASURED_AT_ONCE:]


def _path(chat: UUID, leaf: UUID | None) -> list[UUID]:
    """The answer of a turn that runs is not there yet."""
    rows = dict(Message.objects.filter(chat=chat).values_list("id", "parent"))
    parents = dict(Turn.objects.filter(chat=chat).values_list("answer", "input")) | rows
    return [id_ for id_ in reversed(shapes.ancestors(parents, leaf)) if id_ in rows]


def groups(measured: list[Measured]) -> Iterator[list[UUID]]:
    """So many at a time that they weigh no more than a page may; one may be heavier."""
    most, ids, length = settings.HEADRACE.export_page_bytes, [], 0
    for each in measured:
        if ids and length + each.length > most:
            yield ids
            ids, length = [], 0
        ids.append(each.id)
        length += each.length
    if ids:
        yield ids


def _measured(rows: QuerySet) -> list[Measured]:
    length = Length(Cast("parts", TextField()))
    return [Measured(*row) for row in rows.values_list("created", "id", length)]


def _messages(ids: list[UUID]) -> list[Message]:
    rows = Message.objects.in_bulk(ids)
    return [rows[id_] for id_ in ids if id_ in rows]


def _name(chat: Chat) -> str:
    """Of ASCII letters and digits, so that no header can be forged by it."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", chat.title).strip("-")[:NAME_CHARS]
    return plain or f"chat-{chat.id}"
