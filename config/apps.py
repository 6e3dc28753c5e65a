from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import pre_migrate


class ConfigConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        pre_migrate.connect(_wait_for_locks)


def _wait_for_locks(using: str, **_: Any) -> None:
    """A migration waits for a table as long as it takes; `database_lock_s` is for those who serve."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = 0")
