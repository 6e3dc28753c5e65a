"""Rows as the wire shows them. Reads rows that are given, asks the database for nothing."""

import unicodedata
from collections.abc import Mapping
from typing import Any

import msgspec

from accounts import locale as languages
from chat import protocol
from chat.models import Chat, File, Message, Question, Step, Turn
from streams.clock import stamp
from streams.errors import WireError, shape_of


def user_message_parts(number: int, text: str, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`files`: the `data` of their parts."""
    parts: list[dict[str, Any]] = [{"id": f"{number}.input#1", "kind": "text", "text": text}]
    for place, data in enumerate(files, 2):
        kind = "image" if data["mime"].startswith("image/") else "data"
        parts.append({"id": f"{number}.input#1.{place}", "kind": kind, "data": data})
    return parts


def file_data(row: File) -> dict[str, Any]:
    return {"file": str(row.id), "mime": row.mime, "name": row.name, "bytes": row.bytes}


def files_of(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `data` of a user's message's files."""
    named = (part.get("data") for part in parts if part["kind"] in ("image", "data"))
    return [data for data in named if isinstance(data, dict) and "file" in data and "mime" in data]


def parts_of(raw: list[dict[str, Any]]) -> list[protocol.Part]:
    return msgspec.convert(raw, list[protocol.Part])


def standing_parts(parts: list[dict], steps: list[Step]) -> list[dict]:
    """The row's parts and those of later steps, each once, in the order they opened."""
    known = {part["id"] for part in parts}
    whole = list(parts)
    for step in steps:
        for part in step.parts:
            if part["id"] not in known:
                known.add(part["id"])
                whole.append(part)
    return whole


def message_of(row: Message) -> protocol.Message:
    return protocol.Message(
        id=str(row.id),
        chat=str(row.chat_id),
        role=row.role,
        parts=parts_of(row.parts),
        parent=_text(row.parent),
        turn=_text(row.turn),
        status=row.status,
        client_id=row.client_id or None,
        feedback=row.feedback,
        created=stamp(row.created),
    )


def text_of(parts: list[dict[str, Any]] | list[protocol.Part]) -> str:
    """What a reader would call the text of a message: its text parts, joined."""
    raw = (part if isinstance(part, dict) else msgspec.to_builtins(part) for part in parts)
    return "\n\n".join(part["text"] for part in raw if part["kind"] == "text" and part.get("text"))


def search_text(parts: list[dict[str, Any]]) -> str:
    """What a message is found by: its text, its questions and their answers, folded as what is searched is."""
    shown = []
    for part in parts:
        data = part.get("data")
        if part["kind"] == "text":
            shown.append(part.get("text"))
        elif part["kind"] == "question" and isinstance(data, dict):
            shown += [data.get("text"), data.get("label")]
    return folded("\n\n".join(text for text in shown if text))


def folded(text: str) -> str:
    """Letters without their case and in one form each: SQLite's LIKE knows the case of ASCII alone."""
    return unicodedata.normalize("NFC", text.casefold())


def ancestors(parents: Mapping[Any, Any], at: Any) -> list[Any]:
    """`at` and what it follows, up to the root or to what `parents` does not know."""
    path: dict[Any, None] = {}
    while at in parents and at not in path:
        path[at] = None
        at = parents[at]
    return list(path)


def question_of(row: Question) -> protocol.QuestionEvent:
    return protocol.QuestionEvent(
        turn=str(row.turn_id),
        question=str(row.id),
        text=row.text,
        options=row.options,
        schema=row.schema,
        secret=row.secret,
        expires=stamp(row.expires),
    )


def question_part(row: Question) -> dict[str, Any]:
    """The part of the answer that shows a question, and once it is answered, the answer."""
    data: dict[str, Any] = {
        "question": str(row.id),
        "text": row.text,
        "options": row.options,
        "schema": row.schema,
    }
    if row.action:
        data |= {
            "action": row.action,
            "label": "" if row.secret else row.label,
            "by": _text(row.answered_by_id),
        }
        if not row.secret:
            data["value"] = row.value
    return {
        "id": row.part,
        "kind": "question",
        "data": data,
        "node": row.part.split(".", 1)[1].split("#", 1)[0],
    }


def fault_of(error: WireError, locale: str) -> protocol.Fault:
    """How a turn ended badly, as it is stored: in the chat's language."""
    return protocol.Fault(**shape_of(error, languages.sentence(error, locale)))


def chat_event(row: Chat) -> protocol.ChatEvent:
    return protocol.ChatEvent(rev=row.rev, title=row.title, head=_text(row.head), deleted=row.deleted)


def chat_item(row: Chat, state: str | None) -> dict[str, Any]:
    """A chat as lists show it. `state`: of its running or waiting turn, else null."""
    return {
        "id": str(row.id),
        "title": row.title,
        "head": _text(row.head),
        "pinned": row.pinned,
        "deleted": row.deleted,
        "state": state,
    }


def turn_start(turn: Turn, message: protocol.Message, parts: list[dict[str, Any]]) -> protocol.TurnStart:
    return protocol.TurnStart(
        turn=str(turn.id),
        message=message,
        answer=str(turn.answer),
        attempt=turn.attempt,
        version=turn.version.number if turn.version else None,
        skill=turn.skill,
        parts=parts_of(parts),
    )


def turn_end(turn: Turn, message: Message) -> protocol.TurnEnd:
    return protocol.TurnEnd(
        turn=str(turn.id),
        status=turn.state,
        message=message_of(message),
        data=turn.data,
        usage=None if turn.usage is None else msgspec.convert(turn.usage, protocol.Usage),
        error=None if turn.error is None else msgspec.convert(turn.error, protocol.Fault),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
