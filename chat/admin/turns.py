"""Turns and questions for operators: how each went, and why it ended as it did."""

from typing import Any

from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import intcomma
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from accounts import lists
from chat.admin.operations import OperatedAdmin, Operation
from chat.admin.sessions import FOUND_CHATS, cause
from chat.admin.sessions import FlowFilter as OwnFlowFilter
from chat.admin.transcript import ACTIONS, answer_to, timelines
from chat.models import STATES, Chat, Question, Turn
from chat.turns.manager import ChatManager
from chat.turns.states import UNENDED, TurnState
from flows import handlers
from streams.models import StreamSession, Worker

# What a list has no use for and what may be large.
HEAVY = ("parts", "inputs", "data", "version__graph", "chat__graph", "chat__vars", "chat__flow__draft")


async def _stop(manager: ChatManager, row: Turn) -> None:
    await manager.commands.stop_as_operator(str(row.chat_id), str(row.id))


STOP = Operation(
    "stop_turns",
    _("Stop the turn"),
    _("Its answer ends here; what was written is kept."),
    _("it is stopped."),
    _stop,
)


class StateFilter(lists.Choice):
    title = _("state")
    parameter_name = "state"
    exact = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("unended", _("not ended")), *STATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() == "unended":
            return queryset.filter(state__in=sorted(UNENDED))
        return super().queryset(request, queryset)


class FlowFilter(OwnFlowFilter):
    exact = "chat__flow"


class HandlerFilter(lists.Choice):
    title = _("handler")
    parameter_name = "skill"
    exact = "skill"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = handlers.names()
        return [(name, name) for name in names] if len(names) > 1 else []


class CauseFilter(lists.Choice):
    """Shown where it is set, by a link of the first page: the catalogue is long."""

    title = _("cause of the error")
    parameter_name = "cause"
    exact = "error__code"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        chosen = request.GET.get(self.parameter_name)
        return [(chosen, cause(chosen))] if chosen else []


@admin.register(Turn)
class TurnAdmin(OperatedAdmin):
    keyset = "created"
    list_display = (
        "name",
        "state_shown",
        "chat_link",
        "user",
        "flow",
        "created",
        "first_token",
        "ran",
        "tokens",
        "why",
    )
    list_filter = (StateFilter, FlowFilter, HandlerFilter, CauseFilter, "created")
    search_fields = ("chat__title",)
    search_help_text = _("A user's name, a chat's title, or the id of a turn, chat or worker.")
    sortable_by = ("created",)
    ordering = ("-created", "-id")
    fields = (
        ("state_shown", "why"),
        ("chat_link", "user", "sessions"),
        ("flow", "skill", "worker_name"),
        ("created", "running_at", "ended_at"),
        ("first_token", "ran", "stop_at"),
        ("attempt", "takeovers"),
        ("tokens", "model_name", "cost"),
        ("error_json", "id"),
    )
    readonly_fields = (
        "state_shown",
        "why",
        "chat_link",
        "user",
        "sessions",
        "flow",
        "worker_name",
        "first_token",
        "ran",
        "tokens",
        "model_name",
        "cost",
        "error_json",
    )
    actions = ("stop_turns",)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        rows = super().get_queryset(request).select_related("user", "chat__flow", "version")
        return rows.defer(*HEAVY)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, term: str) -> tuple[QuerySet, bool]:
        term = term.strip()
        if not term:
            return queryset, False
        id_ = lists.as_uuid(term)
        if id_ is not None:
            return queryset.filter(Q(id=id_) | Q(chat=id_) | Q(worker=id_)), False
        found = Chat.objects.filter(Q(title__icontains=term) | Q(user__in=lists.users_named(term)))
        chats = list(found.values_list("id", flat=True)[:FOUND_CHATS])
        return queryset.filter(chat__in=chats), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        id_ = lists.as_uuid(object_id)
        turn = Turn.objects.filter(id=id_).first() if id_ else None
        more: dict[str, Any] = {}
        if turn is not None and self.has_view_permission(request, turn):
            more["timeline"] = timelines(turn.chat_id, [turn])[turn.id]
            more["steps"] = turn.steps.order_by("id").values("kind", "key", "created")
            more["questions"] = [(question, answer_to(question)) for question in turn.questions.order_by("key")]
            is_operable = turn.state in UNENDED and self.has_operate_permission(request)
            more["operations"] = (STOP,) if is_operable else ()
        return super().change_view(request, object_id, form_url, {**more, **(extra_context or {})})

    @admin.action(description=STOP.title, permissions=("operate",))
    def stop_turns(self, request: HttpRequest, rows: QuerySet) -> HttpResponse | None:
        return self.operate(request, rows, STOP)

    @admin.display(description=_("turn"))
    def name(self, row: Turn) -> str:
        return _("Turn %(number)s") % {"number": row.number}

    @admin.display(description=_("state"))
    def state_shown(self, row: Turn) -> str:
        return lists.badge(row.state, row.get_state_display())

    @admin.display(description=_("chat"))
    def chat_link(self, row: Turn) -> str:
        return lists.page_of(row.chat)

    @admin.display(description=_("sessions"))
    def sessions(self, row: Turn) -> str:
        return lists.link(lists.rows_url(StreamSession, chat=row.chat_id), _("sessions of this chat"))

    @admin.display(description=_("flow"))
    def flow(self, row: Turn) -> str:
        flow = row.chat.flow
        if flow is None:
            return row.skill
        return f"{flow} v{row.version.number}" if row.version else f"{flow} ({_('draft')})"

    @admin.display(description=_("worker"))
    def worker_name(self, row: Turn) -> str:
        worker = Worker.objects.filter(id=row.worker).first() if row.worker else None
        return lists.page_of(worker)

    @admin.display(description=_("first token"))
    def first_token(self, row: Turn) -> str:
        return lists.seconds(None if row.first_token_ms is None else row.first_token_ms / 1000)

    @admin.display(description=_("ran"))
    def ran(self, row: Turn) -> str:
        if row.running_at is None:
            return "–"
        last = (row.ended_at or timezone.now()) - row.running_at if row.state != TurnState.WAITING else None
        return lists.seconds(row.ran_ms / 1000 + (last.total_seconds() if last else 0.0))

    @admin.display(description=_("tokens in / out"))
    def tokens(self, row: Turn) -> str:
        usage = row.usage or {}
        return f"{intcomma(usage.get('input_tokens', 0))} / {intcomma(usage.get('output_tokens', 0))}" if usage else "–"

    @admin.display(description=_("model"))
    def model_name(self, row: Turn) -> str:
        return (row.usage or {}).get("model") or "–"

    @admin.display(description=_("cost"))
    def cost(self, row: Turn) -> str:
        micros = (row.usage or {}).get("cost_micros")
        return f"{micros / 1_000_000:.4f}" if micros else "–"

    @admin.display(description=_("why"))
    def why(self, row: Turn) -> str:
        return cause((row.error or {}).get("code", ""))

    @admin.display(description=_("error"))
    def error_json(self, row: Turn) -> str:
        error = row.error or {}
        return format_html("{}", error.get("text") or "–")


class OpenFilter(lists.Choice):
    title = _("state")
    parameter_name = "state"
    exact = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", _("open")), *((action, label) for action, label in ACTIONS.items() if action)]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(action="") if self.value() == "open" else super().queryset(request, queryset)


@admin.register(Question)
class QuestionAdmin(lists.ReadOnlyAdmin):
    keyset = "expires"
    list_display = ("__str__", "state_shown", "chat_link", "user", "expires", "answered_by", "answered_at")
    list_filter = (OpenFilter, "on_expiry", "expires")
    list_select_related = ("answered_by",)
    search_fields = ("text",)
    search_help_text = _("A word of the question, a user's name, or the id of a question, turn or chat.")
    sortable_by = ("expires",)
    ordering = ("-expires", "-id")
    fields = (
        ("state_shown", "answer"),
        "text",
        ("chat_link", "turn_link", "user"),
        ("expires", "on_expiry"),
        ("answered_by", "answered_at"),
        "options_json",
        "schema_json",
    )
    readonly_fields = ("state_shown", "answer", "chat_link", "turn_link", "user", "options_json", "schema_json")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        rows = super().get_queryset(request).select_related("turn__chat__user", "answered_by")
        return rows.defer("turn__parts", "turn__inputs", "turn__data", "turn__chat__graph", "turn__chat__vars")

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, term: str) -> tuple[QuerySet, bool]:
        term = term.strip()
        if not term:
            return queryset, False
        id_ = lists.as_uuid(term)
        if id_ is not None:
            return queryset.filter(Q(id=id_) | Q(turn=id_) | Q(turn__chat=id_)), False
        return queryset.filter(Q(text__icontains=term) | Q(turn__chat__user__in=lists.users_named(term))), False

    @admin.display(description=_("state"))
    def state_shown(self, row: Question) -> str:
        if not row.action:
            return lists.badge("waiting", _("open"))
        return lists.badge("done" if row.action == "accept" else "ended", ACTIONS.get(row.action, row.action))

    @admin.display(description=_("chat"))
    def chat_link(self, row: Question) -> str:
        return lists.page_of(row.turn.chat)

    @admin.display(description=_("turn"))
    def turn_link(self, row: Question) -> str:
        return lists.page_of(row.turn, _("Turn %(number)s") % {"number": row.turn.number})

    @admin.display(description=_("user"))
    def user(self, row: Question) -> str:
        return str(row.turn.chat.user)

    @admin.display(description=_("answer"))
    def answer(self, row: Question) -> str:
        return answer_to(row)

    @admin.display(description=_("options"))
    def options_json(self, row: Question) -> str:
        return ", ".join(str(option.get("label", "")) for option in row.options) or "–"

    @admin.display(description=_("form"))
    def schema_json(self, row: Question) -> str:
        return lists.pretty(row.schema)
