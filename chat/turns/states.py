"""Legal moves of a turn. Pure: the database applies them, this table decides."""

from enum import StrEnum


class TurnState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    STOPPED = "stopped"
    ERROR = "error"


LEGAL: dict[TurnState, frozenset[TurnState]] = {
    TurnState.QUEUED: frozenset({TurnState.RUNNING, TurnState.STOPPED, TurnState.ERROR}),
    TurnState.RUNNING: frozenset({TurnState.WAITING, TurnState.DONE, TurnState.STOPPED, TurnState.ERROR}),
    TurnState.WAITING: frozenset({TurnState.RUNNING, TurnState.STOPPED, TurnState.ERROR}),
    TurnState.DONE: frozenset(),
    TurnState.STOPPED: frozenset(),
    TurnState.ERROR: frozenset(),
}

ACTIVE = frozenset({TurnState.RUNNING, TurnState.WAITING})
UNENDED = ACTIVE | {TurnState.QUEUED}


def can_move(before: TurnState, after: TurnState) -> bool:
    return after in LEGAL[before]
