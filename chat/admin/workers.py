"""Workers for operators: who lives, and how much each has to do."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import intcomma
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import lists
from chat.admin.sessions import LIVE_VALUES
from chat.models import Turn
from chat.turns.states import TurnState
from streams.models import StreamSession, Worker


@admin.register(Worker)
class WorkerAdmin(lists.ReadOnlyAdmin):
    keyset = "last_seen"
    list_display = ("__str__", "life", "runs_turns", "running", "sockets", "started", "seen")
    list_filter = ("draining", "runs_turns", "last_seen")
    search_fields = ("host",)
    search_help_text = _("A host's name, or a worker's id.")
    ordering = ("-last_seen",)
    fields = (
        ("host", "pid", "life"),
        ("running", "sockets", "runs_turns"),
        ("started", "last_seen", "buried_at"),
        ("id",),
    )
    readonly_fields = ("life", "running", "sockets")

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, term: str) -> tuple[QuerySet, bool]:
        id_ = lists.as_uuid(term)
        return (queryset.filter(id=id_), False) if id_ else super().get_search_results(request, queryset, term)

    def complete(self, rows: Sequence[Worker]) -> None:
        ids = [row.id for row in rows]
        turns = _counted(Turn.objects.filter(state=TurnState.RUNNING.value, worker__in=ids))
        sockets = _counted(StreamSession.objects.filter(state__in=LIVE_VALUES, worker__in=ids))
        for row in rows:
            row.turn_count, row.socket_count = turns.get(row.id, 0), sockets.get(row.id, 0)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Worker | None:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            self.complete([row])
        return row

    @admin.display(description=_("state"))
    def life(self, row: Worker) -> str:
        if timezone.now() - row.last_seen >= timedelta(seconds=settings.HEADRACE.dead_after_s):
            return lists.badge("ended", _("gone"))
        return lists.badge("paused", _("draining")) if row.draining else lists.badge("live", _("alive"))

    @admin.display(description=_("turns running"))
    def running(self, row: Any) -> str:
        count = f"{intcomma(row.turn_count)} / {intcomma(settings.HEADRACE.turns_per_worker)}"
        return lists.link(lists.rows_url(Turn, worker=row.id), count)

    @admin.display(description=_("live sockets"))
    def sockets(self, row: Any) -> str:
        return lists.link(lists.rows_url(StreamSession, state="live", worker=row.id), intcomma(row.socket_count))

    @admin.display(description=_("last seen"), ordering="last_seen")
    def seen(self, row: Worker) -> str:
        return _("%(span)s ago") % {"span": lists.seconds((timezone.now() - row.last_seen) // timedelta(seconds=1))}


def _counted(rows: QuerySet) -> dict[Any, int]:
    """How many of `rows` each worker has."""
    return dict(rows.order_by().values_list("worker").annotate(Count("pk")))
