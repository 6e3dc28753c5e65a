"""What operators see of chats, turns, questions, sockets and workers. All of it is looked at, none of it written."""

from datetime import timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import intcomma
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.html import format_html
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from accounts.admin import ReadOnlyAdmin
from chat.models import Chat, Question, Turn
from chat.turns.states import TurnState
from flows.models import Flow
from streams.models import StreamSession, Worker
from streams.states import LIVE

HEAVY_OF_FLOW = ("chat__flow__draft", "chat__graph", "chat__vars")


def pretty(value: Any) -> str:
    """JSON for people."""
    return format_html("<pre>{}</pre>", msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def seconds(span: timedelta | None) -> str:
    return "" if span is None else f"{span.total_seconds():,.1f} s"


@admin.register(Chat)
class ChatAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "user", "flow", "kind", "turn_count", "last_turn_at", "deleted")
    list_filter = ("kind", "deleted", "last_turn_at")
    list_select_related = ("user", "flow")
    search_fields = ("title", "user__username", "flow__name", "=id")
    ordering = ("-last_turn_at", "-id")
    fields = ("id", "title", "user", "flow", "kind", "head", "pinned", "locale", "deleted", "created", "last_turn_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        turns = Turn.objects.filter(chat=OuterRef("pk")).order_by().values("chat").annotate(n=Count("pk")).values("n")
        rows = super().get_queryset(request).defer("graph", "vars", "flow__draft")
        return rows.annotate(turn_count=Coalesce(Subquery(turns), 0))

    @admin.display(description=_("turns"))
    def turn_count(self, row: Any) -> str:
        return intcomma(row.turn_count)


@admin.register(Turn)
class TurnAdmin(ReadOnlyAdmin):
    list_display = ("chat", "number", "user", "flow", "version", "state", "attempt", "created", "ran", "tokens", "code")
    list_filter = ("state", "skill", "created")
    search_fields = ("chat__title", "chat__user__username", "=id", "=chat__id")
    ordering = ("-created", "-id")
    fields = (
        ("id", "chat", "number"),
        ("state", "skill", "version"),
        ("worker", "attempt", "takeovers"),
        ("created", "running_at", "ended_at", "stop_at"),
        ("owes", "told", "rev"),
        "usage_json",
        "error_json",
        "parts_json",
    )
    readonly_fields = ("usage_json", "error_json", "parts_json")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        rows = super().get_queryset(request).select_related("chat__user", "chat__flow", "version")
        return rows.defer(*HEAVY_OF_FLOW, "version__graph", "inputs")

    @admin.display(description=_("user"))
    def user(self, row: Turn) -> str:
        return str(row.chat.user)

    @admin.display(description=_("flow"))
    def flow(self, row: Turn) -> str:
        return str(row.chat.flow or "")

    @admin.display(description=_("ran"))
    def ran(self, row: Turn) -> str:
        if row.running_at is None:
            return ""
        return seconds((row.ended_at or timezone.now()) - row.running_at)

    @admin.display(description=_("tokens in / out"))
    def tokens(self, row: Turn) -> str:
        usage = row.usage or {}
        return f"{intcomma(usage.get('input_tokens', 0))} / {intcomma(usage.get('output_tokens', 0))}" if usage else ""

    @admin.display(description=_("error"))
    def code(self, row: Turn) -> str:
        return (row.error or {}).get("code", "")

    @admin.display(description=_("usage"))
    def usage_json(self, row: Turn) -> str:
        return pretty(row.usage)

    @admin.display(description=_("error"))
    def error_json(self, row: Turn) -> str:
        return pretty(row.error)

    @admin.display(description=_("parts"))
    def parts_json(self, row: Turn) -> str:
        return pretty(row.parts)


@admin.register(Question)
class QuestionAdmin(ReadOnlyAdmin):
    list_display = ("text", "chat", "user", "is_open", "action", "expires", "answered_by", "answered_at")
    list_filter = ("action", "on_expiry", "expires")
    search_fields = ("text", "turn__chat__title", "turn__chat__user__username", "=id")
    ordering = ("-expires",)
    fields = ("id", "turn", "text", "options", "schema", "secret", "expires", "on_expiry", "action", "answer")
    readonly_fields = ("answer",)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        rows = super().get_queryset(request).select_related("turn__chat__user", "answered_by")
        return rows.defer("turn__parts", "turn__inputs", "turn__chat__graph", "turn__chat__vars")

    @admin.display(description=_("chat"))
    def chat(self, row: Question) -> str:
        return str(row.turn.chat)

    @admin.display(description=_("user"))
    def user(self, row: Question) -> str:
        return str(row.turn.chat.user)

    @admin.display(description=_("open"), boolean=True)
    def is_open(self, row: Question) -> bool:
        return not row.action and row.turn.state == TurnState.WAITING

    @admin.display(description=_("answer"))
    def answer(self, row: Question) -> str:
        return _("(secret)") if row.secret else pretty(row.value)


@admin.register(StreamSession)
class StreamSessionAdmin(ReadOnlyAdmin):
    list_display = (
        "short_id",
        "user",
        "flow_name",
        "door",
        "kind",
        "state",
        "sent",
        "received",
        "started",
        "lasted",
        "close",
    )
    list_filter = ("state", "door", "kind", "started")
    list_select_related = ("user",)
    search_fields = ("user__username", "=chat", "=id")
    ordering = ("-started", "-id")
    fields = (
        ("id", "trace"),
        ("user", "address", "user_agent"),
        ("flow_name", "chat", "worker"),
        ("door", "kind", "dialect", "state"),
        ("sent", "received"),
        ("started", "last_seen", "ended"),
        "close",
    )
    readonly_fields = ("flow_name", "sent", "received", "close")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        name = Flow.objects.filter(id=OuterRef("flow")).values("name")[:1]
        return super().get_queryset(request).annotate(flow_name=Subquery(name))

    @admin.display(description=_("session"))
    def short_id(self, row: StreamSession) -> str:
        return str(row.id)[:8]

    @admin.display(description=_("flow"))
    def flow_name(self, row: Any) -> str:
        return row.flow_name or str(row.flow or "")

    @admin.display(description=_("sent"), ordering="bytes_sent")
    def sent(self, row: StreamSession) -> str:
        return amount(row.bytes_sent, row.chunks_sent)

    @admin.display(description=_("received"), ordering="bytes_recv")
    def received(self, row: StreamSession) -> str:
        return amount(row.bytes_recv, row.chunks_recv)

    @admin.display(description=_("lasted"))
    def lasted(self, row: StreamSession) -> str:
        return timesince(row.started, row.ended or timezone.now())

    @admin.display(description=_("closed"))
    def close(self, row: StreamSession) -> str:
        return " ".join(str(part) for part in (row.close_code, row.close_reason) if part)


def amount(count_bytes: int, chunks: int) -> str:
    return _("%(size)s in %(chunks)s frames") % {"size": filesizeformat(count_bytes), "chunks": intcomma(chunks)}


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "is_alive", "draining", "runs_turns", "running", "sockets", "started", "seen")
    list_filter = ("draining", "runs_turns", "last_seen")
    search_fields = ("host", "=id")
    ordering = ("-last_seen",)
    fields = ("id", "host", "pid", "started", "last_seen", "runs_turns", "draining", "buried_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return (
            super()
            .get_queryset(request)
            .annotate(
                running=Coalesce(Subquery(_count(Turn.objects.filter(state=TurnState.RUNNING))), 0),
                sockets=Coalesce(Subquery(_count(StreamSession.objects.filter(state__in=LIVE))), 0),
            )
        )

    @admin.display(description=_("alive"), boolean=True)
    def is_alive(self, row: Worker) -> bool:
        return timezone.now() - row.last_seen < timedelta(seconds=settings.HEADRACE.dead_after_s)

    @admin.display(description=_("turns"), ordering="running")
    def running(self, row: Any) -> str:
        return intcomma(row.running)

    @admin.display(description=_("sockets"), ordering="sockets")
    def sockets(self, row: Any) -> str:
        return intcomma(row.sockets)

    @admin.display(description=_("seen"), ordering="last_seen")
    def seen(self, row: Worker) -> str:
        return _("%(span)s ago") % {"span": seconds(timezone.now() - row.last_seen)}


def _count(rows: QuerySet) -> QuerySet:
    """How many of `rows` name a worker."""
    return rows.filter(worker=OuterRef("pk")).order_by().values("worker").annotate(n=Count("pk")).values("n")
