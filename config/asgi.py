"""The ASGI application: pages to Django with bounded bodies, sockets to the consumer, start and end to ChatManager.

Handshakes that are refused by HTTP are refused here, before the consumer: unknown path 404, unknown subprotocol 400,
foreign Origin 403. Where the server can only say 403, it says 403. Everything else is the consumer's to answer.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()

# Models are there only now.
import structlog  # noqa: E402
from django.conf import settings  # noqa: E402

from accounts.tokens import credential_of  # noqa: E402
from chat.doors import events  # noqa: E402
from chat.doors.admission import subprotocol  # noqa: E402
from chat.doors.consumer import ChatConsumer  # noqa: E402
from chat.turns import manager  # noqa: E402
from config.bodies import bounded  # noqa: E402
from config.origins import is_allowed  # noqa: E402
from streams import metrics  # noqa: E402

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SOCKET_PATHS = ("/chat/", "/api/v1/chat/")
BEARER = "bearer."

log = structlog.get_logger("headrace.asgi")
consumer = ChatConsumer.as_asgi()
pages = bounded(django_application)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        running = await manager.start()  # idempotent; where there is no lifespan (Daphne) this is the start
        if events.is_event_path(scope) and not is_foreign(scope):
            await events.serve(running, scope, receive, send)
            return
        await pages(scope, receive, send)
    elif scope["type"] == "websocket":
        await _serve_socket(scope, receive, send)
    elif scope["type"] == "lifespan":
        await _lifespan(receive, send)
    else:
        raise ValueError(f"unknown scope {scope['type']!r}")


async def _serve_socket(scope: Scope, receive: Receive, send: Send) -> None:
    status = refusal(scope)
    if status is None:
        await manager.start()
        await consumer(scope, receive, send)
        return
    metrics.refusals.labels(f"http_{status}").inc()
    log.info("handshake refused", status=status, path=scope["path"][:200])
    await receive()  # websocket.connect
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        await send({"type": "websocket.close"})


def refusal(scope: Scope) -> int | None:
    """The HTTP status that refuses this handshake, or None. Pure but for the settings."""
    if not scope["path"].startswith(SOCKET_PATHS):
        return 404
    named = [offered for offered in scope.get("subprotocols", []) if not offered.startswith(BEARER)]
    if named and subprotocol(named) is None:
        return 400
    return 403 if is_foreign(scope) else None


def is_foreign(scope: Scope) -> bool:
    """Whether a page of another origin speaks, or a socket by what browsers send by themselves."""
    headers = scope.get("headers", [])
    origins = [value.decode("latin-1") for name, value in headers if name.lower() == b"origin"]
    if not origins:
        # Browsers leave it out where a page reads its own site; another site's page can't read the answer.
        return scope["type"] == "websocket" and credential_of(scope).needs_origin
    host = next((value.decode("latin-1") for name, value in headers if name.lower() == b"host"), "")
    is_secure = settings.TLS or scope.get("scheme") in {"wss", "https"}
    is_ours = is_allowed(origins[0], host, is_secure, settings.ALLOWED_ORIGINS, settings.ALLOWED_HOSTS)
    return len(origins) > 1 or not is_ours


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await manager.start()
            except Exception as error:
                log.exception("the chats could not start")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
            else:
                await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await manager.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
