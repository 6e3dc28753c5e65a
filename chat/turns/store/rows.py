"""Rows of a chat and its turns: locked, found, and saved whole. What every transaction begins and ends with."""

import uuid
from datetime import datetime
from typing import Any

from chat import shapes
from chat.models import Chat, Command, Message, Step, Turn
from chat.turns.orders import Fenced, PendingStep, RunOrder
from chat.turns.states import TurnState
from streams.errors import WireError
from streams.prepared import Select, insert, update

# On the way of every message: compiled once. What a flow's row weighs (draft, graph) is left where it is.
_LIGHT = ("flow__draft", "flow__published__graph")
_CHAT = Select(
    lambda id: (
        Chat.objects.select_for_update(of=("self",)).select_related("flow__published").defer(*_LIGHT).filter(id=id)
    ),
    uuid.UUID,
)
_TURN = Select(lambda id: Turn.objects.filter(id=id), uuid.UUID)
_QUEUED = Select(
    lambda chat: (
        Turn.objects.filter(chat_id=chat, state=TurnState.QUEUED.value)
        .order_by("number")
        .select_related("version")
        .defer("version__graph")
    ),
    uuid.UUID,
)
_COMMAND = Select(lambda scope, command: Command.objects.filter(scope=scope, command=command), uuid.UUID, str)


def lock(chat_id: str) -> Chat | None:
    return _CHAT.one(uuid.UUID(chat_id))


def queued(chat: Chat) -> list[Turn]:
    """In their order."""
    return _QUEUED.all(chat.id)


def turn_of(order: RunOrder) -> Turn:
    return _TURN.one(uuid.UUID(order.turn))


def own(order: RunOrder) -> tuple[Chat, Turn]:
    """The chat, locked, and the turn if it is still this attempt's. Raises Fenced."""
    chat = lock(order.chat)
    turn = turn_of(order)
    if chat is None or turn.state != TurnState.RUNNING or turn.attempt != order.attempt:
        raise Fenced
    return chat, turn


def find_message(chat: Chat, message: Any, role: str | None = None) -> Message:
    row = chat.messages.filter(id=message).first() if message else None
    if row is None or (role and row.role != role):
        raise WireError("message_not_found")
    return row


def save(chat: Chat) -> None:
    update(
        chat,
        "rev",
        "owes",
        "told",
        "title",
        "search_title",
        "head",
        "pinned",
        "vars",
        "locale",
        "deleted",
        "last_turn_at",
        "last_number",
    )


def save_turn(turn: Turn) -> None:
    update(
        turn,
        "rev", "owes", "told", "inputs", "state", "worker", "attempt", "takeovers", "parts", "nodes", "usage", "data",
        "error", "running_at", "ran_ms", "ended_at", "first_token_ms",
    )  # fmt: skip


def save_steps(turn: Turn, steps: list[PendingStep]) -> None:
    Step.objects.bulk_create(
        [
            Step(
                turn=turn,
                key=step.key,
                kind=step.kind,
                arguments_hash=step.arguments_hash,
                value=step.value,
                parts=step.parts,
            )
            for step in steps
        ],
        ignore_conflicts=True,  # a write whose reply was lost is made again
    )


def repeat_of(scope: uuid.UUID, command: str, body_hash: str) -> dict[str, Any] | None:
    """The reply of the same command done before. Raises WireError id_conflict."""
    row = _COMMAND.one(scope, command)
    if row is None:
        return None
    if row.body_hash != body_hash:
        raise WireError("id_conflict")
    return row.reply


def keep_command(scope: uuid.UUID, command: str, body_hash: str, reply: dict, at: datetime) -> None:
    insert(Command(scope=scope, command=command, body_hash=body_hash, reply=reply, created=at))


def entitle(chat: Chat, title: str) -> None:
    chat.title, chat.search_title = title, shapes.folded(title)


def uuid_or_none(value: str | None) -> uuid.UUID | None:
    return None if value is None else uuid.UUID(value)
