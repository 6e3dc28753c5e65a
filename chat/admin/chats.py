"""Chats for operators: what was said, on which branch, and what each answer went through."""

from typing import Any

from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import intcomma
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from accounts import lists
from chat.admin.sessions import FlowFilter
from chat.admin.transcript import timelines, transcript
from chat.models import Chat, Turn
from streams.models import StreamSession


@admin.register(Chat)
class ChatAdmin(lists.ReadOnlyAdmin):
    keyset = "last_turn_at"
    list_display = ("__str__", "user", "flow", "kind", "turns", "sessions", "last_turn_at", "is_deleted")
    list_filter = ("kind", FlowFilter, "deleted", "last_turn_at")
    list_select_related = ("user", "flow")
    search_fields = ("title",)
    search_help_text = _("A word of the title, a user's name, or the id of a chat.")
    sortable_by = ("last_turn_at",)
    ordering = ("-last_turn_at", "-id")
    fields = (
        ("user", "flow_link", "kind"),
        ("turns", "sessions", "locale"),
        ("created", "last_turn_at", "is_deleted"),
        ("vars_json", "id"),
    )
    readonly_fields = ("flow_link", "turns", "sessions", "is_deleted", "vars_json")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).defer("graph", "vars", "flow__draft")

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, term: str) -> tuple[QuerySet, bool]:
        term = term.strip()
        if not term:
            return queryset, False
        id_ = lists.as_uuid(term)
        if id_ is not None:
            return queryset.filter(Q(id=id_) | Q(flow=id_)), False
        return queryset.filter(Q(title__icontains=term) | Q(user__in=lists.users_named(term))), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        id_ = lists.as_uuid(object_id)
        chat = Chat.objects.filter(id=id_).first() if id_ else None
        more: dict[str, Any] = {}
        if chat is not None and self.has_view_permission(request, chat):
            found = transcript(chat, lists.as_uuid(request.GET.get("at", "")))
            turns = [said.turn for said in found.said if said.turn is not None] + found.open_turns
            nodes = timelines(chat.id, turns)
            more["transcript"] = found
            more["said"] = [(said, nodes.get(said.turn.id, []) if said.turn else []) for said in found.said]
            more["open_turns"] = [(turn, nodes[turn.id]) for turn in found.open_turns]
        return super().change_view(request, object_id, form_url, {**more, **(extra_context or {})})

    @admin.display(description=_("flow"))
    def flow_link(self, row: Chat) -> str:
        return lists.page_of(row.flow)

    @admin.display(description=_("turns"))
    def turns(self, row: Chat) -> str:
        return lists.link(lists.rows_url(Turn, chat__id__exact=row.id), intcomma(row.last_number))

    @admin.display(description=_("sessions"))
    def sessions(self, row: Chat) -> str:
        return lists.link(lists.rows_url(StreamSession, chat=row.id), _("sessions"))

    @admin.display(description=_("deleted"))
    def is_deleted(self, row: Chat) -> str:
        return str(_("deleted")) if row.deleted else "–"

    @admin.display(description=_("variables"))
    def vars_json(self, row: Chat) -> str:
        return lists.pretty(row.vars)
