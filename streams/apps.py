from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate

LIMITS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")


class StreamsConfig(AppConfig):
    name = "streams"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        pre_migrate.connect(_take_off_limits, sender=self)
        post_migrate.connect(_put_on_limits, sender=self)


def _take_off_limits(using: str, **_: Any) -> None:
    """Of this connection: a migration waits for its table, and rewrites it, as long as that takes."""
    _execute(using, [f"SET {name} = 0" for name in LIMITS])


def _put_on_limits(using: str, **_: Any) -> None:
    _execute(using, [f"RESET {name}" for name in LIMITS])


def _execute(using: str, statements: list[str]) -> None:
    if connections[using].vendor == "postgresql":
        with connections[using].cursor() as cursor:
            cursor.execute("; ".join(statements))
