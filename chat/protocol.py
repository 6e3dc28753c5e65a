"""Every frame of the wire as one struct each. Pure data and its JSON; documents and SDKs are made from it.

Frames in are strict: an unknown field is refused. Events out are encoded once, without their number: the log's
script puts `{"seq":N,` before what `encode_event` returns.
"""

import re
from itertools import accumulate
from typing import Annotated, Any, Literal

import msgspec

from streams import names
from streams.errors import WireError
from streams.numbers import TOO_LARGE, OutOfRange, check_numbers

# ---------------------------------------------------------------------------------------------- shapes


class Part(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A piece of an answer or message. `id` is unique in its chat: `<turn>.<node>#<visit>[.n]`."""

    id: str
    kind: Literal["text", "reasoning", "tool", "question", "data", "image", "audio"]
    text: str = ""
    data: Any = None
    node: str | None = None


class Usage(msgspec.Struct, kw_only=True):
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_micros: int = 0
    model: str = ""


class Fault(msgspec.Struct, kw_only=True):
    """How a turn ended badly: a catalogue code and a sentence."""

    code: str
    text: str
    retryable: bool = False


class Message(msgspec.Struct, kw_only=True):
    id: str
    chat: str
    role: Literal["user", "assistant", "notice"]
    parts: list[Part] | None
    parent: str | None
    turn: str | None
    status: Literal["done", "stopped", "error"]
    client_id: str | None
    feedback: Any
    created: str


# ---------------------------------------------------------------------------------------------- events


class Event(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type"):
    """Server to client, with a position that the log gives."""


class MessageEvent(Event, tag="message"):
    message: Message


class TurnStart(Event, tag="turn_start", omit_defaults=False):
    turn: str
    message: Message
    answer: str
    attempt: int
    version: int | None
    skill: str
    parts: list[Part]


class TurnQueued(Event, tag="turn_queued"):
    turn: str
    message: Message
    place: int


class Node(Event, tag="node"):
    turn: str
    node: str
    visit: int
    kind: str
    state: Literal["start", "end", "error"]
    title: str = ""
    ms: int | None = None
    output: Any = None
    error: str | None = None


class PartStart(Event, tag="part"):
    turn: str
    part: str
    kind: str
    node: str | None = None
    data: Any = None


class Delta(Event, tag="delta"):
    part: str
    text: str


class PartEnd(Event, tag="part_end"):
    part: str
    data: Any = None


class Progress(Event, tag="progress"):
    turn: str
    text: str = ""
    data: Any = None


class Status(Event, tag="status"):
    turn: str
    text: str = ""
    data: Any = None


class Custom(Event, tag="custom"):
    turn: str
    name: str
    text: str = ""
    data: Any = None


class QuestionEvent(Event, tag="question", omit_defaults=False):
    turn: str
    question: str
    text: str
    options: list[dict[str, str]]
    schema: dict[str, Any] | None
    secret: bool
    expires: str


class Answered(Event, tag="answered", omit_defaults=False):
    turn: str
    question: str
    action: str
    value: Any
    by: str | None


class TurnEnd(Event, tag="turn_end", omit_defaults=False):
    turn: str
    status: Literal["done", "stopped", "error"]
    message: Message
    data: Any
    usage: Usage | None
    error: Fault | None


class ChatEvent(Event, tag="chat"):
    """`title`, `head` and `deleted` where they changed."""

    rev: int
    title: str | None = None
    head: str | None = None
    deleted: bool = False


# ------------------------------------------------------------------------- frames without a position


class Frame(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type"):
    """Server to one client."""


class FlowInfo(msgspec.Struct, kw_only=True):
    id: str
    slug: str
    name: str
    version: int | None
    greeting: str
    suggestions: list[str]
    params: dict[str, Any] | None


class UserInfo(msgspec.Struct, kw_only=True):
    id: str
    name: str


class ServerInfo(msgspec.Struct, kw_only=True):
    version: str
    time: str


class Limits(msgspec.Struct, kw_only=True):
    text_chars: int
    frame_bytes: int
    file_bytes: int
    files_per_say: int


class Welcome(Frame, tag="welcome", omit_defaults=False):
    epoch: str
    seq: int
    session: str
    trace: str
    chat: str
    flow: FlowInfo
    user: UserInfo
    skill: str
    server: ServerInfo
    limits: Limits
    resumed: bool


class OpenTurn(msgspec.Struct, kw_only=True):
    """A turn in a snapshot: `parts` so far, `question` as in its event."""

    turn: str
    message: Message
    answer: str
    state: Literal["queued", "running", "waiting"]
    place: int | None
    attempt: int
    version: int | None
    skill: str
    parts: list[Part]
    question: dict[str, Any] | None


class ChatInfo(msgspec.Struct, kw_only=True):
    id: str
    rev: int
    title: str
    head: str | None


class Snapshot(Frame, tag="snapshot", omit_defaults=False):
    epoch: str
    seq: int
    chat: ChatInfo
    messages: list[Message]
    more: bool
    turns: list[OpenTurn]


class Ok(Frame, tag="ok"):
    """The reply to a command; which fields it has depends on the command."""

    id: str
    message: str | None = None
    turn: str | None = None
    answer: str | None = None
    queued: bool | None = None
    question: str | None = None


class Error(Frame, tag="error", omit_defaults=True):
    code: str
    text: str
    trace: str
    retryable: bool | None = None
    id: str | None = None
    field: str | None = None
    retry_after: float | None = None


class Pong(Frame, tag="pong", omit_defaults=False):
    t: Any


class Degraded(Frame, tag="degraded"):
    since: str


class Restored(Frame, tag="restored"):
    pass


class AuthExpiring(Frame, tag="auth_expiring", rename={"in_s": "in"}):
    in_s: int


class GoingAway(Frame, tag="going_away"):
    retry_after: float


class Chats(Frame, tag="chats"):
    chat: dict[str, Any]


# -------------------------------------------------------------------------------------------- commands

Id = Annotated[str, msgspec.Meta(pattern=rf"^{names.ID}\Z")]
Uuid = Annotated[str, msgspec.Meta(pattern=rf"^{names.UUID}\Z")]


class CommandFrame(msgspec.Struct, kw_only=True, tag_field="type", forbid_unknown_fields=True, frozen=True):
    """Client to server."""


class Say(CommandFrame, tag="say"):
    id: Id
    text: str
    params: dict[str, Any] = {}
    parent: Uuid | None = None
    files: list[Uuid] = []


class AnswerCommand(CommandFrame, tag="answer"):
    id: Id
    question: Uuid
    value: Any = None
    action: Literal["accept", "decline", "cancel"] = "accept"


class Stop(CommandFrame, tag="stop"):
    id: Id
    turn: Uuid | None = None


class Regenerate(CommandFrame, tag="regenerate"):
    id: Id
    message: Uuid


class Edit(CommandFrame, tag="edit"):
    id: Id
    message: Uuid
    text: str


class Ack(CommandFrame, tag="ack"):
    seq: Annotated[int, msgspec.Meta(ge=0)]


class Auth(CommandFrame, tag="auth"):
    token: str


class Ping(CommandFrame, tag="ping"):
    t: Any = None


Command = Say | AnswerCommand | Stop | Regenerate | Edit | Ack | Auth | Ping
COMMANDS = {kind.__struct_config__.tag: kind for kind in Command.__args__}

# ---------------------------------------------------------------------------------- encode and decode

_encoder = msgspec.json.Encoder()
_raw_decoder = msgspec.json.Decoder()


def encode_event(event: Event) -> bytes:
    """The event as it goes to sockets, without `{"seq":N,`: that comes from the log."""
    return _encoder.encode(event)[1:]


def encode_frame(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def nests_too_much(text: str, most_deep: int, most_brackets: int) -> bool:
    """Whether brackets nest deeper than `most_deep`, or more than `most_brackets` open. Strings do not count.

    The parser would recurse on the former, and make an object of each of the latter. Takes time linear in `text`.
    """
    if text.count("{") + text.count("[") <= most_deep:
        return False
    bare = _STRINGS.sub("", text.replace("\\\\", "").replace('\\"', ""))
    steps = bare.encode("ascii", "ignore").translate(_STEPS, delete=_NO_BRACKETS)
    if steps.count(_IN) > most_brackets or len(steps) > 2 * most_brackets:
        return True
    return max(accumulate(memoryview(steps).cast("b")), default=0) > most_deep  # in C: frames may be large


# A string that is not closed ends with the text: without that each quote in it would be tried as the first of one.
_STRINGS = re.compile(r'"[^"]*(?:"|\Z)')
_IN = b"\x01"
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")  # as signed bytes: one in, one out
_NO_BRACKETS = bytes(set(range(128)) - set(b"{}[]"))


def decode_command(text: str, most_deep: int, most_brackets: int) -> CommandFrame:
    """One text frame as its command. Raises WireError bad_json, bad_frame, unknown_type or unknown_field.

    The error's `id` is the frame's where it has one of the right form, so that the sender can tell which failed.
    """
    if nests_too_much(text, most_deep, most_brackets):
        raise WireError("bad_frame")
    try:
        raw = _raw_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise WireError("bad_json") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise WireError("bad_frame", field="type")
    known = COMMANDS.get(raw["type"])
    extra = {"id": raw["id"]} if isinstance(raw.get("id"), str) and _ID.match(raw["id"]) else {}
    try:
        check_numbers(text, raw)
    except OutOfRange as error:
        raise WireError("bad_frame", TOO_LARGE, **extra) from error
    if known is None:
        raise WireError("unknown_type", **extra)
    try:
        return msgspec.convert(raw, known)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), extra) from error


_ID = re.compile(rf"{names.ID}\Z")
_ID_IN_FRONT = re.compile(r'\s*\{(?:\s*"type"\s*:\s*"\w{1,20}"\s*,)?\s*"id"\s*:\s*"(' + names.ID + ')"')


def id_in_front(text: str) -> str | None:
    """The id of a frame that is not decoded, where it stands first or behind `type`, as SDKs write it."""
    match = _ID_IN_FRONT.match(text)
    return match.group(1) if match else None


_FIELD = re.compile(r"(?:unknown field|required field) `(\w+)`|at `\$\.(\w+)")


def _refusal(sentence: str, extra: dict[str, Any]) -> WireError:
    """msgspec's sentence as a catalogue error that names the field."""
    match = _FIELD.search(sentence)
    if match:
        extra["field"] = match.group(1) or match.group(2)
    if "unknown field" in sentence:
        return WireError("unknown_field", **extra)
    return WireError("bad_frame", **extra)
