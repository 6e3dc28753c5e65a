"""What goes into a transaction of `chat/turns/store/` and comes out of it. Data only."""

from typing import Any

import msgspec

from accounts.spend import Spender
from chat import protocol


class Fenced(Exception):
    """The turn is not this attempt's any more: whoever wrote must fall silent."""


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """A say, regenerate or edit, checked in form; `params` as they came, not checked yet.

    `worker`: who will run it, null where this process runs none. `has_room`: whether it can take one more.
    """

    act: str
    command: str
    chat: str
    user: int
    user_name: str
    flow: str
    key: str | None = None  # the API key he came with
    kind: str = "chat"
    graph: dict[str, Any] | None = None  # of a fresh debug chat
    version: str | None = None  # the one that this connection's turns run, else the published one
    skill: str = "flow"
    text: str = ""
    params: dict[str, Any] = {}
    files: tuple[str, ...] = ()
    parent: str | None = None
    message: str | None = None
    locale: str = ""
    worker: str | None = None
    has_room: bool = True


class Kept(msgspec.Struct, frozen=True):
    kind: str
    arguments_hash: str
    value: Any


class RunOrder(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run needs, as its own transaction read it. `fate`: the code it must end with at once."""

    turn: str
    chat: str
    number: int
    attempt: int
    answer: str
    message: protocol.Message
    start: protocol.TurnStart  # without parts
    version_id: str | None
    version: int | None
    skill: str
    params: dict[str, Any]
    inputs: dict[str, Any]
    flow_id: str
    flow_slug: str
    flow_name: str
    graph: dict[str, Any] | None
    checksum: str
    chat_kind: str
    spender: Spender
    parts: list[dict[str, Any]]
    kept: dict[str, Kept]
    answers: dict[str, dict[str, Any]]
    nodes: list[dict[str, Any]] = []
    ran_ms: int
    usage: dict[str, Any] | None
    answered: protocol.Answered | None = None
    titled: protocol.ChatEvent | None = None  # what the chat's row owes
    fate: str | None = None
    is_resumed: bool = False


class Outcome(msgspec.Struct, kw_only=True):
    """What a transaction changed: the reply, a run to begin here, rows whose events are owed now, runs to stop."""

    reply: dict[str, Any] = {}
    run: RunOrder | None = None
    owed: list[str] = []  # turns
    owes_chat: bool = False
    stops: list[str] = []  # running turns that were told to stop
    is_released: bool = False  # a turn runs by now that no worker has taken
    has_next: bool = False  # the next queued turn became the running one
    ended: list[tuple[str, str]] = []  # (state, code of its error) of each turn
    is_takeover: bool = False  # the run was a dead worker's
    listed: tuple[int, dict[str, Any]] | None = None  # (user, the chat as his lists show it now)


class PendingStep(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    kind: str
    arguments_hash: str
    value: Any
    parts: list[dict[str, Any]]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A question as its handler asks it."""

    key: str
    part: str
    text: str
    options: list[dict[str, str]]
    schema: dict[str, Any] | None
    secret: bool
    expires_s: float
    default: Any
    on_expiry: str


class Owed(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a row owes: its batch for the log. `attempt` 0 and no turn for a chat's own event."""

    kind: str  # turn or chat
    id: str
    rev: int
    chat: str
    attempt: int
    events: list[protocol.Event]
    ends: bool
