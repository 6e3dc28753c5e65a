"""On which stores the tests run: `STORES=embedded` (SQLite, the bundled Valkey) or `STORES=real` (PostgreSQL, Redis).

Real ones are DATABASE_URL and REDIS_URL, else those of this machine. A run shares them with others: its databases and
keys have names of its own, and nothing else is touched.
"""

import os
import secrets
from itertools import islice
from typing import Any
from urllib.parse import urlsplit, urlunsplit

KIND = os.environ.get("STORES") or "embedded"
ARE_REAL = {"embedded": False, "real": True}[KIND]
# Read once: tests.settings takes them out of the environment.
DATABASE_URL = os.environ.get("DATABASE_URL") or "postgres://postgres@127.0.0.1:5432/postgres"
REDIS_URL = os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0"
PREFIX = f"headrace-test-{secrets.token_hex(4)}"  # of this process: pytest-xdist has several

_databases: list[str] = []


def of_this_process() -> dict[str, str]:
    """The environment of the tests' own Django, which makes and drops its database itself."""
    if not ARE_REAL:
        return {}
    return {"DATABASE_URL": DATABASE_URL, "REDIS_URL": REDIS_URL, "REDIS_PREFIX": f"{PREFIX}:"}


def of_a_server() -> dict[str, str]:
    """The environment of one more installation: a database and a prefix of its own. `tidy` removes them."""
    if not ARE_REAL:
        return {}
    url = make_database()
    return {"DATABASE_URL": url, "REDIS_URL": REDIS_URL, "REDIS_PREFIX": f"{PREFIX}-{len(_databases)}:"}


def make_database(options: str = "") -> str:
    """The address of one more database. `tidy` drops it."""
    name = f"{PREFIX}-{len(_databases)}"
    _administer(f'CREATE DATABASE "{name}" {options}')
    _databases.append(name)
    return at(f"/{name}")


def empty_quickly() -> None:
    """Between tests rows are deleted: PostgreSQL's TRUNCATE makes each table's file anew, and syncs it."""
    if not ARE_REAL:
        return
    from django.db.backends.postgresql.operations import DatabaseOperations

    kept = {"django_content_type", "auth_permission"}  # the same for all, and made anew by many statements

    def sql_flush(self: DatabaseOperations, style: Any, tables: list[str], **options: Any) -> list[str]:
        return [f"DELETE FROM {self.quote_name(table)}" for table in tables if table not in kept]  # keys are deferred

    DatabaseOperations.sql_flush = sql_flush


def tidy() -> None:
    """Once the servers are gone: remove databases of `of_a_server` and all keys of this process."""
    if not ARE_REAL:
        return
    import redis

    while _databases:
        _administer(f'DROP DATABASE "{_databases.pop()}" WITH (FORCE)')
    with redis.Redis.from_url(REDIS_URL) as client:
        keys = client.scan_iter(f"{PREFIX}*", count=1000)
        while some := list(islice(keys, 1000)):
            client.unlink(*some)


def _administer(sql: str) -> None:
    import psycopg

    with psycopg.connect(at("/postgres"), autocommit=True) as connection:
        connection.execute(sql)


def at(path: str, url: str = DATABASE_URL) -> str:
    return urlunsplit(urlsplit(url)._replace(path=path))
