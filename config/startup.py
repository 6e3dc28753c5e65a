"""What must be true before there is a server: each fault is one sentence that says its mend."""

import os
import secrets
import socket
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from config.embedded import EmbeddedError


class Fault(Exception):
    """One sentence for the operator."""


def check_data_dir() -> None:
    directory = Path(settings.DATA_DIR)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = directory / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Fault(
            f"DATA_DIR {directory} cannot be used ({error.strerror}); it must be a directory that this user can write."
        ) from None


def check_host() -> None:
    """That HOST is an address of this machine, whatever the port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.HOST, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        raise Fault(
            f"HOST {settings.HOST} is no address of this machine ({error.strerror}); "
            "127.0.0.1 is, and 0.0.0.0 is all it has."
        ) from None


def check_database() -> None:
    """Connects without the pool, which would say only that it waited."""
    if connection.vendor == "sqlite":
        make_private(Path(connection.settings_dict["NAME"]))
    alone = connection.copy()
    alone.settings_dict["OPTIONS"].pop("pool", None)
    try:
        alone.ensure_connection()
    except DatabaseError as error:
        where = "DATABASE_URL" if connection.vendor != "sqlite" else f"the file {settings.DATABASES['default']['NAME']}"
        raise Fault(f"The database does not answer ({_first_line(error)}); check {where} and that it runs.") from None
    finally:
        alone.close()


def make_private(database: Path) -> None:
    """The file of an SQLite database, and those beside it, are read and written by their owner alone.

    Made here where there is none: SQLite gives the others the mode of the first.
    """
    for path in (database, database.with_name(f"{database.name}-wal"), database.with_name(f"{database.name}-shm")):
        try:
            if path == database:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Fault(
                f"The file {path} cannot be kept from others ({error.strerror}); it must belong to this user."
            ) from None


def check_migrations() -> None:
    try:
        executor = MigrationExecutor(connection)
        waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        raise Fault(f"The database cannot be read ({_first_line(error)}); check the rights of its user.") from None
    if waiting:
        raise Fault(f"{len(waiting)} migrations are not applied; run: manage.py setup")


def check_redis() -> None:
    """Asks Redis, and starts the embedded store where there is no other."""
    import redis

    try:
        address = settings.REDIS_ADDRESS()
    except EmbeddedError as error:
        raise Fault(str(error)) from None
    client = redis.Redis.from_url(address, socket_connect_timeout=2, socket_timeout=2)
    try:
        client.ping()
        policy = client.info("memory").get("maxmemory_policy", "")
    except redis.RedisError as error:
        raise Fault(
            f"Redis does not answer ({_first_line(error)}); check REDIS_URL, or leave it out for the embedded store."
        ) from None
    finally:
        client.close()
    if policy not in {"noeviction", ""}:
        raise Fault(f"Redis may drop events ({policy}); run: redis-cli CONFIG SET maxmemory-policy noeviction")


def check_secrets() -> None:
    path = settings.DATA_DIR / "secret_key"
    if path.exists() and path.stat().st_mode & 0o077:
        raise Fault(f"{path} can be read by others; run: chmod 600 {path}")
    directory = Path(settings.DATA_DIR)
    if directory.exists() and directory.stat().st_mode & 0o077:
        raise Fault(f"DATA_DIR {directory} can be entered by others; run: chmod 700 {directory}")
    if settings.DEBUG:
        raise Fault("DEBUG is on: errors show the code and its settings; take DEBUG out of the environment and .env.")


def check_users() -> None:
    if not get_user_model().objects.filter(is_active=True, is_superuser=True).exists():
        raise Fault("Nobody can administer this site; run: manage.py setup")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
