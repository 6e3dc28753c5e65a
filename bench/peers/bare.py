"""The floor: a raw ASGI application on Headrace's own server. No store, no log, no rights, no Channels.

`/relay/<chat>`: what the provider sends goes to all sockets of the chat, each read of the network as one frame.
`/commit/<chat>`: the same after one bare commit. `/accept/<chat>`: only the commit. `stop` ends what is relayed.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from bench.peers.models import accept
from providers.base import LLMMessage, LLMRequest
from providers.openai_compatible import OpenAICompatible

Send = Callable[[dict[str, Any]], Awaitable[None]]

_viewers: dict[str, set[Send]] = {}
_relays: dict[str, set[asyncio.Task]] = {}  # by chat
_database = ThreadPoolExecutor(1, thread_name_prefix="database")
_llm = OpenAICompatible(os.environ["BENCH_MODEL"], allow_private=True)


class Delta(msgspec.Struct, tag="delta"):
    text: str


async def application(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return
    _, kind, chat = scope["path"].split("/")
    await receive()
    await send({"type": "websocket.accept"})
    viewers = _viewers.setdefault(chat, set())
    viewers.add(send)
    try:
        while (message := await receive())["type"] == "websocket.receive":
            said = msgspec.json.decode(message["text"])
            if said["type"] == "stop":
                await _stop(chat, viewers)
                continue
            if kind != "relay":
                await asyncio.get_running_loop().run_in_executor(_database, accept, chat, said["id"], said["text"])
            await _post(send, b'{"type":"ok"}')
            if kind != "accept":
                task = asyncio.create_task(_relay(said["text"], viewers))
                _relays.setdefault(chat, set()).add(task)
                task.add_done_callback(_relays[chat].discard)
    finally:
        viewers.discard(send)


async def _relay(text: str, viewers: set[Send]) -> None:
    async for chunk in _llm.stream(LLMRequest(model="bench", messages=(LLMMessage("user", text),))):
        if chunk.text:
            frame = msgspec.json.encode(Delta(chunk.text))
            for send in tuple(viewers):
                await _post(send, frame)
    await _end(viewers)


async def _stop(chat: str, viewers: set[Send]) -> None:
    for task in tuple(_relays.get(chat, ())):
        task.cancel()
    await _end(viewers)


async def _end(viewers: set[Send]) -> None:
    for send in tuple(viewers):
        await _post(send, b'{"type":"turn_end"}')


async def _post(send: Send, frame: bytes) -> None:
    try:
        await send({"type": "websocket.send", "text": frame.decode()})
    except OSError:
        pass  # its peer has left
