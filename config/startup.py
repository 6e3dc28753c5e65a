"""What must be true before there is a server: each fault is one sentence that says its mend."""

import os
import secrets
import socket
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import DatabaseError, NotSupportedError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from config.embedded import EmbeddedError
from config.environment import misspelt, read_env_file
from streams import cluster, database, redis, traces

REDIS_VERSION = (6, 2)  # XTRIM MINID
CLUSTER_VERSION = (7, 0)  # SPUBLISH
SPARE_CONNECTIONS = 8  # of the database: for its superusers, backups, this command
CLOCKS_APART_S = 5.0


class Fault(Exception):
    """One sentence for the operator."""


def check_before_work() -> None:
    """What a worker needs of others. No connection is left open: workers have their own."""
    try:
        check_traces()
        check_database()
        check_migrations()
        check_redis()
    finally:
        for held in connections.all(initialized_only=True):
            held.close()
            if held.vendor == "postgresql":
                held.close_pool()


def check_traces() -> None:
    if traces.are_wanted() and not traces.can_be_sent():
        raise Fault(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set and OpenTelemetry is not installed; run: "
            "pip install -r requirements-otel.txt, or take the variable out."
        )


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
        if alone.vendor == "postgresql":
            _check_postgres(alone)
    except (DatabaseError, NotSupportedError) as error:
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


def _check_postgres(held: BaseDatabaseWrapper) -> None:
    with held.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_encoding'), pg_is_in_recovery()")
        encoding, is_standby = cursor.fetchone()
    if encoding != "UTF8":
        raise Fault(f"The database's encoding is {encoding}; make it anew: CREATE DATABASE … ENCODING 'UTF8'")
    if is_standby:
        raise Fault("The database is a standby, which takes no writes; let DATABASE_URL name the primary.")


def check_room() -> None:
    """Whether PostgreSQL takes all connections that the workers of this machine may open."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('max_connections')::int")
        (most,) = cursor.fetchone()
    wanted = settings.WORKERS * settings.DATABASES["default"]["OPTIONS"]["pool"]["max_size"]
    if wanted > most - SPARE_CONNECTIONS:
        raise Fault(
            f"{settings.WORKERS} workers may open {wanted} connections and the database takes {most}; raise its "
            "max_connections, or lower WORKERS or HEADRACE_DATABASE_THREADS."
        )


def check_clocks() -> None:
    """Log-ins end by this machine's clock, workers are judged by the database's."""
    apart_s = abs((database.now() - timezone.now()).total_seconds())
    if apart_s > CLOCKS_APART_S:
        raise Fault(f"The database's clock and this machine's are {apart_s:.0f} s apart; let NTP set both.")


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
    try:
        servers = redis.facts()
    except EmbeddedError as error:
        raise Fault(str(error)) from None
    except redis.Trouble as error:
        raise Fault(
            f"Redis does not answer ({_first_line(error)}); check REDIS_URL, or leave it out for the embedded store."
        ) from None
    for facts in servers:
        _check_server(facts, cluster.is_cluster(settings.REDIS_URL or ""))


def _check_server(facts: dict[str, Any], is_of_cluster: bool) -> None:
    if facts.get("cluster_enabled") and not is_of_cluster:
        raise Fault("REDIS_URL names a server of a cluster as if it were alone; write redis+cluster://host:6379.")
    if facts.get("role") != "master":
        raise Fault("REDIS_URL is a replica, which takes no writes; let it name the master, or the sentinels.")
    needed = CLUSTER_VERSION if is_of_cluster else REDIS_VERSION
    if tuple(map(int, facts["redis_version"].split(".")[:2])) < needed:
        raise Fault(f"Redis is {facts['redis_version']}; it must be {'.'.join(map(str, needed))} or later.")
    if "master_replid" not in facts:
        raise Fault("Redis does not tell its replication id, by which a restart is known; use Redis or Valkey itself.")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise Fault(f"Redis may drop events ({policy}); run: redis-cli CONFIG SET maxmemory-policy noeviction")


def check_settings() -> None:
    """Names of the file that are none, and nearly one: somebody believes in them."""
    for name, near in misspelt(read_env_file(settings.ENV_FILE)).items():
        raise Fault(f"{name} in {settings.ENV_FILE} is not a setting; did you mean {near}?")


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
