"""The Channels consumer: admits a socket or refuses it, then hands it to ChatManager. Nothing else."""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from autobahn.exception import Disconnected
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from django.conf import settings

from chat import protocol
from chat.doors import admission
from chat.doors.client import ChatClient, close_socket, error_frame
from chat.turns.manager import ChatManager, start
from streams import metrics
from streams.errors import WireError
from streams.trace import new_trace

log = structlog.get_logger("headrace.socket")


class ChatConsumer(AsyncConsumer):
    """One socket. No channel layer of its own, and no thread hop a frame, which Channels' own dispatch makes."""

    channel_layer_alias = ""
    client: ChatClient | None = None
    serving: asyncio.Task | None = None
    setting = ""  # the user's language
    leave: Callable[[], None] | None = None  # gives back the place that this socket takes

    async def __call__(self, *connection: Any) -> None:
        try:
            await super().__call__(*connection)
        finally:
            self._leave()
            await self._disconnect(None)  # the server may cancel this without a word of the peer's

    def _leave(self) -> None:
        if self.leave is not None:
            leave, self.leave = self.leave, None
            leave()

    async def dispatch(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.receive":
            if self.client is not None and not self.client.has_closed:
                self.client.received(message.get("text"), message.get("bytes"))
        elif kind == "websocket.connect":
            await self._connect()
        elif kind == "websocket.disconnect":
            await self._disconnect(message.get("code"))
            raise StopConsumer

    async def _connect(self) -> None:
        manager = await start()
        trace = new_trace()
        chosen = admission.subprotocol(self.scope.get("subprotocols", []))
        await self.send({"type": "websocket.accept", "subprotocol": chosen})
        try:
            admitted = await self._admit(manager)
            self.client = await manager.accept_client(admitted, self.scope, self.send, trace)
        except WireError as error:
            await self._refuse(error, trace)
        except Exception:
            log.exception("admission_failed", trace_id=trace)
            await self._refuse(WireError("internal"), trace)
        else:
            self.serving = asyncio.create_task(manager.handle_websocket(self.client))

    async def _admit(self, manager: ChatManager) -> admission.Admitted:
        identity = await admission.identify(self.scope)
        self.setting = identity.locale
        self.leave = await manager.take_place(identity, self.scope)
        return await admission.admit(self.scope, identity)

    async def _refuse(self, error: WireError, trace: str) -> None:
        """Error frame, then the close with the catalogue's code."""
        self._leave()
        locale = admission.locale_of(self.scope, self.setting)
        log.info("socket_refused", trace_id=trace, code=error.code)
        metrics.refusals.labels(error.code).inc()
        frame = protocol.encode_frame(error_frame(error, trace, locale))
        try:
            await self.send({"type": "websocket.send", "text": frame.decode()})
            await close_socket(self.send, error.entry.close or 1011, error.code)
        except OSError:
            pass  # the peer left meanwhile

    async def send(self, message: dict[str, Any]) -> None:
        """Raises OSError where the peer has gone, whichever server it is."""
        try:
            await super().send(message)
        except Disconnected as error:
            raise ConnectionResetError(str(error)) from error

    async def _disconnect(self, code: int | None) -> None:
        """End what serves it, and its session. Once it has, this does nothing."""
        if self.serving is None:
            return
        self.serving.cancel()
        ended, _ = await asyncio.wait([self.serving], timeout=settings.HEADRACE.socket_end_s)
        await asyncio.gather(*ended, return_exceptions=True)
        await self.client.manager.clear_client(self.client, code)
