"""What the manager and runs ask of the rows. Each is one hop, and none writes."""

import uuid
from datetime import datetime, timedelta

import msgspec
from django.conf import settings
from django.db.models import Q

from chat import shapes
from chat.models import Chat, Message, Question, Turn
from chat.turns.states import ACTIVE, UNENDED, TurnState
from flows.models import Flow
from streams.database import now
from streams.errors import WireError
from streams.models import Worker
from streams.store import alive_since


def owner(chat_id: str) -> tuple[int, str] | None:
    """(user, flow) of a chat that has a row; a deleted one is nobody's."""
    row = Chat.objects.filter(id=chat_id).values_list("user_id", "flow_id", "deleted").first()
    if row is None:
        return None
    return (-1, "") if row[2] else (row[0], str(row[1]))


def flow_of_own_chat(chat_id: str, user: int) -> str:
    """Whose chat it is, and its flow. Raises WireError not_found."""
    mine = Chat.objects.filter(id=chat_id, user_id=user, deleted=False, flow__isnull=False)
    row = mine.values_list("flow_id").first()
    if row is None:
        raise WireError("not_found")
    return str(row[0])


def chat_of_turn(turn_id: str) -> str:
    return str(Turn.objects.values_list("chat_id", flat=True).get(id=turn_id))


def workers_in_use() -> set[str]:
    """Workers that a running turn or an owed event still names: not to be buried yet."""
    running = Turn.objects.filter(state__in=ACTIVE, worker__isnull=False).values_list("worker", flat=True)
    owing = Turn.objects.filter(told=False, owes__isnull=False).values_list("owes", flat=True)
    chats = Chat.objects.filter(told=False, owes__isnull=False).values_list("owes", flat=True)
    return {str(worker) for rows in (running, owing, chats) for worker in rows.distinct()}


def history(chat_id: str, parent: str | None, count: int) -> list[tuple[str, list[dict]]]:
    """(role, parts) of at most `count` ancestors from `parent` up, oldest first.

    Answers that ended in `error` without text are left out. One query for what is near, one more a distant row.
    """
    rows = Message.objects.filter(chat_id=chat_id).exclude(role=Message.Role.NOTICE)
    near = {row.id: row for row in rows.order_by("-created", "-id")[: 4 * count + 20]}
    found: list[tuple[str, list[dict]]] = []
    at = None if parent is None else uuid.UUID(parent)
    while at is not None and len(found) < count:
        row = near.get(at) or rows.filter(id=at).first()
        if row is None:
            break
        if row.status != "error" or shapes.text_of(row.parts):
            found.append((row.role, row.parts))
        at = row.parent
    return found[::-1]


class Claimable(msgspec.Struct, frozen=True):
    """A running turn as it was seen: of nobody, of a worker that is not alive, or of who looks."""

    turn: str
    chat: str
    attempt: int
    worker: str | None


def claimable(worker: str, limit: int) -> tuple[list[Claimable], int]:
    """Running turns that no other worker runs, and how many workers would take some, `worker` among them.

    Who is alive is asked in the same statement: who began a turn was seen before.
    """
    others = Worker.objects.filter(last_seen__gte=alive_since()).exclude(id=worker)
    rows = Turn.objects.filter(Q(worker=None) | ~Q(worker__in=others.values("id")), state=TurnState.RUNNING)
    found = rows.order_by("running_at").values_list("id", "chat_id", "attempt", "worker")[:limit]
    turns = [
        Claimable(str(id_), str(chat), attempt, None if of is None else str(of)) for id_, chat, attempt, of in found
    ]
    return turns, 1 + (others.filter(runs_turns=True, draining=False).count() if turns else 0)


def due_questions() -> list[tuple[str, str]]:
    """Open questions past their time: (chat, question), in no order: who is put off stands before nobody."""
    rows = Question.objects.filter(action="", expires__lte=now(), turn__state=TurnState.WAITING).order_by("?")
    some = rows.values_list("turn__chat_id", "id")[: settings.HEADRACE.sweep_rows]
    return [(str(chat), str(id_)) for chat, id_ in some]


def flows_deleted_with_turns() -> list[str]:
    turns = Turn.objects.filter(chat__flow__deleted=True, state__in=UNENDED, stop_at=None)
    rows = Flow.objects.filter(id__in=turns.values("chat__flow")).order_by("?")
    return [str(flow) for flow in rows.values_list("id", flat=True)[: settings.HEADRACE.sweep_rows]]


def stopped_among(turns: list[str]) -> list[str]:
    """Which of these running turns were told to stop: the slow poll behind the control message."""
    rows = Turn.objects.filter(id__in=turns, stop_at__isnull=False, state=TurnState.RUNNING)
    return [str(turn) for turn in rows.values_list("id", flat=True)]


def past_chats() -> list[str]:
    """Debug and call chats whose last turn is a day old, with nothing under way: some, in no order."""
    old = Chat.objects.filter(deleted=False, last_turn_at__lt=_kept_since()).exclude(kind=Chat.Kind.CHAT)
    idle = old.exclude(turns__state__in=UNENDED).order_by("?")
    return [str(chat) for chat in idle.values_list("id", flat=True)[: settings.HEADRACE.purge_rows]]


def is_past(chat: Chat) -> bool:
    return chat.kind != Chat.Kind.CHAT and chat.last_turn_at < _kept_since()


def _kept_since() -> datetime:
    return now() - timedelta(seconds=settings.HEADRACE.debug_chat_kept_s)
