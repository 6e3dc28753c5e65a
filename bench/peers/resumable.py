"""The peer of SSE chat servers that can resume: each token is an XADD to the chat's stream, each viewer an XREAD.

It speaks WebSocket here, not SSE, so that one client measures all: on the same server, a frame an entry. Rows as the
other peers': accepted by one transaction, the answer saved at its end.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from channels.db import database_sync_to_async
from django.conf import settings

from bench.peers import models
from bench.peers.tokens import tokens_of

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

KEPT = 10_000  # entries of a stream
WAIT_MS = 5_000

_store = redis.asyncio.Redis.from_url(settings.REDIS_ADDRESS(), max_connections=20_000)
_answers: set[asyncio.Task] = set()


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return
    chat = scope["path"].rpartition("/")[2]
    await receive()
    await send({"type": "websocket.accept"})
    showing = asyncio.create_task(_show(chat, send))
    try:
        while (message := await receive())["type"] == "websocket.receive":
            await _say(chat, json.loads(message["text"]), send)
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _say(chat: str, said: dict[str, Any], send: Send) -> None:
    reply = await database_sync_to_async(models.accept)(chat, said["id"], said["text"])
    await send({"type": "websocket.send", "text": json.dumps({"type": "ok", "id": said["id"], **reply})})
    task = asyncio.create_task(_answer(chat, said["text"], reply["turn"]))
    _answers.add(task)
    task.add_done_callback(_answers.discard)


async def _answer(chat: str, said: str, turn: str) -> None:
    tokens = []
    async for token in tokens_of(said):
        tokens.append(token)
        await _store.xadd(chat, {"type": "delta", "text": token}, maxlen=KEPT)
    await database_sync_to_async(models.finish)(chat, turn, "".join(tokens))
    await _store.xadd(chat, {"type": "turn_end"}, maxlen=KEPT)


async def _show(chat: str, send: Send) -> None:
    last = b"0-0"
    while True:
        for _, entries in await _store.xread({chat: last}, block=WAIT_MS):
            for entry, fields in entries:
                last = entry
                event = {name.decode(): value.decode() for name, value in fields.items()}
                await send({"type": "websocket.send", "text": json.dumps(event)})
