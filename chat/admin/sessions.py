"""Stream sessions for operators: what each socket carries, while it does."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import intcomma
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.forms import Script
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.defaultfilters import filesizeformat
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from accounts import lists
from chat.admin.operations import OperatedAdmin, Operation
from chat.models import Chat, Turn
from chat.totals import carried
from chat.turns.manager import ChatManager
from flows.models import Flow
from streams.errors import CATALOGUE, WireError
from streams.models import STATES, StreamSamples, StreamSession, Worker
from streams.states import LIVE

FOUND_CHATS = 200
LISTED_FLOWS = 200
CODES = {1000: _("in order"), 1001: _("left"), 1005: _("left"), 1006: _("connection lost")}
LIVE_VALUES = sorted(state.value for state in LIVE)


async def _stop(manager: ChatManager, row: StreamSession) -> None:
    if row.chat is None:
        raise WireError("turn_not_running")
    await manager.commands.stop_as_operator(str(row.chat))


async def _close(manager: ChatManager, row: StreamSession) -> None:
    if not await manager.commands.close_session(str(row.id)):
        raise WireError("not_found", _("This connection has ended already."))


STOP = Operation(
    "stop_turns",
    _("Stop the running turn"),
    _("The answer that is being written in the chat of each connection ends here; what was written is kept."),
    _("its turn is stopped."),
    _stop,
)
CLOSE = Operation(
    "close_sockets",
    _("Close the connection"),
    _("Each connection is told that an operator closed it. A turn that runs goes on; its answer is kept."),
    _("the connection is being closed."),
    _close,
)


class FlowFilter(lists.Choice):
    title = _("flow")
    parameter_name = "flow"
    exact = "flow"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        flows = Flow.objects.filter(deleted=False).order_by("name").values_list("id", "name")[:LISTED_FLOWS]
        return [(str(id_), name) for id_, name in flows]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        value = self.value()
        if not value:
            return queryset
        id_ = lists.as_uuid(value)
        return queryset.filter(**{self.exact: id_}) if id_ else queryset.none()


class StateFilter(lists.Choice):
    title = _("state")
    parameter_name = "state"
    exact = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", _("live")), *STATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() == "live":
            return queryset.filter(state__in=LIVE_VALUES)
        return super().queryset(request, queryset)


@admin.register(StreamSession)
class StreamSessionAdmin(OperatedAdmin):
    keyset = "started"
    list_display = (
        "name",
        "state_shown",
        "user",
        "flow_name",
        "chat_title",
        "what",
        "sent",
        "received",
        "started",
        "lasted",
        "closed",
    )
    list_filter = (StateFilter, FlowFilter, "kind", "door", "started")
    list_select_related = ("user",)
    search_fields = ("user__username",)
    search_help_text = _("A user's name, a chat's title, or the id of a session, chat, worker or trace.")
    sortable_by = ("started",)
    ordering = ("-started", "-id")
    fields = (
        ("state_shown", "closed"),
        ("user", "address", "user_agent"),
        ("flow_name", "chat_title", "turns"),
        ("what", "dialect", "worker_name"),
        ("sent", "received"),
        ("started", "ended", "lasted"),
        ("id", "trace"),
    )
    readonly_fields = (
        "state_shown",
        "flow_name",
        "chat_title",
        "turns",
        "what",
        "worker_name",
        "sent",
        "received",
        "lasted",
        "closed",
    )
    actions = ("stop_turns", "close_sockets")

    class Media:
        js = (Script("js/admin-live.js", type="module"),)

    # ------------------------------------------------------------------------------------------ rows

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, term: str) -> tuple[QuerySet, bool]:
        term = term.strip()
        if not term:
            return queryset, False
        id_ = lists.as_uuid(term)
        if id_ is not None:
            return queryset.filter(Q(id=id_) | Q(chat=id_) | Q(worker=id_)), False
        chats = list(Chat.objects.filter(title__icontains=term).values_list("id", flat=True)[:FOUND_CHATS])
        return queryset.filter(Q(user__in=lists.users_named(term)) | Q(chat__in=chats) | Q(trace=term)), False

    def complete(self, rows: Sequence[StreamSession]) -> None:
        flows = Flow.objects.filter(id__in={row.flow for row in rows}).only("id", "name").in_bulk()
        chats = Chat.objects.filter(id__in={row.chat for row in rows}).only("id", "title").in_bulk()
        for row in rows:
            row.flow_row, row.chat_row = flows.get(row.flow), chats.get(row.chat)
            row.cells = cells(row)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> StreamSession | None:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            self.complete([row])
        return row

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if "cl" in context:
            context["totals_url"] = "totals/" + context["cl"].get_query_string()
            context["poll_s"] = settings.HEADRACE.admin_poll_s
        return response

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        more = {
            "poll_s": settings.HEADRACE.admin_poll_s,
            "operations": (STOP, CLOSE) if self.has_operate_permission(request) else (),
            "live_states": LIVE_VALUES,
        }
        return super().change_view(request, object_id, form_url, {**more, **(extra_context or {})})

    # ------------------------------------------------------------------------------------- what moves

    def get_urls(self) -> list[URLPattern]:
        live = path("live/", self.admin_site.admin_view(self.live), name="streams_streamsession_live")
        samples = path(
            "<uuid:session>/samples/", self.admin_site.admin_view(self.samples), name="streams_streamsession_samples"
        )
        sums = path("totals/", self.admin_site.admin_view(self.totals), name="streams_streamsession_totals")
        return [live, samples, sums, *super().get_urls()]

    def totals(self, request: HttpRequest) -> HttpResponse:
        """Over the set that the list's filters leave. Apart from the list, which need not wait for it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        found = totals(self.get_changelist_instance(request).queryset)
        return render(request, "admin/totals.html", {"totals": found})

    def live(self, request: HttpRequest) -> JsonResponse:
        """What the cells of these sessions say now. `ids`: of one page at most."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        asked = request.GET.get("ids", "").split(",")[: settings.HEADRACE.admin_rows]
        ids = [id_ for id_ in map(lists.as_uuid, asked) if id_ is not None]
        rows = {str(row.id): cells(row) for row in StreamSession.objects.filter(id__in=ids)}
        return JsonResponse({"rows": rows})

    def samples(self, request: HttpRequest, session: Any) -> JsonResponse:
        """The points of a session's plot: (seconds, bytes and frames sent, bytes and frames received)."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = StreamSession.objects.filter(id=session).first()
        if row is None:
            raise Http404
        points = StreamSamples.objects.filter(session=session).values_list("points", flat=True).first() or []
        counted = [row.bytes_sent, row.chunks_sent, row.bytes_recv, row.chunks_recv]
        # It begins with nothing; and until now nothing came that the counters do not say.
        now_s = ((row.ended or timezone.now()) - row.started).total_seconds()
        end = [[max(now_s, points[-1][0] if points else 0.0), *counted]]
        series = [[0.0, 0, 0, 0, 0], *points, *end]
        return JsonResponse({"started": row.started.timestamp(), "points": series, "is_live": row.state in LIVE})

    # --------------------------------------------------------------------------------------- operations

    @admin.action(description=STOP.title, permissions=("operate",))
    def stop_turns(self, request: HttpRequest, rows: QuerySet) -> HttpResponse | None:
        return self.operate(request, rows, STOP)

    @admin.action(description=CLOSE.title, permissions=("operate",))
    def close_sockets(self, request: HttpRequest, rows: QuerySet) -> HttpResponse | None:
        return self.operate(request, rows, CLOSE)

    # -------------------------------------------------------------------------------------------- cells

    @admin.display(description=_("session"), ordering="started")
    def name(self, row: StreamSession) -> str:
        live = row.state in LIVE
        return format_html('<span class="id" data-session="{}"{}>{}</span>', row.id, " data-is-live" * live, row)

    @admin.display(description=_("state"))
    def state_shown(self, row: StreamSession) -> str:
        return format_html('<span class="state {}" data-cell="{}.state">{}</span>', *_state(row))

    @admin.display(description=_("flow"))
    def flow_name(self, row: Any) -> str:
        return lists.page_of(row.flow_row)

    @admin.display(description=_("chat"))
    def chat_title(self, row: Any) -> str:
        return lists.page_of(row.chat_row)

    @admin.display(description=_("turns"))
    def turns(self, row: Any) -> str:
        if row.chat_row is None:
            return "–"
        return lists.link(lists.rows_url(Turn, chat__id__exact=row.chat), _("turns of this chat"))

    @admin.display(description=_("door"))
    def what(self, row: StreamSession) -> str:
        return f"{row.get_door_display()} · {row.get_kind_display()}"

    @admin.display(description=_("worker"))
    def worker_name(self, row: StreamSession) -> str:
        worker = Worker.objects.filter(id=row.worker).first()
        return lists.page_of(worker) if worker else str(row.worker or "–")[:8]

    @admin.display(description=_("sent"))
    def sent(self, row: StreamSession) -> str:
        return _cell(row, "sent")

    @admin.display(description=_("received"))
    def received(self, row: StreamSession) -> str:
        return _cell(row, "received")

    @admin.display(description=_("lasted"))
    def lasted(self, row: StreamSession) -> str:
        return _cell(row, "lasted")

    @admin.display(description=_("how it ended"))
    def closed(self, row: StreamSession) -> str:
        return _cell(row, "closed")


def cells(row: StreamSession) -> dict[str, Any]:
    """What moves of a session, as people read it."""
    return {
        "state": row.get_state_display(),
        "kind": row.state,
        "is_live": row.state in LIVE,
        "sent": amount(row.bytes_sent, row.chunks_sent),
        "received": amount(row.bytes_recv, row.chunks_recv),
        "lasted": lists.seconds(((row.ended or timezone.now()) - row.started) // timedelta(seconds=1)),
        "closed": closing(row),
    }


def _cell(row: Any, name: str) -> str:
    return format_html('<span data-cell="{}.{}">{}</span>', row.id, name, row.cells[name])


def _state(row: StreamSession) -> tuple[str, Any, str]:
    return row.state, row.id, row.get_state_display()


def closing(row: StreamSession) -> str:
    """Why it ended, in words where there are some."""
    if row.ended is None:
        return ""
    if row.close_reason == "lost":
        return str(_("lost with its worker"))
    said = cause(row.close_reason).rstrip(".") or CODES.get(row.close_code, "")
    return f"{said} ({row.close_code})" if row.close_code else str(said)


def cause(code: str) -> str:
    """A catalogue's code as people read it: its sentence."""
    return str(_(CATALOGUE[code].text)) if code in CATALOGUE else code


def amount(count_bytes: int, chunks: int) -> str:
    return _("%(size)s in %(chunks)s frames") % {"size": filesizeformat(count_bytes), "chunks": intcomma(chunks)}


def totals(rows: QuerySet) -> dict[str, Any]:
    """Over the whole filtered set, its newest `admin_totalled_rows` where there are more."""
    found = carried(rows)
    return {
        "sessions": intcomma(found["sessions"]),
        "is_cut": found["is_cut"],
        "live": intcomma(sum(count for state, count in found["states"].items() if state in LIVE)),
        "sent": amount(found["bytes_sent"], found["chunks_sent"]),
        "received": amount(found["bytes_recv"], found["chunks_recv"]),
    }
