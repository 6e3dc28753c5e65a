"""The one maker of Redis clients: addresses, Sentinel, cluster, time-outs, key prefix.

Rare calls use `client()` (or `blocking_client()` from synchronous code). The event log and the subscription use a
`Link`, a connection that has one owner, and a `Lane`, which sends what many callers want over one link: a general
client costs 24 us more for each event there, 40 % of what the design adds to a bare relay.
"""

import asyncio
import hashlib
import random
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
import structlog
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from streams import cluster, metrics, sentinel
from streams.errors import WireError
from streams.servers import Endpoint

logger = structlog.get_logger(__name__)

HEALTH_CHECK_S = 10

Trouble = redis.RedisError  # what `client()` raises when the server is away or refuses
Refusal = hiredis.ReplyError  # what a `Link` is told instead of a reply

# The server will take the command later, or another server will: LOADING, a full memory, a replica, a lost script.
_PASSING = (
    "LOADING",
    "READONLY",
    "OOM",
    "MISCONF",
    "BUSY",
    "NOSCRIPT",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "UNKILLABLE",
    "NOAUTH",
)

_Client = redis.asyncio.Redis | redis.asyncio.RedisCluster
_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Client] = weakref.WeakKeyDictionary()
_blocking: dict[str, redis.Redis | redis.RedisCluster] = {}


def _is_passing(error: str) -> bool:
    """Redis 6.2 wraps what a command of a script was refused with: `ERR Error running script (…): … -OOM …`."""
    if error.startswith("ERR Error running script"):
        return any(f"-{word} " in error for word in _PASSING)
    return error.startswith(_PASSING)


def key(*parts: str) -> str:
    """A key or channel name under the installation's prefix. Keys of one chat share a hash tag: `{<hex>}`."""
    return settings.REDIS_PREFIX + ":".join(parts)


def client() -> _Client:
    """The client of this process and event loop: bytes in, bytes out, a time-out on every call.

    On a cluster all keys of a script, of an MGET and of a transaction must share a hash tag.
    """
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        url = settings.REDIS_ADDRESS()
        retry = AsyncRetry(ExponentialWithJitterBackoff(cap=0.1, base=0.01), 1)
        if cluster.is_cluster(url):
            seeds = [redis.asyncio.cluster.ClusterNode(*there) for there in cluster.parse(url).endpoints]
            _clients[loop] = _Cluster(startup_nodes=seeds, retry=retry, **_of_cluster(url))
        else:
            _clients[loop] = redis.asyncio.Redis.from_pool(_pool(url, retry))
    return _clients[loop]


def blocking_client() -> redis.Redis | redis.RedisCluster:
    """The client for synchronous code: views, commands, admin. Raises `Trouble` where a cluster is away."""
    url = settings.REDIS_ADDRESS()
    if url not in _blocking:
        retry = Retry(ExponentialWithJitterBackoff(cap=0.1, base=0.01), 1)
        if cluster.is_cluster(url):
            seeds = [redis.cluster.ClusterNode(*there) for there in cluster.parse(url).endpoints]
            with _as_trouble():
                _blocking[url] = _BlockingCluster(startup_nodes=seeds, retry=retry, **_of_cluster(url))
        else:
            _blocking[url] = redis.Redis.from_pool(_blocking_pool(url, retry))
    return _blocking[url]


async def aclose() -> None:
    """Close this loop's client."""
    held = _clients.pop(asyncio.get_running_loop(), None)
    if held is not None:
        await held.aclose()
        if isinstance(held, redis.asyncio.Redis) and isinstance(held.connection_pool, _WatchedPool):
            await held.connection_pool.sentinel_manager.aclose()


async def ask(url: str, *command: str) -> Any:
    """What the server at `url` itself replies, over a connection of its own. Raises `Trouble`, OSError, TimeoutError.

    The caller bounds it.
    """
    connection = _connection(url)
    try:
        await connection.connect()
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


def facts() -> list[dict[str, Any]]:
    """What the server says of itself; on a cluster, each master. Blocking. Raises `Trouble`."""
    held = blocking_client()
    if not isinstance(held, redis.RedisCluster):
        return [held.info()]
    found = [held.info(target_nodes=master) for master in held.get_primaries()]
    if not found:
        raise redis.ConnectionError("no server of the cluster has slots")
    return found


def layer_host(url: str) -> str | dict[str, Any]:
    """`url` as the channel layer takes it."""
    if cluster.is_cluster(url):
        seeds = cluster.parse(url)
        kind = _AnyTlsServer if seeds.is_tls else _AnyServer
        named = {"username": seeds.username, "password": seeds.password}
        return {"connection_class": kind, "endpoints": seeds.endpoints, **named, **_time_outs(url)}
    if not sentinel.is_sentinel(url):
        return url
    watched = sentinel.parse(url)
    return {
        "master_name": watched.service,
        "sentinels": watched.sentinels,
        "sentinel_kwargs": _of_sentinels(watched, AsyncRetry),
        **_of_master(watched),
        **_time_outs(url),
    }


def pack(*command: str | bytes | int) -> bytes:
    """A command as it goes over the wire."""
    return hiredis.pack_command(command)


def sha_of(script: str) -> str:
    """The name by which EVALSHA calls a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


@contextmanager
def _as_trouble() -> Iterator[None]:
    """What redis-py says of a cluster is not among its other errors."""
    try:
        yield
    except redis.RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error


class _Cluster(redis.asyncio.RedisCluster):
    """All that it raises is `Trouble`."""

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        with _as_trouble():
            return await super().execute_command(*args, **kwargs)

    def pipeline(self, transaction: bool | None = None, shard_hint: None = None) -> "_ClusterPipeline":
        return _ClusterPipeline(self, transaction)


class _ClusterPipeline(redis.asyncio.cluster.ClusterPipeline):
    async def execute(self, *args: Any, **kwargs: Any) -> list[Any]:
        with _as_trouble():
            return await super().execute(*args, **kwargs)


class _BlockingCluster(redis.RedisCluster):
    """The same for synchronous code."""

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        with _as_trouble():
            return super().execute_command(*args, **kwargs)

    def pipeline(self, transaction: bool | None = None, shard_hint: None = None) -> redis.cluster.ClusterPipeline:
        pipeline = super().pipeline(transaction)
        pipeline.execute = _as_trouble()(pipeline.execute)
        return pipeline


class _AnyServer(redis.asyncio.Connection):
    """To whichever server of a cluster answers: what is published at one is heard at all."""

    def __init__(self, *, endpoints: Sequence[Endpoint], **options: Any) -> None:
        super().__init__(**options)
        self._endpoints = endpoints

    async def _connect(self) -> None:
        *others, last = random.sample(self._endpoints, len(self._endpoints))
        for self.host, self.port in others:
            try:
                return await super()._connect()
            except (OSError, TimeoutError):
                pass  # the next one
        self.host, self.port = last
        await super()._connect()


class _AnyTlsServer(_AnyServer, redis.asyncio.SSLConnection):
    """The same with TLS."""


class _WatchedPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Asks the sentinels for the master before it connects; waits, as the other one, where all are in use."""


class _BlockingWatchedPool(redis.sentinel.SentinelConnectionPool, redis.BlockingConnectionPool):
    """The same for synchronous code."""


def _pool(url: str, retry: AsyncRetry) -> redis.asyncio.ConnectionPool:
    options = _pool_options(url) | {"retry": retry}
    if not sentinel.is_sentinel(url):
        return redis.asyncio.BlockingConnectionPool.from_url(url, **options)
    watched = sentinel.parse(url)
    return _WatchedPool(watched.service, _sentinels(watched), **_of_master(watched), **options)


def _blocking_pool(url: str, retry: Retry) -> redis.ConnectionPool:
    options = _pool_options(url) | {"retry": retry}
    if not sentinel.is_sentinel(url):
        return redis.BlockingConnectionPool.from_url(url, **options)
    watched = sentinel.parse(url)
    sentinels = redis.Sentinel(watched.sentinels, sentinel_kwargs=_of_sentinels(watched, Retry))
    return _BlockingWatchedPool(watched.service, sentinels, **_of_master(watched), **options)


def _pool_options(url: str) -> dict[str, Any]:
    bounds = settings.HEADRACE
    return {"max_connections": bounds.redis_connections, "timeout": bounds.redis_timeout_s, **_time_outs(url)}


def _of_cluster(url: str) -> dict[str, Any]:
    seeds = cluster.parse(url)
    return {
        "username": seeds.username,
        "password": seeds.password,
        "ssl": seeds.is_tls,
        "max_connections": settings.HEADRACE.redis_connections,  # to each server
        "require_full_coverage": False,
        **_time_outs(url),
    }


def _of_master(watched: sentinel.Watched) -> dict[str, Any]:
    named = {"username": watched.username, "password": watched.password}
    return {"db": watched.db, "ssl": watched.is_tls} | {name: value for name, value in named.items() if value}


def _sentinels(watched: sentinel.Watched) -> redis.asyncio.Sentinel:
    return redis.asyncio.Sentinel(watched.sentinels, sentinel_kwargs=_of_sentinels(watched, AsyncRetry))


def _of_sentinels(watched: sentinel.Watched, retry: type[Retry] | type[AsyncRetry]) -> dict[str, Any]:
    """They are asked one after another, each once: one that is away must leave time for the next."""
    limit_s = settings.HEADRACE.redis_timeout_s / (len(watched.sentinels) + 1)
    return {
        "username": watched.sentinel_username,
        "password": watched.sentinel_password,
        "ssl": watched.is_tls,
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
        "retry": retry(NoBackoff(), 0),
    }


async def _present(url: str) -> str:
    """`url`, or where the sentinels that it names say that the master is."""
    if not sentinel.is_sentinel(url):
        return url
    watched = sentinel.parse(url)
    async with _sentinels(watched) as sentinels:
        return watched.master_at(*await sentinels.discover_master(watched.service))


def _time_outs(url: str) -> dict[str, Any]:
    limit_s = settings.HEADRACE.redis_timeout_s
    return {
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
        "health_check_interval": HEALTH_CHECK_S,
        **({} if url.startswith("unix:") else {"socket_keepalive": True}),
    }


def _connection(url: str) -> redis.asyncio.Connection:
    pool = redis.asyncio.ConnectionPool.from_url(url, protocol=2, retry=AsyncRetry(NoBackoff(), 0), **_time_outs(url))
    return pool.make_connection()


class Link(asyncio.Protocol):
    """One connection with one owner: packed commands out, each reply to `on_reply`, the end to `on_lost`.

    redis-py connects (TLS, log-in, database number) and hands its transport over. Replies come in the order of the
    commands, errors as `hiredis.ReplyError` values. `on_lost` is called once, also after `abort`.
    """

    def __init__(
        self,
        connection: redis.asyncio.Connection,
        on_reply: Callable[[Any], None],
        on_lost: Callable[["Link"], None],
    ) -> None:
        self._connection = connection  # its stream writer closes the transport when it is collected
        self._transport: asyncio.Transport = connection._writer.transport
        self._replies = hiredis.Reader(notEnoughData=_MORE)
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._closed = asyncio.get_running_loop().create_future()
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            raise ConnectionResetError("the connection ended while it was made")

    @classmethod
    async def open(
        cls,
        on_reply: Callable[[Any], None],
        on_lost: Callable[["Link"], None],
        scripts: Sequence[str] = (),
        url: str | None = None,
    ) -> "Link":
        """Connect and load `scripts`. Raises `Trouble`, OSError or TimeoutError, within the time-out of Redis.

        `url`: of one server of a cluster; else where Redis is.
        """
        connection = None
        try:
            async with asyncio.timeout(settings.HEADRACE.redis_timeout_s):
                connection = _connection(url or await _present(settings.REDIS_ADDRESS()))
                await connection.connect()
                for script in scripts:
                    await connection.send_command("SCRIPT", "LOAD", script)
                    await connection.read_response()
            return cls(connection, on_reply, on_lost)
        except BaseException:
            if connection is not None:
                await connection.disconnect(nowait=True)
            raise

    def write(self, packed: bytes) -> None:
        self._transport.write(packed)

    def abort(self) -> None:
        """End it at once; replies on their way are lost."""
        self._transport.abort()

    async def aclose(self) -> None:
        self.abort()
        await self._closed

    def data_received(self, data: bytes) -> None:
        replies = self._replies
        replies.feed(data)
        while (reply := replies.gets()) is not _MORE:
            self._on_reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection._reader = self._connection._writer = None
        if not self._closed.done():
            self._closed.set_result(None)
        self._on_lost(self)


_MORE = object()


class Call:
    """One command of a lane, from its caller until its reply."""

    __slots__ = ("_pack", "came_at", "future", "give_up_at", "then")

    def __init__(
        self,
        pack: Callable[[], bytes],
        then: Callable[[Any], Any],
        future: asyncio.Future,
        came_at: float,
        give_up_at: float,
    ) -> None:
        self._pack = pack
        self.then = then
        self.future = future
        self.came_at = came_at
        self.give_up_at = give_up_at

    def make(self) -> bytes:
        """Anew for each sending."""
        return self._pack()


class Lane:
    """Commands of many callers over one link, all that wait in one write, one such flight at a time.

    No timer: what comes while a flight is out is the next one. A call that got no answer is sent again, in its old
    place, until it is answered or its caller gives up, so it must be safe to repeat. `on_landed` is told how long the
    oldest call of a flight took, with all that was done with its answers.
    """

    def __init__(
        self,
        name: str,
        scripts: Sequence[str],
        on_trouble: Callable[[bool], None],
        on_landed: Callable[[float], None] = lambda took_s: None,
    ) -> None:
        self.is_in_trouble = False
        self._name = name
        self._scripts = scripts
        self._on_trouble = on_trouble
        self._on_landed = on_landed
        self._round_trip = metrics.redis_round_trip.of(name)
        self._calls = metrics.redis_flight_calls.of(name)
        self._launched_at = self._oldest_at = 0.0  # of the flight that is out
        self._link: Link | None = None
        self._waiting: deque[Call] = deque()
        self._flight: deque[Call] = deque()
        self._refused: list[Call] = []
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task | None = None
        self._is_scheduled = False
        self._is_closed = False
        self._failures = 0

    def submit(
        self, make: Callable[[], bytes], then: Callable[[Any], Any], give_up_s: float, key: str = ""
    ) -> asyncio.Future:
        """Send what `make` packs (anew for each sending); the future gets what `then` makes of the reply.

        `then` runs when the reply arrives, whether the caller still waits or not. The future raises
        WireError("unavailable") past `give_up_s`, and Trouble when the command itself is refused. `key`: one of those
        that it is about, by which a cluster is asked (`streams.masters.Lanes`).
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if self._is_closed:
            future.set_exception(WireError("unavailable"))
            return future
        now = loop.time()
        self._waiting.append(Call(make, then, future, now, now + give_up_s))
        self._schedule()
        return future

    async def aclose(self) -> None:
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._link is not None:
            await self._link.aclose()
        self._stop_timer()
        if self._expiry is not None:
            self._expiry.cancel()
        for call in (*self._flight, *self._waiting):
            fail(call.future, WireError("unavailable"))
        self._waiting.clear()
        self._flight.clear()

    def _schedule(self) -> None:
        if not (self._is_scheduled or self._flight or self._connecting or self._is_closed):
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._launch)

    def _launch(self) -> None:
        self._is_scheduled = False
        if self._flight or self._connecting or self._is_closed:
            return
        if self._link is None:
            self._reconnect()
            return
        packed, size, bounds = [], 0, settings.HEADRACE
        while self._waiting and size < bounds.redis_flight_bytes and len(packed) < bounds.redis_flight_calls:
            call = self._waiting.popleft()
            if call.future.done():  # its caller has gone
                continue
            packed.append(call.make())
            size += len(packed[-1])
            self._flight.append(call)
        if packed:
            loop = asyncio.get_running_loop()
            self._launched_at, self._oldest_at = loop.time(), self._flight[0].came_at
            self._calls.observe(len(packed))
            self._timer = loop.call_later(bounds.redis_timeout_s, self._link.abort)
            self._link.write(b"".join(packed))
        elif self.is_in_trouble:  # who waited has gone, and the link is there
            self._recover()

    def _on_reply(self, reply: Any) -> None:
        if not self._flight:  # of a link that was given up
            return
        call = self._flight.popleft()
        if isinstance(reply, hiredis.ReplyError):
            self._refuse(call, str(reply))
        else:
            try:
                result = call.then(reply)
            except Exception as error:
                fail(call.future, error)
            else:
                if not call.future.done():
                    call.future.set_result(result)
        if not self._flight:
            self._land()

    def _refuse(self, call: Call, reason: str) -> None:
        if _is_passing(reason):
            self._refused.append(call)
            self._warn(reason)
        else:
            fail(call.future, redis.ResponseError(reason))

    def _land(self) -> None:
        self._stop_timer()
        if self._refused:
            self._waiting.extendleft(reversed(self._refused))
            self._refused = []
            self._fail_flight()
            link, self._link = self._link, None
            link.abort()  # another server may stand there now, and scripts are loaded anew
            self._reconnect()
            return
        self._recover()
        self._count()
        if self._waiting:
            self._schedule()

    def _count(self) -> None:
        """Once a flight: the more there is to do, the less it costs a call."""
        now = asyncio.get_running_loop().time()
        self._round_trip.observe(now - self._launched_at)
        self._on_landed(now - self._oldest_at)

    def _on_lost(self, link: Link) -> None:
        if link is not self._link:
            return
        self._link = None
        self._stop_timer()
        if self._flight or self._refused:
            self._warn("no answer, or the connection was lost")
            self._waiting.extendleft(reversed([*self._refused, *self._flight]))
            self._refused = []
            self._flight.clear()
            self._fail_flight()
        if self._waiting and not self._is_closed:
            self._reconnect()

    def _reconnect(self) -> None:
        if self._connecting is None and not self._is_closed:
            self._connecting = asyncio.create_task(self._connect(), name=f"redis-{self._name}")
            self._expire()

    async def _connect(self) -> None:
        try:
            while True:
                if self._failures:
                    await asyncio.sleep(random.uniform(0, min(1.0, 0.02 * 2**self._failures)))
                try:
                    self._link = await self._open()
                    break
                except Exception as error:  # whatever it is, callers are let go and the next try may succeed
                    self._warn(repr(error))
                    self._fail_flight()
        finally:
            self._connecting = None
        if self._waiting:
            self._schedule()
        else:
            self._recover()

    async def _open(self) -> Link:
        return await Link.open(self._on_reply, self._on_lost, self._scripts)

    def _expire(self) -> None:
        """While there is no link: let go of callers whose time is over, four times a time-out."""
        self._expiry = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        kept = deque(call for call in self._waiting if call.give_up_at > now)
        for call in self._waiting:
            if call.give_up_at <= now:
                fail(call.future, WireError("unavailable"))
        self._waiting = kept
        if self._connecting is not None or self.is_in_trouble:
            self._expiry = loop.call_later(settings.HEADRACE.redis_timeout_s / 4, self._expire)

    def _fail_flight(self) -> None:
        self._failures = min(self._failures + 1, 10)
        if not self.is_in_trouble:
            self.is_in_trouble = True
            self._on_trouble(True)
        if self._expiry is None and not self._is_closed:
            self._expire()

    def _recover(self) -> None:
        self._failures = 0
        if self.is_in_trouble:
            self.is_in_trouble = False
            logger.info("redis_back", lane=self._name)
            self._on_trouble(False)

    def _warn(self, reason: str) -> None:
        if not self.is_in_trouble:
            logger.warning("redis_away", lane=self._name, reason=reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def fail(future: asyncio.Future, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
