"""The moves of a turn, each one function, whoever makes it: it starts, runs on, ends, and the next one begins.

And whether there is room for one more that runs.
"""

from datetime import datetime
from typing import Any

import msgspec
from django.conf import settings

from chat import protocol, shapes
from chat.models import Chat, Message, Question, Turn
from chat.turns.orders import Outcome
from chat.turns.states import UNENDED, TurnState, can_move
from chat.turns.store import ordering, owing, rows
from streams.clock import stamp
from streams.database import now as database_now
from streams.errors import WireError
from streams.prepared import Select, insert

_RUNNING_OF = Select(lambda user: Turn.objects.filter(user_id=user, state=TurnState.RUNNING.value).only("id"), int)


def move(turn: Turn, state: str) -> None:
    before = TurnState(turn.state)
    if not can_move(before, TurnState(state)):
        raise ValueError(f"a turn cannot move from {before} to {state}")
    turn.state = TurnState(state).value


def start(turn: Turn, chat: Chat, message: Message, worker: str | None, at: datetime) -> None:
    """The turn's first run: attempt 1, the world as it is now, the head on what is being answered."""
    move(turn, TurnState.RUNNING)
    turn.worker = rows.uuid_or_none(worker)
    turn.attempt = 1
    turn.running_at = at
    turn.inputs = turn.inputs | {"now": stamp(at), "vars": chat.vars}
    turn.told = True
    turn.rev += 1
    is_regenerated = message.turn != turn.id
    chat.head = turn.answer if is_regenerated else message.id


def answered(
    chat: Chat,
    question: Question,
    action: str,
    value: Any,
    label: str,
    user: int | None,
    worker: str | None,
    at: datetime,
) -> Outcome:
    question.action, question.value, question.label = action, value, label
    question.answered_by_id, question.answered_at = user, at
    question.save()
    turn = question.turn
    turn.parts = [shapes.question_part(question) if part["id"] == question.part else part for part in turn.parts]
    move(turn, TurnState.RUNNING)
    turn.worker = rows.uuid_or_none(worker)
    turn.attempt += 1
    turn.running_at = at
    turn.told = True
    turn.rev += 1
    rows.save_turn(turn)
    outcome = Outcome(is_released=not worker)
    owing.show_in_lists(chat, TurnState.RUNNING, outcome)
    if worker:
        told = protocol.Answered(
            turn=str(turn.id),
            question=str(question.id),
            action=action,
            value=None if question.secret else value,
            by=None if user is None else str(user),
        )
        message = chat.messages.get(id=turn.input)
        outcome.run = msgspec.structs.replace(ordering.order_of(turn, chat, message), answered=told)
    return outcome


def end(
    turn: Turn,
    chat: Chat,
    state: str,
    at: datetime,
    outcome: Outcome,
    *,
    owes: str | None,
    parts: list[dict] | None = None,
    promotes: bool = True,
    runs: str | None = None,
) -> Message:
    """The one end of a turn: state, stored answer, head, what is owed, and the next queued one.

    `owes`: the worker that tells it. `runs`: who runs the next turn; null: a sweep finds who can.
    """
    has_run = turn.attempt > 0
    if turn.state == TurnState.WAITING:
        turn.questions.filter(action="").update(action="cancel")
    move(turn, state)
    turn.ended_at = at
    turn.worker = None
    turn.parts = []  # they are the answer's now
    outcome.ended.append((state, turn.error["code"] if turn.error else ""))
    owing.owe(turn, owes, outcome)
    rows.save_turn(turn)
    message = Message(
        id=turn.answer,
        chat=chat,
        parent=turn.input,
        role=Message.Role.ASSISTANT,
        parts=parts or [],
        search_text=shapes.search_text(parts or []),
        turn=turn.id,
        status=state,
        created=at,
    )
    insert(message)
    if has_run:
        if chat.head in (turn.input, turn.answer):  # else another branch was chosen meanwhile, and stays
            chat.head = turn.answer
        if promotes:
            promote(chat, at, outcome, owes=owes, runs=runs)
    return message


def promote(chat: Chat, at: datetime, outcome: Outcome, *, owes: str | None, runs: str | None) -> None:
    """The next queued turn becomes the running one; those behind it hear their new place."""
    queued = rows.queued(chat)
    if not queued or chat.deleted:
        return
    outcome.has_next = True
    turn, *rest = queued
    message = chat.messages.get(id=turn.input)
    start(turn, chat, message, runs, at)
    rows.save_turn(turn)
    outcome.owed = [owed for owed in outcome.owed if owed != str(turn.id)]
    if runs:
        outcome.run = ordering.order_of(turn, chat, message)
    outcome.is_released = not runs
    for other in rest:
        owing.owe(other, owes, outcome)
        other.save(update_fields=["owes", "told", "rev"])


def end_all(chat: Chat, worker: str | None, outcome: Outcome) -> None:
    at = database_now()
    for turn in chat.turns.filter(state__in=UNENDED).order_by("-number"):
        if turn.state == TurnState.RUNNING:
            mark_stop(turn, at, outcome)
        else:
            end(turn, chat, TurnState.STOPPED, at, outcome, owes=worker, parts=turn.parts, promotes=False)


def mark_stop(turn: Turn, at: datetime, outcome: Outcome) -> None:
    Turn.objects.filter(id=turn.id, stop_at=None).update(stop_at=at)
    outcome.stops.append(str(turn.id))


def check_room(user: int, worker_has_room: bool = True) -> None:
    """Raises WireError busy where one turn more would be over the bound of the user or of the worker."""
    if not worker_has_room or not has_room(user):
        raise WireError("busy", retry_after=1)


def has_room(user: int) -> bool:
    return len(_RUNNING_OF.all(user)) < settings.HEADRACE.turns_per_user


def ran_ms(turn: Turn, at: datetime) -> int:
    """How long its present run has run."""
    return max(0, int((at - turn.running_at).total_seconds() * 1000))
