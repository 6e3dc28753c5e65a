"""What operators do to what runs: confirmed, with a reason, each row of it in the admin's log."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib import messages
from django.contrib.admin import helpers
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _

from accounts.lists import ReadOnlyAdmin
from chat.turns.manager import ChatManager, ask_manager
from streams.errors import WireError
from streams.sentences import told

REASON_CHARS = 200
MAY_OPERATE = "streams.change_streamsession"


class Operation(NamedTuple):
    """`action`: its name among the list's actions. `order`: what is asked of the manager for a row."""

    action: str
    title: str
    consequence: str
    done: str
    order: Callable[[ChatManager, Any], Awaitable[None]]


class OperatedAdmin(ReadOnlyAdmin):
    """Rows that are looked at by whoever may see them, and operated on by whoever may change sessions."""

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(MAY_OPERATE)

    def operate(self, request: HttpRequest, rows: QuerySet, operation: Operation) -> HttpResponse | None:
        """First the page that asks why; with a reason the operation on each row, and its place in the log."""
        most = settings.HEADRACE.admin_operated_rows
        chosen = list(rows[: most + 1])
        if len(chosen) > most:
            text = _("Choose at most %(most)s at a time.") % {"most": most}
            self.message_user(request, text, messages.ERROR)
            return None
        reason = " ".join(request.POST.get("reason", "").split())[:REASON_CHARS]
        if "confirmed" not in request.POST or not reason:
            return self._confirmation(request, chosen, operation)
        for row in chosen:
            try:
                ask_manager(functools.partial(operation.order, row=row))
            except WireError as error:
                self.message_user(request, f"{row}: {told(error.text or error.entry.text, _)}", messages.WARNING)
                continue
            self.log_change(request, row, f"{operation.title}: {reason}")
            self.message_user(request, f"{row}: {operation.done}", messages.SUCCESS)
        return None

    def _confirmation(self, request: HttpRequest, rows: list[Any], operation: Operation) -> HttpResponse:
        self.complete(rows)
        context = {
            **self.admin_site.each_context(request),
            "title": operation.title,
            "operation": operation,
            "rows": rows,
            "opts": self.opts,
            "checkbox": helpers.ACTION_CHECKBOX_NAME,
            "reason_chars": REASON_CHARS,
            "lacks_reason": "confirmed" in request.POST,
        }
        return TemplateResponse(request, "admin/confirm_operation.html", context)
