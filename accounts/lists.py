"""The form of admin pages that show rows and write none: quick at any number of rows.

No list counts further than a bound; what lies behind it is reached by filters and by going on from the last row shown.
"""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.humanize.templatetags.humanize import intcomma
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.formats import number_format
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from accounts.models import User

FOUND_USERS = 200  # of a search: more than that is no search


class BoundedPaginator(Paginator):
    """Counts to `admin_counted_rows` and no further."""

    @cached_property
    def count(self) -> int:
        most = settings.HEADRACE.admin_counted_rows
        return self.object_list.order_by().values("pk")[:most].count()

    @property
    def is_cut(self) -> bool:
        return self.count >= settings.HEADRACE.admin_counted_rows


class BoundedList(ChangeList):
    """A page of rows, which the admin may complete, and the address of those older than its last one."""

    older_url = ""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.title = capfirst(self.opts.verbose_name_plural)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count  # there is no other count to be told of
        rows = self.result_list = list(self.result_list)
        self.model_admin.complete(rows)
        field = self.model_admin.keyset
        if field and rows and self.paginator.is_cut:
            last = getattr(rows[-1], field).isoformat()
            self.older_url = self.get_query_string({f"{field}__lt": last}, remove=["p"])


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows that are written by transactions of their own room alone. `keyset`: the time that lists go by."""

    keyset = ""
    paginator = BoundedPaginator
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.list_per_page = settings.HEADRACE.admin_rows

    def complete(self, rows: Sequence[Any]) -> None:
        """Give the rows of one page what they show of other tables, in a fixed number of queries."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return BoundedList

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class Choice(admin.SimpleListFilter):
    """A filter whose choices cost no look at the rows. `exact`: the field it compares."""

    exact = ""

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        value = self.value()
        return queryset.filter(**{self.exact: value}) if value else queryset


def as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None


def users_named(text: str) -> list[int]:
    """Whose name has `text` in it: ids, so that a list stays on its own index."""
    return list(User.objects.filter(username__icontains=text).values_list("pk", flat=True)[:FOUND_USERS])


# ------------------------------------------------------------------------------------------- how things read


def pretty(value: Any) -> str:
    """JSON for people; nothing where there is none."""
    if value in (None, {}, []):
        return "–"
    return format_html("<pre>{}</pre>", msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def seconds(span: timedelta | float | None) -> str:
    """A duration in the largest unit that still tells something: `850 ms`, `12.3 s`, `4 min 5 s`, `3 h 12 min`."""
    if span is None:
        return "–"
    left = max(0, span.total_seconds() if isinstance(span, timedelta) else span)
    if isinstance(left, int) and left < 60:
        return f"{left} s"
    if left < 1:
        return f"{left * 1000:.0f} ms"
    if left < 60:
        return f"{number_format(round(left, 1), 1)} s"
    whole = int(left)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return _("%(days)s d %(hours)s h") % {"days": intcomma(whole // 86_400), "hours": whole % 86_400 // 3600}


def link(url: str, text: Any) -> str:
    return format_html('<a href="{}">{}</a>', url, text)


def page_of(row: Any, text: Any = None) -> str:
    """A link to a row's own page."""
    if row is None:
        return "–"
    meta = row._meta
    url = reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[row.pk])
    return link(url, row if text is None else text)


def rows_url(model: type, **query: Any) -> str:
    """The list of a model's rows, filtered."""
    meta = model._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist", query=query or None)


def badge(kind: str, text: Any) -> str:
    """A state in its colour; the text says it too."""
    return format_html('<span class="state {}">{}</span>', kind, text)
