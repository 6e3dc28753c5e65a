"""Sessions of a server that was killed: whoever starts next closes them."""

import asyncio
import sqlite3
import uuid

import pytest

from tests import stores
from tests.server import HeadraceServer, manage
from tests.sockets.test_restart import QUICK
from tests.waiting import until
from tests.wire import opened


def rows(server: HeadraceServer) -> list[tuple]:
    """(state, close_reason, whether it has ended) of each session."""
    with sqlite3.connect(f"file:{server.data_dir / 'headrace.sqlite3'}?mode=ro", uri=True) as database:
        return database.execute(
            "SELECT state, close_reason, ended IS NOT NULL FROM streams_streamsession ORDER BY started"
        ).fetchall()


@pytest.mark.skipif(stores.ARE_REAL, reason="looks into SQLite's file; burial itself is in tests/streams on both")
async def test_sessions_of_a_killed_server_are_lost_at_the_next_start(make_server) -> None:
    server = await asyncio.to_thread(lambda: make_server(**QUICK).start())
    token = (await asyncio.to_thread(manage, "token", "demo", env=server.env)).stdout.strip()
    address = f"/chat/guide?chat_id={uuid.uuid4()}"
    async with opened(server.host, address, token) as one, opened(server.host, address, token) as two:
        for socket in (one, two):
            await socket.until("snapshot")
        await asyncio.to_thread(server.kill)
    assert [has_ended for _, _, has_ended in rows(server)] == [0, 0]
    await asyncio.to_thread(server.start)
    await until(lambda: rows(server) == [("error", "lost", 1)] * 2, 60, "both sessions are lost")
