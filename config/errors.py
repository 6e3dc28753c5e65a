"""What Django answers before or without a view: under /api/ in the one shape of errors, elsewhere as a page."""

from typing import Any

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views import defaults
from django.views.csrf import csrf_failure as csrf_failure_page

from accounts.rest.errors import error_body, error_headers, error_status, trace_of
from streams.errors import WireError

HOST_CHARS = 100
UNKNOWN_HOST = gettext_noop(
    "This site is not known by the name %(host)s. Use another address of it, or add the name to ALLOWED_HOSTS."
)


def is_api(request: HttpRequest) -> bool:
    return request.path.startswith("/api/")


def api_error(request: HttpRequest, code: str) -> JsonResponse:
    return _answer(request, WireError(code))


def _answer(request: HttpRequest, error: WireError) -> JsonResponse:
    body = error_body(error, trace_of(request))
    return JsonResponse(body, status=error_status(error), headers=error_headers(error))


def api_not_found(request: HttpRequest) -> JsonResponse:
    """Stands last under /api/, so that Django's debug page and its redirects to a slash are never asked."""
    return api_error(request, "not_found")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):  # an operator meets it first, in his browser
        asked = request.META.get("HTTP_HOST", request.META.get("SERVER_NAME", ""))[:HOST_CHARS]
        return _answer(request, WireError("bad_request", _(UNKNOWN_HOST) % {"host": asked}))
    return api_error(request, "bad_request") if is_api(request) else defaults.bad_request(request, exception)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return api_error(request, "forbidden") if is_api(request) else defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return api_error(request, "not_found") if is_api(request) else defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    return api_error(request, "internal") if is_api(request) else defaults.server_error(request)


def csrf_failure(request: HttpRequest, reason: str = "", **kwargs: Any) -> HttpResponse:
    return api_error(request, "csrf_failed") if is_api(request) else csrf_failure_page(request, reason=reason)
