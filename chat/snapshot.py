"""What a client shows, folded from the database and the log.

The log is read, then the database, then the log again; the position is the top of the last read. What the log says
of a turn from its last `turn_start` on wins over the row, for that is what everybody at that position sees.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from django.conf import settings

from chat import protocol, shapes
from chat.models import Chat, Message, Turn
from chat.turns.states import UNENDED, TurnState
from streams import database
from streams.errors import WireError
from streams.log import Log, Position

# Events that change a part and nothing else: rows read before them need no second look.
_GROWTH = frozenset({"part", "delta", "part_end", "node", "progress", "status", "custom"})


class _Event(msgspec.Struct):
    """The little of an event that folding needs."""

    type: str
    turn: str | None = None
    part: str | None = None
    kind: str = "text"
    text: str = ""
    node: str | None = None
    data: Any = None
    parts: list[protocol.Part] = []


_decoder = msgspec.json.Decoder(_Event)
_node_decoder = msgspec.json.Decoder(protocol.Node)
Entries = list[tuple[int, bytes]]


async def take(log: Log, chat: str) -> tuple[bytes, Position]:
    """The snapshot's frame and its position. Raises WireError chat_not_found, unavailable."""
    for _ in range(settings.HEADRACE.snapshot_tries):
        first = await log.read(chat, 0)
        rows = await database.read(_read, chat)
        if rows is None:
            continue
        last = await log.read(chat, first.top)
        if last.epoch != first.epoch or not _continues(first.top, last.entries, last.top):
            continue
        if any(_type(frame) not in _GROWTH for _, frame in last.entries):
            continue
        frame = _fold(rows, first.entries + last.entries, last.epoch, last.top)
        if frame is not None:
            return frame, Position(last.epoch, last.top)
    raise WireError("unavailable", retry_after=1)


def empty(chat: str, position: Position) -> bytes:
    """Of a chat whose row is not made yet."""
    return protocol.encode_frame(
        protocol.Snapshot(
            epoch=position.epoch,
            seq=position.seq,
            chat=protocol.ChatInfo(id=chat, rev=0, title="", head=None),
            messages=[],
            more=False,
            turns=[],
        )
    )


class Delivered(msgspec.Struct, frozen=True):
    """A turn's parts as its events showed them. `open`: ids of those that had no end."""

    parts: list[protocol.Part]
    open: frozenset[str]
    has_start: bool
    has_ended: bool


def delivered(entries: Iterable[tuple[int, bytes]], turn: str, number: int) -> Delivered | None:
    """By the log, from the turn's last `turn_start` on; null where the log has none."""
    found = _by_log(_decoded(entries), turn, number, [])
    return found if found.has_start else None


def nodes_in_log(entries: Iterable[tuple[int, bytes]], turn: str) -> list[protocol.Node]:
    """A turn's `node` events, as many as the log has."""
    ours = (frame for _, frame in entries if b'"type":"node"' in frame[:64] and turn.encode() in frame)
    return [node for node in map(_node_decoder.decode, ours) if node.turn == turn]


class _Rows(msgspec.Struct):
    chat: Chat
    messages: list[Message]
    more: bool
    turns: list[Turn]
    inputs: dict[Any, Message]
    questions: dict[Any, protocol.QuestionEvent]
    steps: dict[Any, list[Any]]


def _read(chat_id: str) -> _Rows | None:
    """Turns before messages, so that one that ends meanwhile is not left out; the head once more behind them, which
    an end moves without an event of the chat's own. Null: read again.
    """
    chat = Chat.objects.filter(id=chat_id, deleted=False).first()
    if chat is None:
        raise WireError("chat_not_found")
    turns = list(chat.turns.filter(state__in=UNENDED).select_related("version").order_by("number"))
    questions = {}
    for turn in turns:
        if turn.state == TurnState.WAITING:
            question = turn.questions.filter(action="").first()
            if question is None:  # it was answered meanwhile
                return None
            questions[turn.id] = shapes.question_of(question)
    steps = {turn.id: list(turn.steps.order_by("id")) for turn in turns if turn.attempt}
    limit = settings.HEADRACE.snapshot_messages
    messages = list(chat.messages.order_by("-created", "-id")[: limit + 1])
    answered = {message.id for message in messages}
    turns = [turn for turn in turns if turn.answer not in answered]  # it ended between the two
    inputs = {message.id: message for message in messages}
    missing = [turn.input for turn in turns if turn.input not in inputs]
    if missing:
        inputs |= {message.id: message for message in chat.messages.filter(id__in=missing)}
    if Chat.objects.filter(id=chat_id).values_list("head", flat=True).first() != chat.head:
        return None
    return _Rows(chat, messages[:limit], len(messages) > limit, turns, inputs, questions, steps)


def _fold(rows: _Rows, entries: Entries, epoch: str, top: int) -> bytes | None:
    """The frame; null where the log already tells the end of a turn that the rows show as running."""
    events = list(_decoded(entries)) if rows.turns else []
    turns = []
    place = 0
    for turn in rows.turns:
        base = shapes.standing_parts(turn.parts, rows.steps.get(turn.id, []))
        shown = _by_log(events, str(turn.id), turn.number, shapes.parts_of(base))
        if shown.has_ended:
            return None
        if turn.state == TurnState.QUEUED:
            place += 1
        question = rows.questions.get(turn.id)
        turns.append(
            protocol.OpenTurn(
                turn=str(turn.id),
                message=shapes.message_of(rows.inputs[turn.input]),
                answer=str(turn.answer),
                state=turn.state,
                place=place if turn.state == TurnState.QUEUED else None,
                attempt=turn.attempt,
                version=turn.version.number if turn.version else None,
                skill=turn.skill,
                parts=shown.parts,
                question=None if question is None else msgspec.to_builtins(question),
            )
        )
    messages, was_cut = _fitting([shapes.message_of(row) for row in rows.messages])
    return protocol.encode_frame(
        protocol.Snapshot(
            epoch=epoch,
            seq=top,
            chat=protocol.ChatInfo(
                id=str(rows.chat.id),
                rev=rows.chat.rev,
                title=rows.chat.title,
                head=None if rows.chat.head is None else str(rows.chat.head),
            ),
            messages=messages[::-1],
            more=rows.more or was_cut,
            turns=turns,
        )
    )


def _fitting(newest_first: list[protocol.Message]) -> tuple[list[protocol.Message], bool]:
    """The newest messages that fit the bound, at least one."""
    room = settings.HEADRACE.snapshot_bytes
    fitting: list[protocol.Message] = []
    for message in newest_first:
        room -= len(msgspec.json.encode(message))
        if room < 0 and fitting:
            return fitting, True
        fitting.append(message)
    return fitting, False


def _by_log(events: Iterable[_Event], turn: str, number: int, base: list[protocol.Part]) -> Delivered:
    own = f"{number}."
    order = [part.id for part in base]
    parts = {part.id: part for part in base}
    grown: dict[str, list[str]] = {}
    open_ids: set[str] = set()
    has_start = has_ended = False
    for event in events:
        if event.type == "turn_start" and event.turn == turn:
            parts = {part.id: part for part in event.parts}
            order = [part.id for part in event.parts]
            grown, open_ids = {}, set()
            has_start, has_ended = True, False
        elif event.type == "turn_end" and event.turn == turn:
            has_ended = True
        elif event.part is None or not event.part.startswith(own):
            continue
        elif event.type == "part":
            if event.part not in parts:
                order.append(event.part)
            parts[event.part] = protocol.Part(id=event.part, kind=event.kind, data=event.data, node=event.node)
            grown[event.part] = []
            open_ids.add(event.part)
        elif event.type == "delta" and event.part in parts:
            grown.setdefault(event.part, []).append(event.text)
        elif event.type == "part_end" and event.part in parts:
            open_ids.discard(event.part)
            if event.data is not None:
                parts[event.part] = msgspec.structs.replace(parts[event.part], data=event.data)
    whole = [msgspec.structs.replace(parts[id_], text=parts[id_].text + "".join(grown.get(id_, ()))) for id_ in order]
    return Delivered(whole, frozenset(open_ids), has_start, has_ended)


def _decoded(entries: Iterable[tuple[int, bytes]]) -> Iterable[_Event]:
    return (_decoder.decode(frame) for _, frame in entries)


def _type(frame: bytes) -> str:
    return _decoder.decode(frame).type


def _continues(top: int, entries: Entries, last_top: int) -> bool:
    return last_top == top if not entries else entries[0][0] == top + 1
