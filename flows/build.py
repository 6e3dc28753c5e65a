"""Builds: a graph is checked, what it names is looked up, its templates are compiled; the outcome is kept in Redis.

A hash `flow_data_<flow>[_<version>]` holds the last build for a day after its last use. Two builds of one graph at
once are one; a build that died blocks nothing after its lease. A published version needs no build to run: it is
loaded from its row where this process does not hold it.
"""

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
from django.conf import settings

from flows import graph, providers, store
from flows.engine import compile_plan
from flows.kinds import KINDS
from flows.models import FlowVersion
from streams import database, redis
from streams.errors import WireError

logger = structlog.get_logger(__name__)

LUA = Path(__file__).parent / "lua"
LOOK = (LUA / "look_build.lua").read_text()
START = (LUA / "start_build.lua").read_text()
STEP = (LUA / "step_build.lua").read_text()
BEGIN_WAIT_S = 0.5


class Build(msgspec.Struct, frozen=True):
    """The last build of a draft or version. `status`: started, in_progress, success, failure.

    `graph` is there once it succeeded. `progress`: 0 to 100. `faults` as `graph.Fault`. `at`: seconds since 1970.
    """

    build: str
    status: str
    checksum: str
    graph: dict[str, Any] | None
    progress: int
    faults: list[dict[str, Any]]
    error: str
    by: str
    at: int

    @property
    def has_ended(self) -> bool:
        return self.status in ("success", "failure")


def faults_of(raw: Any) -> list[graph.Fault]:
    """Everything that is wrong with a graph here and now. Synchronous: it reads rows."""
    return graph.check(raw, KINDS, providers.world(), store.limits())


async def build_of(flow_id: Any, version: int | None = None) -> Build | None:
    """The last build, kept for another day by this look at it. A build that died counts as a failure."""
    key = _key(flow_id, version)

    held, now = await _reach(lambda: redis.client().eval(LOOK, 1, key, settings.HEADRACE.build_kept_s))
    fields = {name.decode(): value for name, value in zip(held[::2], held[1::2], strict=True)}
    return _build(fields, int(now)) if held else None


async def begin_build(flow_id: Any, by: int | None, version: int | None = None) -> Build:
    """As `start_build`, but return after `BEGIN_WAIT_S` also what has not ended; the build goes on by itself."""
    task = asyncio.create_task(start_build(flow_id, by, version))
    _building.add(task)
    task.add_done_callback(_built)
    await asyncio.wait([task], timeout=BEGIN_WAIT_S)
    if task.done():
        return task.result()
    going_on = await build_of(flow_id, version)
    return await task if going_on is None else going_on


async def aclose() -> None:
    """End the builds of this process: at the end of a worker. Their leases end them for others."""
    for task in _building:
        task.cancel()
    await asyncio.gather(*_building, return_exceptions=True)


def _built(task: asyncio.Task) -> None:
    _building.discard(task)
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, WireError):
        logger.error("build_failed", exc_info=error)


_building: set[asyncio.Task] = set()


async def follow(flow_id: Any, built: Build, version: int | None = None) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """What a build does, as events (type, fields), to its end: `log`, `message`, `error`, `end_of_stream`."""
    shown = -1
    async with asyncio.timeout(settings.HEADRACE.build_lease_s + 5):
        while True:
            if built.progress != shown:
                shown = built.progress
                yield "log", {"text": f"{built.status} {built.progress} %"}
            if built.has_ended:
                break
            await asyncio.sleep(settings.HEADRACE.build_poll_s)
            found = await build_of(flow_id, version)
            if found is None or found.build != built.build:  # another one began, or Redis was emptied
                yield "end_of_stream", {"status": "failure"}
                return
            built = found
    raw = built.graph or await database.read(store.draft_of, flow_id, version)
    ids = [node["id"] for node in raw.get("nodes", ()) if isinstance(node, dict) and isinstance(node.get("id"), str)]
    faulty = {fault.get("node") for fault in built.faults}
    for count, name in enumerate(ids, 1):
        state = "error" if name in faulty else "success"
        yield "message", {"node": name, "state": state, "progress": 100 * count // len(ids)}
    if built.status == "failure":
        yield "error", {"faults": built.faults}
    yield "end_of_stream", {"status": built.status}


async def start_build(flow_id: Any, by: int | None, version: int | None = None) -> Build:
    """Build the draft, or the version `version`, as it is now; return what it came to.

    Where a build of the same graph runs elsewhere its present state is returned; one that succeeded is not done
    again. Raises build_running where another graph of this flow is being built, flow_not_found, unavailable.
    """
    raw = await database.read(store.draft_of, flow_id, version)
    checksum = await asyncio.to_thread(graph.checksum, raw)
    job = _Job(_key(flow_id, version), uuid.uuid4().hex)
    state = await job.start(checksum, "" if by is None else str(by))
    if state == "busy":
        raise WireError("build_running")
    if state == "begun":
        await job.run(raw)
    built = await build_of(flow_id, version)
    if built is None:  # Redis was emptied this moment
        raise WireError("unavailable")
    return built


async def publish(flow_id: Any, by: int | None, note: str = "") -> FlowVersion:
    """Build the draft and publish it. Raises build_failed with the faults, build_running, unavailable."""
    for _try in range(settings.HEADRACE.publish_tries):
        built = await _ended(flow_id, await start_build(flow_id, by))
        if built.status != "success":
            raise WireError("build_failed", faults=built.faults)
        try:
            version = await database.write(store.publish, flow_id, built.checksum, by, note)
        except WireError as error:
            if error.code == "not_built":  # saved between build and publication
                continue
            raise
        await _keep_version(version)
        return version
    raise WireError("build_running")


async def version_graph(version_id: Any, *, until_done: bool = False) -> dict[str, Any]:
    """A published version's graph, from this process or from its row: it never changes. Raises version_not_found.

    `until_done`: wait for the database as long as it takes.
    """
    key = str(version_id)
    if key in _versions:
        _versions.move_to_end(key)
        return msgspec.json.decode(_versions[key])
    found = await database.read(store.version_graph, version_id, until_done=until_done)
    _versions[key] = msgspec.json.encode(found)
    while len(_versions) > 1 and sum(map(len, _versions.values())) > settings.HEADRACE.versions_kept_bytes:
        _versions.popitem(last=False)
    return found


_versions: OrderedDict[str, bytes] = OrderedDict()


class _Job:
    """One build while it runs: every write of it is a compare-and-set on its id."""

    def __init__(self, key: str, build: str) -> None:
        self.key = key
        self.build = build

    async def start(self, checksum: str, by: str) -> str:
        """begun, kept, running or busy."""
        bounds = settings.HEADRACE
        arguments = (self.build, checksum, by, bounds.build_lease_s, bounds.build_kept_s)
        state, _build_id = await _reach(lambda: redis.client().eval(START, 1, self.key, *arguments))
        return state.decode()

    async def run(self, raw: dict[str, Any]) -> None:
        """Check and compile, in a thread: a large graph takes a good part of a second."""
        try:
            if not await self.step(status="in_progress", progress=10):
                return
            world = await database.read(providers.world)
            faults = await asyncio.to_thread(graph.check, raw, KINDS, world, store.limits())
            if faults:
                listed = msgspec.json.encode(faults).decode()
                await self.step(status="failure", progress=100, faults=listed, error=faults[0].text)
                return
            await self.step(progress=70)
            await asyncio.to_thread(compile_plan, raw)
            kept = msgspec.json.encode(raw).decode()
            await self.step(status="success", progress=100, graph_data=kept)
        except BaseException as error:
            logger.warning("build_broke", build=self.build, exc_info=True)
            code = error.code if isinstance(error, WireError) else "internal"
            with contextlib.suppress(WireError):  # the lease ends it where Redis is away too
                await self.step(status="failure", progress=100, error=code)
            raise

    async def step(self, **fields: Any) -> bool:
        """False where another build has begun since."""
        bounds = settings.HEADRACE
        pairs = [item for name, value in fields.items() for item in (name, value)]
        arguments = (self.build, bounds.build_lease_s, bounds.build_kept_s, *pairs)
        return bool(await _reach(lambda: redis.client().eval(STEP, 1, self.key, *arguments)))


async def _ended(flow_id: Any, built: Build) -> Build:
    """Wait for a build that runs elsewhere, hardly longer than its lease. Raises build_running past it."""
    deadline = time.monotonic() + settings.HEADRACE.build_lease_s + 5
    while not built.has_ended:
        if time.monotonic() > deadline:
            raise WireError("build_running")
        await asyncio.sleep(settings.HEADRACE.build_poll_s)
        found = await build_of(flow_id)
        if found is None:
            raise WireError("unavailable")
        built = found
    return built


async def _keep_version(version: FlowVersion) -> None:
    """A version was built before it was published: its own hash says so, for debug runs of it."""
    key = _key(version.flow_id, version.number)
    fields = {
        "status": "success",
        "build": uuid.uuid4().hex,
        "checksum": version.checksum,
        "by": version.author_id or "",
        "at": int(version.created.timestamp()),
        "progress": 100,
        "faults": "[]",
        "error": "",
        "graph_data": msgspec.json.encode(version.graph).decode(),
    }

    async def keep() -> None:
        pipe = redis.client().pipeline(transaction=False)
        pipe.hset(key, mapping=fields)
        pipe.expire(key, settings.HEADRACE.build_kept_s)
        await pipe.execute()

    try:
        await _reach(keep)
    except WireError:
        logger.warning("version_not_kept", flow=str(version.flow_id), version=version.number)


def _build(held: dict[str, bytes], now: int) -> Build | None:
    try:
        status = held["status"].decode()
        error = held.get("error", b"").decode()
        if status in ("started", "in_progress") and int(held.get("lease", 0)) <= now:
            status, error = "failure", "worker_lost"
        graph_data = held.get("graph_data")
        return Build(
            build=held["build"].decode(),
            status=status,
            checksum=held["checksum"].decode(),
            graph=msgspec.json.decode(graph_data) if graph_data else None,
            progress=int(held.get("progress", 0)),
            faults=msgspec.json.decode(held.get("faults", b"[]")),
            error=error,
            by=held.get("by", b"").decode(),
            at=int(held.get("at", 0)),
        )
    except (KeyError, ValueError, msgspec.DecodeError):
        logger.warning("build_unreadable")
        return None


def _key(flow_id: Any, version: int | None) -> str:
    flow = flow_id if isinstance(flow_id, uuid.UUID) else uuid.UUID(str(flow_id))
    return redis.key(f"flow_data_{flow.hex}" + (f"_{version}" if version is not None else ""))


async def _reach(what: Callable[[], Any]) -> Any:
    try:
        return await what()
    except (redis.Trouble, OSError, TimeoutError) as error:
        raise WireError("unavailable") from error
