"""The peer of SSE chat servers that can resume: each token is an XADD to the chat's stream, each viewer an XREAD.

It speaks WebSocket here, not SSE, so that one client measures all: on the same server, a frame an entry, with its id.
`?last=<id>`: a viewer that comes back is sent what follows. Rows as the other peers': accepted by one transaction, the
answer saved at its end.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import redis.asyncio
from channels.db import database_sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application

from bench.peers import models
from bench.peers.tokens import tokens_of

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

KEPT = 10_000  # entries of a stream
WAIT_MS = 2_000  # less than the 5 s after which the client gives up a reply

_store = redis.asyncio.Redis.from_url(settings.REDIS_ADDRESS(), max_connections=20_000)
_answers: set[asyncio.Task] = set()
_http = get_asgi_application()
log = logging.getLogger(__name__)


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await _http(scope, receive, send)
        return
    chat = scope["path"].rpartition("/")[2]
    await receive()
    await send({"type": "websocket.accept"})
    last = parse_qs(scope["query_string"].decode()).get("last", ["0-0"])[0]
    showing = asyncio.create_task(_show(chat, last, send))
    try:
        while (message := await receive())["type"] == "websocket.receive":
            await _say(chat, json.loads(message["text"]), send)
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _say(chat: str, said: dict[str, Any], send: Send) -> None:
    reply, is_fresh = await database_sync_to_async(models.accept_once)(chat, said["id"], said["text"])
    await send({"type": "websocket.send", "text": json.dumps({"type": "ok", "id": said["id"], **reply})})
    if not is_fresh:
        return
    task = asyncio.create_task(_answer(chat, said["text"], reply["turn"]))
    _answers.add(task)
    task.add_done_callback(_answers.discard)


async def _answer(chat: str, said: str, turn: str) -> None:
    tokens, state = [], "done"
    try:
        async for token in tokens_of(said):
            tokens.append(token)
            await _store.xadd(chat, {"type": "delta", "text": token}, maxlen=KEPT)
    except Exception:
        log.exception("an answer failed")
        state = "error"
    await database_sync_to_async(models.finish)(chat, turn, "".join(tokens), state)
    await _store.xadd(chat, {"type": "turn_end", "turn": turn}, maxlen=KEPT)


async def _show(chat: str, last: str | bytes, send: Send) -> None:
    """What follows `last`. Without Redis the socket is closed, as an SSE response would end: its viewer comes back."""
    try:
        while True:
            for _, entries in await _store.xread({chat: last}, block=WAIT_MS):
                for entry, fields in entries:
                    last = entry
                    event = {name.decode(): value.decode() for name, value in fields.items()}
                    await send({"type": "websocket.send", "text": json.dumps({**event, "id": entry.decode()})})
    except redis.RedisError:
        await send({"type": "websocket.close", "code": 1011})
