"""What the list and the page of flows say of their chats: the floor of flows knows none."""

from collections.abc import Sequence

from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import intcomma
from django.db.models import Count
from django.utils.translation import gettext_lazy as _

from accounts import lists
from chat.models import Chat
from flows.admin import FlowAdmin
from flows.models import Flow

admin.site.unregister(Flow)


@admin.register(Flow)
class TalkedFlowAdmin(FlowAdmin):
    list_display = ("name", "status_shown", "version", "owner", "visibility", "chats", "live_sessions", "updated")
    readonly_fields = (*FlowAdmin.readonly_fields, "chats")
    fieldsets = (
        (None, {"fields": (("status_shown", "version"), ("chats", "live_sessions"))}),
        *FlowAdmin.fieldsets[1:],
    )

    def complete(self, rows: Sequence[Flow]) -> None:
        super().complete(rows)
        chats = Chat.objects.filter(flow__in=[row.pk for row in rows]).order_by()
        counts = dict(chats.values_list("flow").annotate(Count("pk")))
        for row in rows:
            row.chat_count = counts.get(row.pk, 0)

    @admin.display(description=_("chats"))
    def chats(self, row: Flow) -> str:
        return lists.link(lists.rows_url(Chat, flow=row.pk), intcomma(getattr(row, "chat_count", 0)))
