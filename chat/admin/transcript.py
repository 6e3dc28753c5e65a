"""A chat as an operator reads it: one branch of its tree, message by message, and which nodes each turn went through.

Times of nodes are in the event log, which keeps them for a while; later the parts of the answer tell the nodes alone.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from chat import shapes
from chat.models import Chat, Message, Question, Turn
from chat.turns.states import UNENDED
from streams.log import held


class Leaf(NamedTuple):
    """The little of a message that the tree needs."""

    id: uuid.UUID
    parent: uuid.UUID | None
    created: datetime


class Shown(NamedTuple):
    """A part as the page shows it. `kind` names its look."""

    kind: str
    node: str
    text: str
    answer: str = ""
    data: str = ""


class Said(NamedTuple):
    """A message of the branch. `place` of `siblings`: which alternative it is, between `earlier` and `later`."""

    message: Message
    parts: list[Shown]
    turn: Turn | None
    place: int
    siblings: int
    earlier: uuid.UUID | None
    later: uuid.UUID | None


class NodeRun(NamedTuple):
    """A node that a turn went through. `start`, `width`: of the turn's time, in thousandths; no `ms`: not known.

    `state`: as its last event says, or `stopped`.
    """

    node: str
    title: str
    kind: str
    state: str
    ms: int | None
    start: int
    width: int
    error: str


class Transcript(NamedTuple):
    said: list[Said]
    open_turns: list[Turn]
    is_cut: bool  # there are earlier messages on this branch
    branches: int


def transcript(chat: Chat, at: uuid.UUID | None) -> Transcript:
    """The branch that ends at the newest leaf below `at`, else the one that its user sees."""
    leaves = _leaves(chat)
    children = children_of(leaves)
    known = {leaf.id: leaf for leaf in leaves}
    turns = list(
        chat.turns.select_related("version__flow")
        .defer("parts", "inputs", "version__graph")
        .order_by("-number")[: settings.HEADRACE.admin_tree_messages]
    )
    shown = at if at in known else _shown_leaf(chat, known, leaves, turns)
    path = branch(known, newest_below(children, shown) if shown else None)
    cut = path[-settings.HEADRACE.admin_messages :]
    rows = Message.objects.filter(chat=chat, id__in=cut).in_bulk()
    by_id = {turn.id: turn for turn in turns}
    by_answer = {turn.answer: turn for turn in turns}
    said = [
        _said(rows[id_], by_answer.get(id_) or by_id.get(rows[id_].turn), children[known[id_].parent])
        for id_ in cut
        if id_ in rows
    ]
    stored = {leaf.id for leaf in leaves}
    return Transcript(
        said,
        [turn for turn in turns[::-1] if turn.answer not in stored],
        len(cut) < len(path),
        sum(1 for leaf in leaves if not children.get(leaf.id)),
    )


def _leaves(chat: Chat) -> list[Leaf]:
    rows = Message.objects.filter(chat=chat).order_by("-created", "-id").values_list("id", "parent", "created")
    return [Leaf(*row) for row in rows[: settings.HEADRACE.admin_tree_messages]][::-1]


def _shown_leaf(chat: Chat, known: dict[uuid.UUID, Leaf], leaves: list[Leaf], turns: list[Turn]) -> uuid.UUID | None:
    """The head; where that is an answer to be, the message it answers; else the newest."""
    if chat.head in known:
        return chat.head
    inputs = [turn.input for turn in turns if turn.answer == chat.head]
    return next((id_ for id_ in inputs if id_ in known), leaves[-1].id if leaves else None)


# ---------------------------------------------------------------------------------------------------- the tree


def children_of(leaves: Iterable[Leaf]) -> defaultdict[uuid.UUID | None, list[uuid.UUID]]:
    """Each message's alternatives that follow it, the oldest first."""
    children: defaultdict[uuid.UUID | None, list[uuid.UUID]] = defaultdict(list)
    for leaf in leaves:
        children[leaf.parent].append(leaf.id)
    return children


def newest_below(children: dict[Any, list[uuid.UUID]], start: uuid.UUID) -> uuid.UUID:
    """The leaf that one comes to from `start` by the newest alternatives."""
    seen = {start}
    while following := [id_ for id_ in children.get(start, ()) if id_ not in seen]:
        start = following[-1]
        seen.add(start)
    return start


def branch(known: dict[uuid.UUID, Leaf], leaf: uuid.UUID | None) -> list[uuid.UUID]:
    """From the first message to `leaf`."""
    return shapes.ancestors({id_: message.parent for id_, message in known.items()}, leaf)[::-1]


def _said(message: Message, turn: Turn | None, alternatives: list[uuid.UUID]) -> Said:
    place = alternatives.index(message.id)
    return Said(
        message,
        [shown_part(part) for part in message.parts],
        turn if message.role == Message.Role.ASSISTANT else None,
        place + 1,
        len(alternatives),
        alternatives[place - 1] if place else None,
        alternatives[place + 1] if place + 1 < len(alternatives) else None,
    )


# ------------------------------------------------------------------------------------------------------- parts


def shown_part(part: dict[str, Any]) -> Shown:
    kind, node, text, data = part["kind"], part.get("node") or "", part.get("text") or "", part.get("data")
    if kind in ("text", "reasoning"):
        return Shown(kind, node, text)
    if kind == "question" and isinstance(data, dict):
        return Shown(kind, node, data.get("text", ""), answer_of(data))
    return Shown("data", node, text or kind, data=msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


ACTIONS = {
    "": _("not answered yet"),
    "accept": _("answered"),
    "decline": _("declined"),
    "cancel": _("cancelled"),
    "expire": _("nobody answered in time"),
}


def answer_of(data: dict[str, Any]) -> str:
    """What was answered, in words; what was done instead, where nothing was."""
    action = data.get("action") or ""
    if action != "accept":
        return str(ACTIONS.get(action, action))
    if data.get("label"):
        return str(data["label"])
    if "value" not in data:
        return str(_("(secret)"))
    value = data["value"]
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def answer_to(question: Question) -> str:
    """The same of a question's row."""
    data = {"action": question.action, "label": "" if question.secret else question.label}
    return answer_of(data if question.secret else {**data, "value": question.value})


# ---------------------------------------------------------------------------------------------------- the nodes


class _NodeEvent(msgspec.Struct):
    type: str
    turn: str = ""
    node: str | None = ""
    kind: str = ""
    state: str = ""
    title: str = ""
    ms: int | None = None
    error: str | None = None


def timelines(chat_id: Any, turns: Iterable[Turn]) -> dict[uuid.UUID, list[NodeRun]]:
    """What each turn went through, by the log; by the answer's parts where the log has nothing of it any more."""
    logged = _logged(str(chat_id))
    found = {}
    wanted = list(turns)
    answers = Message.objects.filter(id__in=[turn.answer for turn in wanted if str(turn.id) not in logged])
    parts = dict(answers.values_list("id", "parts"))
    for turn in wanted:
        events = logged.get(str(turn.id))
        runs = laid_out(events) if events else _by_parts(parts.get(turn.answer, []))
        found[turn.id] = runs if turn.state in UNENDED else [_ended(run) for run in runs]
    return found


def _ended(run: NodeRun) -> NodeRun:
    """Of a turn that goes on no more: a node without its end is where it was stopped."""
    return run._replace(state="stopped") if run.state == "start" else run


def _logged(chat: str) -> dict[str, list[_NodeEvent]]:
    """Node events of each turn's last run; nothing where Redis is away."""
    found: defaultdict[str, list[_NodeEvent]] = defaultdict(list)
    for frame in held(chat, settings.HEADRACE.admin_log_events):
        if b'"node"' not in frame:
            continue
        event = msgspec.json.decode(frame, type=_NodeEvent)
        if event.type == "node":
            found[event.turn].append(event)
    return found


def laid_out(events: list[_NodeEvent]) -> list[NodeRun]:
    """One after the other, each as wide as its share of the time."""
    ended: list[_NodeEvent] = []
    for event in events:
        if event.state == "start" or not ended or ended[-1].node != event.node or ended[-1].state != "start":
            ended.append(event)
        else:
            ended[-1] = event
    whole = sum(event.ms or 0 for event in ended) or 1
    runs, at = [], 0
    for event in ended:
        ms = event.ms or 0
        width = max(4, 1000 * ms // whole)
        start = min(1000 * at // whole, 1000 - width)
        runs.append(
            NodeRun(event.node or "", event.title, event.kind, event.state, event.ms, start, width, event.error or "")
        )
        at += ms
    return runs


def _by_parts(parts: list[dict[str, Any]]) -> list[NodeRun]:
    nodes = dict.fromkeys(part.get("node") or "" for part in parts)
    return [NodeRun(node, "", "", "end", None, 0, 0, "") for node in nodes if node]
