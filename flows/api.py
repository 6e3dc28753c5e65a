"""REST of flows, their builds and versions, kinds of nodes, and providers."""

import re
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import rights
from accounts.authentication import IsStaff
from accounts.rest.bodies import Body, Flag, Json, Nothing, Text, found, path_id
from accounts.rest.pages import page
from accounts.tokens import Identity
from flows import build, diff, graph, providers, store
from flows.kinds import KINDS
from flows.models import Flow, FlowVersion, Provider
from flows.store import NUMBER, own_flow
from streams.clock import stamp
from streams.errors import WireError
from streams.turnstile import Turnstile

STATUS = {"offline": Flow.Status.OFFLINE, "online": Flow.Status.ONLINE}
EXPORT_FORM = 1
# Faults of an import that are no gaps to be filled here: it holds what this server has no place for.
STRANGE = frozenset({"bad_graph", "unknown_key", "unknown_kind", "unknown_field"})
IF_MATCH = re.compile(r'"?([0-9]{1,9})"?\Z', re.ASCII)


CROWDED = gettext_noop("Too many graphs are checked at this moment. Try again in a few seconds.")


def _bounds() -> tuple[int, int, float]:
    bounds = settings.HEADRACE
    return bounds.checks_at_once, bounds.requests_waiting, bounds.request_wait_s


_checks = Turnstile(_bounds, "busy", CROWDED)


class FlowPatch(Body):
    name = Text(max_length=120, trim_whitespace=True, required=False)
    slug = Text(max_length=64, required=False)
    description = Text(max_length=10_000, allow_blank=True, required=False)
    icon = Text(max_length=16, allow_blank=True, required=False)
    draft = Json(required=False)
    double_text = serializers.ChoiceField(choices=Flow.DoubleText.choices, required=False)
    visibility = serializers.ChoiceField(choices=Flow.Visibility.choices, required=False)
    groups = serializers.PrimaryKeyRelatedField(many=True, queryset=Group.objects.all(), required=False)


class NewFlow(FlowPatch):
    name = Text(max_length=120, trim_whitespace=True)


class GraphBody(Body):
    graph = Json()


class BuildBody(Body):
    version = serializers.IntegerField(min_value=1, max_value=2**31 - 1, default=None, allow_null=True)


class PublishBody(Body):
    note = Text(max_length=2000, allow_blank=True, default="")


class FlowExport(Body):
    headrace = serializers.ChoiceField(choices=[EXPORT_FORM])
    name = Text(max_length=120, trim_whitespace=True)
    description = Text(max_length=10_000, allow_blank=True, default="")
    double_text = serializers.ChoiceField(choices=Flow.DoubleText.choices, default=Flow.DoubleText.QUEUE)
    graph = Json()


class ProviderPatch(Body):
    slug = serializers.SlugField(max_length=64, required=False)
    kind = serializers.ChoiceField(choices=Provider.Kind.choices, required=False)
    base_url = Text(max_length=500, allow_blank=True, required=False)
    key = Text(max_length=1000, allow_blank=True, required=False)
    models = serializers.ListField(child=Text(max_length=200), max_length=200, required=False)
    options = Json(kind=dict, required=False)
    on_takeover = serializers.ChoiceField(choices=Provider.OnTakeover.choices, required=False)
    prices = serializers.DictField(child=serializers.FloatField(min_value=0), required=False)
    takes_pictures = Flag(required=False)
    enabled = Flag(required=False)


class NewProvider(ProviderPatch):
    slug = serializers.SlugField(max_length=64)
    kind = serializers.ChoiceField(choices=Provider.Kind.choices)


class FlowAPIView(APIView):
    """Tells faults in the reader's language."""

    scopes = ("flows",)

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, WireError) and "faults" in exc.extra:
            exc.extra["faults"] = graph.faults_json(exc.extra["faults"], _)
        return super().handle_exception(exc)


# ------------------------------------------------------------------------------------------------------- flows


class FlowsView(FlowAPIView):
    """Flows one may chat with or edit. Filters: `status` (online, offline), `owner` (an id), `q` (name, slug, text)."""

    read_scopes = ("chat",)

    def get(self, request: Request) -> Response:
        rows = seen_flows(request.auth).select_related("owner", "published").prefetch_related("groups")
        rows = _filtered(rows, request).defer("draft", "published__graph")
        return page(request, rows, ("updated", "id"), lambda rows: [flow_json(row, request.auth) for row in rows])

    def post(self, request: Request) -> Response:
        body = NewFlow.of(request)
        groups = [group.pk for group in body.pop("groups", [])]
        flow = store.create_flow(request.auth.user_id, body.pop("name"), group_ids=groups, **body)
        headers = {"Location": f"{request.path}{flow.id}/", "ETag": f'"{flow.revision}"'}
        return Response(flow_json(flow, request.auth, has_draft=True), status=201, headers=headers)


class FlowView(FlowAPIView):
    read_scopes = ("chat",)

    def get(self, request: Request, ref: str) -> Response:
        return _flow_response(seen_flow(request.auth, ref), request.auth)

    def patch(self, request: Request, ref: str) -> Response:
        """A draft needs `If-Match: "<revision>"`: 428 without, 412 where somebody saved meanwhile."""
        flow = own_flow(request.auth, ref)
        body = FlowPatch.of(request)
        groups = body.pop("groups", None)
        with transaction.atomic():
            if "draft" in body:
                store.save_draft(flow.id, body.pop("draft"), _revision(request))
            if body or groups is not None:
                ids = None if groups is None else [group.pk for group in groups]
                store.update_flow(flow.id, group_ids=ids, **body)
        return _flow_response(own_flow(request.auth, ref if "slug" not in body else str(flow.id)), request.auth)

    def delete(self, request: Request, ref: str) -> Response:
        store.delete(own_flow(request.auth, ref).id)
        return Response(status=204)


class CheckView(FlowAPIView):
    """The faults of a graph that is not saved."""

    def post(self, request: Request, ref: str) -> Response:
        own_flow(request.auth, ref)
        return Response({"faults": graph.faults_json(_faults_of(GraphBody.of(request)["graph"]), _)})


class BuildView(FlowAPIView):
    """The build of the draft, or of `?version=n`."""

    def get(self, request: Request, ref: str) -> Response:
        flow = own_flow(request.auth, ref)
        version = store.wanted_version(flow.id, request.query_params.get("version"))
        return Response(build_json(found(async_to_sync(build.build_of)(flow.id, version))))

    def post(self, request: Request, ref: str) -> Response:
        flow = own_flow(request.auth, ref)
        version = BuildBody.of(request)["version"]
        built = async_to_sync(build.begin_build)(flow.id, request.auth.user_id, version)
        location = request.path if version is None else f"{request.path}?version={version}"
        return Response({"build": built.build}, status=202, headers={"Location": location})


class BuildEventsView(FlowAPIView):
    """Server-sent events: `chat/doors/events.py` answers before this view is asked. Other methods end here."""

    def get(self, request: Request, ref: str) -> Response:
        raise WireError("forbidden")  # of a page of another site


class PublishView(FlowAPIView):
    def post(self, request: Request, ref: str) -> Response:
        flow = own_flow(request.auth, ref)
        note = PublishBody.of(request)["note"]
        version = async_to_sync(build.publish)(flow.id, request.auth.user_id, note)
        return Response(version_json(version) | {"published": True})


class OfflineView(FlowAPIView):
    def post(self, request: Request, ref: str) -> Response:
        store.offline(own_flow(request.auth, ref).id)
        return _flow_response(own_flow(request.auth, ref), request.auth)


class VersionsView(FlowAPIView):
    def get(self, request: Request, ref: str) -> Response:
        flow = own_flow(request.auth, ref)
        rows = store.versions(flow.id).defer("graph")
        return page(request, rows, ("number",), lambda rows: [_of_flow(row, flow) for row in rows])


class VersionView(FlowAPIView):
    def get(self, request: Request, ref: str, number: str) -> Response:
        version = own_version(request.auth, ref, number)
        return Response(_of_flow(version, version.flow) | {"graph": version.graph})


class RestoreView(FlowAPIView):
    """Makes a version's graph the draft again. `If-Match`, where it is given, guards it as a save."""

    def post(self, request: Request, ref: str, number: str) -> Response:
        version = own_version(request.auth, ref, number)
        Nothing.of(request)
        revision = _revision(request) if "If-Match" in request.headers else None
        store.restore(version.flow_id, version.number, revision)
        return _flow_response(own_flow(request.auth, str(version.flow_id)), request.auth)


class DiffView(FlowAPIView):
    """What changed from a version to `?to=`, another version's number or `draft` (which it is by default)."""

    def get(self, request: Request, ref: str, number: str) -> Response:
        version = own_version(request.auth, ref, number)
        to = request.query_params.get("to", "draft")
        if to != "draft" and not NUMBER.match(to):
            raise WireError("validation_error", fields={"to": _("This must be the number of a version, or draft.")})
        other = store.draft_of(version.flow_id, None if to == "draft" else int(to))
        return Response(diff.diff(version.graph, other))


class FlowExportView(FlowAPIView):
    """The draft, or `?version=n`, to be imported elsewhere. It names providers; their keys are never in it."""

    def get(self, request: Request, ref: str) -> Response:
        flow = own_flow(request.auth, ref)
        version = store.wanted_version(flow.id, request.query_params.get("version"))
        exported = {
            "headrace": EXPORT_FORM,
            "name": flow.name,
            "description": flow.description,
            "double_text": flow.double_text,
            "graph": store.draft_of(flow.id, version),
        }
        return Response(exported, headers={"Content-Disposition": f'attachment; filename="{flow.slug}.json"'})


class ImportView(FlowAPIView):
    """A new flow from an export. What this server does not know in it is refused; what it lacks is told as faults."""

    def post(self, request: Request) -> Response:
        body = FlowExport.of(request)
        store.check_draft(body["graph"])
        faults = _faults_of(body["graph"])
        strange = [fault for fault in faults if fault.code in STRANGE]
        if strange:
            raise WireError("graph_invalid", faults=strange)
        flow = store.create_flow(
            request.auth.user_id,
            body["name"],
            draft=body["graph"],
            description=body["description"],
            double_text=body["double_text"],
        )
        headers = {"Location": f"/api/flows/{flow.id}/", "ETag": f'"{flow.revision}"'}
        shown = flow_json(flow, request.auth, has_draft=True)
        return Response(shown | {"faults": graph.faults_json(faults, _)}, status=201, headers=headers)


def seen_flows(identity: Identity) -> QuerySet:
    """What may be chatted with, and what may be edited."""
    rows = Flow.objects.filter(deleted=False)
    return rights.visible(identity, rows.filter(status=Flow.Status.ONLINE)) | rights.editable(identity, rows)


def seen_flow(identity: Identity, ref: str) -> Flow:
    flow = found(store.find_flow(ref))
    is_open = flow.status == Flow.Status.ONLINE and rights.can_chat(identity, flow)
    if not (is_open or rights.can_edit(identity, flow)):
        raise WireError("not_found")
    return flow


def own_version(identity: Identity, ref: str, number: str) -> FlowVersion:
    flow = own_flow(identity, ref)
    if not NUMBER.match(number):
        raise WireError("not_found")
    return found(store.versions(flow.id).select_related("flow").filter(number=int(number)).first())


def flow_json(flow: Flow, identity: Identity, has_draft: bool = False) -> dict[str, Any]:
    """Who may only chat does not see what is being written."""
    is_editor = rights.can_edit(identity, flow)
    shown = {
        "id": str(flow.id),
        "slug": flow.slug,
        "name": flow.name,
        "description": flow.description,
        "icon": flow.icon,
        "status": next(name for name, status in STATUS.items() if status == flow.status),
        "version": flow.published.number if flow.published else None,
        "owner": {"id": str(flow.owner_id), "name": flow.owner.get_full_name() or flow.owner.get_username()},
        "editable": is_editor,
    }
    if is_editor:
        shown |= {
            "double_text": flow.double_text,
            "visibility": flow.visibility,
            "groups": [group.pk for group in flow.groups.all()],
            "revision": flow.revision,
            "created": stamp(flow.created),
            "updated": stamp(flow.updated),
        }
        if has_draft:
            shown["draft"] = flow.draft
    return shown


def version_json(version: FlowVersion) -> dict[str, Any]:
    return {
        "number": version.number,
        "checksum": version.checksum,
        "note": version.note,
        "author": version.author and {"id": str(version.author.pk), "name": version.author.get_username()},
        "created": stamp(version.created),
    }


def build_json(built: build.Build) -> dict[str, Any]:
    return {
        "build": built.build,
        "status": built.status,
        "progress": built.progress,
        "checksum": built.checksum,
        "faults": graph.faults_json(built.faults, _),
        "error": built.error,
    }


def _faults_of(raw: Any) -> list[graph.Fault]:
    """Raises WireError busy: a check holds this process's streams for a good part of a second."""
    with _checks.take():
        return build.faults_of(raw)


def _flow_response(flow: Flow, identity: Identity) -> Response:
    headers = {"ETag": f'"{flow.revision}"'} if rights.can_edit(identity, flow) else None
    return Response(flow_json(flow, identity, has_draft=True), headers=headers)


def _of_flow(version: FlowVersion, flow: Flow) -> dict[str, Any]:
    return version_json(version) | {"published": version.pk == flow.published_id}


def _revision(request: Request) -> int:
    given = request.headers.get("If-Match")
    if given is None:
        text = _('Say which revision you have changed: If-Match: "<revision>".')
        raise WireError("conflict", text, status=428)
    match = IF_MATCH.match(given.strip())
    if match is None:
        raise WireError("conflict")
    return int(match.group(1))


def _filtered(rows: QuerySet, request: Request) -> QuerySet:
    wanted, fields = request.query_params, {}
    if "status" in wanted:
        if wanted["status"] not in STATUS:
            fields["status"] = _("This must be online or offline.")
        rows = rows.filter(status=STATUS.get(wanted["status"]))
    if "owner" in wanted:
        if not re.fullmatch(r"[0-9]{1,18}", wanted["owner"], re.ASCII):
            fields["owner"] = _("This must be the id of a user.")
        else:
            rows = rows.filter(owner_id=int(wanted["owner"]))
    if fields:
        raise WireError("validation_error", fields=fields)
    query = wanted.get("q", "").replace("\0", "")[:200]
    if query:
        rows = rows.filter(Q(name__icontains=query) | Q(slug__icontains=query) | Q(description__icontains=query))
    return rows


# --------------------------------------------------------------------------------------- kinds and providers


class NodesView(APIView):
    """Kinds of nodes with the JSON Schema of their fields."""

    scopes = ("flows",)

    def get(self, request: Request) -> Response:
        kinds = [kind.describe() for kind in KINDS.values()]
        return Response({"results": kinds, "next": None, "previous": None})


class ProvidersView(APIView):
    permission_classes = (IsStaff,)

    def get(self, request: Request) -> Response:
        rows = Provider.objects.all()
        return page(request, rows, ("updated", "id"), lambda rows: [provider_json(row) for row in rows])

    def post(self, request: Request) -> Response:
        row = _save_provider(Provider(), NewProvider.of(request))
        return Response(provider_json(row), status=201, headers={"Location": f"{request.path}{row.id}/"})


class ProviderView(APIView):
    permission_classes = (IsStaff,)

    def get(self, request: Request, ref: str) -> Response:
        return Response(provider_json(_provider(ref)))

    def patch(self, request: Request, ref: str) -> Response:
        return Response(provider_json(_save_provider(_provider(ref), ProviderPatch.of(request))))

    def delete(self, request: Request, ref: str) -> Response:
        _provider(ref).delete()
        return Response(status=204)


def provider_json(row: Provider) -> dict[str, Any]:
    """The key is never shown: `has_key` says whether there is one."""
    return {
        "id": str(row.id),
        "slug": row.slug,
        "kind": row.kind,
        "base_url": row.base_url,
        "has_key": bool(row.key_encrypted),
        "models": row.model_names,
        "options": row.options,
        "on_takeover": row.on_takeover,
        "prices": row.prices,
        "takes_pictures": row.takes_pictures,
        "enabled": row.enabled,
    }


def _provider(ref: str) -> Provider:
    return found(Provider.objects.filter(id=path_id(ref)).first())


def _save_provider(row: Provider, body: dict[str, Any]) -> Provider:
    key, old_url = body.pop("key", None), row.base_url
    if "models" in body:
        body["model_names"] = body.pop("models")
    for name, value in body.items():
        setattr(row, name, value)
    providers.check(row.kind, row.base_url, row.options)
    providers.keep_key(row, key, old_url)
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError as error:
        raise WireError("validation_error", fields={"slug": _("Another provider has this slug.")}) from error
    return row
