"""Each transaction of flows and their versions. A version, once written, is never changed.

Synchronous: views call these as they are, async code through `streams/database.py`. Raises WireError.
"""

import functools
import re
import uuid
from collections.abc import Iterable
from typing import Any

import msgspec
from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from accounts import rights
from accounts.tokens import Identity
from flows import graph
from flows.models import Flow, FlowVersion, Provider
from flows.signals import flow_deleted
from streams import names
from streams.errors import WireError
from streams.prepared import Select

SLUG = re.compile(rf"{names.SLUG}\Z")
NUMBER = re.compile(r"[0-9]{1,9}\Z", re.ASCII)  # of a version
TAKEN_SLUGS = frozenset({"import"})  # words of REST's paths
META = frozenset({"name", "slug", "description", "icon", "owner", "double_text", "visibility"})


def limits() -> graph.Limits:
    bounds = settings.HEADRACE
    return graph.Limits(
        nodes=bounds.graph_nodes,
        bytes=bounds.graph_bytes,
        depth=bounds.json_depth,
        template_tags=bounds.graph_template_tags,
    )


def find_flow(ref: str) -> Flow | None:
    """By UUID, with dashes or without, or by slug; with its published version. Deleted ones are not there."""
    flows = Flow.objects.filter(deleted=False).select_related("published")
    id_ = _uuid(ref)
    if id_ is not None:
        return flows.filter(id=id_).first()
    return flows.filter(slug=ref).first() if SLUG.match(ref) else None


def find_light_flow(ref: str) -> Flow | None:
    """As `find_flow`, for each new socket: without what weighs, the draft and the published graph."""
    id_ = _uuid(ref)
    if id_ is not None:
        return _LIGHT_BY_ID.one(id_)
    return _LIGHT_BY_SLUG.one(ref) if SLUG.match(ref) else None


def _light(**which: Any) -> models.QuerySet[Flow]:
    flows = Flow.objects.filter(deleted=False, **which)
    return flows.select_related("published").defer("draft", "published__graph")


_LIGHT_BY_ID = Select(lambda id: _light(id=id), uuid.UUID)
_LIGHT_BY_SLUG = Select(lambda slug: _light(slug=slug), str)


def own_flow(identity: Identity, ref: str) -> Flow:
    """One that he may edit; another's is not there, though he may chat with it. Raises not_found."""
    flow = find_flow(ref)
    if flow is None or not rights.can_edit(identity, flow):
        raise WireError("not_found")
    return flow


def create_flow(
    owner_id: int,
    name: str,
    *,
    slug: str | None = None,
    draft: Any = None,
    description: str = "",
    icon: str = "",
    double_text: str = Flow.DoubleText.QUEUE,
    visibility: str = Flow.Visibility.EVERYONE,
    group_ids: Iterable[int] = (),
) -> Flow:
    """A new flow, offline. `slug`: made from the name where none is given.

    Raises validation_error on a slug that is taken or none, graph_invalid on a draft out of bounds.
    """
    if draft is None:
        draft = empty_draft()
    check_draft(draft)
    if slug is not None:
        check_slug(slug)
    fields = {
        "owner_id": owner_id,
        "name": name,
        "draft": draft,
        "description": description,
        "icon": icon,
        "double_text": double_text,
        "visibility": visibility,
    }
    for _try in range(settings.HEADRACE.slug_tries):
        try:
            with transaction.atomic():
                flow = Flow.objects.create(slug=slug or free_slug(name), **fields)
                flow.groups.set(group_ids)
                return flow
        except IntegrityError:
            if slug is not None:
                raise _slug_taken() from None
    raise WireError("unavailable")


def empty_draft() -> dict[str, Any]:
    """What a new flow begins with: it builds, and greets."""
    return {
        "schema": graph.SCHEMA,
        "nodes": [
            {"id": "start", "kind": "start", "fields": {}, "at": [0, 0]},
            {"id": "hello", "kind": "message", "fields": {"text": _("Hello, {{ user.name }}!")}, "at": [320, 0]},
            {"id": "end", "kind": "end", "fields": {}, "at": [640, 0]},
        ],
        "edges": [{"from": "start", "to": "hello"}, {"from": "hello", "to": "end"}],
    }


def update_flow(flow_id: Any, *, group_ids: Iterable[int] | None = None, **changes: Any) -> Flow:
    """Change what is not the draft: name, slug, description, icon, owner, double_text, visibility, groups."""
    unknown = set(changes) - META
    if unknown:
        raise TypeError(f"not fields of a flow: {sorted(unknown)}")
    if changes.get("slug") is not None:
        check_slug(changes["slug"], flow_id)
    with transaction.atomic():
        flow = _locked(flow_id)
        for name, value in changes.items():
            setattr(flow, name, value)
        try:
            with transaction.atomic():
                flow.save(update_fields=[*changes, "updated"])
        except IntegrityError:
            raise _slug_taken() from None
        if group_ids is not None:
            flow.groups.set(group_ids)
        return flow


def save_draft(flow_id: Any, draft: Any, revision: int) -> Flow:
    """Keep a draft over the one of `revision`. Raises conflict where somebody saved meanwhile.

    A draft may have faults, it is being written; but not be out of bounds: graph_invalid.
    """
    check_draft(draft)
    with transaction.atomic():
        flow = _locked(flow_id)
        if flow.revision != revision:
            raise WireError("conflict", revision=flow.revision)
        flow.draft = draft
        flow.revision += 1
        flow.save(update_fields=["draft", "revision", "updated"])
        return flow


def check_draft(draft: Any) -> None:
    """Raises graph_invalid where a draft cannot be kept: too large, too deep, not JSON."""
    faults = graph.bounds(draft, limits())
    if faults:
        raise WireError("graph_invalid", faults=[msgspec.to_builtins(fault) for fault in faults])


def publish(flow_id: Any, checksum: str, author_id: int | None, note: str = "") -> FlowVersion:
    """Make the draft, which must be the one of `checksum` (the caller built it), the published version.

    A draft that is the published version already stays that one: a new number says that something changed.
    Raises not_built where the draft was changed since.
    """
    with transaction.atomic():
        flow = _locked(flow_id)
        if graph.checksum(flow.draft) != checksum:
            raise WireError("not_built")
        version = flow.published
        if version is None or version.checksum != checksum:
            last = flow.versions.aggregate(last=models.Max("number"))["last"] or 0
            version = FlowVersion.objects.create(
                flow=flow,
                number=last + 1,
                graph=flow.draft,
                checksum=checksum,
                note=note,
                author_id=author_id,
            )
        flow.published = version
        flow.status = Flow.Status.ONLINE
        flow.save(update_fields=["published", "status", "updated"])
        return version


def offline(flow_id: Any) -> Flow:
    """No new turns; running and queued ones go on, and its versions stay."""
    with transaction.atomic():
        flow = _locked(flow_id)
        flow.status = Flow.Status.OFFLINE
        flow.save(update_fields=["status", "updated"])
        return flow


def restore(flow_id: Any, number: int, revision: int | None = None) -> Flow:
    """Make a version's graph the draft again, as a save of it, over the one of `revision` where that is given.

    Raises version_not_found, conflict.
    """
    with transaction.atomic():
        flow = _locked(flow_id)
        if revision is not None and flow.revision != revision:
            raise WireError("conflict", revision=flow.revision)
        version = flow.versions.filter(number=number).first()
        if version is None:
            raise WireError("version_not_found")
        flow.draft = version.graph
        flow.revision += 1
        flow.save(update_fields=["draft", "revision", "updated"])
        return flow


def delete(flow_id: Any) -> None:
    """Gone from lists, its slug free. Chats stay readable; who hears `flow_deleted` ends its turns."""
    with transaction.atomic():
        flow = _locked(flow_id)
        flow.deleted = True
        flow.status = Flow.Status.OFFLINE
        flow.save(update_fields=["deleted", "status", "updated"])
        transaction.on_commit(lambda: flow_deleted.send(Flow, flow=str(flow.id)))


def versions(flow_id: Any) -> models.QuerySet[FlowVersion]:
    """A flow's versions, the newest first."""
    return FlowVersion.objects.filter(flow_id=flow_id).select_related("author").order_by("-number")


@functools.lru_cache(1000)
def params_of(version_id: uuid.UUID) -> dict[str, Any] | None:
    """The schema of what may come with a message, of a version, which never changes: its graph is read once."""
    return graph.start_fields(FlowVersion.objects.values_list("graph", flat=True).get(id=version_id)).get("params")


NO_NUMBER = gettext_noop("This must be the number of a version.")


def wanted_version(flow_id: Any, given: str | None) -> int | None:
    """The number of the version that a query names; null: the draft. Raises validation_error, version_not_found."""
    if given is None:
        return None
    if not NUMBER.match(given):
        raise WireError("validation_error", NO_NUMBER, field="version")
    if not FlowVersion.objects.filter(flow_id=flow_id, number=int(given)).exists():
        raise WireError("version_not_found", field="version")
    return int(given)


def draft_of(flow_id: Any, number: int | None = None) -> dict[str, Any]:
    """The graph of the draft, or of the version `number`. Raises flow_not_found, version_not_found."""
    if number is None:
        draft = Flow.objects.filter(id=flow_id, deleted=False).values_list("draft", flat=True).first()
        if draft is None:
            raise WireError("flow_not_found")
        return draft
    found = FlowVersion.objects.filter(flow_id=flow_id, number=number).values_list("graph", flat=True).first()
    if found is None:
        raise WireError("version_not_found")
    return found


def version_graph(version_id: Any) -> dict[str, Any]:
    """Raises version_not_found."""
    found = FlowVersion.objects.filter(id=version_id).values_list("graph", flat=True).first()
    if found is None:
        raise WireError("version_not_found")
    return found


def providers() -> list[Provider]:
    """The rows that may be used."""
    return list(Provider.objects.filter(enabled=True))


def provider(slug: str) -> Provider | None:
    return Provider.objects.filter(slug=slug, enabled=True).first()


# --------------------------------------------------------------------------------------------- slugs


def free_slug(name: str) -> str:
    """A slug that no flow has, made from a name in any script."""
    stem = slugify(name).replace("_", "-").strip("-")[:60].rstrip("-")
    if not SLUG.match(stem) or _uuid(stem) is not None:
        stem = f"flow-{stem}"[:60].rstrip("-")
    taken = TAKEN_SLUGS | set(Flow.objects.filter(deleted=False, slug__startswith=stem).values_list("slug", flat=True))
    if stem not in taken:
        return stem
    return next(slug for number in range(2, len(taken) + 3) if (slug := f"{stem}-{number}") not in taken)


def check_slug(slug: str, flow_id: Any = None) -> None:
    """An address must never be taken for the id of another flow. `flow_id`: the flow that may have it already.

    A slug that somebody takes after this is refused by the row that is written.
    """
    if not SLUG.match(slug) or _uuid(slug) is not None:
        text = _("A slug has 2 to 64 small letters, digits and dashes, and is no UUID.")
        raise WireError("validation_error", fields={"slug": text})
    if slug in TAKEN_SLUGS or Flow.objects.filter(deleted=False, slug=slug).exclude(id=flow_id).exists():
        raise _slug_taken()


def _slug_taken() -> WireError:
    return WireError("validation_error", fields={"slug": _("Another flow has this slug.")})


def _uuid(ref: Any) -> uuid.UUID | None:
    if isinstance(ref, uuid.UUID):
        return ref
    if not isinstance(ref, str) or len(ref) not in (32, 36):
        return None
    try:
        found = uuid.UUID(ref)
    except ValueError:
        return None
    return found if ref.lower() in (str(found), found.hex) else None


def _locked(flow_id: Any) -> Flow:
    flow = Flow.objects.select_for_update().filter(id=flow_id, deleted=False).first()
    if flow is None:
        raise WireError("flow_not_found")
    return flow
