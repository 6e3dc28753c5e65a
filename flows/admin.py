"""Flows, their versions and providers for operators. Drafts are saved by their revision, as editors do."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asgiref.sync import async_to_sync
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.humanize.templatetags.humanize import intcomma
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts import lists
from flows import build, graph, providers, store
from flows.diff import Diff, EdgeChange, diff
from flows.models import Flow, FlowVersion, Provider
from streams.errors import WireError
from streams.models import StreamSession
from streams.sentences import told
from streams.states import LIVE

NOTE_CHARS = 1000
MONOSPACE = {"class": "vLargeTextField draft", "rows": 32, "cols": 120, "wrap": "off", "spellcheck": "false"}


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def sentences(error: WireError) -> str:
    """An error in one line, its faults and fields with it."""
    faults = [fault_line(fault) for fault in graph.faults_json(error.extra.get("faults", []), _)]
    return " ".join([told(error.text or error.entry.text, _), *error.extra.get("fields", {}).values(), *faults])


def fault_line(fault: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in (fault["node"], fault["field"]) if part)
    if fault["edge"] is not None:
        where = f"edges[{fault['edge']}]"
    return f"{where}: {fault['text']}" if where else fault["text"]


class Draft(forms.JSONField):
    """JSON as people read it, and where it breaks off."""

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and value.strip():
            try:
                json.loads(value)
            except json.JSONDecodeError as error:
                text = _("This is not JSON: line %(line)s, column %(column)s: %(what)s.")
                where = {"line": error.lineno, "column": error.colno, "what": error.msg}
                raise ValidationError(text % where, code="invalid") from error
            except RecursionError as error:
                raise ValidationError(_("This JSON is nested too deeply."), code="invalid") from error
        return super().to_python(value)

    def bound_data(self, data: Any, initial: Any) -> Any:
        """What was typed, as it was typed."""
        return initial if self.disabled else data

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
            raise ValidationError(
                [fault_line(fault) for fault in graph.faults_json(error.extra["faults"], _)]
            ) from error
        return draft

    def clean_slug(self) -> str:
        slug = self.cleaned_data["slug"] or store.free_slug(self.cleaned_data.get("name") or "flow")
        try:
            store.check_slug(slug, self.instance.pk)
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
    list_display = ("name", "status_shown", "version", "owner", "visibility", "live_sessions", "updated")
    list_filter = ("status", "visibility", "double_text", "updated")
    list_select_related = ("owner", "published")
    search_fields = ("name", "slug", "description", "owner__username")
    ordering = ("name", "slug")
    autocomplete_fields = ("owner",)
    filter_horizontal = ("groups",)
    readonly_fields = ("status_shown", "version", "revision", "faults", "live_sessions", "created", "updated")
    fieldsets = (
        (None, {"fields": (("status_shown", "version"), "live_sessions")}),
        (gettext_lazy("The flow"), {"fields": ("name", "slug", "description", "icon", "owner")}),
        (gettext_lazy("Who, and how"), {"fields": ("visibility", "groups", "double_text")}),
        (gettext_lazy("Draft"), {"fields": ("draft", "faults", "base_revision", ("revision", "created", "updated"))}),
    )
    actions = ("build", "publish", "offline")
    paginator = lists.BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    change_form_template = "admin/flows/flow/change_form.html"
    keyset = ""

    class Media:
        css = {"all": ("flows/admin.css",)}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[lists.BoundedList]:
        return lists.BoundedList

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).filter(deleted=False).defer("published__graph")

    def complete(self, rows: Sequence[Flow]) -> None:
        """How much each is used: a query a page."""
        live = StreamSession.objects.filter(state__in=LIVE).order_by()  # fewer than those of a flow
        sockets = dict(live.values_list("flow").annotate(Count("pk")))
        for row in rows:
            row.socket_count = sockets.get(row.pk, 0)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Flow | None:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            self.complete([row])
        return row

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        more = {"versions": [], "may_publish": self.has_change_permission(request)}
        id_ = lists.as_uuid(object_id)
        if id_ is not None and self.has_view_permission(request):
            more["versions"] = store.versions(id_).defer("graph")[: settings.HEADRACE.admin_rows]
        return super().change_view(request, object_id, form_url, {**more, **(extra_context or {})})

    def get_urls(self) -> list[URLPattern]:
        orders = {"build": self.build_one, "publish": self.publish_one, "offline": self.offline_one}
        return [
            *(
                path(f"<uuid:flow>/{name}/", self.admin_site.admin_view(view), name=f"flows_flow_{name}")
                for name, view in orders.items()
            ),
            *super().get_urls(),
        ]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"draft": store.empty_draft(), "owner": request.user.pk}

    @admin.display(description=gettext_lazy("status"), ordering="status")
    def status_shown(self, row: Flow) -> str:
        return lists.badge("online" if row.is_online else "offline", row.get_status_display())

    def view_on_site(self, row: Flow) -> str:
        """The flow's own editor."""
        return reverse("edit", args=[row.pk])

    @admin.display(description=gettext_lazy("version"))
    def version(self, row: Flow) -> str:
        return lists.page_of(row.published, f"v{row.published.number}") if row.published else "–"

    @admin.display(description=gettext_lazy("live sockets"))
    def live_sessions(self, row: Any) -> str:
        count = intcomma(getattr(row, "socket_count", 0))
        return lists.link(lists.rows_url(StreamSession, flow=row.pk, state="live"), count)

    @admin.display(description=gettext_lazy("faults"))
    def faults(self, row: Flow) -> str:
        """What keeps the draft, as it was saved, from being built."""
        faults = graph.faults_json(build.faults_of(row.draft), _) if row.pk and not row._state.adding else []
        if not faults:
            return _("none")
        lines = format_html_join("", "<li>{}</li>", ((fault_line(fault),) for fault in faults))
        return format_html('<ul class="errorlist">{}</ul>', lines)

    def save_model(self, request: HttpRequest, obj: Flow, form: FlowForm, change: bool) -> None:
        """What was changed on the page, and nothing else; the draft over the revision that the page showed."""
        if not change:
            super().save_model(request, obj, form, change)
            return
        changes = {name: getattr(obj, name) for name in form.changed_data if name in store.META}
        if changes:
            store.update_flow(obj.pk, **changes)
        if "draft" in form.changed_data:
            obj.revision = store.save_draft(obj.pk, obj.draft, form.cleaned_data["base_revision"]).revision

    def save_related(self, request: HttpRequest, form: FlowForm, formsets: Any, change: bool) -> None:
        if not change or "groups" in form.changed_data:
            super().save_related(request, form, formsets, change)

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
        built = self._each(request, flows, lambda flow: self._build(request, flow))
        self._tell(request, ngettext("%d flow was built.", "%d flows were built.", built), built)

    @admin.action(description=gettext_lazy("Publish"), permissions=("change",))
    def publish(self, request: HttpRequest, flows: QuerySet) -> None:
        published = self._each(request, flows, lambda flow: self._publish(request, flow, ""))
        self._tell(request, ngettext("%d flow is online.", "%d flows are online.", published), published)

    @admin.action(description=gettext_lazy("Take offline"), permissions=("change",))
    def offline(self, request: HttpRequest, flows: QuerySet) -> None:
        taken = self._each(request, flows, lambda flow: self._offline(request, flow))
        self._tell(request, ngettext("%d flow is offline.", "%d flows are offline.", taken), taken)

    def build_one(self, request: HttpRequest, flow: Any) -> HttpResponse:
        return self._one(request, flow, _("The draft was built: it has no faults."), self._build)

    def publish_one(self, request: HttpRequest, flow: Any) -> HttpResponse:
        note = request.POST.get("note", "").strip()[:NOTE_CHARS]
        return self._one(request, flow, _("The flow is online."), lambda r, row: self._publish(r, row, note))

    def offline_one(self, request: HttpRequest, flow: Any) -> HttpResponse:
        return self._one(request, flow, _("The flow is offline. Its chats stay readable."), self._offline)

    def _one(
        self, request: HttpRequest, flow_id: Any, done: str, act: Callable[[HttpRequest, Flow], None]
    ) -> HttpResponse:
        """A button of a flow's page."""
        if request.method != "POST" or not self.has_change_permission(request):
            raise PermissionDenied
        flow = self.get_queryset(request).filter(pk=flow_id).first()
        if flow is None:
            raise Http404
        if self._each(request, [flow], lambda row: act(request, row)):
            self.message_user(request, done, messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:flows_flow_change", args=[flow.pk]))

    def _each(self, request: HttpRequest, flows: Any, act: Callable[[Flow], None]) -> int:
        """How many it was done to; of the others what is wrong is said."""
        count = 0
        for flow in flows:
            try:
                act(flow)
                count += 1
            except WireError as error:
                self.message_user(request, f"{flow}: {sentences(error)}", messages.ERROR)
        return count

    def _build(self, request: HttpRequest, flow: Flow) -> None:
        found = _on_the_loop(build.start_build(flow.id, request.user.pk))
        if found.status == "failure":
            raise WireError("build_failed", faults=found.faults)
        self.log_change(request, flow, _("Built."))

    def _publish(self, request: HttpRequest, flow: Flow, note: str) -> None:
        version = _on_the_loop(build.publish(flow.id, request.user.pk, note))
        self.log_change(request, flow, _("Published version %(number)s.") % {"number": version.number})

    def _offline(self, request: HttpRequest, flow: Flow) -> None:
        store.offline(flow.pk)
        self.log_change(request, flow, _("Taken offline."))

    def _tell(self, request: HttpRequest, text: str, count: int) -> None:
        if count:
            self.message_user(request, text % count, messages.SUCCESS)


def _on_the_loop(work: Awaitable[Any]) -> Any:
    async def wait() -> Any:
        return await work

    return async_to_sync(wait)()


@admin.register(FlowVersion)
class FlowVersionAdmin(lists.ReadOnlyAdmin):
    keyset = "created"
    list_display = ("name", "flow_link", "author", "note", "created")
    list_filter = ("created",)
    list_select_related = ("flow", "author")
    search_fields = ("flow__name", "flow__slug", "note")
    sortable_by = ("created",)
    ordering = ("-created", "-id")
    fields = (("flow_link", "author", "created"), "note", "graph_json", ("checksum", "id"))
    readonly_fields = ("flow_link", "graph_json")
    change_form_template = "admin/flows/flowversion/change_form.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        rows = super().get_queryset(request).defer("flow__draft")
        return rows if request.resolver_match and "object_id" in request.resolver_match.kwargs else rows.defer("graph")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """With what changed since the version before."""
        more: dict[str, Any] = {}
        id_ = lists.as_uuid(object_id)
        row = FlowVersion.objects.filter(id=id_).first() if id_ else None
        if row is not None and self.has_view_permission(request, row):
            before = FlowVersion.objects.filter(flow=row.flow_id, number__lt=row.number).order_by("-number").first()
            more = {"before": before, "changes": _shown(diff(before.graph, row.graph)) if before else []}
        return super().change_view(request, object_id, form_url, {**more, **(extra_context or {})})

    @admin.display(description=gettext_lazy("version"), ordering="created")
    def name(self, row: FlowVersion) -> str:
        return f"v{row.number}"

    @admin.display(description=gettext_lazy("flow"))
    def flow_link(self, row: FlowVersion) -> str:
        return lists.page_of(row.flow)

    @admin.display(description=gettext_lazy("graph"))
    def graph_json(self, row: FlowVersion) -> str:
        return lists.pretty(row.graph)


def _shown(found: Diff) -> list[dict[str, Any]]:
    """For the page: `name` of the node, or empty for the edges; `how`; `lines` of field, before and after."""
    nodes = [
        {"name": node.id, "how": node.change, "lines": [_line(f.field, f.before, f.after) for f in node.fields]}
        for node in found.nodes
    ]
    edges = [_line("", *((_way(edge), "") if edge.change == "removed" else ("", _way(edge)))) for edge in found.edges]
    return [*nodes, {"name": "", "how": "changed", "lines": edges}] if edges else nodes


def _line(field: str, before: Any, after: Any) -> dict[str, str]:
    return {"field": field, "before": _as_text(before), "after": _as_text(after)}


def _as_text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else pretty(value)


def _way(edge: EdgeChange) -> str:
    return f"{edge.start} → {edge.to}" + (f" ({edge.branch})" if edge.branch else "")


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
        fields = (
            "slug", "kind", "base_url", "model_names", "options", "on_takeover", "prices", "takes_pictures", "enabled",
        )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if not self.errors:
            try:
                providers.check(cleaned["kind"], cleaned["base_url"], cleaned["options"])
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
        ("slug", "kind", "enabled", "takes_pictures"),
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
