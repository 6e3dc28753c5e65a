"""The bridge: one hop, one transaction, repeated while locked, bounded, commands first."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg
import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.signals import pre_migrate
from psycopg_pool import PoolTimeout

from streams import database
from streams.errors import WireError
from tests.waiting import until, wait_until

User = get_user_model()
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def threads():
    yield
    database.close()


def names() -> list[str]:
    return list(User.objects.order_by("username").values_list("username", flat=True))


def make(name: str, error: Exception | None = None) -> str:
    User.objects.create(username=name)
    if error is not None:
        raise error
    return name


class Gate:
    """A job that holds its thread until it is let go."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.leave.wait(10)


async def test_a_write_is_one_transaction():
    assert await database.write(make, "a") == "a"
    with pytest.raises(ValueError, match="no"):
        await database.write(make, "b", ValueError("no"))
    assert await database.read(names) == ["a"]


async def test_refusals_pass_through_and_undo_what_was_written():
    with pytest.raises(WireError, match="turn_running"):
        await database.write(make, "a", WireError("turn_running"))
    assert await database.read(names) == []


async def test_a_read_has_no_transaction_and_a_write_has():
    assert await database.read(lambda: connection.in_atomic_block) is False
    assert await database.write(lambda: connection.in_atomic_block) is True


async def test_the_loop_never_touches_the_database():
    assert await database.read(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("sentence", ["database is locked", "database table is locked: accounts_user"])
async def test_a_locked_database_is_tried_again(sentence: str):
    tries = []

    def locked_twice() -> str:
        tries.append(1)
        make("a")
        if len(tries) < 3:
            raise OperationalError(sentence)
        return "done"

    assert await database.write(locked_twice) == "done"
    assert len(tries) == 3 and await database.read(names) == ["a"]


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="how SQLite locks, and its one thread")
async def test_a_writer_elsewhere_is_waited_for():
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(database.write(make, "a", bound_s=10))
    await asyncio.sleep(0)
    other.execute("COMMIT")
    other.close()
    assert await writing == "a"


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="how SQLite locks, and its one thread")
async def test_a_transaction_that_cannot_even_begin_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    failed: list[BaseException | None] = []
    tidy = database._tidy
    monkeypatch.setattr(database, "_tidy", lambda error: (failed.append(error), tidy(error)))
    await database.read(lambda: connection.cursor().execute("PRAGMA busy_timeout=1"))
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(database.write(make, "a", until_done=True))
    await until(lambda: [error for error in failed if isinstance(error, OperationalError)], what="a BEGIN has failed")
    other.execute("COMMIT")
    other.close()
    async with asyncio.timeout(20):
        assert await writing == "a"


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has no locks of rows; STORES=real runs it")
async def test_a_row_that_another_holds_is_waited_for_and_past_the_bound_unavailable():
    await database.write(make, "a")
    gate = Gate()

    def hold() -> None:
        User.objects.select_for_update().get(username="a")
        gate()

    def change() -> None:
        User.objects.select_for_update().get(username="a")

    holding = asyncio.create_task(database.write(hold, bound_s=10))
    await until(gate.entered.is_set)
    with pytest.raises(WireError, match="unavailable"):
        await database.write(change, bound_s=0.3)
    waiting = asyncio.create_task(database.write(change, bound_s=10))
    assert await database.read(names) == ["a"]  # others go on
    gate.leave.set()
    await asyncio.gather(holding, waiting)


@pytest.fixture
def elsewhere() -> Iterator[psycopg.Connection]:
    """A connection of another process, to which no limits of ours apply."""
    params = connection.get_connection_params()
    names = ("host", "port", "user", "password", "dbname")
    with psycopg.connect(**{name: params[name] for name in names if params.get(name)}) as opened:
        yield opened
        opened.rollback()


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has no locks of rows; STORES=real runs it")
async def test_rows_that_a_frozen_process_holds_keep_no_thread_from_others(elsewhere: psycopg.Connection, settings):
    held = [f"held{n}" for n in range(settings.HEADRACE.database_threads)]
    for name in [*held, "free"]:
        await database.write(make, name)
    elsewhere.execute("SELECT 1 FROM accounts_user WHERE username <> 'free' FOR UPDATE")

    def change(name: str) -> int:
        return User.objects.filter(username=name).update(first_name="changed")

    refused = await asyncio.gather(*(database.write(change, name) for name in held), return_exceptions=True)
    assert {getattr(error, "code", None) for error in refused} == {"unavailable"}
    assert await database.write(change, "free", bound_s=10) == 1


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="only it ends a transaction that stands still")
async def test_a_transaction_that_stood_still_too_long_is_tried_again(elsewhere: psycopg.Connection):
    elsewhere.autocommit = True
    tries = []

    def backends(pid: int) -> int:
        return elsewhere.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()[0]

    def slow_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 50")
                cursor.execute("SELECT pg_backend_pid()")
                (pid,) = cursor.fetchone()
            wait_until(lambda: not backends(pid), what="PostgreSQL has hung up")
        return make("a")

    assert await database.write(slow_once, bound_s=20) == "a"
    assert len(tries) == 2 and await database.read(names) == ["a"]


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has no such limits")
def test_migrations_have_no_limits_and_what_comes_after_them_has():
    def limits() -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
            return list(cursor.fetchone())

    seen = []
    note = lambda **_: seen.append(limits())
    before = limits()
    pre_migrate.connect(note, sender=apps.get_app_config("chat"))
    try:
        call_command("migrate", verbosity=0)
    finally:
        pre_migrate.disconnect(note, sender=apps.get_app_config("chat"))
    assert seen == [["0", "0"]] and limits() == before and "0" not in before


async def test_past_its_bound_a_call_is_unavailable():
    def locked() -> None:
        raise OperationalError("database is locked")

    with pytest.raises(WireError, match="unavailable"):
        await database.write(locked, bound_s=0.1)


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="how SQLite locks, and its one thread")
async def test_a_fault_of_the_statement_is_not_tried_again():
    tries = []

    def faulty() -> None:
        tries.append(1)
        raise OperationalError("no such table: x")

    with pytest.raises(OperationalError):
        await database.write(faulty)
    assert len(tries) == 1


async def test_a_hop_that_hangs_is_left_and_tells_when_its_thread_is_back():
    gate, back = Gate(), []
    await database.read(names)  # its thread is there
    with pytest.raises(WireError, match="unavailable"):
        await database.write(gate, bound_s=0.5, on_return=lambda: back.append(1))
    assert gate.entered.is_set() and back == []
    gate.leave.set()
    await until(lambda: back == [1])


async def test_on_return_is_told_once_at_the_end_of_a_good_call():
    back = []
    await database.write(make, "a", on_return=lambda: back.append(1))
    assert back == [1]


async def test_what_has_not_begun_when_its_caller_leaves_is_not_begun(settings):
    gates = [Gate() for _ in range(settings.HEADRACE.database_threads)]
    holding = [asyncio.create_task(database.read(gate, bound_s=10)) for gate in gates]
    await until(gates[0].entered.is_set)
    with pytest.raises(WireError, match="unavailable"):
        await database.write(make, "late", bound_s=0.05)
    for gate in gates:
        gate.leave.set()
    await asyncio.gather(*holding)
    assert await database.read(names) == []


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has one writer, and a busy time-out")
async def test_calls_for_a_locked_row_do_not_hold_up_the_others(settings):
    await database.write(make, "locked")
    gate = Gate()

    def lock() -> None:
        User.objects.select_for_update().get(username="locked")
        gate()

    holding = asyncio.create_task(asyncio.to_thread(_atomic, lock))
    await until(gate.entered.is_set)
    touch = lambda: User.objects.filter(username="locked").update(first_name="x")
    waiting = [asyncio.create_task(database.write(touch)) for _ in range(3 * settings.HEADRACE.database_threads)]
    refused = await asyncio.gather(*waiting, return_exceptions=True)
    assert {error.code for error in refused} == {"unavailable"}
    assert await database.write(make, "free", bound_s=2 * settings.HEADRACE.database_lock_s) == "free"
    gate.leave.set()
    await holding
    assert await database.write(touch) == 1


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite has no pool")
async def test_whoever_holds_all_other_connections_keeps_the_bridge_from_none(settings):
    gates = [Gate() for _ in range(settings.HEADRACE.database_threads)]
    reading = [asyncio.create_task(database.read(lambda gate: (names(), gate()), gate, bound_s=10)) for gate in gates]
    await until(lambda: all(gate.entered.is_set() for gate in gates))  # each thread has its connection
    for gate in gates:
        gate.leave.set()
    await asyncio.gather(*reading)
    pool = connections["default"].pool
    held = []
    try:
        with suppress(PoolTimeout):
            while True:  # other threads of this process may have some
                held.append(pool.getconn(0.1))
        assert held
        assert await asyncio.gather(*(database.write(make, str(i)) for i in range(len(gates)))) == [
            str(i) for i in range(len(gates))
        ]
    finally:
        for one in held:
            pool.putconn(one)


def _atomic(fn: Callable[[], None]) -> None:
    try:
        with transaction.atomic():
            fn()
    finally:
        connection.close()


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="how SQLite locks, and its one thread")
async def test_commands_go_before_work_that_is_repeated_until_done():
    gate, order = Gate(), []
    holding = asyncio.create_task(database.read(gate, bound_s=10))
    await until(gate.entered.is_set)
    jobs = [asyncio.create_task(database.write(order.append, "beat", until_done=True)) for _ in range(3)]
    await asyncio.sleep(0)
    jobs += [asyncio.create_task(database.write(order.append, "command")) for _ in range(3)]
    await asyncio.sleep(0)
    gate.leave.set()
    await asyncio.gather(holding, *jobs)
    assert order == ["command"] * 3 + ["beat"] * 3


async def test_work_until_done_outlasts_any_bound(bounds):
    bounds(database_pause_s=0.01)
    tries = []

    def long_away() -> str:
        tries.append(1)
        if len(tries) < 30:
            raise OperationalError("database is locked")
        return "done"

    assert await database.write(long_away, bound_s=0.01, until_done=True) == "done"


async def test_too_much_that_waits_is_refused_at_once(bounds, settings):
    bounds(database_waiting=3)
    gate = Gate()
    count = settings.HEADRACE.database_threads + 8
    calls = [asyncio.create_task(database.read(gate, bound_s=10)) for _ in range(count)]
    await until(lambda: any(call.done() for call in calls))
    gate.leave.set()
    refused = [error for error in await asyncio.gather(*calls, return_exceptions=True) if error is not None]
    assert refused and {error.code for error in refused} == {"unavailable"}


def test_the_databases_clock_is_aware_and_may_be_asked_in_a_transaction():
    with transaction.atomic():
        assert database.now().utcoffset().total_seconds() == 0
    assert database.now() <= database.now()


# ------------------------------------------------------------------------------------------- committed together

sqlite_only = pytest.mark.skipif("connection.vendor != 'sqlite'", reason="only there writes are committed together")


async def behind_a_gate(*calls: tuple) -> list:
    """The outcomes of writes that wait together."""
    gate = Gate()
    holding = asyncio.create_task(database.read(gate, bound_s=10))
    await until(gate.entered.is_set)
    writing = [asyncio.create_task(database.write(fn, *args, bound_s=10)) for fn, *args in calls]
    await asyncio.sleep(0)
    gate.leave.set()
    await holding
    return await asyncio.gather(*writing, return_exceptions=True)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    commit = BaseDatabaseWrapper._commit
    monkeypatch.setattr(BaseDatabaseWrapper, "_commit", lambda self: (counted.append(1), commit(self))[1])
    return counted


@sqlite_only
async def test_writes_that_wait_together_are_committed_together(commits: list[int], bounds):
    bounds(database_group_s=60)
    assert await behind_a_gate(*((make, name) for name in "abcdef")) == list("abcdef")
    assert len(commits) == 1
    assert await database.read(names) == list("abcdef")


@sqlite_only
async def test_a_write_that_fails_among_others_is_undone_alone():
    refusal = WireError("busy")
    answers = await behind_a_gate((make, "a"), (make, "b", refusal), (make, "c"))
    assert answers == ["a", refusal, "c"]
    assert await database.read(names) == ["a", "c"]


@sqlite_only
async def test_a_write_that_fails_by_itself_is_done_once():
    tries = []

    def refused() -> None:
        tries.append(1)
        raise WireError("busy")

    with pytest.raises(WireError, match="busy"):
        await database.write(refused)
    assert len(tries) == 1


@sqlite_only
async def test_a_group_that_cannot_be_committed_is_committed_one_by_one(monkeypatch: pytest.MonkeyPatch):
    failed = []
    commit = BaseDatabaseWrapper._commit

    def fail_once(self: BaseDatabaseWrapper) -> None:
        if not failed:
            failed.append(1)
            raise OperationalError("disk I/O error")
        commit(self)

    monkeypatch.setattr(BaseDatabaseWrapper, "_commit", fail_once)
    assert await behind_a_gate((make, "a"), (make, "b")) == ["a", "b"]
    assert await database.read(names) == ["a", "b"]


@sqlite_only
async def test_a_read_among_writes_sees_only_what_is_committed():
    answers = await behind_a_gate((make, "a"), (make, "b", WireError("busy")))
    gate = Gate()
    holding = asyncio.create_task(database.read(gate, bound_s=10))
    await until(gate.entered.is_set)
    writing = asyncio.create_task(database.write(make, "c"))
    await asyncio.sleep(0)
    reading = asyncio.create_task(database.read(lambda: (connection.in_atomic_block, names())))
    await asyncio.sleep(0)
    later = asyncio.create_task(database.write(make, "d"))
    await asyncio.sleep(0)
    gate.leave.set()
    await asyncio.gather(holding, writing, later)
    assert answers[0] == "a" and await reading == (False, ["a", "c"])
    assert await database.read(names) == ["a", "c", "d"]
