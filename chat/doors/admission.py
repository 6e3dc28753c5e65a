"""Who may talk: token, flow, version, build, chat. In, or a refusal; nothing after a refusal runs."""

import re
import uuid
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import msgspec
from django.utils.translation import gettext_noop as _

from accounts import locale as languages
from accounts import rights, tokens
from accounts.tokens import Identity
from chat.models import Chat
from chat.protocol import FlowInfo
from flows import build, graph, handlers
from flows import store as flow_store
from flows.models import Flow, FlowVersion
from streams import database, names
from streams.errors import WireError
from streams.log import Position
from streams.prepared import Select
from streams.states import Door

SUBPROTOCOL = "headrace."
DIALECTS = ("v1",)  # that are spoken
LATER_DIALECTS = ("bisheng", "chunk", "rpc", "neko", "agui", "aisdk")
ADDRESS_BYTES = 8192
SEQ_MOST = 2**53

_SLUG = re.compile(rf"{names.SLUG}\Z")
_UUID = re.compile(rf"{names.UUID}\Z")
_SKILL = re.compile(r"[a-z][a-z0-9_.-]{0,119}\Z")
_EPOCH = re.compile(r"[0-9a-f]{16}\Z")
_NUMBER = re.compile(r"[0-9]{1,16}\Z")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a socket's path and query ask for."""

    flow: str
    skill: str | None
    chat: str | None
    version: int | None
    position: Position | None


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A socket that may talk. `has_row`: the chat's row was there; `graph`: of a fresh debug chat."""

    identity: Identity
    address: Address
    locale: str
    door: Door
    chat: str
    chat_kind: str
    has_row: bool
    flow: FlowInfo
    skill: str
    version_id: str | None
    graph: dict[str, Any] | None


# --------------------------------------------------------------------------------------------------- address


def parse(scope: dict[str, Any]) -> Address:
    """The form of the address. Raises WireError bad_request, not_supported."""
    path, raw_query = scope["path"], scope.get("query_string", b"")
    if len(path) > ADDRESS_BYTES or len(raw_query) > ADDRESS_BYTES:
        raise WireError("bad_request")
    try:
        query = parse_qs(raw_query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise WireError("bad_request") from error
    one = {name: values[0] for name, values in query.items() if len(values) == 1}
    if any(name in query and name not in one for name in ("chat_id", "version_id", "epoch", "seq", "dialect")):
        raise WireError("bad_request")
    flow, skill = _path(path)
    address = Address(
        flow=flow,
        skill=skill,
        chat=_uuid(one["chat_id"], "chat_id") if "chat_id" in one else None,
        version=_number(one["version_id"], "version_id", 2**31) if "version_id" in one else None,
        position=_position(one.get("epoch"), one.get("seq")),
    )
    _check_dialect(path, one.get("dialect"), scope.get("subprotocols", []))
    return address


def _path(path: str) -> tuple[str, str | None]:
    flow, slash, skill = path.removeprefix("/api/v1").removeprefix("/chat/").partition("/")
    if not (_UUID.match(flow) or _SLUG.match(flow)) or (slash and not _SKILL.match(skill)):
        raise WireError("bad_request", field="flow_id")
    return flow, skill or None


def subprotocol(offered: list[str]) -> str | None:
    """What a handshake that offers these gets: the first that is spoken here, else the first that is known."""
    known = [name for name in offered if name.startswith(SUBPROTOCOL) and _is_known(name)]
    return next((name for name in known if name.removeprefix(SUBPROTOCOL) in DIALECTS), known[0] if known else None)


def _is_known(name: str) -> bool:
    return name.removeprefix(SUBPROTOCOL) in DIALECTS + LATER_DIALECTS


def _check_dialect(path: str, named: str | None, offered: list[str]) -> None:
    """Which wire is spoken. Neither subprotocol nor `dialect`: the path's own."""
    default = "bisheng" if path.startswith("/api/v1/") else "v1"
    wanted = (subprotocol(offered) or default if named is None else named).removeprefix(SUBPROTOCOL)
    if wanted in LATER_DIALECTS:
        raise WireError("not_supported")
    if wanted not in DIALECTS:
        raise WireError("bad_request", field="dialect")


def _position(epoch: str | None, seq: str | None) -> Position | None:
    if epoch is None and seq is None:
        return None
    if epoch is None or seq is None or not _EPOCH.match(epoch):
        raise WireError("bad_request", field="epoch")
    return Position(epoch, _number(seq, "seq", SEQ_MOST))


def _number(text: str, field: str, most: int) -> int:
    if not _NUMBER.match(text) or int(text) > most:
        raise WireError("bad_request", field=field)
    return int(text)


def _uuid(text: str, field: str) -> str:
    if not _UUID.match(text):
        raise WireError("bad_request", field=field)
    return str(uuid.UUID(text))


def locale_of(scope: dict[str, Any], setting: str = "") -> str:
    """A socket's language, also where its address is malformed: `locale`, the user's setting, his browser's."""
    query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
    headers = dict(scope.get("headers", []))
    accept = headers.get(b"accept-language", b"").decode("latin-1")
    return languages.choose(query.get("locale", ""), setting, accept=accept)


# ------------------------------------------------------------------------------------------------- the checks


async def identify(scope: dict[str, Any]) -> Identity:
    """Raises WireError unauthorized, unavailable."""
    credential = tokens.credential_of(scope)
    hop = database.write if credential.source == "ticket" else database.read  # a ticket is spent by its use
    return await hop(tokens.verify, credential)


async def admit(scope: dict[str, Any], identity: Identity) -> Admitted:
    """From a known user to an open chat, in the order of the contract. Raises the first refusal as WireError."""
    address = parse(scope)
    if not identity.may("chat"):
        raise WireError("forbidden")
    locale = locale_of(scope, identity.locale)
    found = await database.read(_find, identity, address)
    return await _admitted(identity, address, found, locale)


async def admit_chat(identity: Identity, chat: str, locale: str) -> Admitted:
    """To say something in a chat that exists, without a socket. Whether the flow is online, the say itself checks.

    Raises WireError chat_not_found.
    """
    found = await database.read(_find_chat, identity, chat)
    address = Address(flow=str(found.flow.id), skill=None, chat=chat, version=None, position=None)
    return await _admitted(identity, address, found, locale)


async def _admitted(identity: Identity, address: Address, found: "_Found", locale: str) -> Admitted:
    graph_here, version = found.graph, found.version
    if version is None and found.kind == Chat.Kind.CHAT:
        shown = {}
    elif version is not None:
        shown = await build.version_graph(str(version.id))
    elif graph_here is not None:
        shown = graph_here
    else:
        shown = graph_here = await _built_draft(found.flow)
    return Admitted(
        identity=identity,
        address=address,
        locale=locale,
        door=Door.DEBUG if found.kind == Chat.Kind.DEBUG else Door.CHAT,
        chat=found.chat,
        chat_kind=found.kind,
        has_row=found.has_row,
        flow=flow_info(found.flow, version, shown),
        skill=address.skill or "flow",
        # A fresh debug chat gets the version's graph as its own.
        version_id=str(version.id) if address.version is not None and address.chat is not None else None,
        graph=None if found.kind == Chat.Kind.CHAT else shown,
    )


class _Found(msgspec.Struct, kw_only=True):
    flow: Flow
    version: FlowVersion | None
    chat: str
    kind: str
    has_row: bool
    graph: dict[str, Any] | None


def _find(identity: Identity, address: Address) -> _Found:
    flow = flow_store.find_light_flow(address.flow)
    may_edit = flow is not None and rights.can_edit(identity, flow)
    if flow is None or not (may_edit or rights.can_chat(identity, flow)):
        raise WireError("flow_not_found")
    if address.skill is not None and handlers.get(address.skill) is None:
        raise WireError("skill_not_found")
    version = None
    if address.version is not None:
        version = flow.versions.filter(number=address.version).first()
        if version is None:
            raise WireError("version_not_found")
    row = _CHAT.one(uuid.UUID(address.chat)) if address.chat else None
    if row is not None and (row.deleted or row.user_id != identity.user_id or row.flow_id != flow.id):
        raise WireError("chat_not_found")
    is_debug = address.chat is None or (row is not None and row.kind == Chat.Kind.DEBUG)
    if not is_debug and version is None:
        if flow.status != Flow.Status.ONLINE or flow.published_id is None:
            raise WireError("flow_offline")
        version = flow.published
    elif not may_edit:
        raise WireError("forbidden", DEBUG_HINT if address.chat is None else None)
    return _Found(
        flow=flow,
        version=version,
        chat=address.chat or str(uuid.uuid4()),
        kind=Chat.Kind.DEBUG if is_debug else Chat.Kind.CHAT,
        has_row=row is not None,
        graph=row.graph if row is not None and is_debug else None,
    )


_CHAT = Select(lambda id: Chat.objects.filter(id=id), uuid.UUID)


def _find_chat(identity: Identity, chat: str) -> _Found:
    row = (
        Chat.objects.select_related("flow__published").filter(id=chat, user_id=identity.user_id, deleted=False).first()
    )
    if row is None or row.flow is None:
        raise WireError("chat_not_found")
    is_debug = row.kind == Chat.Kind.DEBUG
    version = None if is_debug else row.flow.published
    return _Found(flow=row.flow, version=version, chat=chat, kind=row.kind, has_row=True, graph=row.graph)


DEBUG_HINT = _(
    "This opens a debug run, which needs the right to edit the flow. "
    "To chat, add ?chat_id= and a UUID of your own to the address."
)


async def _built_draft(flow: Flow) -> dict[str, Any]:
    """The build of the draft as it is. Raises WireError not_built."""
    built = await build.build_of(str(flow.id))
    draft = await database.read(flow_store.draft_of, flow.id)
    if built is None or built.status != "success" or built.checksum != graph.checksum(draft):
        raise WireError("not_built")
    return built.graph


def flow_info(flow: Flow, version: FlowVersion | None, shown: dict[str, Any]) -> FlowInfo:
    """What a client shows of a flow before anything was said: from its start node."""
    fields = graph.start_fields(shown)
    return FlowInfo(
        id=str(flow.id),
        slug=flow.slug,
        name=flow.name,
        version=version.number if version else None,
        greeting=fields.get("greeting", ""),
        suggestions=list(fields.get("suggestions", [])),
        params=fields.get("params"),
    )
