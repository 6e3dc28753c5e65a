"""What every view under /api/ shares: bodies in, one error shape out, cursor pages, ids of a path.

Errors are `{"error": {code, text, retryable, trace, fields?, retry_after?, faults?}}` and nothing else, made here
for REST's own exceptions, and in `config/errors.py` for those that Django answers before a view is found.
"""

import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from django.conf import settings
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import exceptions, serializers, status
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from streams.errors import WireError, shape_of
from streams.numbers import TOO_LARGE, OutOfRange, check_numbers

BODY_DEPTH = 64  # a draft may nest to 32 by its own rules
PAGE_DEFAULT = 50
PAGE_MOST = 200
ERROR_EXTRA = ("fields", "retry_after", "faults")

log = structlog.get_logger("headrace.rest")

# ------------------------------------------------------------------------------------------------------ errors


def trace_of(request: Any) -> str:
    """Names the log lines of this request, in its errors and in the header `X-Trace-Id`."""
    plain: HttpRequest = getattr(request, "_request", request)
    if not hasattr(plain, "trace"):
        plain.trace = secrets.token_hex(8)
    return plain.trace


def error_body(error: WireError, trace: str) -> dict[str, Any]:
    text = _(error.text or error.entry.text)
    body = shape_of(error, text, *ERROR_EXTRA) | {"trace": trace}
    if "field" in error.extra:
        body.setdefault("fields", {error.extra["field"]: text})
    return {"error": body}


def error_headers(error: WireError) -> dict[str, str]:
    headers = {}
    if error.entry.status == status.HTTP_401_UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if "retry_after" in error.extra:
        headers["Retry-After"] = str(max(1, round(error.extra["retry_after"])))
    return headers


def error_status(error: WireError) -> int:
    return error.extra.get("status", error.entry.status)


def handle_exception(exc: Exception, context: dict[str, Any]) -> Response:
    """DRF's exception handler."""
    error = wire_error_of(exc)
    request = context["request"]
    if error.code == "internal":
        log.error("request_failed", method=request.method, path=request.path, exc_info=exc)
    headers = error_headers(error)
    if isinstance(exc, exceptions.MethodNotAllowed):
        headers["Allow"] = ", ".join(context["view"].allowed_methods)
    return Response(error_body(error, trace_of(request)), status=error_status(error), headers=headers)


def wire_error_of(exc: Exception) -> WireError:
    match exc:
        case WireError():
            return exc
        case exceptions.ValidationError():
            return WireError("validation_error", fields=_flat(exc.detail))
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return WireError("unauthorized")
        case exceptions.PermissionDenied() | PermissionDenied():
            return WireError("forbidden")
        case exceptions.NotFound() | Http404():
            return WireError("not_found")
        case exceptions.MethodNotAllowed():
            return WireError("method_not_allowed")
        case exceptions.UnsupportedMediaType():
            return WireError("unsupported_media_type")
        case exceptions.ParseError():
            return WireError("bad_json")
        case exceptions.Throttled():
            return WireError("throttled", retry_after=exc.wait or 1)
        case OperationalError() | InterfaceError():
            return WireError("unavailable", retry_after=1)
    return WireError("internal")


def _flat(detail: Any, path: str = "") -> dict[str, str]:
    """DRF's nested details as one sentence a field: `{"graph.nodes.0": "…"}`."""
    if isinstance(detail, Mapping):
        named = {name: value for name, value in detail.items() if value}
        return {
            key: text
            for name, value in named.items()
            for key, text in _flat(value, f"{path}.{name}" if path else str(name)).items()
        }
    if isinstance(detail, list):
        return {path or "body": " ".join(str(item) for item in detail)}
    return {path or "body": str(detail)}


# ------------------------------------------------------------------------------------------------------ bodies


class JSONParser(BaseParser):
    """Strict JSON: no NaN, no lone surrogate, no number out of range, bounded. What is not JSON is `bad_json`."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        most_bytes = settings.HEADRACE.body_bytes
        raw = stream.read(most_bytes + 1)
        if len(raw) > most_bytes:
            raise WireError("frame_too_large")
        try:
            value = msgspec.json.decode(raw)
            check_numbers(raw, value)
        except OutOfRange as error:
            raise WireError("bad_json", _(TOO_LARGE)) from error
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise WireError("bad_json") from error
        if _is_deeper(value, BODY_DEPTH):
            raise WireError("bad_json", _("The JSON is nested too deeply."))
        return value


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _level in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


class JSONOnly(BaseContentNegotiation):
    """Every answer is JSON, whatever `Accept` says."""

    def select_parser(self, request: Request, parsers: list[Any]) -> Any:
        essence = (request.content_type or "").split(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == essence), None)

    def select_renderer(self, request: Request, renderers: list[Any], format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class Text(serializers.CharField):
    """A string as it came: numbers are not taken for text, blanks are kept."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trim_whitespace": False, **kwargs})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Json(serializers.Field):
    """Any JSON value, or one of `kind`, as it came."""

    default_error_messages = {"invalid": gettext_lazy("This has not the right type.")}

    def __init__(self, *, kind: type = object, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, self.kind):
            self.fail("invalid")
        return data


class Flag(serializers.BooleanField):
    """true or false, and no word that might mean one."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Body(serializers.Serializer):
    """A body of named fields; others are refused."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if isinstance(data, Mapping):
            unknown = sorted(set(data) - set(self.fields))
            if unknown:
                raise WireError("unknown_field", fields={name: _("There is no such field.") for name in unknown})
        return super().to_internal_value(data)

    @classmethod
    def of(cls, request: Request) -> dict[str, Any]:
        """The request's body, checked. Raises WireError bad_json, unknown_field, validation_error."""
        body = cls(data=request.data)
        body.is_valid(raise_exception=True)
        return body.validated_data


# ------------------------------------------------------------------------------------- ids of a path, and times


def path_id(text: str) -> uuid.UUID:
    """An id in a path, with or without dashes. One of another form is not there, like one that is not yours."""
    if not _UUID.fullmatch(text):
        raise WireError("not_found")
    return uuid.UUID(text)


def found(row: Any) -> Any:
    if row is None:
        raise WireError("not_found")
    return row


_UUID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


# ----------------------------------------------------------------------------------------------- cursor pages


def page(
    request: Request, rows: QuerySet, order: tuple[str, ...], show: Callable[[list[Any]], list[dict[str, Any]]]
) -> Response:
    """`{results, next, previous}`: rows by `order`, all of it descending and unique together, from a cursor on.

    A cursor is signed for this list and user, and holds the `order` values of the row it stands beside. Raises
    WireError bad_cursor, bad_limit.
    """
    limit = _limit(request.query_params.get("limit"))
    cursor = request.query_params.get("cursor")
    after, is_back = _read_cursor(request, cursor, order) if cursor is not None else (None, False)
    if after is not None:
        rows = rows.filter(_beyond(order, after, "gt" if is_back else "lt"))
    sign = "" if is_back else "-"
    found = list(rows.order_by(*(sign + name for name in order))[: limit + 1])
    has_more, found = len(found) > limit, found[:limit]
    if is_back:
        found.reverse()
    has_next, has_previous = (cursor is not None, has_more) if is_back else (has_more, cursor is not None)
    return Response(
        {
            "results": show(found),
            "next": _link(request, found[-1], order, False) if found and has_next else None,
            "previous": _link(request, found[0], order, True) if found and has_previous else None,
        }
    )


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_DEFAULT
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= PAGE_MOST:
        raise WireError("bad_limit")
    return int(text)


def _salt(request: Request) -> str:
    return f"headrace.cursor:{request.path}:{request.user.pk}"


def _link(request: Request, row: Any, order: tuple[str, ...], is_back: bool) -> str:
    values = [row._meta.get_field(name).value_to_string(row) for name in order]
    query = request.query_params.copy()
    query["cursor"] = signing.dumps([is_back, *values], salt=_salt(request), compress=True)
    return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")


def _read_cursor(request: Request, cursor: str, order: tuple[str, ...]) -> tuple[list[str], bool]:
    try:
        is_back, *values = signing.loads(cursor, salt=_salt(request))
    except (signing.BadSignature, ValueError) as error:
        raise WireError("bad_cursor") from error
    if len(values) != len(order):
        raise WireError("bad_cursor")
    return values, is_back


def _beyond(order: tuple[str, ...], values: list[str], comparison: str) -> Q:
    """Rows after `values`: less in the first column that differs."""
    beyond = Q()
    equal: dict[str, str] = {}
    for name, value in zip(order, values, strict=True):
        beyond |= Q(**equal, **{f"{name}__{comparison}": value})
        equal[name] = value
    return beyond
