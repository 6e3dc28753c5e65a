"""The pages a person sees, and the two questions a load balancer asks.

What each template gets, besides `request`, `user` and Django's own:

`login.html` (`/login/`, Django's LoginView): `form` (username, password), `next`.

`flows.html` (`/`): `online`: flows one may chat with; `editable`: flows one may edit, offline ones too. Each is a
Flow row (`id, slug, name, description, icon, status, is_online`) of which no more may be read than its own columns
and `owner`. `config` as below with `flow` and `chat` null.

`chat.html` (`/f/<slug>/` a new chat, `/c/<chat>/` one that exists): `flow` (a Flow row), `chat` (its id as text, ""
for a new one: the page makes the UUID), `title`, and `config`, to be given to the scripts by
`{{ config|json_script:"config" }}`:
`{flow: {id, slug, name, icon, online, editable, deleted} | null, chat: id | null, title, user: {id, name, locale},
api: "/api/", socket: "/chat/<flow id>", csrf: token for the header X-CSRFToken, version, languages: [[code, name]]}`.

`edit.html` (`/edit/<flow id>/`, who may edit): `flow` (a Flow row), `config` as above with, besides,
`providers: {slug: [model, …]}`: what graphs may name, and `admin`: the flow's page for operators, null for others. The
draft itself is read by REST.

`/logout/` takes POST (Django's LogoutView) and goes to `/login/`. Static text for scripts is at `/jsi18n/`.
`404.html` and `500.html` are Django's own names.
"""

import uuid
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db import DatabaseError, connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import rights, tokens
from accounts.tokens import Identity
from chat.models import Chat
from chat.turns import manager
from flows import providers
from flows import store as flows
from flows.models import Flow
from streams import redis
from streams.errors import WireError


@require_safe
@login_required
@never_cache
def flow_list(request: HttpRequest) -> HttpResponse:
    identity = _identity(request)
    rows = Flow.objects.filter(deleted=False).order_by("name", "slug").select_related("owner").defer("draft")
    context = {
        "online": rights.visible(identity, rows.filter(status=Flow.Status.ONLINE)),
        "editable": rights.editable(identity, rows),
        "config": page_config(request, identity),
    }
    return render(request, "flows.html", context)


@require_safe
@login_required
@never_cache
def new_chat(request: HttpRequest, slug: str) -> HttpResponse:
    identity = _identity(request)
    flow = flows.find_flow(slug)
    if flow is None or not rights.can_chat(identity, flow):
        raise Http404
    if flow.status != Flow.Status.ONLINE and not rights.can_edit(identity, flow):
        raise Http404
    return _chat_page(request, identity, flow, None)


@require_safe
@login_required
@never_cache
def chat_page(request: HttpRequest, chat: uuid.UUID) -> HttpResponse:
    row = Chat.objects.select_related("flow").filter(id=chat, user=request.user, deleted=False).first()
    if row is None or row.flow is None:
        raise Http404
    return _chat_page(request, _identity(request), row.flow, row)


@require_safe
@login_required
@never_cache
def edit_page(request: HttpRequest, ref: str) -> HttpResponse:
    identity = _identity(request)
    flow = flows.find_flow(ref)
    if flow is None or not rights.can_edit(identity, flow):
        raise Http404
    known = {slug: list(models) for slug, models in providers.world().providers.items()}
    admin_page = reverse("admin:flows_flow_change", args=[flow.id]) if identity.is_staff else None
    config = page_config(request, identity, flow) | {"providers": known, "admin": admin_page}
    context = {"flow": flow, "config": config}
    return render(request, "edit.html", context)


def _chat_page(request: HttpRequest, identity: Identity, flow: Flow, chat: Chat | None) -> HttpResponse:
    context = {
        "flow": flow,
        "chat": str(chat.id) if chat else "",
        "title": chat.title if chat else flow.name,
        "config": page_config(request, identity, flow, chat),
    }
    return render(request, "chat.html", context)


def page_config(
    request: HttpRequest, identity: Identity, flow: Flow | None = None, chat: Chat | None = None
) -> dict[str, Any]:
    """What the scripts of a page know from the start."""
    return {
        "flow": flow
        and {
            "id": str(flow.id),
            "slug": flow.slug,
            "name": flow.name,
            "icon": flow.icon,
            "online": flow.status == Flow.Status.ONLINE,
            "editable": rights.can_edit(identity, flow),
            "deleted": flow.deleted,
        },
        "chat": str(chat.id) if chat else None,
        "title": chat.title if chat else "",
        "user": {"id": str(identity.user_id), "name": identity.name, "locale": identity.locale},
        "api": "/api/",
        "socket": f"/chat/{flow.id}" if flow else None,
        "csrf": get_token(request),
        "version": settings.HEADRACE_VERSION,
        "languages": [[code, str(name)] for code, name in settings.LANGUAGES],
    }


def _identity(request: HttpRequest) -> Identity:
    login = request.session.get(tokens.SESSION_LOGIN)
    known = tokens.known_user(login) if login else None
    return tokens.identity_of(known or request.user, login)


# ---------------------------------------------------------------------------------------------- load balancers


@require_safe
@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> HttpResponse:
    """Whether new sockets and requests should come here; what is wrong, by name."""
    faults = [name for name, is_well in READY_CHECKS.items() if not is_well()]
    return JsonResponse({"status": "unready" if faults else "ready", "faults": faults}, status=503 if faults else 200)


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return True
    except DatabaseError:
        return False


def _redis_answers() -> bool:
    try:
        return bool(redis.blocking_client().ping())
    except (redis.Trouble, OSError):
        return False


def _is_not_draining() -> bool:
    try:
        return not manager.manager().is_draining
    except WireError:
        return True  # it starts with the first socket where the server sends no lifespan


READY_CHECKS = {"database": _database_answers, "redis": _redis_answers, "draining": _is_not_draining}
