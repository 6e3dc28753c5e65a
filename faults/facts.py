"""What was recorded of one run: by the clients, in the log, in the rows. Data only; times are seconds since 1970."""

from typing import Any

import msgspec

Json = dict[str, Any]


class Seen(msgspec.Struct):
    """A frame that came."""

    at: float
    nbytes: int
    frame: Json


class Connection(msgspec.Struct):
    """One connection of a client.

    `is_clean`: a close frame came, so all that the server wrote was read; `is_ours`: the client closed, so all that it
    wrote was read too.
    """

    worker: str
    began: float
    session: str = ""
    seen: list[Seen] = []
    sent: list[tuple[float, int]] = []  # when, bytes
    is_clean: bool = False
    is_ours: bool = False
    code: int | None = None
    ended: float = 0.0


class Command(msgspec.Struct):
    """What a client wants, sent until it is answered for good."""

    id: str
    type: str
    at: float
    body: Json


class Client(msgspec.Struct):
    name: str
    chat: str
    connections: list[Connection] = []
    commands: list[Command] = []


class Log(msgspec.Struct):
    """A chat's log as Redis has it: `entries` are (seq, event)."""

    epoch: str
    seq: int
    entries: list[tuple[int, Json]]


class Turn(msgspec.Struct):
    id: str
    chat: str
    number: int
    input: str
    answer: str
    state: str
    attempt: int
    takeovers: int
    worker: str | None
    told: bool
    error: str | None
    has_question: bool


class Session(msgspec.Struct):
    id: str
    worker: str
    state: str
    reason: str
    has_ended: bool
    counted: tuple[int, int, int, int]  # chunks sent, bytes sent, chunks received, bytes received


class Worker(msgspec.Struct):
    """`silent_s`: since it was last seen."""

    id: str
    silent_s: float
    is_buried: bool


class Stored(msgspec.Struct):
    """A chat as REST shows it."""

    title: str
    head: str | None
    messages: list[Json]


class Kept(msgspec.Struct):
    """A step whose result was kept, and when."""

    turn: str
    key: str
    at: float


class Began(msgspec.Struct):
    """A run as the worker's own log told it."""

    turn: str
    attempt: int
    worker: str
    at: float


class Call(msgspec.Struct):
    """A request that the model answered. `message`: the id of the command whose words it was."""

    command: str
    node: str
    at: float


class History(msgspec.Struct, kw_only=True):
    """All of one run. `answers`: the whole text that the model gives to a command; `killed`: when a worker died."""

    clients: list[Client] = []
    logs: dict[str, Log] = {}
    turns: list[Turn] = []
    replies: list[tuple[str, str, Json]] = []  # (chat, command, reply) of the rows
    stored: dict[str, Stored] = {}
    kept: list[Kept] = []
    began: list[Began] = []
    calls: list[Call] = []
    answers: dict[str, str] = {}
    sessions: list[Session] = []
    workers: list[Worker] = []
    killed: dict[str, float] = {}
    left_over: list[str] = []  # keys, subscriptions, descriptors, in words
