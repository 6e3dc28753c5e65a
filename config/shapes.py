"""What REST answers, as structs: the document is made from them, and tests hold answers to the document."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from chat.files.store import Shown as File
from chat.protocol import Message, Part, QuestionEvent
from flows.diff import Diff
from streams.states import Door, Kind, StreamState


class ErrorDetail(msgspec.Struct):
    """`fields`: a sentence for each field that is wrong. `retry_after`: seconds."""

    code: str
    text: str
    retryable: bool
    trace: str
    fields: dict[str, str] | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET
    faults: "list[Fault] | UnsetType" = UNSET


class Error(msgspec.Struct):
    error: ErrorDetail


class Fault(msgspec.Struct):
    """What is wrong with a graph, and where. `edge` is an index."""

    node: str | None
    field: str | None
    edge: int | None
    code: str
    text: str


class Person(msgspec.Struct):
    id: str
    name: str


class Tokens(msgspec.Struct):
    """`access` is good for 15 minutes, `refresh` once within 7 days."""

    access: str
    refresh: str


class Ticket(msgspec.Struct):
    ticket: str
    expires_in: int


class Me(msgspec.Struct):
    id: str
    username: str
    name: str
    locale: str
    theme: str
    staff: bool


class Budget(msgspec.Struct):
    """`of` and `id`: whose it is; a flow's name is read from the flow. What was spent: since this period began.

    `limit_…`: null is none. `ends`: when the next period begins.
    """

    of: Literal["user", "group", "key", "flow"]
    id: str
    name: str
    period: Literal["day", "month"]
    limit_tokens: int | None
    limit_cost_micros: int | None
    spent_tokens: int
    spent_cost_micros: int
    ends: str


class OwnUsage(msgspec.Struct):
    budgets: list[Budget]


class Key(msgspec.Struct):
    id: str
    name: str
    scopes: list[Literal["chat", "flows", "sessions"]]
    hint: str
    created: str


class NewKey(Key):
    key: str


class Flow(msgspec.Struct):
    """Who may only chat with it does not see how it is written."""

    id: str
    slug: str
    name: str
    description: str
    icon: str
    status: Literal["offline", "online"]
    version: int | None
    owner: Person
    editable: bool
    double_text: Literal["queue", "reject", "interrupt"] | UnsetType = UNSET
    visibility: Literal["everyone", "groups", "owner"] | UnsetType = UNSET
    groups: list[int] | UnsetType = UNSET
    revision: int | UnsetType = UNSET
    created: str | UnsetType = UNSET
    updated: str | UnsetType = UNSET
    draft: Any | UnsetType = UNSET


class ImportedFlow(Flow):
    faults: list[Fault] | UnsetType = UNSET


class FlowFile(msgspec.Struct):
    headrace: int
    name: str
    description: str
    double_text: Literal["queue", "reject", "interrupt"]
    graph: Any


class Faults(msgspec.Struct):
    faults: list[Fault]


class BuildBegun(msgspec.Struct):
    build: str


class Build(msgspec.Struct):
    build: str
    status: Literal["started", "in_progress", "success", "failure"]
    progress: int
    checksum: str
    faults: list[Fault]
    error: str


class Version(msgspec.Struct):
    number: int
    checksum: str
    note: str
    author: Person | None
    created: str
    published: bool


class VersionGraph(Version):
    graph: Any


class NodeKind(msgspec.Struct):
    """`schema`: JSON Schema of its fields. `outputs` is null where they depend on the fields.

    `branches`: those that no field names. `passes`: an edge without a branch takes what no branch took.
    """

    kind: str
    title: str
    schema: dict[str, Any]
    outputs: list[str] | None
    branches: list[str]
    optional_branches: list[str]
    passes: bool
    is_start: bool
    is_end: bool


class Provider(msgspec.Struct):
    id: str
    slug: str
    kind: str
    base_url: str
    has_key: bool
    models: list[str]
    options: dict[str, Any]
    on_takeover: Literal["restart", "continue"]
    prices: dict[str, float]
    takes_pictures: bool
    enabled: bool


class FlowName(msgspec.Struct):
    id: str
    slug: str
    name: str


class Chat(msgspec.Struct):
    """`state`: of its running or waiting turn."""

    id: str
    title: str
    head: str | None
    pinned: bool
    deleted: bool
    state: Literal["running", "waiting"] | None
    rev: int
    kind: Literal["chat", "debug", "call"]
    flow: FlowName | None
    created: str
    last_turn: str


class ChatFile(msgspec.Struct):
    headrace: int
    id: str
    title: str
    flow: str | None
    head: str | None
    created: str
    messages: list[Message]


class Said(msgspec.Struct):
    message: str
    turn: str
    answer: str
    queued: bool


class Answered(msgspec.Struct):
    question: str
    turn: str


class Stopped(msgspec.Struct):
    turn: str


class TurnNode(msgspec.Struct):
    """A step, as its last `node` event told it."""

    node: str
    visit: int
    kind: str
    title: str
    state: Literal["start", "end", "error"]
    ms: int | None
    output: Any
    error: str | None


class Turn(msgspec.Struct):
    id: str
    chat: str
    state: Literal["queued", "running", "waiting", "done", "stopped", "error"]
    message: str
    answer: str
    attempt: int
    version: int | None
    skill: str
    parts: list[Part]
    nodes: list[TurnNode]
    question: QuestionEvent | None
    data: Any
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    created: str
    ended: str | None


class Feedback(msgspec.Struct):
    value: Literal["up", "down"]
    comment: str


class Session(msgspec.Struct):
    id: str
    user: Person | None
    flow: str | None
    chat: str | None
    door: Door
    kind: Kind
    state: StreamState
    dialect: str
    worker: str | None
    address: str | None
    user_agent: str
    trace: str
    bytes_sent: int
    bytes_recv: int
    chunks_sent: int
    chunks_recv: int
    started: str
    last_seen: str
    ended: str | None
    close_code: int | None
    close_reason: str


class Totals(msgspec.Struct):
    since: str
    live: int
    sessions: int
    chunks_sent: int
    bytes_sent: int
    chunks_recv: int
    bytes_recv: int
    doors: dict[str, int]
    states: dict[str, int]
    is_cut: bool


class Worker(msgspec.Struct):
    id: str
    host: str
    pid: int
    alive: bool
    draining: bool
    runs_turns: bool
    turns: int
    sockets: int
    started: str
    last_seen: str


SHAPES: dict[str, type] = {
    shape.__name__: shape
    for shape in (
        Error, Tokens, Ticket, Me, Budget, OwnUsage, Key, NewKey, Flow, ImportedFlow, FlowFile, Faults, BuildBegun,
        Build, Version, VersionGraph, NodeKind, Provider, Chat, ChatFile, Message, Said, Answered, Stopped, Turn,
        Feedback, Session, Totals, Worker, Diff,
    )
} | {"File": File}  # fmt: skip


def components() -> dict[str, Any]:
    """The shapes as JSON Schema, by name; what REST answers has no other properties than these."""
    kinds = list(SHAPES.values())
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    found["File"] = found.pop("Shown")
    for schema in found.values():
        if schema.get("type") == "object" and "properties" in schema:
            schema["additionalProperties"] = False
            # Frames leave out what has its default; REST's answers do not.
    return found
