"""REST of stream sessions and workers, for operators: staff and viewers look, staff closes."""

from datetime import timedelta
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import MaySeeSessions
from accounts.rest.bodies import Body, Text, found, path_id
from accounts.rest.pages import page
from chat.models import Turn
from chat.totals import carried
from chat.turns.manager import ask_manager
from chat.turns.states import TurnState
from streams import database, store
from streams.clock import stamp
from streams.errors import WireError
from streams.models import StreamSession, Worker
from streams.states import LIVE, Door, StreamState

TOTALS_H = 24


class CloseBody(Body):
    reason = Text(max_length=500)


class OperatorView(APIView):
    permission_classes = (MaySeeSessions,)
    scopes = ("sessions",)


class SessionsView(OperatorView):
    """Newest first. Filters: `state` (or `live`), `door`, `user`, `flow`, `chat`, `worker`."""

    def get(self, request: Request) -> Response:
        rows = _filtered(StreamSession.objects.select_related("user"), request)
        return page(request, rows, ("started", "id"), lambda rows: [session_json(row) for row in rows])


class SessionView(OperatorView):
    def get(self, request: Request, ref: str) -> Response:
        return Response(session_json(_session(ref)))


class TotalsView(OperatorView):
    """What all sessions since `?since=` (24 hours ago) carried together, and how many live now.

    `is_cut`: there are too many, and these are the newest.
    """

    def get(self, request: Request) -> Response:
        since = _since(request)
        rows = _filtered(StreamSession.objects.filter(started__gte=since), request)
        return Response(
            {
                "since": stamp(since),
                "live": _filtered(StreamSession.objects.filter(state__in=LIVE), request).count(),
                **carried(rows),
            }
        )


class CloseView(OperatorView):
    """Asks the session's worker to close it; who asked, and why, stands in the log of the admin."""

    def post(self, request: Request, ref: str) -> Response:
        session = _session(ref)
        reason = CloseBody.of(request)["reason"]
        if ask_manager(lambda manager: manager.commands.close_session(str(session.id))):
            LogEntry.objects.log_actions(
                request.auth.user_id, [session], CHANGE, _("Closed: {reason}").format(reason=reason), single_object=True
            )
        return Response(session_json(_session(ref)), status=202)


class WorkersView(OperatorView):
    """The last seen first. `alive` by the database's clock; `turns` that it runs, `sockets` that it holds."""

    def get(self, request: Request) -> Response:
        rows = Worker.objects.annotate(
            turns=_how_many(Turn.objects.filter(state=TurnState.RUNNING)),
            sockets=_how_many(StreamSession.objects.filter(state__in=LIVE)),
        )
        since = store.alive_since()
        return page(request, rows, ("last_seen", "id"), lambda rows: [worker_json(row, since) for row in rows])


def _session(ref: str) -> StreamSession:
    return found(StreamSession.objects.select_related("user").filter(id=path_id(ref)).first())


def _since(request: Request) -> Any:
    given = request.query_params.get("since")
    if given is None:
        return database.now() - timedelta(hours=TOTALS_H)
    try:
        since = parse_datetime(given)
    except ValueError:
        since = None
    if since is None or since.tzinfo is None:
        raise WireError("validation_error", fields={"since": _("This must be a time such as 2026-01-31T12:00:00Z.")})
    return since


def _filtered(rows: QuerySet, request: Request) -> QuerySet:
    wanted, faults = request.query_params, {}
    choices = {"state": [*StreamState, "live"], "door": list(Door)}
    for name, known in choices.items():
        if name in wanted and wanted[name] not in known:
            faults[name] = _("There is no such choice.")
    for name in ("flow", "chat", "worker"):
        if name in wanted:
            try:
                rows = rows.filter(**{name: path_id(wanted[name])})
            except WireError:
                faults[name] = _("This must be a UUID.")
    if "user" in wanted:
        if wanted["user"].isascii() and wanted["user"].isdigit() and len(wanted["user"]) < 19:
            rows = rows.filter(user_id=int(wanted["user"]))
        else:
            faults["user"] = _("This must be the id of a user.")
    if faults:
        raise WireError("validation_error", fields=faults)
    if "state" in wanted:
        rows = rows.filter(state__in=LIVE if wanted["state"] == "live" else [wanted["state"]])
    return rows.filter(door=wanted["door"]) if "door" in wanted else rows


def _how_many(rows: QuerySet) -> Coalesce:
    """How many of `rows` name a worker."""
    counted = rows.filter(worker=OuterRef("pk")).order_by().values("worker").annotate(n=Count("pk")).values("n")
    return Coalesce(Subquery(counted), 0)


def worker_json(row: Any, alive_since: Any) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "host": row.host,
        "pid": row.pid,
        "alive": row.last_seen >= alive_since,
        "draining": row.draining,
        "runs_turns": row.runs_turns,
        "turns": row.turns,
        "sockets": row.sockets,
        "started": stamp(row.started),
        "last_seen": stamp(row.last_seen),
    }


def session_json(row: StreamSession) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "user": row.user and {"id": str(row.user.pk), "name": row.user.get_username()},
        "flow": row.flow and str(row.flow),
        "chat": row.chat and str(row.chat),
        "door": row.door,
        "kind": row.kind,
        "state": row.state,
        "dialect": row.dialect,
        "worker": row.worker and str(row.worker),
        "address": row.address,
        "user_agent": row.user_agent,
        "trace": row.trace,
        "bytes_sent": row.bytes_sent,
        "bytes_recv": row.bytes_recv,
        "chunks_sent": row.chunks_sent,
        "chunks_recv": row.chunks_recv,
        "started": stamp(row.started),
        "last_seen": stamp(row.last_seen),
        "ended": row.ended and stamp(row.ended),
        "close_code": row.close_code,
        "close_reason": row.close_reason,
    }
