"""What a row owes clients, as events for the log. Reads only; `chat/turns/store/tidying.py` marks them told."""

import uuid

from django.conf import settings

from chat import protocol, shapes
from chat.models import Chat, Message, Turn
from chat.turns.orders import Owed, RunOrder
from chat.turns.states import UNENDED, TurnState
from streams.prepared import Select

_CHAT = Select(lambda id: Chat.objects.filter(id=id, told=False).defer("graph", "vars"), uuid.UUID)
_TURN = Select(
    lambda id: Turn.objects.filter(id=id, told=False).select_related("version").defer("version__graph"), uuid.UUID
)


def owed_rows(others: set[str]) -> list[tuple[str, str]]:
    """(kind, id) of what is owed by this worker, nobody, or one that is dead, buried or not: by none of the others.

    Some of it, in no order: rows that can't be told stand before nobody.
    """
    limit = settings.HEADRACE.sweep_rows
    owed = (rows.filter(told=False).exclude(owes__in=others).order_by("?") for rows in (Turn.objects, Chat.objects))
    turns, chats = (rows.values_list("id", flat=True)[:limit] for rows in owed)
    return [("turn", str(id_)) for id_ in turns] + [("chat", str(id_)) for id_ in chats]


def owed_event(kind: str, id_: str) -> Owed | None:
    """What the row owes as it stands now; null where it was told meanwhile."""
    if kind == "chat":
        chat = _CHAT.one(uuid.UUID(id_))
        if chat is None:
            return None
        return Owed(kind=kind, id=id_, rev=chat.rev, chat=id_, attempt=0, events=[shapes.chat_event(chat)], ends=False)
    turn = _TURN.one(uuid.UUID(id_))
    if turn is None:
        return None
    return Owed(
        kind=kind,
        id=id_,
        rev=turn.rev,
        chat=str(turn.chat_id),
        attempt=turn.attempt,
        events=_events_owed(turn),
        ends=turn.state not in UNENDED,
    )


def _events_owed(turn: Turn) -> list[protocol.Event]:
    """By the row's state. A question or an end comes after the `turn_start` of that state, in one batch."""
    if turn.state == TurnState.RUNNING:
        return []
    message = shapes.message_of(Message.objects.get(id=turn.input))
    if turn.state == TurnState.QUEUED:
        return [
            protocol.MessageEvent(message=message),
            protocol.TurnQueued(turn=str(turn.id), message=message, place=_place(turn)),
        ]
    if turn.state == TurnState.WAITING:
        question = turn.questions.filter(action="").first()
        if question is None:  # answered since the row was read: that tells itself
            return []
        return [shapes.turn_start(turn, message, turn.parts), shapes.question_of(question)]
    answer = Message.objects.get(id=turn.answer)
    return [shapes.turn_start(turn, message, answer.parts), shapes.turn_end(turn, answer)]


def standing(order: RunOrder) -> tuple[str, list[protocol.Event]] | None:
    """The turn's state for a writer who was told of a new epoch, and the event that state owes.

    Null where the turn is not this attempt's any more.
    """
    turn = Turn.objects.select_related("version").get(id=order.turn)
    if turn.attempt != order.attempt:
        return None
    if turn.state == TurnState.RUNNING:
        return turn.state, []
    return turn.state, _events_owed(turn)


def _place(turn: Turn) -> int:
    before = Turn.objects.filter(chat_id=turn.chat_id, state=TurnState.QUEUED, number__lt=turn.number)
    return before.count() + 1
