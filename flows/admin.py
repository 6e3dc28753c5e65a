"""Flows, their versions and providers for operators. Drafts are saved by their revision, as editors do."""

import json
from typing import Any

from asgiref.sync import async_to_sync
from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts.admin import ReadOnlyAdmin
from flows import build, providers, store
from flows.api import check_provider, faults_json
from flows.models import Flow, FlowVersion, Provider
from streams.errors import WireError

MONOSPACE = {"class": "vLargeTextField draft", "rows": 32, "cols": 120, "wrap": "off", "spellcheck": "false"}


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def sentences(error: WireError) -> str:
    """An error in one line, its faults and fields with it."""
    faults = [fault_line(fault) for fault in faults_json(error.extra.get("faults", []))]
    return " ".join([_(error.text or error.entry.text), *error.extra.get("fields", {}).values(), *faults])


def fault_line(fault: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in (fault["node"], fault["field"]) if part)
    if fault["edge"] is not None:
        where = f"edges[{fault['edge']}]"
    return f"{where}: {fault['text']}" if where else fault["text"]


class Draft(forms.JSONField):
    """JSON as people read it."""

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) else pretty(value)


class FlowForm(forms.ModelForm):
    draft = Draft(label=gettext_lazy("draft"), widget=forms.Textarea(attrs=MONOSPACE), required=False)
    base_revision = forms.IntegerField(widget=forms.HiddenInput, required=False)

    class Meta:
        model = Flow
        fields = ("name", "slug", "description", "icon", "owner", "double_text", "visibility", "groups", "draft")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "slug" in self.fields:
            self.fields["slug"].required = False
            self.fields["slug"].help_text = _("Made from the name where it is left empty.")
        if "base_revision" in self.fields:
            self.fields["base_revision"].initial = self.instance.revision

    def clean_draft(self) -> Any:
        draft = self.cleaned_data["draft"]
        if draft is None:
            return store.empty_draft()
        try:
            store.check_draft(draft)
        except WireError as error:
            raise ValidationError([fault_line(fault) for fault in faults_json(error.extra["faults"])]) from error
        return draft

    def clean_slug(self) -> str:
        slug = self.cleaned_data["slug"] or store.free_slug(self.cleaned_data.get("name") or "flow")
        try:
            store.check_slug(slug)
        except WireError as error:
            raise ValidationError(list(error.extra["fields"].values())) from error
        return slug

    def clean(self) -> dict[str, Any]:
        """Says so where somebody else has saved the draft since this page was opened."""
        cleaned = super().clean()
        if not self.instance._state.adding and "draft" in self.changed_data:
            revision = Flow.objects.filter(pk=self.instance.pk).values_list("revision", flat=True).first()
            if revision != cleaned.get("base_revision"):
                self.add_error("draft", _("Somebody else has saved meanwhile. Reload, then save again."))
        return cleaned


@admin.register(Flow)
class FlowAdmin(admin.ModelAdmin):
    form = FlowForm
    list_display = ("name", "slug", "owner", "status", "version", "visibility", "chat_count", "updated")
    list_filter = ("status", "visibility", "double_text", "updated")
    list_select_related = ("owner", "published")
    search_fields = ("name", "slug", "description", "owner__username", "=id")
    ordering = ("name", "slug")
    autocomplete_fields = ("owner",)
    filter_horizontal = ("groups",)
    readonly_fields = ("status", "published", "revision", "faults", "created", "updated")
    fieldsets = (
        (None, {"fields": ("name", "slug", "description", "icon", "owner")}),
        (gettext_lazy("Who, and how"), {"fields": ("visibility", "groups", "double_text")}),
        (gettext_lazy("Draft"), {"fields": ("draft", "faults", "base_revision")}),
        (gettext_lazy("State"), {"fields": ("status", "published", "revision", "created", "updated")}),
    )
    actions = ("build", "publish", "offline")
    show_full_result_count = False

    class Media:
        css = {"all": ("flows/admin.css",)}

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        rows = super().get_queryset(request).filter(deleted=False)
        return rows.defer("published__graph").annotate(chat_count=Count("chats"))

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"draft": store.empty_draft(), "owner": request.user.pk}

    def view_on_site(self, row: Flow) -> str:
        """The flow's own editor."""
        return reverse("edit", args=[row.pk])

    @admin.display(description=gettext_lazy("version"))
    def version(self, row: Flow) -> str:
        return str(row.published.number) if row.published else ""

    @admin.display(description=gettext_lazy("chats"), ordering="chat_count")
    def chat_count(self, row: Any) -> int:
        return row.chat_count

    @admin.display(description=gettext_lazy("faults"))
    def faults(self, row: Flow) -> str:
        """What keeps the draft, as it was saved, from being built."""
        faults = faults_json(build.faults_of(row.draft)) if row.pk and not row._state.adding else []
        if not faults:
            return _("none")
        lines = format_html_join("", "<li>{}</li>", ((fault_line(fault),) for fault in faults))
        return format_html('<ul class="errorlist">{}</ul>', lines)

    def save_model(self, request: HttpRequest, obj: Flow, form: FlowForm, change: bool) -> None:
        """Meta data as they are; the draft over the revision that the page showed."""
        if not change or "draft" not in form.changed_data:
            super().save_model(request, obj, form, change)
            return
        draft = obj.draft
        obj.draft = Flow.objects.values_list("draft", flat=True).get(pk=obj.pk)
        super().save_model(request, obj, form, change)
        obj.refresh_from_db(fields=["revision"])
        saved = store.save_draft(obj.pk, draft, form.cleaned_data["base_revision"])
        obj.draft, obj.revision = saved.draft, saved.revision

    def delete_model(self, request: HttpRequest, obj: Flow) -> None:
        store.delete(obj.pk)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        for flow in queryset:
            store.delete(flow.pk)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[list, dict, set, list]:
        """A deleted flow leaves lists and frees its slug; its chats and versions stay."""
        return [str(obj) for obj in objs], {str(Flow._meta.verbose_name_plural): len(objs)}, set(), []

    @admin.action(description=gettext_lazy("Build"), permissions=("change",))
    def build(self, request: HttpRequest, flows: QuerySet) -> None:
        built = 0
        for flow in flows:
            try:
                found = async_to_sync(build.start_build)(flow.id, request.user.pk)
                if found.status == "failure":
                    raise WireError("build_failed", faults=found.faults)
                built += 1
            except WireError as error:
                self.message_user(request, f"{flow}: {sentences(error)}", messages.ERROR)
        self._tell(request, ngettext("%d flow was built.", "%d flows were built.", built), built)

    @admin.action(description=gettext_lazy("Publish"), permissions=("change",))
    def publish(self, request: HttpRequest, flows: QuerySet) -> None:
        published = 0
        for flow in flows:
            try:
                async_to_sync(build.publish)(flow.id, request.user.pk)
                published += 1
            except WireError as error:
                self.message_user(request, f"{flow}: {sentences(error)}", messages.ERROR)
        self._tell(request, ngettext("%d flow is online.", "%d flows are online.", published), published)

    @admin.action(description=gettext_lazy("Take offline"), permissions=("change",))
    def offline(self, request: HttpRequest, flows: QuerySet) -> None:
        taken = [store.offline(flow.pk) for flow in flows]
        count = len(taken)
        self._tell(request, ngettext("%d flow is offline.", "%d flows are offline.", count), count)

    def _tell(self, request: HttpRequest, text: str, count: int) -> None:
        if count:
            self.message_user(request, text % count, messages.SUCCESS)


@admin.register(FlowVersion)
class FlowVersionAdmin(ReadOnlyAdmin):
    list_display = ("flow", "number", "author", "note", "created")
    list_filter = ("created",)
    list_select_related = ("flow", "author")
    search_fields = ("flow__name", "flow__slug", "note", "=id")
    ordering = ("-created",)
    fields = ("flow", "number", "author", "note", "checksum", "created", "graph_json")
    readonly_fields = ("graph_json",)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        rows = super().get_queryset(request).defer("flow__draft")
        return rows if request.resolver_match and "object_id" in request.resolver_match.kwargs else rows.defer("graph")

    @admin.display(description=gettext_lazy("graph"))
    def graph_json(self, row: FlowVersion) -> str:
        return format_html("<pre>{}</pre>", pretty(row.graph))


class ProviderForm(forms.ModelForm):
    key = forms.CharField(
        label=gettext_lazy("key"),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        required=False,
        max_length=1000,
        help_text=gettext_lazy("Never shown again. Left empty: the present one stays, unless the host changes."),
    )

    class Meta:
        model = Provider
        fields = ("slug", "kind", "base_url", "model_names", "options", "on_takeover", "prices", "enabled")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if not self.errors:
            try:
                check_provider(cleaned["kind"], cleaned["base_url"], cleaned["options"])
            except WireError as error:
                for field, text in error.extra["fields"].items():
                    self.add_error(field, text)
        return cleaned


@admin.register(Provider)
class ProviderAdmin(admin.ModelAdmin):
    form = ProviderForm
    list_display = ("slug", "kind", "base_url", "has_key", "enabled", "updated")
    list_filter = ("kind", "enabled")
    search_fields = ("slug", "base_url")
    fields = (
        ("slug", "kind", "enabled"),
        "base_url",
        "key",
        "has_key",
        "model_names",
        "options",
        "on_takeover",
        "prices",
    )
    readonly_fields = ("has_key",)

    @admin.display(description=gettext_lazy("has a key"), boolean=True)
    def has_key(self, row: Provider) -> bool:
        return bool(row.key_encrypted)

    def save_model(self, request: HttpRequest, obj: Provider, form: ProviderForm, change: bool) -> None:
        old_url = form.initial.get("base_url", "")
        providers.keep_key(obj, form.cleaned_data["key"] or None, old_url)
        super().save_model(request, obj, form, change)
