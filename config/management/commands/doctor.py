"""Look at everything an installation stands on, and say how each fault is mended."""

import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.sync.client import connect

from config import startup
from config.startup import Fault
from streams import traces


class Command(BaseCommand):
    help = "Checks settings, data directory, secrets, database, migrations, Redis, users and a socket to the server."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        of_postgres = {"connections": startup.check_room, "clocks": startup.check_clocks}
        checks: dict[str, Callable[[], None]] = {
            "settings": startup.check_settings,
            "data directory": startup.check_data_dir,
            "secrets": startup.check_secrets,
            "database": startup.check_database,
            "migrations": startup.check_migrations,
            **(of_postgres if connection.vendor == "postgresql" else {}),
            "Redis": startup.check_redis,
            **({"traces": startup.check_traces} if traces.are_wanted() else {}),
            "users": startup.check_users,
            "socket": check_socket,
        }
        faults = 0
        broken: set[str] = set()
        for name, check in checks.items():
            if name in {"migrations", *of_postgres} and "database" in broken:
                continue  # they would only say the same
            if name in {"users", "socket"} and broken & {"database", "migrations"}:
                self.stdout.write(f"left  {name}: it needs the database")
                continue
            try:
                check()
            except Fault as fault:
                faults += 1
                broken.add(name)
                self.stdout.write(f"bad   {name}: {fault}")
            else:
                self.stdout.write(f"good  {name}")
        if faults:
            raise CommandError(f"{faults} of {len(checks)} are bad.")


def check_socket() -> None:
    """Opens a chat with a flow that cannot be: admission must get as far as to say so, through the whole server."""
    from accounts.tokens import mint

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.HOST, settings.HOST)
    where = f"ws://{host}:{settings.PORT}"
    user = get_user_model().objects.filter(is_active=True).order_by("pk").first()
    if user is None:
        raise Fault("there is no user to try it with; run: manage.py setup")
    path = f"/chat/{uuid.uuid4()}?chat_id={uuid.uuid4()}"
    try:
        with connect(
            where + path,
            additional_headers={"Authorization": f"Bearer {mint(user)}"},
            compression=None,
            proxy=None,
            open_timeout=settings.HEADRACE.doctor_socket_s,
            close_timeout=settings.HEADRACE.doctor_socket_s,
        ) as socket:
            frame = str(socket.recv(timeout=settings.HEADRACE.doctor_socket_s))
    except ConnectionRefusedError:
        raise Fault(
            f"nothing listens on {where}; run: manage.py serve (or set HOST and PORT as the server has them)"
        ) from None
    except InvalidHandshake as error:
        raise Fault(
            f"{where} does not take sockets ({error}); is it Headrace, and does a proxy pass upgrades?"
        ) from None
    except (OSError, TimeoutError, WebSocketException) as error:
        raise Fault(f"{where} broke off ({error}); the server's log says why") from None
    if "flow_not_found" not in frame:
        raise Fault(f"{where} answered {frame[:200]!r}; the server's log says why")
