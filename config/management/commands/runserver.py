"""Django's development server (Daphne) on HOST and PORT, with the close codes of the contract."""

from typing import Any

from daphne.management.commands.runserver import Command as DaphneCommand
from daphne.server import Server
from django.conf import settings
from django.core.management.base import CommandError

from config import startup

REASON_BYTES = 123  # RFC 6455, 5.5


class DevelopmentServer(Server):
    """Daphne's; its way to close takes no code but 1000 and those of applications, and no reason."""

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        is_close = message["type"] == "websocket.close" and protocol.state == protocol.STATE_OPEN
        if is_close and "disconnected" not in self.connections.get(protocol, {"disconnected": 0}):
            reason = (message.get("reason") or "").encode()[:REASON_BYTES]
            protocol.sendCloseFrame(code=message.get("code", 1000), reasonUtf8=reason)
        else:
            await super().handle_reply(protocol, message)


class Command(DaphneCommand):
    default_addr = default_addr_ipv6 = settings.HOST
    default_port = str(settings.PORT)
    server_cls = DevelopmentServer

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            startup.check_before_work()
        except startup.Fault as fault:
            raise CommandError(str(fault)) from None
        if not options["addrport"] and ":" in settings.HOST:
            options["use_ipv6"] = True
        super().handle(*args, **options)
