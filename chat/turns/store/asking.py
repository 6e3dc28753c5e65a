"""A turn asks its user and waits; the answer, or its expiry, lets it run on or ends it."""

from datetime import timedelta
from typing import Any

import msgspec

from accounts import spend
from chat import shapes
from chat.models import Question
from chat.turns import questions
from chat.turns.canonical import hash_of
from chat.turns.orders import Asked, Outcome, PendingStep, RunOrder
from chat.turns.states import TurnState
from chat.turns.store import moves, owing, rows, spending
from streams.database import now as database_now
from streams.errors import WireError
from streams.prepared import insert


def ask(
    order: RunOrder,
    asked: Asked,
    parts: list[dict],
    steps: list[PendingStep],
    usage: dict | None,
    nodes: list[dict] | None = None,
) -> tuple[Question | None, Outcome]:
    """The turn waits. No question where it was told to stop meanwhile: then it has ended. Raises Fenced."""
    chat, turn = rows.own(order)
    at = database_now()
    rows.save_steps(turn, steps)
    spending.use(turn, chat, usage, at)
    turn.nodes = turn.nodes if nodes is None else nodes
    outcome = Outcome()
    if turn.stop_at or chat.deleted:
        owner = str(turn.worker)
        moves.end(turn, chat, TurnState.STOPPED, at, outcome, owes=owner, runs=owner, parts=parts)
        rows.save(chat)
        owing.show_in_lists(chat, owing.active_state(chat), outcome)
        return None, outcome
    question = Question(
        turn=turn,
        key=asked.key,
        part=asked.part,
        text=asked.text,
        options=asked.options,
        schema=asked.schema,
        secret=asked.secret,
        expires=at + timedelta(seconds=asked.expires_s),
        default=asked.default,
        on_expiry=asked.on_expiry,
    )
    insert(question)
    moves.move(turn, TurnState.WAITING)
    turn.parts = [*parts, shapes.question_part(question)]
    turn.ran_ms += moves.ran_ms(turn, at)
    owes, turn.worker = turn.worker, None
    turn.owes, turn.told, turn.rev = owes, False, turn.rev + 1
    rows.save_turn(turn)
    owing.show_in_lists(chat, TurnState.WAITING, outcome)
    return question, outcome


def answer(
    chat_id: str,
    user: int,
    command: str,
    question_id: str,
    action: str,
    value: Any,
    worker: str | None,
    has_room: bool = True,
) -> Outcome:
    """The first answer wins and the turn runs on. Over a bound or a budget nothing is stored.

    Raises WireError chat_not_found, question_not_found, question_closed, question_expired, invalid_answer, busy,
    quota_exceeded, id_conflict.
    """
    chat = rows.lock(chat_id)
    if chat is None or chat.deleted or chat.user_id != user:
        raise WireError("chat_not_found")
    body_hash = hash_of(["answer", question_id, action, value])
    repeated = rows.repeat_of(chat.id, command, body_hash)
    if repeated is not None:
        return Outcome(reply=repeated)
    question = Question.objects.select_related("turn").filter(id=question_id, turn__chat=chat).first()
    if question is None:
        raise WireError("question_not_found")
    if question.action == "expire":
        raise WireError("question_expired")
    if question.action or question.turn.state != TurnState.WAITING:
        raise WireError("question_closed")
    at = database_now()
    if question.expires <= at:
        raise WireError("question_expired")
    value, label = questions.checked(question.options, question.schema, action, value)
    moves.check_room(user, has_room)
    spend.check(spending.spender(question.turn, chat), at)
    outcome = moves.answered(chat, question, action, value, label, user, worker, at)
    outcome.reply = {"question": str(question.id), "turn": str(question.turn_id)}
    rows.keep_command(chat.id, command, body_hash, outcome.reply, at)
    return outcome


def expire(chat_id: str, question_id: str, worker: str | None) -> Outcome:
    """Nobody answered: the default is the answer, or the branch `expired` is taken, or the turn ends."""
    chat = rows.lock(chat_id)
    question = Question.objects.select_related("turn").get(id=question_id)
    if chat is None or question.action or question.turn.state != TurnState.WAITING:
        return Outcome()
    if not moves.has_room(chat.user_id):  # it runs on, or the next one does: put off until it may
        return Outcome()
    at = database_now()
    if question.on_expiry == Question.OnExpiry.DEFAULT:
        label = questions.label_of(question.options, question.default)
        return moves.answered(chat, question, "accept", question.default, label, None, worker, at)
    if question.on_expiry == Question.OnExpiry.BRANCH:
        return moves.answered(chat, question, "expire", None, "", None, worker, at)
    question.action = "expire"
    question.save()
    outcome = Outcome()
    turn = question.turn
    turn.error = msgspec.to_builtins(shapes.fault_of(WireError("question_expired"), chat.locale))
    moves.end(turn, chat, TurnState.ERROR, at, outcome, owes=worker, runs=worker, parts=turn.parts)
    rows.save(chat)
    owing.show_in_lists(chat, owing.active_state(chat), outcome)
    return outcome
