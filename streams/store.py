"""Each transaction on workers and sessions, as one synchronous function. The bridge calls them."""

import ipaddress
import json
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet

from streams.database import now
from streams.models import StreamSamples, StreamSession, Worker
from streams.prepared import insert
from streams.samples import Point
from streams.states import ENDS, LIVE, StreamState

LOST = "lost"
_LIVE = sorted(state.value for state in LIVE)


class SessionRow(NamedTuple):
    """What a worker writes of a session. `ends`: it is over, with this code and reason."""

    id: str
    state: str
    chunks_sent: int
    bytes_sent: int
    chunks_recv: int
    bytes_recv: int
    ends: bool
    close_code: int | None
    close_reason: str


# ---------------------------------------------------------------------------------------------- sessions


@transaction.atomic(savepoint=False)
def create_session(values: dict[str, Any]) -> None:
    """Make a session's row; a repeat finds it made. Texts of the peer's making are cut to what the row takes."""
    moment = now()
    fields = {
        **values,
        "state": StreamState.CONNECTING.value,
        "address": _address(values.get("address")),
        "user_agent": values.get("user_agent", "").replace("\0", "")[:255],
        "started": moment,
        "last_seen": moment,
    }
    insert(StreamSession(**fields), unless_there=True)


def write_sessions(worker: str, rows: list[SessionRow]) -> None:
    """Counters, states and ends of many sessions of `worker`, in one statement.

    A session that ended stays ended, but for `lost`: that was said by others of a worker which writes here and
    therefore lives.
    """
    moment = now()
    packed = []
    for row in rows:
        key = row.id if connection.vendor == "postgresql" else row.id.replace("-", "")
        packed.append([key, *row[1:6], 1 if row.ends else 0, row.close_code, row.close_reason[:64]])
    at = connection.ops.adapt_datetimefield_value(moment)
    owner = worker if connection.vendor == "postgresql" else worker.replace("-", "")
    with connection.cursor() as cursor:
        cursor.execute(_WRITE[connection.vendor], [at, at, json.dumps(packed), owner, LOST])


_SET = """
UPDATE streams_streamsession AS s SET
  state = v.state, chunks_sent = v.chunks_sent, bytes_sent = v.bytes_sent,
  chunks_recv = v.chunks_recv, bytes_recv = v.bytes_recv, last_seen = %s,
  ended = CASE WHEN v.ends = 1 THEN {moment} END, close_code = v.close_code, close_reason = v.close_reason
FROM (SELECT {columns} FROM {rows}) AS v
WHERE s.id = v.id AND {owns} AND (s.ended IS NULL OR s.close_reason = %s)
"""
_COLUMNS = (
    ("id", "uuid"),
    ("state", "text"),
    ("chunks_sent", "bigint"),
    ("bytes_sent", "bigint"),
    ("chunks_recv", "bigint"),
    ("bytes_recv", "bigint"),
    ("ends", "integer"),
    ("close_code", "smallint"),
    ("close_reason", "text"),
)
_WRITE = {
    "sqlite": _SET.format(
        moment="%s",
        columns=", ".join(f"json_extract(value, '$[{i}]') AS {name}" for i, (name, _) in enumerate(_COLUMNS)),
        rows="json_each(%s)",
        owns="+s.worker = %s",  # the plus: found by id, not by worker, which would look at all rows for each row
    ),
    "postgresql": _SET.format(
        moment="%s::timestamptz",
        columns=", ".join(f"(value->>{i})::{kind} AS {name}" for i, (name, kind) in enumerate(_COLUMNS)),
        rows="json_array_elements(%s::json)",
        owns="s.worker = %s::uuid",
    ),
}


def _address(text: str | None) -> str | None:
    try:
        return str(ipaddress.ip_address(text)) if text else None
    except ValueError:
        return None


def write_samples(taken: dict[str, list[Point]]) -> None:
    """The points of many sessions, each row replaced whole."""
    StreamSamples.objects.bulk_create(
        [StreamSamples(session=session, points=points) for session, points in taken.items()],
        update_conflicts=True,
        unique_fields=["session"],
        update_fields=["points"],
    )


def ask_close(session: str) -> bool:
    """Note that an operator wants a socket closed; its worker does it. False: it has ended already."""
    live = StreamSession.objects.filter(id=session, ended=None)
    return live.update(close_asked=now()) > 0


def closes_asked(worker: str) -> list[str]:
    """Live sessions of `worker` that are to be closed: the slow poll behind the control message."""
    asked = StreamSession.objects.filter(worker=worker, close_asked__isnull=False, ended=None)
    return [str(session) for session in asked.values_list("id", flat=True)]


def forget_sessions() -> int:
    """Some of the sessions that ended `sessions_kept_s` ago, with their samples. Returns how many: 0, no more."""
    old = now() - timedelta(seconds=settings.HEADRACE.sessions_kept_s)
    rows = StreamSession.objects.filter(started__lt=old, ended__lt=old).order_by("started")
    ids = list(rows.values_list("id", flat=True)[: settings.HEADRACE.purge_rows])
    StreamSamples.objects.filter(session__in=ids).delete()
    StreamSession.objects.filter(id__in=ids).delete()
    return len(ids)


# ---------------------------------------------------------------------------------------------- workers


@transaction.atomic(savepoint=False)
def beat(worker: str, host: str, pid: int, runs_turns: bool, draining: bool) -> bool:
    """Say that `worker` lives. True: it had been buried, which this undoes; write all its live sessions then."""
    moment = now()
    row, is_new = Worker.objects.select_for_update().get_or_create(
        id=worker,
        defaults={
            "host": host[:255],
            "pid": pid,
            "started": moment,
            "last_seen": moment,
            "runs_turns": runs_turns,
            "draining": draining,
        },
    )
    if is_new:
        return False
    was_buried = row.buried_at is not None
    row.last_seen = moment
    row.draining = draining
    row.runs_turns = runs_turns
    row.buried_at = None
    row.save(update_fields=["last_seen", "draining", "runs_turns", "buried_at"])
    return was_buried


def alive_since() -> datetime:
    """Who was seen at this time or later is alive."""
    return now() - timedelta(seconds=settings.HEADRACE.dead_after_s)


def live_workers() -> set[str]:
    ids = Worker.objects.filter(last_seen__gte=alive_since()).values_list("id", flat=True)
    return {str(worker) for worker in ids}


def dead_workers() -> list[str]:
    """Workers that are not alive and not buried."""
    ids = Worker.objects.filter(last_seen__lt=alive_since(), buried_at=None).values_list("id", flat=True)
    return [str(worker) for worker in ids]


def leave(worker: str) -> None:
    """A worker that ends in order is not alive from now on. It is buried like any other."""
    Worker.objects.filter(id=worker).update(last_seen=alive_since() - timedelta(seconds=1), draining=True)


def bury_idle(in_use: Collection[str]) -> list[str]:
    """Bury the dead workers that are not `in_use`, forget those buried `buried_kept_s` ago. Returns who was buried."""
    buried = [worker for worker in dead_workers() if worker not in in_use and bury(worker)]
    _lose_strays()
    Worker.objects.filter(buried_at__lt=now() - timedelta(seconds=settings.HEADRACE.buried_kept_s)).exclude(
        id__in=in_use
    ).delete()
    return buried


@transaction.atomic(savepoint=False)
def bury(worker: str) -> bool:
    """End the sessions of a dead worker as lost. False: it lives, or is buried. Its turns are the chats' affair."""
    moment = now()
    row = Worker.objects.select_for_update().filter(id=worker, buried_at=None, last_seen__lt=alive_since()).first()
    if row is None:
        return False
    row.buried_at = moment
    row.save(update_fields=["buried_at"])
    _lose(StreamSession.objects.filter(worker=worker), moment)
    return True


def _lose_strays() -> None:
    """A row that was committed after its worker's burial, or whose worker never came to have a row."""
    unburied = Worker.objects.filter(buried_at=None).values("id")
    rows = StreamSession.objects.filter(state__in=_LIVE, last_seen__lt=alive_since()).exclude(worker__in=unburied)
    _lose(rows, now())


def _lose(rows: QuerySet[StreamSession], moment: datetime) -> None:
    rows.exclude(state__in=[state.value for state in ENDS]).update(
        state=StreamState.ERROR.value, ended=moment, close_code=None, close_reason=LOST
    )
