"""What happens on sockets is counted as it happens."""

import uuid
from typing import Any

import pytest

from streams import metrics
from tests.chat.conftest import graph_of, node
from tests.sockets.conftest import SLOW
from tests.sockets.tabs import fake
from tests.waiting import until

FAILS = graph_of(
    node("start", "start"),
    node("model", "llm", provider="model", model="m", prompt="{{ input.text }}"),
    node("end", "end"),
)


class Counted:
    """By how much a series has grown since this was made."""

    def __init__(self) -> None:
        self._before = self._all()

    def __call__(self, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return self._all().get(key, 0) - self._before.get(key, 0)

    @staticmethod
    def _all() -> dict[Any, float]:
        samples = (sample for family in metrics.registry.collect() for sample in family.samples)
        return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


@pytest.fixture
def counted() -> Counted:
    return Counted()


async def test_turn_is_counted_with_its_events_and_its_first_token(counted, live, online, tab):
    flow = await online()
    async with tab(flow, str(uuid.uuid4())) as one:
        said = await one.say("hello")
        await one.until_ended(said["turn"])
        numbered = [frame for frame in one.frames if frame.get("seq") and frame["type"] not in ("welcome", "snapshot")]
    await until(lambda: counted("headrace_turns_ended_total", end="done", code="") == 1)
    assert counted("headrace_first_token_seconds_count") == 1
    assert counted("headrace_provider_calls_total") == 1
    assert counted("headrace_events_total") == len(numbered)
    assert counted("headrace_event_delay_seconds_count") >= 1
    assert counted("headrace_redis_round_trip_seconds_count", lane="append") == counted(
        "headrace_event_delay_seconds_count"
    )
    assert counted("headrace_redis_flight_calls_sum", lane="append") <= len(numbered)
    assert counted("headrace_database_wait_seconds_count", kind="command") >= 1


async def test_open_sockets_are_counted_by_their_door(counted, live, online, tab):
    flow = await online()
    async with tab(flow, str(uuid.uuid4())) as one:
        await one.until("welcome")
        assert counted("headrace_sockets", door="chat") == 1
    await until(lambda: counted("headrace_sockets", door="chat") == 0)
    assert counted("headrace_socket_closes_total", reason="left") == 1


async def test_refusal_is_counted_by_its_code(counted, live, online, tab):
    flow = await online()
    async with live.open(f"/chat/{flow.id}?chat_id={uuid.uuid4()}", "no token") as one:
        await one.closed()
    assert counted("headrace_refusals_total", code="unauthorized") == 1


async def test_stopped_turn_is_counted_as_such(counted, live, online, tab):
    flow = await online()
    async with tab(flow, str(uuid.uuid4())) as one:
        said = await one.say(SLOW)
        await one.until("turn_start")
        await one.command("stop")
        await one.until_ended(said["turn"])
    await until(lambda: counted("headrace_turns_ended_total", end="stopped", code="") == 1)


async def test_fault_of_a_model_is_counted_by_its_kind(counted, live, modelled, tab):
    flow = await modelled(FAILS)
    async with tab(flow, str(uuid.uuid4())) as one:
        said = await one.say(fake(status=401))
        await one.until_ended(said["turn"])
    await until(lambda: counted("headrace_turns_ended_total", end="error", code="provider_auth") == 1)
    assert counted("headrace_provider_errors_total", kind="auth") == 1


async def test_how_far_sockets_are_behind_is_seen(counted, live, online, tab, monkeypatch):
    from streams.pump import Pump

    monkeypatch.setattr(Pump, "lag", property(lambda self: 7))
    flow = await online()
    async with tab(flow, str(uuid.uuid4())) as one:
        await one.until("welcome")
        await until(lambda: counted("headrace_lagging_sockets") == 1 and counted("headrace_lag_events") == 7)
    await until(lambda: counted("headrace_lagging_sockets") == 0 and counted("headrace_lag_events") == 0)
