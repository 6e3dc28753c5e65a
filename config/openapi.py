"""The OpenAPI document of REST: one line an operation, bodies from the views' serializers, answers from `shapes.py`.

drf-spectacular walks the addresses; what each operation takes and answers stands here, in one place.
"""

from functools import cache
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import render
from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import api as accounts
from accounts import spend_api as spend
from accounts.rest.bodies import Body
from accounts.rest.pages import PAGE_DEFAULT, PAGE_MOST
from chat import api as chats
from chat import sessions_api as sessions
from config import examples, shapes
from config.csp import DOCS_POLICY
from flows import api as flows
from streams.errors import CATALOGUE

ALWAYS = ("bad_request", "unauthorized", "forbidden", "throttled", "internal", "unavailable")
WITH_ID = ("not_found",)
WITH_BODY = ("bad_json", "validation_error", "unknown_field", "frame_too_large", "unsupported_media_type")
WITH_PAGES = ("bad_cursor", "bad_limit")
GRAPH = ("graph_invalid",)
SAY = (
    "empty_text", "bad_text", "text_too_long", "message_not_found", "file_not_found", "flow_not_found", "flow_offline",
    "turn_running", "queue_full", "busy", "quota_exceeded", "invalid_answer", "id_conflict", "going_away", "not_built",
)  # fmt: skip
NO_FIELDS = {"type": "object", "additionalProperties": False}
UUID = {"type": "string", "format": "uuid"}
STREAM = "text/event-stream"


class Operation(NamedTuple):
    """`answer`: a shape's name, or `[name]` for pages of it; None: no content. `also`: another shape of the same."""

    summary: str
    answer: str | None = None
    status: int = 200
    body: type[Body] | None = None
    errors: tuple[str, ...] = ()
    query: dict[str, dict[str, Any]] = {}
    headers: dict[str, str] = {}
    media: str = "application/json"
    also: str | None = None
    sends: str = "application/json"


def page(summary: str, name: str, errors: tuple[str, ...] = (), **query: Any) -> Operation:
    pages = {
        "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_MOST, "default": PAGE_DEFAULT},
        "cursor": {"type": "string"},
    }
    return Operation(summary, f"[{name}]", errors=(*WITH_PAGES, *errors), query={**query, **pages})


def choice(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}


TEXT = {"type": "string"}
LOCALE = {"locale": TEXT}
VERSION = {"version": {"type": "integer", "minimum": 1, "maximum": 999_999_999}}
OF_VERSION = ("validation_error", "version_not_found")
IDEMPOTENT = {"Idempotency-Key": "The command's id: the same again answers the same."}
SESSION_FILTERS = {
    "state": choice("live", "connecting", "connected", "streaming", "paused", "disconnected", "error"),
    "door": choice("chat", "debug", "call", "voice", "sse"),
    "user": {"type": "string", "pattern": "^[0-9]{1,18}$"},
    "flow": UUID,
    "chat": UUID,
    "worker": UUID,
}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("auth/token/", "POST"): Operation("Log in", "Tokens", body=accounts.Password),
    ("auth/refresh/", "POST"): Operation("The next pair of tokens", "Tokens", body=accounts.Refresh),
    ("auth/revoke/", "POST"): Operation("End this log-in, or every one", status=204, body=accounts.Revoke),
    ("auth/ticket/", "POST"): Operation("A ticket for a socket's or reader's address", "Ticket", 201),
    ("me/", "GET"): Operation("Oneself", "Me"),
    ("me/", "PATCH"): Operation("One's settings", "Me", body=accounts.Me),
    ("me/usage/", "GET"): Operation("What one has used of one's budgets", "OwnUsage"),
    ("budgets/", "GET"): page("Budgets, and what was used of them (staff)", "Budget"),
    ("budgets/", "PUT"): Operation(
        "Set the limits of a budget, or take it away (staff)", "Budget", body=spend.BudgetBody
    ),
    ("keys/", "GET"): page("One's API keys", "Key"),
    ("keys/", "POST"): Operation("A new API key, shown once", "NewKey", 201, accounts.NewKey),
    ("keys/{ref}/", "DELETE"): Operation("Take a key back", status=204),
    ("flows/", "GET"): page(
        "Flows one may chat with or edit",
        "Flow",
        ("validation_error",),
        status=choice("online", "offline"),
        owner={"type": "string", "pattern": "^[0-9]{1,18}$"},
        q=TEXT,
    ),
    ("flows/", "POST"): Operation("A new flow, offline", "Flow", 201, flows.NewFlow, GRAPH),
    ("flows/import/", "POST"): Operation(
        "A flow from an export", "ImportedFlow", 201, flows.FlowExport, (*GRAPH, "busy")
    ),
    ("flows/{ref}/", "GET"): Operation("A flow, with its draft for who may edit it", "Flow"),
    ("flows/{ref}/", "PATCH"): Operation(
        "Change a flow; a draft over the revision that was read",
        "Flow",
        body=flows.FlowPatch,
        errors=(*GRAPH, "conflict"),
        headers={"If-Match": 'The revision that was read, `"7"`: needed where the body has a draft.'},
    ),
    ("flows/{ref}/", "DELETE"): Operation("Delete a flow; its chats stay readable", status=204),
    ("flows/{ref}/check/", "POST"): Operation(
        "Faults of a graph that is not saved", "Faults", body=flows.GraphBody, errors=("busy",)
    ),
    ("flows/{ref}/build/", "GET"): Operation(
        "The last build of the draft or a version", "Build", errors=OF_VERSION, query=VERSION
    ),
    ("flows/{ref}/build/", "POST"): Operation(
        "Build the draft or a version", "BuildBegun", 202, flows.BuildBody, ("build_running", "version_not_found")
    ),
    ("flows/{ref}/build/events/", "GET"): Operation(
        "Follow the last build of the draft or a version", errors=OF_VERSION, query=VERSION, media=STREAM
    ),
    ("flows/{ref}/export/", "GET"): Operation(
        "The draft or a version, to import elsewhere",
        "FlowFile",
        errors=OF_VERSION,
        query=VERSION,
    ),
    ("flows/{ref}/publish/", "POST"): Operation(
        "Build and publish the draft", "Version", body=flows.PublishBody, errors=("build_failed", "build_running")
    ),
    ("flows/{ref}/offline/", "POST"): Operation("Take a flow offline", "Flow"),
    ("flows/{ref}/versions/", "GET"): page("What was published, the newest first", "Version"),
    ("flows/{ref}/versions/{number}/", "GET"): Operation("A version with its graph", "VersionGraph"),
    ("flows/{ref}/versions/{number}/restore/", "POST"): Operation(
        "Make a version the draft again",
        "Flow",
        body=flows.Nothing,
        errors=("conflict",),
        headers={"If-Match": "The revision that was read, where the save is to be guarded."},
    ),
    ("flows/{ref}/versions/{number}/diff/", "GET"): Operation(
        "What changed from a version to another or the draft",
        "Diff",
        errors=("validation_error", "version_not_found"),
        query={"to": {"type": "string", "pattern": "^([0-9]{1,9}|draft)$", "default": "draft"}},
    ),
    ("nodes/", "GET"): Operation("Kinds of nodes", "[NodeKind]"),
    ("providers/", "GET"): page("Providers (staff)", "Provider"),
    ("providers/", "POST"): Operation(
        "A new provider (staff)", "Provider", 201, flows.NewProvider, ("url_not_allowed",)
    ),
    ("providers/{ref}/", "GET"): Operation("A provider (staff)", "Provider"),
    ("providers/{ref}/", "PATCH"): Operation(
        "Change a provider (staff); its key is written, never read",
        "Provider",
        body=flows.ProviderPatch,
        errors=("url_not_allowed",),
    ),
    ("providers/{ref}/", "DELETE"): Operation("Delete a provider (staff)", status=204),
    ("chats/", "GET"): page("One's chats, pinned ones first; `q` searches titles and texts", "Chat", q=TEXT),
    ("chats/", "POST"): Operation("A new chat", "Chat", 201, chats.NewChat, ("flow_not_found", "flow_offline")),
    ("chats/{ref}/", "GET"): Operation("A chat", "Chat"),
    ("chats/{ref}/", "PATCH"): Operation(
        "Rename, pin, or show another branch", "Chat", body=chats.ChatPatch, errors=("message_not_found",)
    ),
    ("chats/{ref}/", "DELETE"): Operation("Delete a chat; `restore/` undoes it", status=204),
    ("chats/{ref}/restore/", "POST"): Operation("Undo a deletion", "Chat", body=chats.Nothing),
    ("chats/{ref}/export/", "GET"): Operation(
        "The chat as a file", "ChatFile", errors=("validation_error",), query={"as": choice("md", "json")}
    ),
    ("chats/{ref}/events/", "GET"): Operation(
        "Its events: a snapshot, or what came after Last-Event-ID, and what comes",
        media=STREAM,
        errors=("too_many_connections", "going_away"),
        query={"ticket": TEXT},
        headers={"Last-Event-ID": "`epoch:seq`, as the last event's id."},
    ),
    ("chats/{ref}/messages/", "GET"): page(
        "Messages of all branches, the newest first; of one with `branch`",
        "Message",
        ("message_not_found",),
        branch=UUID,
    ),
    ("chats/{ref}/turns/", "POST"): Operation(
        "Say something",
        "Said",
        202,
        chats.SayBody,
        SAY,
        query=LOCALE,
        headers=IDEMPOTENT,
        also="Answered",
    ),
    ("turns/{ref}/", "GET"): Operation("A turn", "Turn"),
    ("turns/{ref}/stop/", "POST"): Operation(
        "Stop a turn", "Stopped", 200, chats.Nothing, ("turn_not_running", "id_conflict"), headers=IDEMPOTENT
    ),
    ("questions/{ref}/answer/", "POST"): Operation(
        "Answer a question",
        "Answered",
        200,
        chats.AnswerBody,
        ("question_closed", "question_expired", "invalid_answer", "quota_exceeded", "id_conflict"),
        headers=IDEMPOTENT,
    ),
    ("messages/{ref}/feedback/", "PUT"): Operation("What one thinks of an answer", "Feedback", body=chats.Feedback),
    ("messages/{ref}/feedback/", "DELETE"): Operation("Take feedback back", status=204),
    ("files/", "POST"): Operation(
        "Upload a file: text, PNG, JPEG, GIF, WebP or PDF",
        "File",
        201,
        errors=(
            "file_too_large", "file_type_not_allowed", "bad_filename", "empty_file", "file_incomplete",
            "file_decompression_limit", "quota_exceeded", "busy", "validation_error", "unknown_field",
            "unsupported_media_type",
        ),
        sends="multipart/form-data",
    ),
    ("files/{ref}/", "GET"): Operation("A file, as an attachment", media="application/octet-stream"),
    ("files/{ref}/", "DELETE"): Operation("Delete a file", status=204),
    ("sessions/", "GET"): page("Stream sessions (staff, viewers)", "Session", ("validation_error",), **SESSION_FILTERS),
    ("sessions/totals/", "GET"): Operation(
        "What they carried together (staff, viewers)",
        "Totals",
        errors=("validation_error",),
        query={**SESSION_FILTERS, "since": {"type": "string", "format": "date-time"}},
    ),
    ("sessions/{ref}/", "GET"): Operation("A stream session (staff, viewers)", "Session"),
    ("sessions/{ref}/close/", "POST"): Operation("Close a session (staff)", "Session", 202, sessions.CloseBody),
    ("workers/", "GET"): page("Workers (staff, viewers)", "Worker"),
}  # fmt: skip


class Schema(AutoSchema):
    """drf-spectacular asks this for each operation that it finds."""

    def get_operation(self, path: str, path_regex: str, path_prefix: str, method: str, registry: Any) -> Any:
        known = OPERATIONS.get((path.removeprefix("/api/"), method.upper()))
        if known is None:
            return None
        self.registry, self.path, self.path_regex = registry, path, path_regex
        self.path_prefix, self.method = path_prefix, method.upper()
        operation = {
            "operationId": _operation_id(path, method),
            "summary": known.summary,
            "description": " ".join((type(self.view).__doc__ or "").split()),
            "tags": [path.split("/")[2]],
            "parameters": _parameters(path, known),
            "responses": _responses(path, known),
        }
        if not self.view.authentication_classes:
            operation["security"] = [{}]
        if body := self._body(known):
            operation["requestBody"] = body
        return operation

    def _body(self, known: Operation) -> dict[str, Any] | None:
        if known.sends != "application/json":
            file = {"type": "string", "contentMediaType": "application/octet-stream"}
            form = {"type": "object", "properties": {"file": file}, "required": ["file"], "additionalProperties": False}
            return {"required": True, "content": {known.sends: {"schema": form}}}
        if known.body is None:
            return None
        component = self.resolve_serializer(known.body(), "request")
        content: dict[str, Any] = {"schema": component.ref if component else NO_FIELDS}
        if known.body in examples.BODIES:
            content["example"] = examples.BODIES[known.body]
        return {"required": True, "content": {"application/json": content}}

    def get_request_serializer(self) -> Any:
        return None


def _operation_id(path: str, method: str) -> str:
    words = [word.strip("{}") for word in path.split("/")[2:] if word]
    return "_".join([method.lower(), *(("by_" + word) if word in ("ref", "number") else word for word in words)])


def _parameters(path: str, known: Operation) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": examples.PATH[name]}
        for name in ("ref", "number")
        if f"{{{name}}}" in path
    ]
    found += [{"name": name, "in": "query", "schema": schema} for name, schema in known.query.items()]
    found += [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in known.headers.items()
    ]
    return found


def _responses(path: str, known: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {str(known.status): _success(path, known)}
    codes = [*ALWAYS, *known.errors]
    codes += WITH_ID if "{" in path else ()
    codes += WITH_BODY if known.body else ()
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(CATALOGUE[code].status, []).append(code)
    if "conflict" in codes:
        by_status[428] = ["conflict"]
    for status, named in sorted(by_status.items()):
        responses[str(status)] = _refusal(named)
    return responses


def _success(path: str, known: Operation) -> dict[str, Any]:
    if known.media == STREAM:
        text = "Server-sent events: `event` the type, `data` its JSON, `id` its position where it has one."
        return {"description": text, "content": {STREAM: {"schema": {"type": "string"}}}}
    if known.media != "application/json":
        return {"description": "Its bytes.", "content": {"*/*": {"schema": {}}}}
    if known.answer is None:
        return {"description": "Done."}
    name = known.answer.strip("[]")
    schema: dict[str, Any] = {"$ref": f"#/components/schemas/{name}"}
    shown = examples.SHAPES.get(name)
    if known.answer.startswith("["):
        link = {"type": ["string", "null"]}
        schema = {
            "type": "object",
            "properties": {"results": {"type": "array", "items": schema}, "next": link, "previous": link},
            "required": ["results", "next", "previous"],
            "additionalProperties": False,
        }
        shown = None if shown is None else {"results": [shown], "next": None, "previous": None}
    if known.also:
        schema = {"anyOf": [schema, {"$ref": f"#/components/schemas/{known.also}"}]}
    content: dict[str, Any] = {"application/json": {"schema": schema} | ({} if shown is None else {"example": shown})}
    if path.endswith("/chats/{ref}/export/"):
        content["text/markdown"] = {"schema": {"type": "string"}}
    response: dict[str, Any] = {"description": known.summary + ".", "content": content}
    return response


def _refusal(codes: list[str]) -> dict[str, Any]:
    named = {code: {"value": examples.error(code)} for code in codes}
    content = {"schema": {"$ref": "#/components/schemas/Error"}, "examples": named}
    return {"description": " · ".join(f"`{code}`" for code in codes), "content": {"application/json": content}}


class JsonField(OpenApiSerializerFieldExtension):
    target_class = "accounts.rest.bodies.Json"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        return {dict: {"type": "object"}, str: {"type": "string"}}.get(self.target.kind, {})


def close_bodies(result: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Bodies take no fields but their own; texts hold no NUL."""
    schemas = result["components"]["schemas"]
    for name, schema in schemas.items():
        if name.endswith("Request"):
            schema["additionalProperties"] = False
    schemas |= shapes.components()
    return result


@cache
def document() -> dict[str, Any]:
    return SchemaGenerator().get_schema(request=None, public=True)


class SchemaView(APIView):
    """The OpenAPI document."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def get(self, request: Request) -> Response:
        return Response(document())


def docs(request: HttpRequest) -> HttpResponse:
    """The document, readable, and to be tried by who is logged in."""
    response = render(request, "docs.html", {"csrf": get_token(request)})
    response.headers["Content-Security-Policy"] = DOCS_POLICY
    return response
