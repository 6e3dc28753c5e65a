"""Sessions: counters in one statement, ends, burial and return."""

import asyncio
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from streams import database, store
from streams.errors import WireError
from streams.models import StreamSamples, StreamSession, Worker
from streams.sessions import Sessions
from streams.states import StreamState
from tests.streams.test_database import Gate
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)
WORKER = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"


@pytest.fixture(autouse=True)
def threads():
    yield
    database.close()


@pytest.fixture
async def sessions() -> Sessions:
    return Sessions(WORKER)


def rows() -> dict[str, StreamSession]:
    return {str(row.id): row for row in StreamSession.objects.all()}


def beat(worker: str = WORKER) -> bool:
    return store.beat(worker, "host", 1, True, False)


def age(worker: str, seconds: float) -> None:
    Worker.objects.filter(id=worker).update(last_seen=database.now() - timedelta(seconds=seconds))


async def test_an_admitted_socket_has_a_row(sessions: Sessions):
    chat = str(uuid.uuid4())
    session = await sessions.open(user=None, chat=chat, address="::1", user_agent="x\0" * 300, trace="t")
    row = (await database.read(rows))[session.id]
    assert (str(row.chat), row.state, str(row.worker)) == (chat, "connecting", WORKER)
    assert (row.address, row.user_agent, row.trace) == ("::1", "x" * 255, "t")


def test_a_row_that_is_made_again_stands_as_it_was():
    values = {"id": str(uuid.uuid4()), "worker": WORKER, "address": None, "trace": "first"}
    store.create_session(dict(values))
    store.create_session({**values, "trace": "again"})
    assert StreamSession.objects.get(id=values["id"]).trace == "first"


@pytest.mark.parametrize("address", ["testclient", "", None, "1.2.3.4.5"])
async def test_an_address_that_is_none_is_left_out(sessions: Sessions, address: str | None):
    session = await sessions.open(user=None, address=address)
    assert (await database.read(rows))[session.id].address is None


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL joins by a hash; SQLite has only loops")
async def test_each_session_is_found_by_its_id_not_among_all_of_its_worker(sessions: Sessions):
    session = await sessions.open(user=None)

    def plan() -> str:
        with CaptureQueriesContext(connection) as captured:
            store.write_sessions(WORKER, [session.row()])
        [written] = [query["sql"] for query in captured if query["sql"].lstrip().startswith("UPDATE")]
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN QUERY PLAN " + written)
            return " / ".join(row[3] for row in cursor.fetchall())

    assert "SEARCH s USING INDEX sqlite_autoindex_streams_streamsession_1 (id=?)" in await database.read(plan)


async def test_counters_of_many_sessions_are_written_in_one_statement(sessions: Sessions):
    opened = [await sessions.open(user=None) for _ in range(50)]
    for n, session in enumerate(opened):
        session.move(StreamState.CONNECTED)
        for _ in range(n):
            session.sent(10)
        session.received(7)

    def counted() -> int:
        with CaptureQueriesContext(connection) as queries:
            store.write_sessions(WORKER, [session.row() for session in opened])
        return sum("UPDATE" in query["sql"] for query in queries)

    assert await database.write(counted) == 1
    for n, session in enumerate(opened):
        row = (await database.read(rows))[session.id]
        assert (row.chunks_sent, row.bytes_sent, row.chunks_recv, row.bytes_recv) == (n, 10 * n, 1, 7)
        assert (row.state, row.ended) == ("connected", None)


async def test_only_what_changed_is_written(sessions: Sessions, monkeypatch):
    opened = [await sessions.open(user=None) for _ in range(3)]
    written = []
    write = store.write_sessions
    monkeypatch.setattr(store, "write_sessions", lambda worker, rows: (written.append(len(rows)), write(worker, rows)))
    opened[1].sent(1)
    await sessions.write_counters()
    await sessions.write_counters()
    assert written == [1]


async def test_a_close_writes_the_last_counters_code_and_reason(sessions: Sessions):
    session = await sessions.open(user=None)
    session.sent(5)
    await sessions.close(session, 1001)
    row = (await database.read(rows))[session.id]
    assert (row.bytes_sent, row.state, row.close_code, row.close_reason) == (5, "disconnected", 1001, "")
    assert row.ended is not None and not sessions.live


@pytest.mark.parametrize(
    ("reason", "state"),
    [("unauthorized", "error"), ("slow_reader", "error"), ("idle", "disconnected"), ("going_away", "disconnected"),
     ("chat_deleted", "disconnected"), ("", "disconnected")],
)  # fmt: skip
async def test_the_state_after_an_end_goes_by_what_ended_it(sessions: Sessions, reason: str, state: str):
    session = await sessions.open(user=None)
    session.ended(1008, reason)
    session.ended(1006, "later")
    await sessions.close(session, 1006)
    row = (await database.read(rows))[session.id]
    assert (row.state, row.close_code, row.close_reason) == (state, 1008, reason)


async def test_many_closes_at_once_are_few_writes(sessions: Sessions, monkeypatch):
    opened = [await sessions.open(user=None) for _ in range(40)]
    written = []
    write = store.write_sessions
    monkeypatch.setattr(store, "write_sessions", lambda worker, rows: (written.append(len(rows)), write(worker, rows)))
    await asyncio.gather(*(sessions.close(session, 1000) for session in opened))
    assert len(written) <= 3
    assert {row.state for row in (await database.read(rows)).values()} == {"disconnected"}


async def test_a_close_while_the_database_is_away_goes_with_the_next_write(sessions: Sessions, monkeypatch):
    session = await sessions.open(user=None)

    async def away(*_: object, **__: object) -> None:
        raise WireError("unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", away)
        with pytest.raises(WireError):
            await sessions.close(session, 1000)
    await sessions.write_counters()
    assert (await database.read(rows))[session.id].state == "disconnected"


async def test_closes_while_the_database_hangs_wait_together_not_one_by_one(sessions: Sessions, bounds, settings):
    opened = [await sessions.open(user=None) for _ in range(20)]
    bounds(command_hop_s=0.2)
    count = 1 if connection.vendor == "sqlite" else settings.HEADRACE.database_threads
    gates = [Gate() for _ in range(count)]
    holding = [asyncio.create_task(database.read(gate, bound_s=20)) for gate in gates]
    await until(lambda: all(gate.entered.is_set() for gate in gates))
    async with asyncio.timeout(2):
        closed = await asyncio.gather(*(sessions.close(each, 1001) for each in opened), return_exceptions=True)
    assert {getattr(error, "code", None) for error in closed} == {"unavailable"}
    for gate in gates:
        gate.leave.set()
    await asyncio.gather(*holding)
    bounds(command_hop_s=20)
    await sessions.write_counters()
    assert {row.state for row in (await database.read(rows)).values()} == {"disconnected"}


async def test_counters_that_could_not_be_written_are_written_later(sessions: Sessions, monkeypatch):
    session = await sessions.open(user=None)
    session.sent(9)

    async def away(*_: object, **__: object) -> None:
        raise WireError("unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", away)
        with pytest.raises(WireError):
            await sessions.write_counters()
    await sessions.write_counters()
    assert (await database.read(rows))[session.id].bytes_sent == 9


async def test_a_late_write_does_not_reopen_an_ended_session(sessions: Sessions):
    session = await sessions.open(user=None)
    late = session.row()
    await sessions.close(session, 1000)
    await database.write(store.write_sessions, WORKER, [late])
    assert (await database.read(rows))[session.id].ended is not None


async def test_illegal_moves_and_ends_are_not_made(sessions: Sessions):
    session = await sessions.open(user=None)
    assert not session.move(StreamState.PAUSED)
    assert session.move("connected") and session.move("streaming") and session.move("paused")
    assert not session.move(StreamState.DISCONNECTED)


async def test_samples_are_kept_with_the_counters_and_at_the_end(sessions: Sessions):
    session = await sessions.open(user=None)
    session.sent(7)
    await sessions.write_counters()
    session.sent(5)
    session.received(3)
    await sessions.close(session, 1000)
    points = (await database.read(StreamSamples.objects.get)).points
    assert [point[1:] for point in points] == [[7, 1, 0, 0], [12, 2, 3, 1]]


async def test_a_session_that_is_silent_adds_no_samples(sessions: Sessions, monkeypatch):
    session = await sessions.open(user=None)
    session.sent(7)
    await sessions.write_counters()
    written = []
    monkeypatch.setattr(store, "write_samples", written.append)
    await sessions.write_counters()
    assert written == []


def test_a_wish_to_close_reaches_the_worker_of_a_live_session_alone():
    moment = database.now()
    live = StreamSession.objects.create(worker=WORKER, started=moment, last_seen=moment, state="streaming")
    over = StreamSession.objects.create(
        worker=WORKER, started=moment, last_seen=moment, ended=moment, state="disconnected"
    )
    assert store.ask_close(str(live.id)) is True
    assert store.ask_close(str(over.id)) is False and store.ask_close(str(uuid.uuid4())) is False
    assert store.closes_asked(WORKER) == [str(live.id)]
    assert store.closes_asked(str(uuid.uuid4())) == []


# ------------------------------------------------------------------------------------- workers


def test_alive_means_last_seen_and_nothing_else():
    assert beat() is False
    assert store.live_workers() == {WORKER} and store.dead_workers() == []
    age(WORKER, 11)
    assert store.live_workers() == set() and store.dead_workers() == [WORKER]


def test_a_worker_that_lives_is_not_buried():
    beat()
    assert store.bury(WORKER) is False


def test_a_burial_ends_the_sessions_as_lost():
    beat()
    moment = database.now()
    live = StreamSession.objects.create(worker=WORKER, started=moment, last_seen=moment, state="streaming")
    other = StreamSession.objects.create(worker=uuid.uuid4(), started=moment, last_seen=moment, state="streaming")
    over = StreamSession.objects.create(worker=WORKER, started=moment, last_seen=moment, state="disconnected")
    age(WORKER, 11)
    assert store.bury(WORKER) is True
    assert store.bury(WORKER) is False and store.dead_workers() == []
    found = rows()
    assert (found[str(live.id)].state, found[str(live.id)].close_reason) == ("error", "lost")
    assert found[str(live.id)].ended is not None and found[str(live.id)].close_code is None
    assert found[str(other.id)].state == "streaming" and found[str(over.id)].close_reason == ""


def test_a_row_that_came_after_its_workers_burial_is_lost_too():
    beat()
    age(WORKER, 11)
    assert store.bury(WORKER) is True
    old = database.now() - timedelta(seconds=11)
    late, stray = (
        StreamSession.objects.create(worker=worker, started=old, last_seen=old, state="connected")
        for worker in (WORKER, uuid.uuid4())
    )
    fresh = StreamSession.objects.create(
        worker=uuid.uuid4(), started=old, last_seen=database.now(), state="connected"
    )  # its worker may be about to say that it lives
    store.bury_idle(set())
    found = rows()
    for row in (late, stray):
        assert (found[str(row.id)].state, found[str(row.id)].close_reason) == ("error", "lost")
    assert found[str(fresh.id)].state == "connected"


async def test_a_worker_that_was_taken_for_dead_gets_its_sessions_back(sessions: Sessions):
    await database.write(beat)
    session, gone = [await sessions.open(user=None) for _ in range(2)]
    session.move(StreamState.CONNECTED)
    await sessions.write_counters()
    await database.write(age, WORKER, 11)
    assert await database.write(store.bury, WORKER)
    assert await database.write(beat) is True
    await sessions.write_counters(all_live=True)
    await sessions.close(gone, 1000)
    found = await database.read(rows)
    assert (found[session.id].state, found[session.id].ended, found[session.id].close_reason) == ("connected", None, "")
    assert (found[gone.id].state, found[gone.id].close_code) == ("disconnected", 1000)
    assert await database.write(beat) is False


def test_the_idle_dead_are_buried_and_later_forgotten():
    busy = str(uuid.uuid4())
    for worker in (WORKER, busy):
        beat(worker)
        store.leave(worker)
    assert store.bury_idle({busy}) == [WORKER]
    assert store.dead_workers() == [busy]
    Worker.objects.filter(id=WORKER).update(buried_at=database.now() - timedelta(days=2))
    store.bury_idle({busy})
    assert [str(worker) for worker in Worker.objects.values_list("id", flat=True)] == [busy]
