"""The pages' Content-Security-Policy: own scripts, styles, pictures and sockets, nothing inline, nothing evaluated."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

# Chat text may name a picture or a link: without `data:` and other hosts it can carry nothing away.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "media-src 'self' blob:",
        "manifest-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

# The page of the REST document shows no text of chats, and Swagger's style has its signs in itself.
DOCS_POLICY = POLICY.replace("img-src 'self'", "img-src 'self' data:")


def content_security_policy(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return middleware
