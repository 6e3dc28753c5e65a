"""Turns are stopped: one by its user, all of a deleted flow."""

from django.conf import settings

from chat.models import Turn
from chat.turns.canonical import hash_of
from chat.turns.orders import Outcome
from chat.turns.states import ACTIVE, UNENDED, TurnState
from chat.turns.store import moves, owing, rows
from streams.database import now as database_now
from streams.errors import WireError


def stop(chat_id: str, user: int, command: str, turn_id: str | None, worker: str | None) -> Outcome:
    """End a queued or waiting turn, or tell the running one.

    Raises WireError chat_not_found, turn_not_running, id_conflict, and busy where the turn that waits behind it
    would be one too many.
    """
    chat = rows.lock(chat_id)
    if chat is None or chat.deleted or chat.user_id != user:
        raise WireError("chat_not_found")
    body_hash = hash_of(["stop", turn_id])
    repeated = rows.repeat_of(chat.id, command, body_hash)
    if repeated is not None:
        return Outcome(reply=repeated)
    if turn_id:
        turn = chat.turns.filter(id=turn_id).first()
    else:
        turn = chat.turns.filter(state__in=ACTIVE, background=False).first()
    if turn is None or turn.state not in UNENDED:
        raise WireError("turn_not_running")
    if turn.state == TurnState.WAITING and rows.queued(chat):  # the next one begins to run
        moves.check_room(user)
    at = database_now()
    outcome = Outcome(reply={"turn": str(turn.id)})
    if turn.state == TurnState.RUNNING:
        moves.mark_stop(turn, at, outcome)
    else:
        was_queued = turn.state == TurnState.QUEUED
        moves.end(turn, chat, TurnState.STOPPED, at, outcome, owes=worker, runs=worker, parts=turn.parts)
        if was_queued:
            for other in chat.turns.filter(state=TurnState.QUEUED, number__gt=turn.number):
                owing.owe(other, worker, outcome)
                other.save(update_fields=["owes", "told", "rev"])
        rows.save(chat)
    rows.keep_command(chat.id, command, body_hash, outcome.reply, at)
    owing.show_in_lists(chat, owing.active_state(chat), outcome)
    return outcome


def end_turns_of_flow(flow_id: str, worker: str | None) -> list[tuple[str, Outcome]]:
    """A deleted flow's unended turns end or are told to stop. So many chats at once; call until none comes."""
    chats = (
        Turn.objects.filter(chat__flow_id=flow_id, chat__flow__deleted=True, state__in=UNENDED, stop_at=None)
        .values_list("chat_id", flat=True)
        .order_by("chat_id")  # in which order all who do this lock them
        .distinct()[: settings.HEADRACE.chats_ended_at_once]
    )
    outcomes = []
    for chat_id in list(chats):
        chat = rows.lock(str(chat_id))
        outcome = Outcome()
        moves.end_all(chat, worker, outcome)
        rows.save(chat)
        outcomes.append((str(chat_id), outcome))
    return outcomes
