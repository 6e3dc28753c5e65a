"""A chat as a file to keep: Markdown of the branch that is shown, or JSON of the whole tree."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from django.http import HttpResponse
from django.utils.translation import gettext as _

from chat import shapes
from chat.models import Chat, Message
from streams.clock import stamp

FORMS = {"md": "text/markdown; charset=utf-8", "json": "application/json"}
NAME_CHARS = 60


def as_file(chat: Chat, form: str) -> HttpResponse:
    content = as_json(chat) if form == "json" else as_markdown(chat)
    response = HttpResponse(content, content_type=FORMS[form])
    response["Content-Disposition"] = f'attachment; filename="{_name(chat)}.{form}"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


def as_json(chat: Chat) -> bytes:
    rows = chat.messages.order_by("created", "id")
    return msgspec.json.encode(
        {
            "headrace": 1,
            "id": str(chat.id),
            "title": chat.title,
            "flow": chat.flow and chat.flow.slug,
            "head": chat.head and str(chat.head),
            "created": stamp(chat.created),
            "messages": [shapes.message_of(row) for row in rows],
        }
    )


def as_markdown(chat: Chat) -> str:
    lines = [f"# {chat.title or chat.id}"]
    for row in branch(chat, chat.head):
        who = _("You") if row.role == Message.Role.USER else chat.flow.name if chat.flow else _("Answer")
        lines.append(f"## {who} ({stamp(row.created)})")
        lines.extend(text for part in row.parts if (text := _part(part)))
    return "\n\n".join(lines) + "\n"


def branch(chat: Chat, leaf: Any) -> list[Message]:
    """The messages from the root to `leaf`; the answer of a turn that runs is not there yet."""
    rows = {row.id: row for row in chat.messages.all()}
    parents = dict(chat.turns.values_list("answer", "input")) | {row.id: row.parent for row in rows.values()}
    return [rows[id_] for id_ in reversed(shapes.ancestors(parents, leaf)) if id_ in rows]


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


def _name(chat: Chat) -> str:
    """Of ASCII letters and digits, so that no header can be forged by it."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", chat.title).strip("-")[:NAME_CHARS]
    return plain or f"chat-{chat.id}"
