"""The one shape of errors of everything under /api/.

`{"error": {code, text, retryable, trace, fields?, retry_after?, faults?}}` and nothing else, made here for REST's own
exceptions, and in `config/errors.py` for those that Django answers before a view is found.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest
from django.utils.translation import gettext as _
from rest_framework import exceptions, status
from rest_framework.response import Response

from streams.errors import WireError, shape_of
from streams.sentences import told

ERROR_EXTRA = ("fields", "retry_after", "faults")

log = structlog.get_logger("headrace.rest")


def trace_of(request: Any) -> str:
    """Names the log lines of this request, in its errors and in the header `X-Trace-Id`."""
    plain: HttpRequest = getattr(request, "_request", request)
    if not hasattr(plain, "trace"):
        plain.trace = secrets.token_hex(8)
    return plain.trace


def error_body(error: WireError, trace: str) -> dict[str, Any]:
    text = told(error.text or error.entry.text, _)
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
