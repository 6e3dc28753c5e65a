"""The door of `/metrics`: open to this machine, to others by METRICS_TOKEN, else there is no such page."""

import hmac
import ipaddress

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from streams import exposition


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    if not (_is_of_this_machine(request) or _has_token(request)):
        raise Http404
    return HttpResponse(exposition.page(), content_type=exposition.CONTENT_TYPE)


def _is_of_this_machine(request: HttpRequest) -> bool:
    """What a proxy passed on is not, wherever the proxy is: it names whom it speaks for."""
    if "HTTP_X_FORWARDED_FOR" in request.META or "HTTP_FORWARDED" in request.META:
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False


def _has_token(request: HttpRequest) -> bool:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    wanted = settings.METRICS_TOKEN
    return wanted is not None and scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), wanted.encode())
