"""The peer: the chat that people write with Channels, and the POST that they write with DRF.

A consumer in a group; each token of the model is one `group_send` through `channels_redis` and one frame to each
viewer; the answer is saved with the ORM at its end, also one that was stopped or failed. A message that is sent again
is accepted once. What Headrace promises besides is not there: no resume, no fence, no numbering; so its figures are
those of less work.
"""

import asyncio
import logging
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

from bench.peers import models
from bench.peers.tokens import tokens_of

log = logging.getLogger(__name__)


class ChatConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        self.chat = str(self.scope["url_route"]["kwargs"]["chat"])
        self.group = f"chat_{self.chat}"
        self.answers: set[asyncio.Task] = set()
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        if content["type"] == "stop":
            await self.stop()
            return
        reply, is_fresh = await database_sync_to_async(models.accept_once)(self.chat, content["id"], content["text"])
        await self.send_json({"type": "ok", "id": content["id"], **reply})
        if not is_fresh:
            return
        task = asyncio.create_task(self.answer(content["text"], reply["turn"]))
        self.answers.add(task)
        task.add_done_callback(self.answers.discard)

    async def answer(self, said: str, turn: str) -> None:
        tokens, state = [], "done"
        try:
            async for token in tokens_of(said):
                tokens.append(token)
                await self.channel_layer.group_send(self.group, {"type": "chat.delta", "text": token})
        except asyncio.CancelledError:  # by `stop`: what there is, is saved
            state = "stopped"
        except Exception:
            log.exception("an answer failed")
            state = "error"
        await database_sync_to_async(models.finish)(self.chat, turn, "".join(tokens), state)
        await self.channel_layer.group_send(self.group, {"type": "chat.end", "turn": turn})

    async def stop(self) -> None:
        for task in tuple(self.answers):
            task.cancel()

    async def chat_delta(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "delta", "text": event["text"]})

    async def chat_end(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "turn_end", "turn": event["turn"]})


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("chat/<uuid:chat>", ChatConsumer.as_asgi())]),
    }
)
