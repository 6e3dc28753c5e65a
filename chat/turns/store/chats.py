"""What a user does with his chats besides talking: make, change, delete, bring back, judge an answer."""

from typing import Any

from chat.models import Chat, Message
from chat.turns.orders import Outcome
from chat.turns.store import moves, owing, rows
from flows.models import Flow
from streams.errors import WireError


def create_chat(user: int, flow_id: str, title: str) -> Chat:
    flow = Flow.objects.filter(id=flow_id, deleted=False).first()
    if flow is None:
        raise WireError("flow_not_found")
    if flow.status != Flow.Status.ONLINE:
        raise WireError("flow_offline")
    chat = Chat(user_id=user, flow=flow, rev=1 if title else 0)
    rows.entitle(chat, title)
    chat.save(force_insert=True)
    return chat


def patch_chat(
    chat_id: str,
    user: int,
    *,
    title: str | None = None,
    head: str | None = None,
    pinned: bool | None = None,
    worker: str | None = None,
) -> Outcome:
    """Raises WireError not_found, message_not_found."""
    chat = rows.lock(chat_id)
    if chat is None or chat.deleted or chat.user_id != user:
        raise WireError("not_found")
    outcome = Outcome()
    if head is not None:
        chat.head = rows.find_message(chat, head).id
    if title is not None:
        rows.entitle(chat, title)
    if pinned is not None:
        chat.pinned = pinned
    chat.rev += 1
    owing.owe_chat(chat, worker, outcome)
    rows.save(chat)
    owing.show_in_lists(chat, owing.active_state(chat), outcome)
    return outcome


def delete_chat(chat_id: str, user: int, worker: str | None) -> Outcome:
    """Soft and for ever: a resent say must not open it anew. Its turns end."""
    chat = rows.lock(chat_id)
    if chat is None or chat.deleted or chat.user_id != user:
        raise WireError("not_found")
    outcome = Outcome()
    chat.deleted = True
    chat.rev += 1
    owing.owe_chat(chat, worker, outcome)
    moves.end_all(chat, worker, outcome)
    rows.save(chat)
    owing.show_in_lists(chat, None, outcome)
    return outcome


def restore_chat(chat_id: str, user: int) -> Outcome:
    """Undo a deletion. What it ended stays ended. Raises WireError not_found."""
    chat = rows.lock(chat_id)
    if chat is None or chat.user_id != user or chat.kind != Chat.Kind.CHAT:
        raise WireError("not_found")
    outcome = Outcome()
    if chat.deleted:
        chat.deleted = False
        chat.rev += 1
        rows.save(chat)
        owing.show_in_lists(chat, owing.active_state(chat), outcome)
    return outcome


def set_feedback(message_id: str, user: int, feedback: dict[str, Any] | None) -> None:
    """What a reader thinks of an answer; null takes it back. Raises WireError not_found."""
    answers = Message.objects.filter(id=message_id, chat__user_id=user, chat__deleted=False, role="assistant")
    if not answers.update(feedback=feedback):
        raise WireError("not_found")
