import asyncio
import uuid
from typing import Any

import msgspec
import pytest
from django.conf import settings

from flows import build, engine, graph, store
from flows.models import Flow, FlowVersion
from streams import database, redis
from streams.errors import WireError
from tests.flows.fake import chain, node

GOOD = chain(node("say", "message", text="hi {{ user.name }}"))
BAD = chain(node("say", "message", text="{{ nobody.x }}"))


@pytest.fixture
async def flow(stores: None, owner: Any) -> Flow:
    return await database.write(lambda: store.create_flow(owner.id, "My flow", draft=GOOD))


async def draft(flow: Flow, graph_: Any) -> None:
    def save() -> Flow:
        return store.save_draft(flow.id, graph_, Flow.objects.get(id=flow.id).revision)

    await database.write(save)


async def held(flow: Flow, **fields: Any) -> None:
    await redis.client().hset(build._key(flow.id, None), mapping=fields)


async def code_of(call: Any) -> str:
    with pytest.raises(WireError) as caught:
        await call
    return caught.value.code


async def test_a_build_keeps_its_graph_under_its_checksum(flow: Flow) -> None:
    assert await build.build_of(flow.id) is None
    built = await build.start_build(str(flow.id), 7)
    assert (built.status, built.progress, built.by, built.faults) == ("success", 100, "7", [])
    assert (built.checksum, built.graph) == (graph.checksum(GOOD), GOOD)
    assert await build.build_of(flow.id.hex) == built


async def test_a_build_is_in_redis_as_the_design_names_it_for_a_day(flow: Flow) -> None:
    await build.start_build(flow.id, 7)
    key = redis.key(f"flow_data_{flow.id.hex}")
    client = redis.client()
    assert await client.hget(key, "status") == b"success"
    assert msgspec.json.decode(await client.hget(key, "graph_data")) == GOOD
    await client.expire(key, 10)
    await build.build_of(flow.id)
    assert await client.ttl(key) > 86_000


async def test_a_build_of_a_bad_graph_fails_with_all_faults(flow: Flow) -> None:
    await draft(flow, BAD)
    built = await build.start_build(flow.id, 7)
    assert (built.status, built.graph) == ("failure", None)
    assert [(fault["node"], fault["field"], fault["code"]) for fault in built.faults] == [
        ("say", "text", "unknown_variable")
    ]
    assert built.error == built.faults[0]["text"]


async def test_what_is_built_is_not_built_again_until_it_changes(flow: Flow) -> None:
    first = await build.start_build(flow.id, 7)
    assert await build.start_build(flow.id, 8) == first
    await draft(flow, chain())
    assert (await build.start_build(flow.id, 8)).build != first.build


async def test_a_build_that_failed_is_built_again(flow: Flow) -> None:
    await draft(flow, chain(node("model", "llm", provider="late")))
    assert (await build.start_build(flow.id, 7)).status == "failure"
    from flows.models import Provider

    await database.write(lambda: Provider.objects.create(slug="late", kind="scripted"))
    assert (await build.start_build(flow.id, 7)).status == "success"


async def test_two_builds_at_once_are_one(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def compile_plan(raw: Any) -> Any:
        runs.append(raw)
        return engine.compile_plan(raw)

    monkeypatch.setattr(build, "compile_plan", compile_plan)
    builds = await asyncio.gather(*(build.start_build(flow.id, number) for number in range(8)))
    assert len(runs) == 1
    assert len({one.build for one in builds}) == 1


async def test_a_live_build_of_another_graph_is_waited_for(flow: Flow) -> None:
    await build.start_build(flow.id, 7)
    now = (await redis.client().time())[0]
    await held(flow, status="in_progress", checksum="other", lease=now + 60)
    assert await code_of(build.start_build(flow.id, 7)) == "build_running"


async def test_a_build_that_died_blocks_nothing(flow: Flow) -> None:
    await build.start_build(flow.id, 7)
    now = (await redis.client().time())[0]
    await held(flow, status="in_progress", checksum="other", lease=now - 1)
    lost = await build.build_of(flow.id)
    assert lost is not None and (lost.status, lost.error) == ("failure", "worker_lost")
    assert (await build.start_build(flow.id, 7)).status == "success"


async def test_a_build_that_was_overtaken_writes_nothing(flow: Flow) -> None:
    key = build._key(flow.id, None)
    slow, quick = build._Job(key, "slow"), build._Job(key, "quick")
    assert await slow.start("a", "") == "begun"
    await held(flow, lease=0)
    assert await quick.start("b", "") == "begun"
    assert await slow.step(status="success") is False
    assert await quick.step(status="in_progress") is True
    assert await quick.step(status="success", graph_data="{}") is True
    assert await quick.step(status="failure") is False
    assert await redis.client().hmget(key, "build", "status") == [b"quick", b"success"]


async def test_a_build_that_breaks_says_so(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(raw: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(build, "compile_plan", broken)
    with pytest.raises(RuntimeError):
        await build.start_build(flow.id, 7)
    built = await build.build_of(flow.id)
    assert built is not None and (built.status, built.error) == ("failure", "internal")


async def test_a_cancelled_build_can_be_begun_anew_at_once(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def hang(*args: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "to_thread", hang)
    job = build._Job(build._key(flow.id, None), uuid.uuid4().hex)
    await job.start(graph.checksum(GOOD), "")
    task = asyncio.create_task(job.run(GOOD))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    assert (await build.start_build(flow.id, 7)).status == "success"


async def test_rubbish_in_redis_is_no_build(flow: Flow) -> None:
    await held(flow, status="success", build="x", checksum="y", graph_data="{")
    assert await build.build_of(flow.id) is None


async def test_a_flow_that_is_not_there_is_not_built(stores: None) -> None:
    assert await code_of(build.start_build(uuid.uuid4(), 7)) == "flow_not_found"


async def test_publishing_builds_first_and_keeps_the_versions_build(flow: Flow, owner: Any) -> None:
    version = await build.publish(flow.id, owner.id, "note")
    assert (version.number, version.graph, version.checksum) == (1, GOOD, graph.checksum(GOOD))
    kept = await build.build_of(flow.id, 1)
    assert kept is not None and (kept.status, kept.graph) == ("success", GOOD)
    assert (await build.build_of(flow.id)) is not None


async def test_publishing_refuses_what_does_not_build_and_says_where(flow: Flow, owner: Any) -> None:
    await draft(flow, BAD)
    with pytest.raises(WireError) as caught:
        await build.publish(flow.id, owner.id)
    assert caught.value.code == "build_failed"
    assert caught.value.extra["faults"][0]["node"] == "say"
    assert not await database.read(FlowVersion.objects.filter(flow=flow).exists)


async def test_publishing_at_once_makes_one_version(flow: Flow, owner: Any) -> None:
    versions = await asyncio.gather(*(build.publish(flow.id, owner.id) for _time in range(5)))
    assert {version.number for version in versions} == {1}


async def test_a_version_is_built_by_its_number(flow: Flow, owner: Any) -> None:
    await build.publish(flow.id, owner.id)
    await draft(flow, BAD)
    await redis.client().delete(build._key(flow.id, 1))
    built = await build.start_build(flow.id, 7, version=1)
    assert (built.status, built.graph) == ("success", GOOD)
    assert await code_of(build.start_build(flow.id, 7, version=9)) == "version_not_found"


async def test_a_published_version_needs_no_build_to_be_read(flow: Flow, owner: Any) -> None:
    version = await build.publish(flow.id, owner.id)
    await redis.client().delete(build._key(flow.id, 1), build._key(flow.id, None))
    build._versions.clear()
    assert await build.version_graph(str(version.id)) == GOOD
    assert await build.version_graph(version.id) == GOOD
    assert await code_of(build.version_graph(uuid.uuid4())) == "version_not_found"


async def test_versions_in_memory_are_bounded(flow: Flow, owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "HEADRACE", msgspec.structs.replace(settings.HEADRACE, versions_kept_bytes=1000))
    build._versions.clear()
    for number in range(6):
        await draft(flow, chain(node("say", "message", text=str(number) * 300)))
        version = await build.publish(flow.id, owner.id)
        await build.version_graph(version.id)
    assert sum(map(len, build._versions.values())) <= 1000


async def test_a_redis_that_is_away_is_unavailable(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise redis.Trouble

    monkeypatch.setattr(redis, "client", away)
    assert await code_of(build.start_build(flow.id, 7)) == "unavailable"
    assert await code_of(build.build_of(flow.id)) == "unavailable"


async def test_faults_of_a_graph_that_is_not_saved(stores: None) -> None:
    found = await database.read(build.faults_of, chain(node("model", "llm", provider="nobody")))
    assert [fault.code for fault in found] == ["unknown_provider"]
