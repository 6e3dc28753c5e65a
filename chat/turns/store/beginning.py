"""A message becomes a turn, running or queued: say, regenerate, edit. Or a say is the answer to an open question."""

import uuid
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import IntegrityError, OperationalError, connection, transaction

from accounts import rights, spend, tokens
from accounts.models import User
from chat import shapes
from chat.models import Chat, File, Message, Turn
from chat.turns import questions
from chat.turns.canonical import hash_of
from chat.turns.orders import Begin, Outcome
from chat.turns.states import ACTIVE, UNENDED, TurnState
from chat.turns.store import moves, ordering, owing, rows, spending
from flows import graph
from flows import store as flow_store
from flows.models import Flow, FlowVersion
from streams.database import now as database_now
from streams.errors import WireError
from streams.prepared import Select, insert

TITLE_CHARS_OF_TEXT = 60  # of the title that a chat has until it is given one
_FLOW = Select(
    lambda id: Flow.objects.select_related("published").defer("draft", "published__graph").filter(id=id), uuid.UUID
)
_UNENDED = Select(
    lambda chat: Turn.objects.filter(chat_id=chat, state__in=sorted(UNENDED), background=False).order_by("number"),
    uuid.UUID,
)


def begin_turn(begin: Begin) -> Outcome:
    """Accept a message: its row, its turn, running or queued. Committed means accepted.

    A repeat is found before anything is judged, by the body as it came: whatever was published, hidden or switched
    off since, it answers the same. What is refused keeps nothing, so that the same id may be tried again.
    Raises WireError chat_not_found, message_not_found, flow_not_found, forbidden, flow_offline, validation_error,
    turn_running, queue_full, busy, quota_exceeded, id_conflict.
    """
    body_hash = hash_of([begin.act, begin.text, begin.params, begin.files, begin.parent, begin.message])
    chat, is_new = _chat_for(begin)
    if not is_new and (repeated := rows.repeat_of(chat.id, begin.command, body_hash)) is not None:
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
        moves.check_room(begin.user, begin.has_room)
    spend.check(spend.Spender(begin.user, rows.uuid_or_none(begin.key), chat.flow_id), at)

    outcome = Outcome()
    message = _input_of(begin, chat, active, queued, at, policy)
    turn = _new_turn(begin, chat, message, version, params, at)
    chat.last_number, chat.last_turn_at = turn.number, at
    chat.locale = chat.locale or begin.locale
    if begin.text and not chat.title:
        rows.entitle(chat, _title(begin.text))
        chat.rev += 1
        owing.owe_chat(chat, begin.worker, outcome)
    runs_now = not active and not queued
    if runs_now:
        moves.start(turn, chat, message, begin.worker, at)
    else:
        owing.owe(turn, begin.worker, outcome)
    if is_new:
        _save_new(chat)
    if message.turn == turn.id:
        insert(message)
    insert(turn)
    if not runs_now:
        _make_way(policy, chat, active, queued, begin.worker, at, outcome)
        turn.refresh_from_db()
    if not is_new:
        rows.save(chat)

    outcome.reply = {
        "message": str(message.id),
        "turn": str(turn.id),
        "answer": str(turn.answer),
        "queued": turn.state == TurnState.QUEUED,
    }
    rows.keep_command(chat.id, begin.command, body_hash, outcome.reply, at)
    if runs_now and begin.worker:
        outcome.run = ordering.order_of(turn, chat, message, is_titled=outcome.owes_chat)
    if runs_now:
        outcome.is_released = not begin.worker
        outcome.owes_chat = False  # the run tells it along with its own events, here or where it is claimed
    owing.show_in_lists(chat, TurnState.RUNNING if runs_now else owing.active_state(chat), outcome)
    return outcome


def _chat_for(begin: Begin) -> tuple[Chat, bool]:
    """The chat's row, locked; made, not yet saved, by the first say. Another user's or flow's chat is not found."""
    chat = rows.lock(begin.chat)
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
    moves.check_room(begin.user, begin.has_room)
    spend.check(spending.spender(turn, chat), at)
    outcome = moves.answered(chat, question, "accept", match[0], match[1], begin.user, begin.worker, at)
    outcome.reply = {"question": str(question.id), "turn": str(turn.id)}
    rows.keep_command(chat.id, begin.command, body_hash, outcome.reply, at)
    return outcome


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
    turn = rows.find_message(chat, begin.message).turn  # what came with the message that is answered or said anew
    params = chat.turns.values_list("params", flat=True).get(id=turn) if turn else {}
    return questions.fitting_params(schema, params)


def _admit_behind(policy: str, active: Turn | None, queued: list[Turn]) -> None:
    if policy == Flow.DoubleText.REJECT:
        raise WireError("turn_running")
    makes_room = 1 if active and active.state == TurnState.WAITING else 0
    if policy == Flow.DoubleText.QUEUE and len(queued) - makes_room >= settings.HEADRACE.queue_length:
        raise WireError("queue_full", retry_after=5)


def _input_of(begin: Begin, chat: Chat, active: Turn | None, queued: list[Turn], at: datetime, policy: str) -> Message:
    """The user's message that the turn answers; a new one has no turn as yet."""
    if begin.act == "regenerate":
        target = rows.find_message(chat, begin.message)
        if target.role == Message.Role.ASSISTANT:
            target = rows.find_message(chat, target.parent)
        if target.role != Message.Role.USER:
            raise WireError("message_not_found")
        return target
    if begin.act == "edit":
        parent = rows.find_message(chat, begin.message, role=Message.Role.USER).parent
    elif begin.parent:
        parent = _parent(chat, begin.parent)
    elif queued and policy != Flow.DoubleText.INTERRUPT:
        parent = queued[-1].answer
    else:
        parent = active.answer if active else chat.head
    return Message(chat=chat, parent=parent, role=Message.Role.USER, client_id=begin.command, created=at)


def _parent(chat: Chat, parent: str) -> uuid.UUID:
    """A message of the chat, or the answer to be of one of its turns."""
    found = chat.messages.filter(id=parent).exists() or chat.turns.filter(answer=parent).exists()
    if not found:
        raise WireError("message_not_found")
    return uuid.UUID(parent)


def _new_turn(
    begin: Begin, chat: Chat, message: Message, version: FlowVersion | None, params: dict[str, Any], at: datetime
) -> Turn:
    """The turn, queued as yet; a fresh message becomes its own."""
    turn = Turn(
        chat=chat,
        user_id=chat.user_id,
        key=rows.uuid_or_none(begin.key),
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
        return shapes.files_of(rows.find_message(chat, begin.message).parts)
    wanted = list(dict.fromkeys(uuid.UUID(file) for file in begin.files))
    if not wanted:
        return []
    mine = File.objects.select_for_update().filter(id__in=wanted, user_id=begin.user, ready=True).defer("text")
    found = {row.id: row for row in mine}
    if len(found) != len(wanted):
        raise WireError("file_not_found", field="files")
    File.objects.filter(id__in=wanted).update(named=True)
    return [shapes.file_data(found[file]) for file in wanted]


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
            moves.end(other, chat, TurnState.STOPPED, at, outcome, owes=worker, promotes=False)
        if active and active.state == TurnState.RUNNING:
            moves.mark_stop(active, at, outcome)
    if active and active.state == TurnState.WAITING:
        moves.end(active, chat, TurnState.STOPPED, at, outcome, owes=worker, runs=worker, parts=active.parts)
    elif active is None:
        moves.promote(chat, at, outcome, owes=worker, runs=worker)


def _title(text: str) -> str:
    return " ".join(text.split())[:TITLE_CHARS_OF_TEXT]
