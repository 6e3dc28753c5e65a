"""Budgets for operators: whose, how much, what was used of it, and when it begins anew."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.humanize.templatetags.humanize import intcomma
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.formats import date_format
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from accounts import lists, spend
from accounts.models import OF, Budget
from flows.models import Flow
from streams import database

WHOSE = {"user": _("user"), "group": _("group"), "key": _("API key"), "flow": _("flow")}


class BudgetForm(forms.ModelForm):
    """Whose it is and its period are what it is: they are chosen once."""

    flow = forms.ModelChoiceField(
        Flow.objects.filter(deleted=False).only("name").order_by("name"), label=capfirst(_("flow")), required=False
    )

    class Meta:
        model = Budget
        fields = (*OF, "period", "limit_tokens", "limit_cost_micros")

    def clean_flow(self) -> Any:
        flow = self.cleaned_data["flow"]
        return None if flow is None else flow.pk


class OfFilter(lists.Choice):
    title = _("whose")
    parameter_name = "of"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(WHOSE.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(**{f"{self.value()}__isnull": False}) if self.value() in OF else queryset


@admin.register(Budget)
class BudgetAdmin(admin.ModelAdmin):
    form = BudgetForm
    list_display = ("whose", "period", "tokens", "cost", "ends", "state")
    list_filter = (OfFilter, "period")
    list_select_related = ("user", "group", "key")
    search_fields = ("user__username", "group__name", "key__name")
    ordering = ("-created", "-id")
    sortable_by = ()
    autocomplete_fields = ("user", "group", "key")
    fieldsets = (
        (None, {"fields": ("tokens", "cost", "ends", "state")}),
        (_("Whose"), {"fields": OF, "description": _("One of these.")}),
        (_("How much"), {"fields": ("period", "limit_tokens", "limit_cost_micros")}),
    )
    readonly_fields = ("tokens", "cost", "ends", "state")
    paginator = lists.BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    keyset = "created"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[lists.BoundedList]:
        return lists.BoundedList

    def get_fieldsets(self, request: HttpRequest, obj: Budget | None = None) -> Any:
        if obj is None:
            return self.fieldsets[1:]
        return ((None, {"fields": ("whose", "period", "tokens", "cost", "ends", "state")}), self.fieldsets[2])

    def get_readonly_fields(self, request: HttpRequest, obj: Budget | None = None) -> Sequence[str]:
        return self.readonly_fields if obj is None else (*self.readonly_fields, "whose", "period")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Budget | None:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            self.complete([row])
        return row

    def complete(self, rows: Sequence[Budget]) -> None:
        """What was used, and the names of flows: two queries a page."""
        at = database.now()
        spent = spend.spent_of(rows, at)
        names = dict(Flow.objects.filter(id__in=[row.flow for row in rows if row.flow]).values_list("id", "name"))
        for row in rows:
            row.used, row.ends_at, row.flow_name = spent[row.pk], spend.end_of(row.period, at), names.get(row.flow)

    @admin.display(description=_("whose"))
    def whose(self, row: Budget) -> str:
        name = getattr(row, row.of) if row.flow is None else row.flow_name or row.flow
        return f"{WHOSE[row.of]} {name}"

    @admin.display(description=_("tokens used"))
    def tokens(self, row: Budget) -> str:
        return _of(intcomma(row.used.tokens), row.limit_tokens and intcomma(row.limit_tokens))

    @admin.display(description=_("cost so far"))
    def cost(self, row: Budget) -> str:
        return _of(_money(row.used.cost_micros), row.limit_cost_micros and _money(row.limit_cost_micros))

    @admin.display(description=_("ends"))
    def ends(self, row: Budget) -> str:
        return f"{date_format(row.ends_at, 'DATETIME_FORMAT')} UTC"

    @admin.display(description=_("state"))
    def state(self, row: Budget) -> str:
        return lists.badge("error", _("used up")) if spend.is_used_up(row, row.used) else lists.badge("done", _("open"))


def _of(used: str, limit: str | None) -> str:
    return used if limit is None else _("%(used)s of %(limit)s") % {"used": used, "limit": limit}


def _money(micros: int) -> str:
    return f"{micros / 1_000_000:,.4f}"
