"""Every transaction on chats and turns: one function each, called through `streams.database.write`.

The database is the arbiter. What begins, ends, stops, asks or answers locks the chat's row first and reads
`deleted` under it; one function ends a turn, whoever calls it. What clients must hear of it is owed by the row.
"""

import uuid
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models import TextField
from django.db.models.functions import Cast

from accounts import rights, spend, tokens
from accounts.models import User
from chat import protocol, shapes
from chat.models import Chat, Command, File, Message, Question, Step, Turn
from chat.turns import questions, reads
from chat.turns.canonical import hash_of
from chat.turns.orders import Asked, Begin, Kept, Outcome, PendingStep, RunOrder
from chat.turns.states import ACTIVE, UNENDED, TurnState, can_move
from flows import graph
from flows import store as flow_store
from flows.models import Flow, FlowVersion
from streams.clock import stamp
from streams.database import now as database_now
from streams.errors import WireError
from streams.prepared import Select, insert, update

TITLE_CHARS_OF_TEXT = 60  # of the title that a chat has until it is given one
TOLD_AT_ONCE = 500

# On the way of every message: compiled once. What a flow's row weighs (draft, graph) is left where it is.
_LIGHT = ("flow__draft", "flow__published__graph")
_CHAT = Select(
    lambda id: (
        Chat.objects.select_for_update(of=("self",)).select_related("flow__published").defer(*_LIGHT).filter(id=id)
    ),
    uuid.UUID,
)
_FLOW = Select(
    lambda id: Flow.objects.select_related("published").defer("draft", "published__graph").filter(id=id), uuid.UUID
)
_TURN = Select(lambda id: Turn.objects.filter(id=id), uuid.UUID)
_UNENDED = Select(
    lambda chat: Turn.objects.filter(chat_id=chat, state__in=sorted(UNENDED), background=False).order_by("number"),
    uuid.UUID,
)
_QUEUED = Select(
    lambda chat: (
        Turn.objects.filter(chat_id=chat, state=TurnState.QUEUED.value)
        .order_by("number")
        .select_related("version")
        .defer("version__graph")
    ),
    uuid.UUID,
)
_RUNNING_OF = Select(lambda user: Turn.objects.filter(user_id=user, state=TurnState.RUNNING.value).only("id"), int)
_COMMAND = Select(lambda scope, command: Command.objects.filter(scope=scope, command=command), uuid.UUID, str)


class Fenced(Exception):
    """The turn is not this attempt's any more: whoever wrote must fall silent."""


# ------------------------------------------------------------------------------------------------ begin


def begin_turn(begin: Begin) -> Outcome:
    """Accept a message: its row, its turn, running or queued. Committed means accepted.

    A repeat is found before anything is judged, by the body as it came: whatever was published, hidden or switched
    off since, it answers the same. What is refused keeps nothing, so that the same id may be tried again.
    Raises WireError chat_not_found, message_not_found, flow_not_found, forbidden, flow_offline, validation_error,
    turn_running, queue_full, busy, quota_exceeded, id_conflict.
    """
    body_hash = hash_of([begin.act, begin.text, begin.params, begin.files, begin.parent, begin.message])
    chat, is_new = _chat_for(begin)
    if not is_new and (repeated := _repeat_of(chat.id, begin.command, body_hash)) is not None:
        return Outcome(reply=repeated)
    at = database_now()
    active, queued = (None, []) if is_new else _unended(chat)
    if active and active.state == TurnState.WAITING and begin.act == "say":
        answered = _answer_by_say(begin, chat, active, at, body_hash)
        if answered:
            return answered
    _check_rights(begin, chat)
    version = _version_for(begin, chat)
    params = _params_for(begin, chat, version)
    policy = chat.flow.double_text if chat.flow else Flow.DoubleText.QUEUE
    if active or queued:
        _admit_behind(policy, active, queued)
    if active is None or active.state == TurnState.WAITING:  # this turn begins to run, or the first in the queue does
        _check_room(begin.user, begin.has_room)
    spend.check(spend.Spender(begin.user, _uuid(begin.key), chat.flow_id), at)

    outcome = Outcome()
    message = _input_of(begin, chat, active, queued, at, policy)
    turn = _new_turn(begin, chat, message, version, params, at)
    chat.last_number, chat.last_turn_at = turn.number, at
    chat.locale = chat.locale or begin.locale
    if begin.text and not chat.title:
        _entitle(chat, _title(begin.text))
        chat.rev += 1
        _owe_chat(chat, begin.worker, outcome)
    runs_now = not active and not queued
    if runs_now:
        _start(turn, chat, message, begin.worker, at)
    else:
        _owe(turn, begin.worker, outcome)
    if is_new:
        _save_new(chat)
    if message.turn == turn.id:
        insert(message)
    insert(turn)
    if not runs_now:
        _make_way(policy, chat, active, queued, begin.worker, at, outcome)
        turn.refresh_from_db()
    if not is_new:
        _save(chat)

    outcome.reply = {
        "message": str(message.id),
        "turn": str(turn.id),
        "answer": str(turn.answer),
        "queued": turn.state == TurnState.QUEUED,
    }
    _keep_command(chat.id, begin.command, body_hash, outcome.reply, at)
    if runs_now and begin.worker:
        outcome.run = _order(turn, chat, message, is_titled=outcome.owes_chat)
    if runs_now:
        outcome.is_released = not begin.worker
        outcome.owes_chat = False  # the run tells it along with its own events, here or where it is claimed
    _list(chat, TurnState.RUNNING if runs_now else _active_state(chat), outcome)
    return outcome


def _chat_for(begin: Begin) -> tuple[Chat, bool]:
    """The chat's row, locked; made, not yet saved, by the first say. Another user's or flow's chat is not found."""
    chat = _lock(begin.chat)
    if chat is None and begin.act == "say":
        flow = _FLOW.one(uuid.UUID(begin.flow))
        if flow is None:
            raise WireError("flow_not_found")
        fresh = Chat(
            id=uuid.UUID(begin.chat),
            kind=begin.kind,
            user_id=begin.user,
            flow=flow,
            graph=begin.graph if begin.kind == Chat.Kind.DEBUG else None,
            locale=begin.locale,
        )
        return fresh, True
    if chat is None or chat.deleted or chat.user_id != begin.user or str(chat.flow_id) != begin.flow:
        raise WireError("chat_not_found")
    return chat, False


def _save_new(chat: Chat) -> None:
    """Raises OperationalError where another socket's first say was quicker: the bridge then repeats the whole."""
    if connection.vendor == "sqlite":  # its transactions exclude each other
        insert(chat)
        return
    try:
        with transaction.atomic():
            insert(chat)
    except IntegrityError as error:
        raise OperationalError("the chat was made meanwhile") from error


def _unended(chat: Chat) -> tuple[Turn | None, list[Turn]]:
    """The running or waiting turn, and the queued ones in their order."""
    turns = _UNENDED.all(chat.id)
    active = next((turn for turn in turns if turn.state in ACTIVE), None)
    return active, [turn for turn in turns if turn.state == TurnState.QUEUED]


def _new_turn(
    begin: Begin, chat: Chat, message: Message, version: FlowVersion | None, params: dict[str, Any], at: datetime
) -> Turn:
    """The turn, queued as yet; a fresh message becomes its own."""
    turn = Turn(
        chat=chat,
        user_id=chat.user_id,
        key=_uuid(begin.key),
        number=chat.last_number + 1,
        input=message.id,
        version=version,
        skill=begin.skill,
        params=params,
        inputs={"user": {"id": str(begin.user), "name": begin.user_name}, "locale": chat.locale or begin.locale},
        created=at,
    )
    if message.turn is None:
        message.turn = turn.id
        message.parts = shapes.user_message_parts(turn.number, begin.text, _files(begin, chat))
        message.search_text = shapes.search_text(message.parts)
    return turn


def _files(begin: Begin, chat: Chat) -> list[dict[str, Any]]:
    """The files that a message names; an edited one keeps those of its original. Raises WireError file_not_found."""
    if begin.act == "edit":
        return shapes.files_of(_message(chat, begin.message).parts)
    wanted = list(dict.fromkeys(uuid.UUID(file) for file in begin.files))
    if not wanted:
        return []
    mine = File.objects.select_for_update().filter(id__in=wanted, user_id=begin.user, ready=True).defer("text")
    rows = {row.id: row for row in mine}
    if len(rows) != len(wanted):
        raise WireError("file_not_found", field="files")
    File.objects.filter(id__in=wanted).update(named=True)
    return [shapes.file_data(rows[file]) for file in wanted]


def _check_rights(begin: Begin, chat: Chat) -> None:
    """Whether he may still talk here: a socket may be older than a group he left. Raises flow_not_found, forbidden."""
    flow = chat.flow
    if flow is None or flow.deleted:
        raise WireError("flow_not_found")
    is_debug = chat.kind == Chat.Kind.DEBUG or begin.version is not None
    if flow.owner_id == begin.user or (flow.visibility == Flow.Visibility.EVERYONE and not is_debug):
        return  # no row of his says otherwise
    speaker = tokens.identity_of(User.objects.get(id=begin.user))
    if not rights.can_chat(speaker, flow):
        raise WireError("flow_not_found")
    if is_debug and not rights.can_edit(speaker, flow):
        raise WireError("forbidden")


def _version_for(begin: Begin, chat: Chat) -> FlowVersion | None:
    """What the turn will run. Raises WireError flow_offline."""
    if begin.version:
        return FlowVersion.objects.filter(id=begin.version, flow_id=chat.flow_id).defer("graph").first()
    if chat.kind == Chat.Kind.DEBUG:
        return None
    flow = chat.flow
    if flow.status != Flow.Status.ONLINE or flow.published_id is None:
        raise WireError("flow_offline")
    return flow.published


def _params_for(begin: Begin, chat: Chat, version: FlowVersion | None) -> dict[str, Any]:
    """By the schema of what the turn will run. Raises WireError validation_error."""
    schema = flow_store.params_of(version.id) if version else graph.start_fields(chat.graph or {}).get("params")
    if begin.act == "say":
        return questions.checked_params(schema, begin.params)
    turn = _message(chat, begin.message).turn  # what came with the message that is answered or said anew
    params = chat.turns.values_list("params", flat=True).get(id=turn) if turn else {}
    return questions.fitting_params(schema, params)


def _check_room(user: int, worker_has_room: bool = True) -> None:
    """Raises WireError busy where one turn more would be over the bound of the user or of the worker."""
    if not worker_has_room or not _has_room(user):
        raise WireError("busy", retry_after=1)


def _has_room(user: int) -> bool:
    return len(_RUNNING_OF.all(user)) < settings.HEADRACE.turns_per_user


def _admit_behind(policy: str, active: Turn | None, queued: list[Turn]) -> None:
    if policy == Flow.DoubleText.REJECT:
        raise WireError("turn_running")
    makes_room = 1 if active and active.state == TurnState.WAITING else 0
    if policy == Flow.DoubleText.QUEUE and len(queued) - makes_room >= settings.HEADRACE.queue_length:
        raise WireError("queue_full", retry_after=5)


def _input_of(begin: Begin, chat: Chat, active: Turn | None, queued: list[Turn], at: datetime, policy: str) -> Message:
    """The user's message that the turn answers; a new one has no turn as yet."""
    if begin.act == "regenerate":
        target = _message(chat, begin.message)
        if target.role == Message.Role.ASSISTANT:
            target = _message(chat, target.parent)
        if target.role != Message.Role.USER:
            raise WireError("message_not_found")
        return target
    if begin.act == "edit":
        parent = _message(chat, begin.message, role=Message.Role.USER).parent
    elif begin.parent:
        parent = _parent(chat, begin.parent)
    elif queued and policy != Flow.DoubleText.INTERRUPT:
        parent = queued[-1].answer
    else:
        parent = active.answer if active else chat.head
    return Message(chat=chat, parent=parent, role=Message.Role.USER, client_id=begin.command, created=at)


def _message(chat: Chat, message: Any, role: str | None = None) -> Message:
    row = chat.messages.filter(id=message).first() if message else None
    if row is None or (role and row.role != role):
        raise WireError("message_not_found")
    return row


def _parent(chat: Chat, parent: str) -> uuid.UUID:
    """A message of the chat, or the answer to be of one of its turns."""
    found = chat.messages.filter(id=parent).exists() or chat.turns.filter(answer=parent).exists()
    if not found:
        raise WireError("message_not_found")
    return uuid.UUID(parent)


def _make_way(
    policy: str,
    chat: Chat,
    active: Turn | None,
    queued: list[Turn],
    worker: str | None,
    at: datetime,
    outcome: Outcome,
) -> None:
    """What stands before a new turn: a waiting one ends; `interrupt` ends the queue and stops the running one."""
    if policy == Flow.DoubleText.INTERRUPT:
        for other in queued:
            _end(other, chat, TurnState.STOPPED, at, outcome, owes=worker, promotes=False)
        if active and active.state == TurnState.RUNNING:
            _mark_stop(active, at, outcome)
    if active and active.state == TurnState.WAITING:
        _end(active, chat, TurnState.STOPPED, at, outcome, owes=worker, runs=worker, parts=active.parts)
    elif active is None:
        _promote(chat, at, outcome, owes=worker, runs=worker)


def _start(turn: Turn, chat: Chat, message: Message, worker: str | None, at: datetime) -> None:
    """The turn's first run: attempt 1, the world as it is now, the head on what is being answered."""
    _move(turn, TurnState.RUNNING)
    turn.worker = _uuid(worker)
    turn.attempt = 1
    turn.running_at = at
    turn.inputs = turn.inputs | {"now": stamp(at), "vars": chat.vars}
    turn.told = True
    turn.rev += 1
    is_regenerated = message.turn != turn.id
    chat.head = turn.answer if is_regenerated else message.id


def _promote(chat: Chat, at: datetime, outcome: Outcome, *, owes: str | None, runs: str | None) -> None:
    """The next queued turn becomes the running one; those behind it hear their new place."""
    queued = _QUEUED.all(chat.id)
    if not queued or chat.deleted:
        return
    outcome.has_next = True
    turn, *rest = queued
    message = chat.messages.get(id=turn.input)
    _start(turn, chat, message, runs, at)
    _save_turn(turn)
    outcome.owed = [owed for owed in outcome.owed if owed != str(turn.id)]
    if runs:
        outcome.run = _order(turn, chat, message)
    outcome.is_released = not runs
    for other in rest:
        _owe(other, owes, outcome)
        other.save(update_fields=["owes", "told", "rev"])


# ------------------------------------------------------------------------------------------- ask, answer


def ask(
    order: RunOrder,
    asked: Asked,
    parts: list[dict],
    steps: list[PendingStep],
    usage: dict | None,
    nodes: list[dict] | None = None,
) -> tuple[Question | None, Outcome]:
    """The turn waits. No question where it was told to stop meanwhile: then it has ended. Raises Fenced."""
    chat, turn = _own(order)
    at = database_now()
    _save_steps(turn, steps)
    _use(turn, chat, usage, at)
    turn.nodes = turn.nodes if nodes is None else nodes
    outcome = Outcome()
    if turn.stop_at or chat.deleted:
        owner = str(turn.worker)
        _end(turn, chat, TurnState.STOPPED, at, outcome, owes=owner, runs=owner, parts=parts)
        _save(chat)
        _list(chat, _active_state(chat), outcome)
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
    _move(turn, TurnState.WAITING)
    turn.parts = [*parts, shapes.question_part(question)]
    turn.ran_ms += _ms(at - turn.running_at)
    owes, turn.worker = turn.worker, None
    turn.owes, turn.told, turn.rev = owes, False, turn.rev + 1
    _save_turn(turn)
    _list(chat, TurnState.WAITING, outcome)
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
    chat = _lock(chat_id)
    if chat is None or chat.deleted or chat.user_id != user:
        raise WireError("chat_not_found")
    body_hash = hash_of(["answer", question_id, action, value])
    repeated = _repeat_of(chat.id, command, body_hash)
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
    _check_room(user, has_room)
    spend.check(_spender(question.turn, chat), at)
    outcome = _answered(chat, question, action, value, label, user, worker, at)
    outcome.reply = {"question": str(question.id), "turn": str(question.turn_id)}
    _keep_command(chat.id, command, body_hash, outcome.reply, at)
    return outcome


def _answer_by_say(begin: Begin, chat: Chat, turn: Turn, at: datetime, body_hash: str) -> Outcome | None:
    """A plain say that the open question takes is its answer, and no message is stored."""
    if begin.parent or begin.params or begin.files:
        return None
    question = turn.questions.filter(action="").first()
    if question is None or question.expires <= at:
        return None
    match = questions.text_as_answer(question.options, question.schema, begin.text)
    if match is None:
        return None
    question.turn = turn
    _check_room(begin.user, begin.has_room)
    spend.check(_spender(turn, chat), at)
    outcome = _answered(chat, question, "accept", match[0], match[1], begin.user, begin.worker, at)
    outcome.reply = {"question": str(question.id), "turn": str(turn.id)}
    _keep_command(chat.id, begin.command, body_hash, outcome.reply, at)
    return outcome


def _answered(
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
    _move(turn, TurnState.RUNNING)
    turn.worker = _uuid(worker)
    turn.attempt += 1
    turn.running_at = at
    turn.told = True
    turn.rev += 1
    _save_turn(turn)
    outcome = Outcome(is_released=not worker)
    _list(chat, TurnState.RUNNING, outcome)
    if worker:
        told = protocol.Answered(
            turn=str(turn.id),
            question=str(question.id),
            action=action,
            value=None if question.secret else value,
            by=None if user is None else str(user),
        )
        message = chat.messages.get(id=turn.input)
        outcome.run = msgspec.structs.replace(_order(turn, chat, message), answered=told)
    return outcome


def expire(chat_id: str, question_id: str, worker: str | None) -> Outcome:
    """Nobody answered: the default is the answer, or the branch `expired` is taken, or the turn ends."""
    chat = _lock(chat_id)
    question = Question.objects.select_related("turn").get(id=question_id)
    if chat is None or question.action or question.turn.state != TurnState.WAITING:
        return Outcome()
    if not _has_room(chat.user_id):  # it runs on, or the next one does: put off until it may
        return Outcome()
    at = database_now()
    if question.on_expiry == Question.OnExpiry.DEFAULT:
        label = questions.label_of(question.options, question.default)
        return _answered(chat, question, "accept", question.default, label, None, worker, at)
    if question.on_expiry == Question.OnExpiry.BRANCH:
        return _answered(chat, question, "expire", None, "", None, worker, at)
    question.action = "expire"
    question.save()
    outcome = Outcome()
    turn = question.turn
    turn.error = msgspec.to_builtins(shapes.fault_of(WireError("question_expired"), chat.locale))
    _end(turn, chat, TurnState.ERROR, at, outcome, owes=worker, runs=worker, parts=turn.parts)
    _save(chat)
    _list(chat, _active_state(chat), outcome)
    return outcome


# -------------------------------------------------------------------------------------- a run's own writes


def keep_steps(order: RunOrder, steps: list[PendingStep], usage: dict | None) -> None:
    """Raises Fenced."""
    chat, turn = _own(order)
    _save_steps(turn, steps)
    _use(turn, chat, usage, database_now())
    update(turn, "usage")


def release(
    order: RunOrder, parts: list[dict], steps: list[PendingStep], usage: dict | None, nodes: list[dict] | None = None
) -> None:
    """The run gives its turn back, whole parts kept; a sweep takes it. Raises Fenced."""
    chat, turn = _own(order)
    at = database_now()
    _save_steps(turn, steps)
    _use(turn, chat, usage, at)
    turn.ran_ms += _ms(at - turn.running_at)
    turn.worker, turn.parts = None, parts
    turn.nodes = turn.nodes if nodes is None else nodes
    _save_turn(turn)


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
    chat = _lock(order.chat)
    turn = _TURN.one(uuid.UUID(order.turn))
    outcome = Outcome()
    if turn.attempt != order.attempt or turn.state not in (TurnState.RUNNING, state):
        raise Fenced
    if turn.state == TurnState.RUNNING:
        at = database_now()
        _use(turn, chat, usage, at)
        turn.data, turn.error = data, error
        turn.nodes = turn.nodes if nodes is None else nodes
        turn.first_token_ms = first_token_ms
        if new_vars is not None and state == TurnState.DONE:
            chat.vars = new_vars
        # The run tells its own end, so the row owes it to this worker until that append is confirmed.
        owner = str(turn.worker) if turn.worker else None
        message = _end(turn, chat, state, at, outcome, owes=owner, runs=next_worker, parts=parts)
        _save(chat)
        _list(chat, TurnState.RUNNING if outcome.has_next else None, outcome)
    else:
        message = Message.objects.get(id=turn.answer)
    outcome.owed = [owed for owed in outcome.owed if owed != order.turn]
    return shapes.turn_end(turn, message), outcome, turn.rev


def _use(turn: Turn, chat: Chat, usage: dict | None, at: datetime) -> None:
    """What a turn's row says that it used has been counted, always: what is written more is counted with it."""
    if usage is None:  # a run that only ends it knows of none
        return
    before = turn.usage or {}
    tokens, cost = (_of(usage) - _of(before) for _of in (_tokens, _cost))
    turn.usage = usage
    spend.count(_spender(turn, chat), tokens, cost, at)


def _tokens(usage: dict) -> int:
    return usage.get("input_tokens", 0) + usage.get("output_tokens", 0)


def _cost(usage: dict) -> int:
    return usage.get("cost_micros", 0)


def _spender(turn: Turn, chat: Chat) -> spend.Spender:
    return spend.Spender(turn.user_id, turn.key, chat.flow_id)


def _end(
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
    _move(turn, state)
    turn.ended_at = at
    turn.worker = None
    turn.parts = []  # they are the answer's now
    outcome.ended.append((state, turn.error["code"] if turn.error else ""))
    _owe(turn, owes, outcome)
    _save_turn(turn)
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
            _promote(chat, at, outcome, owes=owes, runs=runs)
    return message


# ---------------------------------------------------------------------------------------- stop and delete


def stop(chat_id: str, user: int, command: str, turn_id: str | None, worker: str | None) -> Outcome:
    """End a queued or waiting turn, or tell the running one.

    Raises WireError chat_not_found, turn_not_running, id_conflict, and busy where the turn that waits behind it
    would be one too many.
    """
    chat = _lock(chat_id)
    if chat is None or chat.deleted or chat.user_id != user:
        raise WireError("chat_not_found")
    body_hash = hash_of(["stop", turn_id])
    repeated = _repeat_of(chat.id, command, body_hash)
    if repeated is not None:
        return Outcome(reply=repeated)
    if turn_id:
        turn = chat.turns.filter(id=turn_id).first()
    else:
        turn = chat.turns.filter(state__in=ACTIVE, background=False).first()
    if turn is None or turn.state not in UNENDED:
        raise WireError("turn_not_running")
    if turn.state == TurnState.WAITING and _QUEUED.all(chat.id):  # the next one begins to run
        _check_room(user)
    at = database_now()
    outcome = Outcome(reply={"turn": str(turn.id)})
    if turn.state == TurnState.RUNNING:
        _mark_stop(turn, at, outcome)
    else:
        was_queued = turn.state == TurnState.QUEUED
        _end(turn, chat, TurnState.STOPPED, at, outcome, owes=worker, runs=worker, parts=turn.parts)
        if was_queued:
            for other in chat.turns.filter(state=TurnState.QUEUED, number__gt=turn.number):
                _owe(other, worker, outcome)
                other.save(update_fields=["owes", "told", "rev"])
        _save(chat)
    _keep_command(chat.id, command, body_hash, outcome.reply, at)
    _list(chat, _active_state(chat), outcome)
    return outcome


def delete_chat(chat_id: str, user: int, worker: str | None) -> Outcome:
    """Soft and for ever: a resent say must not open it anew. Its turns end."""
    chat = _lock(chat_id)
    if chat is None or chat.deleted or chat.user_id != user:
        raise WireError("not_found")
    outcome = Outcome()
    chat.deleted = True
    chat.rev += 1
    _owe_chat(chat, worker, outcome)
    _end_all(chat, worker, outcome)
    _save(chat)
    _list(chat, None, outcome)
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
        chat = _lock(str(chat_id))
        outcome = Outcome()
        _end_all(chat, worker, outcome)
        _save(chat)
        outcomes.append((str(chat_id), outcome))
    return outcomes


def _end_all(chat: Chat, worker: str | None, outcome: Outcome) -> None:
    at = database_now()
    for turn in chat.turns.filter(state__in=UNENDED).order_by("-number"):
        if turn.state == TurnState.RUNNING:
            _mark_stop(turn, at, outcome)
        else:
            _end(turn, chat, TurnState.STOPPED, at, outcome, owes=worker, parts=turn.parts, promotes=False)


def _mark_stop(turn: Turn, at: datetime, outcome: Outcome) -> None:
    Turn.objects.filter(id=turn.id, stop_at=None).update(stop_at=at)
    outcome.stops.append(str(turn.id))


# ------------------------------------------------------------------------------------------ chats by REST


def create_chat(user: int, flow_id: str, title: str) -> Chat:
    flow = Flow.objects.filter(id=flow_id, deleted=False).first()
    if flow is None:
        raise WireError("flow_not_found")
    if flow.status != Flow.Status.ONLINE:
        raise WireError("flow_offline")
    chat = Chat(user_id=user, flow=flow, rev=1 if title else 0)
    _entitle(chat, title)
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
    chat = _lock(chat_id)
    if chat is None or chat.deleted or chat.user_id != user:
        raise WireError("not_found")
    outcome = Outcome()
    if head is not None:
        chat.head = _message(chat, head).id
    if title is not None:
        _entitle(chat, title)
    if pinned is not None:
        chat.pinned = pinned
    chat.rev += 1
    _owe_chat(chat, worker, outcome)
    _save(chat)
    _list(chat, _active_state(chat), outcome)
    return outcome


def restore_chat(chat_id: str, user: int) -> Outcome:
    """Undo a deletion. What it ended stays ended. Raises WireError not_found."""
    chat = _lock(chat_id)
    if chat is None or chat.user_id != user or chat.kind != Chat.Kind.CHAT:
        raise WireError("not_found")
    outcome = Outcome()
    if chat.deleted:
        chat.deleted = False
        chat.rev += 1
        _save(chat)
        _list(chat, _active_state(chat), outcome)
    return outcome


def set_feedback(message_id: str, user: int, feedback: dict[str, Any] | None) -> None:
    """What a reader thinks of an answer; null takes it back. Raises WireError not_found."""
    answers = Message.objects.filter(id=message_id, chat__user_id=user, chat__deleted=False, role="assistant")
    if not answers.update(feedback=feedback):
        raise WireError("not_found")


# ------------------------------------------------------------------------------------------------ sweep


def claim(turn_id: str, chat_id: str, attempt: int, seen_worker: str | None, worker: str, is_lost: bool) -> Outcome:
    """Take a running turn that nobody runs, by compare-and-set on what the sweep saw."""
    chat = _lock(chat_id)
    turn = Turn.objects.select_related("version").get(id=turn_id)
    if turn.state != TurnState.RUNNING or turn.attempt != attempt or turn.worker != _uuid(seen_worker):
        return Outcome()
    at = database_now()
    turn.attempt += 1
    if is_lost:  # a released turn's time was counted when it was given back
        turn.takeovers += 1
        turn.ran_ms += _ms(at - turn.running_at)
    turn.worker = uuid.UUID(worker)
    turn.running_at = at
    if "now" not in turn.inputs:
        turn.inputs = turn.inputs | {"now": stamp(at), "vars": chat.vars}
    _save_turn(turn)
    fate = None
    if turn.stop_at or chat.deleted:
        fate = "stopped"
    elif turn.takeovers > settings.HEADRACE.max_takeovers:
        fate = "worker_lost"
    message = chat.messages.get(id=turn.input)
    order = _order(turn, chat, message, is_titled=not chat.told)
    return Outcome(run=msgspec.structs.replace(order, fate=fate, is_resumed=True), is_takeover=is_lost)


def purge(chat_id: str) -> bool:
    """A debug or call chat past its day loses its contents; its row stays, deleted. False: it is in use again."""
    chat = _lock(chat_id)
    if chat is None or chat.deleted or not reads.is_past(chat) or chat.turns.filter(state__in=UNENDED).exists():
        return False
    _unname_files(chat)
    chat.turns.all().delete()
    chat.messages.all().delete()
    chat.deleted, chat.graph, chat.vars, chat.head = True, None, {}, None
    _entitle(chat, "")
    chat.rev += 1
    chat.owes, chat.told = None, False
    chat.save()
    return True


def _unname_files(chat: Chat) -> None:
    """What no other message of the user's names goes with the other files that none names."""
    said = chat.messages.filter(role=Message.Role.USER).values_list("parts", flat=True)
    ids = {data["file"] for parts in said for data in shapes.files_of(parts)}
    if not ids:
        return
    others = Message.objects.filter(chat__user_id=chat.user_id, role=Message.Role.USER).exclude(chat=chat)
    others = others.annotate(raw=Cast("parts", TextField()))
    for row in File.objects.select_for_update().filter(id__in=ids).order_by("id").only("id"):  # who names one waits
        if not others.filter(raw__contains=str(row.id)).exists():
            File.objects.filter(id=row.id).update(named=False)


def forget_commands() -> int:
    """Some of those older than a week: who repeats one after that does it anew. Returns how many: 0, no more."""
    old = database_now() - timedelta(days=settings.HEADRACE.command_kept_days)
    rows = Command.objects.filter(created__lt=old).order_by("created")
    ids = list(rows.values_list("id", flat=True)[: settings.HEADRACE.purge_rows])
    Command.objects.filter(id__in=ids).delete()
    return len(ids)


def mark_told(rows: list[tuple[str, str, int]]) -> None:
    """(kind, id, rev) of appended events. A row that owes something newer by now keeps owing it."""
    by_rev: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for kind, id_, rev in rows:
        by_rev[kind, rev].append(id_)
    for (kind, rev), ids in by_rev.items():
        model = Turn if kind == "turn" else Chat
        for start in range(0, len(ids), TOLD_AT_ONCE):
            model.objects.filter(id__in=ids[start : start + TOLD_AT_ONCE], rev=rev).update(told=True)


# ------------------------------------------------------------------------------------------------ parts


def _order(turn: Turn, chat: Chat, message: Message, *, is_titled: bool = False) -> RunOrder:
    """`is_titled`: the run tells what the chat's row owes."""
    version = turn.version
    is_first = turn.attempt == 1
    steps = [] if is_first else list(turn.steps.order_by("id"))
    asked = [] if is_first else list(turn.questions.exclude(action=""))
    said = shapes.message_of(message)
    return RunOrder(
        turn=str(turn.id),
        chat=str(chat.id),
        number=turn.number,
        attempt=turn.attempt,
        answer=str(turn.answer),
        message=said,
        start=shapes.turn_start(turn, said, []),
        version_id=None if version is None else str(version.id),
        version=None if version is None else version.number,
        skill=turn.skill,
        params=turn.params,
        inputs=turn.inputs,
        flow_id=str(chat.flow_id) if chat.flow_id else "",
        flow_slug=chat.flow.slug if chat.flow else "",
        flow_name=chat.flow.name if chat.flow else "",
        graph=chat.graph if version is None else None,
        checksum="" if version is None else version.checksum,
        chat_kind=chat.kind,
        spender=_spender(turn, chat),
        parts=shapes.standing_parts(turn.parts, steps),
        kept={step.key: Kept(step.kind, step.arguments_hash, step.value) for step in steps},
        answers={row.key: {"action": row.action, "value": row.value, "label": row.label} for row in asked},
        nodes=turn.nodes,
        ran_ms=turn.ran_ms,
        usage=turn.usage,
        titled=shapes.chat_event(chat) if is_titled else None,
        is_resumed=not is_first,
    )


def _own(order: RunOrder) -> tuple[Chat, Turn]:
    """The chat, locked, and the turn if it is still this attempt's. Raises Fenced."""
    chat = _lock(order.chat)
    turn = _TURN.one(uuid.UUID(order.turn))
    if chat is None or turn.state != TurnState.RUNNING or turn.attempt != order.attempt:
        raise Fenced
    return chat, turn


def _save_steps(turn: Turn, steps: list[PendingStep]) -> None:
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


def _list(chat: Chat, state: str | None, outcome: Outcome) -> None:
    """What the user's lists show of it now; debug and call chats are in none."""
    if chat.kind == Chat.Kind.CHAT:
        outcome.listed = (chat.user_id, shapes.chat_item(chat, state))


def _active_state(chat: Chat) -> str | None:
    return chat.turns.filter(state__in=ACTIVE, background=False).values_list("state", flat=True).first()


def _owe(turn: Turn, worker: str | None, outcome: Outcome) -> None:
    turn.owes, turn.told, turn.rev = _uuid(worker), False, turn.rev + 1
    if str(turn.id) not in outcome.owed:
        outcome.owed.append(str(turn.id))


def _owe_chat(chat: Chat, worker: str | None, outcome: Outcome) -> None:
    chat.owes, chat.told = _uuid(worker), False
    outcome.owes_chat = True


def _move(turn: Turn, state: str) -> None:
    before = TurnState(turn.state)
    if not can_move(before, TurnState(state)):
        raise ValueError(f"a turn cannot move from {before} to {state}")
    turn.state = TurnState(state).value


def _lock(chat_id: str) -> Chat | None:
    return _CHAT.one(uuid.UUID(chat_id))


def _save(chat: Chat) -> None:
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


def _save_turn(turn: Turn) -> None:
    update(
        turn,
        "rev", "owes", "told", "inputs", "state", "worker", "attempt", "takeovers", "parts", "nodes", "usage", "data",
        "error", "running_at", "ran_ms", "ended_at", "first_token_ms",
    )  # fmt: skip


def _repeat_of(scope: uuid.UUID, command: str, body_hash: str) -> dict[str, Any] | None:
    """The reply of the same command done before. Raises WireError id_conflict."""
    row = _COMMAND.one(scope, command)
    if row is None:
        return None
    if row.body_hash != body_hash:
        raise WireError("id_conflict")
    return row.reply


def _keep_command(scope: uuid.UUID, command: str, body_hash: str, reply: dict, at: datetime) -> None:
    insert(Command(scope=scope, command=command, body_hash=body_hash, reply=reply, created=at))


def _entitle(chat: Chat, title: str) -> None:
    chat.title, chat.search_title = title, shapes.folded(title)


def _title(text: str) -> str:
    return " ".join(text.split())[:TITLE_CHARS_OF_TEXT]


def _uuid(value: str | None) -> uuid.UUID | None:
    return None if value is None else uuid.UUID(value)


def _ms(span: timedelta) -> int:
    return max(0, int(span.total_seconds() * 1000))
