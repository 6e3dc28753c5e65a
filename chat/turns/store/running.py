"""A run of a turn: taken up where nobody runs it, and what a run writes of its own: steps, its release, its end."""

import uuid
from typing import Any

import msgspec
from django.conf import settings

from chat import protocol, shapes
from chat.models import Message, Turn
from chat.turns.orders import Fenced, Outcome, PendingStep, RunOrder
from chat.turns.states import TurnState
from chat.turns.store import moves, ordering, owing, rows, spending
from streams.clock import stamp
from streams.database import now as database_now
from streams.prepared import update


def claim(turn_id: str, chat_id: str, attempt: int, seen_worker: str | None, worker: str, is_lost: bool) -> Outcome:
    """Take a running turn that nobody runs, by compare-and-set on what the sweep saw."""
    chat = rows.lock(chat_id)
    turn = Turn.objects.select_related("version").get(id=turn_id)
    if turn.state != TurnState.RUNNING or turn.attempt != attempt or turn.worker != rows.uuid_or_none(seen_worker):
        return Outcome()
    at = database_now()
    turn.attempt += 1
    if is_lost:  # a released turn's time was counted when it was given back
        turn.takeovers += 1
        turn.ran_ms += moves.ran_ms(turn, at)
    turn.worker = uuid.UUID(worker)
    turn.running_at = at
    if "now" not in turn.inputs:
        turn.inputs = turn.inputs | {"now": stamp(at), "vars": chat.vars}
    rows.save_turn(turn)
    fate = None
    if turn.stop_at or chat.deleted:
        fate = "stopped"
    elif turn.takeovers > settings.HEADRACE.max_takeovers:
        fate = "worker_lost"
    message = chat.messages.get(id=turn.input)
    order = ordering.order_of(turn, chat, message, is_titled=not chat.told)
    return Outcome(run=msgspec.structs.replace(order, fate=fate, is_resumed=True), is_takeover=is_lost)


def keep_steps(order: RunOrder, steps: list[PendingStep], usage: dict | None) -> None:
    """Raises Fenced."""
    chat, turn = rows.own(order)
    rows.save_steps(turn, steps)
    spending.use(turn, chat, usage, database_now())
    update(turn, "usage")


def release(
    order: RunOrder, parts: list[dict], steps: list[PendingStep], usage: dict | None, nodes: list[dict] | None = None
) -> None:
    """The run gives its turn back, whole parts kept; a sweep takes it. Once, however often asked. Raises Fenced."""
    chat, turn = rows.own(order)
    if turn.worker is None:
        return
    at = database_now()
    rows.save_steps(turn, steps)
    spending.use(turn, chat, usage, at)
    turn.ran_ms += moves.ran_ms(turn, at)
    turn.worker, turn.parts = None, parts
    turn.nodes = turn.nodes if nodes is None else nodes
    rows.save_turn(turn)


def finish(
    order: RunOrder,
    state: str,
    parts: list[dict],
    *,
    data: Any = None,
    usage: dict | None = None,
    error: dict | None = None,
    nodes: list[dict] | None = None,
    new_vars: dict | None = None,
    first_token_ms: int | None = None,
    next_worker: str | None = None,
) -> tuple[protocol.TurnEnd, Outcome, int]:
    """The end of a run: its `turn_end`, what follows, and the row's rev. Raises Fenced.

    A finish whose reply was lost finds its own end and answers the same again.
    """
    chat = rows.lock(order.chat)
    turn = rows.turn_of(order)
    outcome = Outcome()
    if turn.attempt != order.attempt or turn.state not in (TurnState.RUNNING, state):
        raise Fenced
    if turn.state == TurnState.RUNNING:
        at = database_now()
        spending.use(turn, chat, usage, at)
        turn.data, turn.error = data, error
        turn.nodes = turn.nodes if nodes is None else nodes
        turn.first_token_ms = first_token_ms
        if new_vars is not None and state == TurnState.DONE:
            chat.vars = new_vars
        # The run tells its own end, so the row owes it to this worker until that append is confirmed.
        owner = str(turn.worker) if turn.worker else None
        message = moves.end(turn, chat, state, at, outcome, owes=owner, runs=next_worker, parts=parts)
        rows.save(chat)
        owing.show_in_lists(chat, TurnState.RUNNING if outcome.has_next else None, outcome)
    else:
        message = Message.objects.get(id=turn.answer)
    outcome.owed = [owed for owed in outcome.owed if owed != order.turn]
    return shapes.turn_end(turn, message), outcome, turn.rev
