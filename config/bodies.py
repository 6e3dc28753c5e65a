"""Bodies of requests: how large they may be and how long they may take, before anything of them is stored.

An ASGI middleware, so that it holds under every server. What is too large by its Content-Length is answered at once,
what is too large or too late by its bytes as soon as it is; the connection ends with the answer.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_noop as _

from accounts.rest.errors import error_body, error_headers, error_status
from config.trace import HEADER
from streams.errors import WireError, too_large
from streams.trace import new_trace

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

FILES = "/api/files/"
FORM_BYTES = 64 * 1024  # what a multipart body has besides the file


class _Refused(Exception):
    """Out of `receive`, through the application."""

    def __init__(self, error: WireError) -> None:
        super().__init__(error.code)
        self.error = error


class _Body:
    """`receive` of one request, with its bounds."""

    def __init__(self, receive: Receive, most_bytes: int, within_s: float, path: str) -> None:
        self._receive = receive
        self._path = path
        self._left = most_bytes
        self._until = asyncio.get_running_loop().time() + within_s
        self._has_ended = False

    async def receive(self) -> dict[str, Any]:
        if self._has_ended:  # what comes now says that the peer has left: a stream may wait for that for long
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise _Refused(_late()) from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise _Refused(_too_large(self._path))
        self._has_ended = not message.get("more_body", False)
        return message


def bounded(application: Application) -> Application:
    async def bounded_application(scope: Scope, receive: Receive, send: Send) -> None:
        most_bytes, within_s = _bounds_of(scope["path"])
        if _declared(scope) > most_bytes:
            await _answer(_too_large(scope["path"]), receive, send)
            return
        try:
            await application(scope, _Body(receive, most_bytes, within_s, scope["path"]).receive, send)
        except _Refused as refused:  # Django has the whole body before it answers
            await _answer(refused.error, receive, send)

    return bounded_application


def _bounds_of(path: str) -> tuple[int, float]:
    bounds = settings.HEADRACE
    if path == FILES:
        return bounds.file_bytes + FORM_BYTES, bounds.file_body_s
    return bounds.body_bytes, bounds.body_s


def _too_large(path: str) -> WireError:
    bounds = settings.HEADRACE
    if path == FILES:
        return too_large("file_too_large", bounds.file_bytes)
    return too_large("frame_too_large", bounds.body_bytes)


def _declared(scope: Scope) -> int:
    """Its Content-Length; 0 where none is said, or rubbish: the bytes are counted too."""
    value = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"")
    return int(value[:20]) if value.isdigit() else 0


def _late() -> WireError:
    return WireError("bad_request", _("The body of the request did not arrive in time."), status=408, retryable=True)


async def _answer(error: WireError, receive: Receive, send: Send) -> None:
    trace = new_trace()
    body = json.dumps(error_body(error, trace)).encode()
    named = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        HEADER: trace,
        **error_headers(error),
    }
    headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": error_status(error), "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await _linger(receive)
    await send({"type": "http.response.body", "body": b""})


async def _linger(receive: Receive) -> None:
    """Throw away what the peer still sends, for a moment."""
    left = settings.HEADRACE.linger_bytes
    try:
        async with asyncio.timeout(settings.HEADRACE.linger_s):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message["body"])
    except TimeoutError:
        pass
