"""A worker's own life: its shutdown, its beat, what it hears from others."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from channels.layers import get_channel_layer
from channels_redis.pubsub import RedisPubSubLoopLayer
from django.contrib.sessions.models import Session
from django.utils import timezone

from accounts import store as accounts
from accounts.models import Login
from accounts.tokens import Identity
from chat.models import Chat, Command
from chat.turns import manager as managers
from chat.turns import owed, tasks
from chat.turns.control import GROUP, Control
from chat.turns.manager import ChatManager
from streams import database
from streams import store as workers
from streams.errors import WireError
from streams.models import StreamSamples, StreamSession
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)
LATE_S = 20.0


@pytest.fixture
async def manager(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChatManager]:
    monkeypatch.setattr(tasks, "SHUTDOWN_S", 1.0)
    one = ChatManager()
    await one.start()
    yield one
    await one.stop()
    database.close()


async def test_a_worker_leaves_although_a_task_of_it_does_not_heed_its_end(manager: ChatManager):
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(LATE_S, over.set)

    async def deaf() -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                pass

    manager.tasks.spawn(deaf())
    await asyncio.sleep(0)  # it has begun
    await manager.stop()
    assert not over.is_set()
    assert manager.worker not in await database.read(workers.live_workers)
    over.set()


async def test_a_step_of_the_shutdown_that_fails_skips_none(manager: ChatManager, monkeypatch: pytest.MonkeyPatch):
    ended = []

    async def fail(*_: object) -> None:
        raise OSError("gone")

    async def aclose() -> None:
        ended.append(1)

    with monkeypatch.context() as patched:
        patched.setattr(managers.providers, "aclose", fail)
        patched.setattr(manager.sessions, "write_counters", fail)
        patched.setattr(managers.redis, "aclose", aclose)
        await manager.stop()
    assert ended == [1]
    assert manager.worker not in await database.read(workers.live_workers)


# ------------------------------------------------------------------------------------------------ its beat


async def test_a_beat_does_not_wait_for_what_is_marked_as_told(manager: ChatManager, monkeypatch: pytest.MonkeyPatch):
    """The database would have to take that first, until it is done."""
    monkeypatch.setattr(manager.telling, "mark_told", asyncio.Event().wait)
    async with asyncio.timeout(LATE_S):
        await manager.sweep.beat()


async def test_what_was_told_is_marked_by_a_duty_of_its_own(manager: ChatManager):
    manager.telling.confirmed("turn", "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", 1)
    await until(lambda: not manager.telling._told, what="it is marked")


# ------------------------------------------------------------------------------------------- what it sweeps


async def test_rows_that_always_fail_keep_no_other_from_its_turn(user, bounds):
    bounds(sweep_rows=1)
    chats = await database.write(lambda: [str(Chat.objects.create(user=user, told=False).id) for _ in range(2)])
    seen = set()

    async def have_all_come() -> bool:
        seen.update(id_ for _, id_ in await database.read(owed.owed_rows, set()))
        return seen >= set(chats)

    await until(have_all_come)


# --------------------------------------------------------------------------------------- what it forgets


async def test_rows_past_their_time_go_and_no_others(manager: ChatManager, user, bounds):
    bounds(purge_rows=2)  # it takes more than one piece
    old, fresh = timezone.now() - timedelta(days=1000), timezone.now()

    def make() -> None:
        for at, expired in [(old, old)] * 3 + [(fresh, fresh + timedelta(days=1))]:
            session = StreamSession.objects.create(started=at, last_seen=at, ended=at)
            StreamSamples.objects.create(session=session.id)
            Command.objects.create(scope=uuid.uuid4(), command="1", body_hash="", reply={}, created=at)
            Session.objects.create(session_key=uuid.uuid4().hex, session_data="", expire_date=expired)
            login = Login.objects.create(user=user)
            Login.objects.filter(id=login.id).update(created=at)
        StreamSession.objects.create(started=old, last_seen=fresh, state="connected")
        key, _ = accounts.create_key(user.id, "script", ["chat"])
        Login.objects.filter(id=key.login_id).update(created=old)

    def left() -> dict[str, int]:
        models = (StreamSession, StreamSamples, Command, Session, Login)
        return {model.__name__: model.objects.count() for model in models}

    await database.write(make)
    await manager.sweep.purge()
    assert await database.read(left) == {
        "StreamSession": 2,  # the one that lives, however old
        "StreamSamples": 1,
        "Command": 1,
        "Session": 1,
        "Login": 2,  # that of the key
    }


# ------------------------------------------------------------------------------------- what others tell it


async def test_a_worker_that_was_deaf_for_a_while_has_one_channel(manager: ChatManager, monkeypatch, bounds):
    bounds(redis_timeout_s=0.05)
    layer = get_channel_layer()
    tries = []
    add = RedisPubSubLoopLayer.group_add

    async def fail_at_first(self: RedisPubSubLoopLayer, group: str, channel: str) -> None:
        tries.append(channel)
        await add(self, group, channel)
        if len(tries) <= 3:
            raise OSError("gone")

    monkeypatch.setattr(RedisPubSubLoopLayer, "group_add", fail_at_first)
    control = Control("other", lambda message: None, manager.tasks.spawn)
    listening = asyncio.create_task(control.listen())
    await until(lambda: len(tries) == 4, what="it listens again")
    mine = [name for name in layer.channels if "other." in name]
    members = [name for names in layer.groups.values() for name in names if "other." in name]
    assert mine == members == tries[3:]
    listening.cancel()
    await asyncio.wait([listening])
    assert not [name for name in layer.channels if "other." in name]


async def test_a_message_that_cannot_be_heeded_costs_no_other(manager: ChatManager):
    heard = []

    def heed(message: dict) -> None:
        heard.append(message["n"])
        if message["n"] == 1:
            raise KeyError("kind")

    listening = asyncio.create_task(Control("other", heed, manager.tasks.spawn).listen())

    async def hears(n: int) -> bool:
        await get_channel_layer().group_send(GROUP, {"type": "control", "by": "a third", "kind": "x", "n": n})
        return n in heard

    await until(lambda: hears(1))
    channels = set(get_channel_layer().channels)
    await until(lambda: hears(2))
    assert set(get_channel_layer().channels) == channels
    listening.cancel()
    await asyncio.wait([listening])


# ----------------------------------------------------------------------------------------------- its places


async def test_addresses_of_one_network_share_their_places(manager: ChatManager, bounds):
    bounds(sockets_per_address=2)

    async def take(n: int, address: str) -> None:
        identity = Identity(n, "", False, frozenset(), None, None, "session", "")
        await manager.take_place(identity, {"client": (address, 1)})

    await take(1, "2001:db8::1")
    await take(2, "2001:db8::2")
    with pytest.raises(WireError, match="too_many_connections"):
        await take(3, "2001:db8::3")
    await take(4, "2001:db8:0:1::1")
