"""Legal moves of a stream session. Pure: the store applies them, this table decides."""

from enum import StrEnum


class Door(StrEnum):
    CHAT = "chat"
    DEBUG = "debug"
    CALL = "call"
    VOICE = "voice"
    SSE = "sse"


class Kind(StrEnum):
    TEXT = "text"
    AUDIO = "audio"
    VIDEO = "video"
    MIXED = "mixed"


class StreamState(StrEnum):
    """`PAUSED`: the window is full, or the turn waits for an answer."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    STREAMING = "streaming"
    PAUSED = "paused"
    DISCONNECTED = "disconnected"
    ERROR = "error"


LIVE = frozenset({StreamState.CONNECTING, StreamState.CONNECTED, StreamState.STREAMING, StreamState.PAUSED})
ENDS = frozenset({StreamState.DISCONNECTED, StreamState.ERROR})

_MOVING = {StreamState.CONNECTED, StreamState.STREAMING, StreamState.PAUSED}
LEGAL: dict[StreamState, frozenset[StreamState]] = {
    StreamState.CONNECTING: frozenset({StreamState.CONNECTED}) | ENDS,
    StreamState.CONNECTED: frozenset(_MOVING - {StreamState.CONNECTED}) | ENDS,
    StreamState.STREAMING: frozenset(_MOVING - {StreamState.STREAMING}) | ENDS,
    StreamState.PAUSED: frozenset(_MOVING - {StreamState.PAUSED}) | ENDS,
    StreamState.DISCONNECTED: frozenset(),
    # But for one way out that is the store's alone: a worker taken for dead that writes again takes its rows back.
    StreamState.ERROR: frozenset(),
}


def can_move(before: StreamState, after: StreamState) -> bool:
    return after in LEGAL[before]
