"""The peer on python-socketio, on which Open WebUI and Chainlit stand: a room a chat, an `emit` and a frame a token.

Its manager lives in this process, which is kinder than the Redis manager of several workers. Rows as the other
peers': accepted by one transaction, the answer saved at its end.
"""

import asyncio
from typing import Any
from urllib.parse import parse_qs

import socketio
from channels.db import database_sync_to_async
from django.core.asgi import get_asgi_application

from bench.peers import models
from bench.peers.tokens import tokens_of

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
_answers: set[asyncio.Task] = set()


@server.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    [chat] = parse_qs(environ["QUERY_STRING"])["chat"]
    await server.save_session(sid, {"chat": chat})
    await server.enter_room(sid, chat)


@server.event
async def say(sid: str, content: dict[str, Any]) -> None:
    chat = (await server.get_session(sid))["chat"]
    reply = await database_sync_to_async(models.accept)(chat, content["id"], content["text"])
    await server.emit("ok", {"id": content["id"], **reply}, to=sid)
    task = asyncio.create_task(_answer(chat, content["text"], reply["turn"]))
    _answers.add(task)
    task.add_done_callback(_answers.discard)


async def _answer(chat: str, said: str, turn: str) -> None:
    tokens = []
    async for token in tokens_of(said):
        tokens.append(token)
        await server.emit("delta", {"text": token}, room=chat)
    await database_sync_to_async(models.finish)(chat, turn, "".join(tokens))
    await server.emit("turn_end", {}, room=chat)


application = socketio.ASGIApp(server, other_asgi_app=get_asgi_application())
