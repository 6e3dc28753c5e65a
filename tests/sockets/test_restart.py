"""The whole server ends, by kill -9 or in good order, and starts again: what was begun is brought to its one end."""

import asyncio
import json
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from providers import fake_openai
from tests.chat.conftest import graph_of, node
from tests.chat.view import View, text_of
from tests.server import HeadraceServer, manage
from tests.sockets.tabs import Tab, tab_at
from tests.waiting import until
from tests.wire import Closed

QUICK = {
    "HEADRACE_DEAD_AFTER_S": "1",
    "HEADRACE_BEAT_S": "0.3",
    "HEADRACE_SWEEP_S": "0.2",
    "HEADRACE_DRAIN_TURNS_S": "0.3",
    "HEADRACE_DRAIN_SOCKETS_S": "0.2",
    "HEADRACE_ALLOW_PRIVATE_PROVIDERS": "on",
}
FIRST = '{"fake": {"text": "First."}}'
HANGS_ONCE = '{"fake": {"reasoning": "Hm.", "tokens": 100, "fault": "hang", "after": 30, "times": 1}}'
SECOND = "".join(fake_openai.numbered(100, 5))
ASKS = graph_of(
    node("start", "start"),
    node("first", "llm", provider="model", model="m", prompt=FIRST),
    node("ask", "question", text="Your name?"),
    node("second", "llm", provider="model", model="m", prompt='{"fake": {"echo": true}} Hello {{ ask.value }}'),
    node("end", "end"),
)
STREAMS = graph_of(
    node("start", "start"),
    node("first", "llm", provider="model", model="m", prompt=FIRST),
    node("second", "llm", provider="model", model="m", prompt=HANGS_ONCE),
    node("end", "end"),
)


class House:
    """An installation that can be ended and started again; its model's server goes on meanwhile."""

    def __init__(self, server: HeadraceServer, token: str) -> None:
        self.server, self.token = server, token

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        return await asyncio.to_thread(self._ask, method, path, body)

    def _ask(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.server.url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read())

    async def publish(self, graph: dict[str, Any], model: fake_openai.Server) -> str:
        """A flow, online; its provider is `model`."""
        slug = f"model-{uuid.uuid4().hex[:8]}"
        row = {"slug": slug, "kind": "openai_compatible", "base_url": model.base_url, "models": ["m"]}
        await self.ask("POST", "providers/", row)
        draft = json.loads(json.dumps(graph).replace('"provider": "model"', f'"provider": "{slug}"'))
        flow = (await self.ask("POST", "flows/", {"name": slug, "draft": draft}))["id"]
        await self.ask("POST", f"flows/{flow}/publish/", {})
        return flow

    def tab(self, flow: str, chat: str, view: View | None = None) -> Any:
        return tab_at(self.server.host, flow, self.token, chat, view)

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def stop(self) -> None:
        assert await asyncio.to_thread(self.server.stop) == 0

    async def start(self, **env: str) -> None:
        """`env`: for this start alone."""
        self.server.env |= QUICK | env
        await asyncio.to_thread(self.server.start)


@pytest.fixture(scope="module")
def house(make_server: Callable[..., HeadraceServer]) -> House:
    server = make_server(**QUICK)
    server.start()
    return House(server, manage("token", "admin", env=server.env).stdout.strip())


@pytest.fixture(params=["killed", "told to end"])
def end(house: House, request: pytest.FixtureRequest) -> Callable[[], Any]:
    return house.kill if request.param == "killed" else house.stop


def asked_of(model: fake_openai.Server) -> list[str]:
    """What the model was asked, in order."""
    return [request.body["messages"][-1]["content"] for request in model.seen.requests]


async def test_question_answered_after_a_restart_goes_on_where_it_was(house, model, end):
    flow, chat, view = await house.publish(ASKS, model), str(uuid.uuid4()), View()
    async with house.tab(flow, chat, view) as one:
        said = await one.say("hello")
        question = await one.until("question")
    await end()
    await house.start()
    async with house.tab(flow, chat, view) as one:
        await until_back(one)
        [(id_, turn)] = view.turns.items()
        assert (id_, turn["state"]) == (said["turn"], "waiting")
        assert turn["question"]["question"] == question["question"]
        assert text_of(turn["parts"]) == "First."
        assert (await one.command("answer", question=question["question"], value="Ada"))["type"] == "ok"
        end_ = await one.until("turn_end")
    assert (end_["turn"], end_["status"]) == (said["turn"], "done")
    assert text_of(end_["message"]["parts"]) == "First.|Hello Ada"
    assert end_["message"]["parts"] == view.last_shown
    assert asked_of(model) == [FIRST, '{"fake": {"echo": true}} Hello Ada'], "a step that was done ran again"


async def test_turn_of_a_killed_worker_runs_on_from_its_journal_and_ends_once(house, model):
    flow, chat, view = await house.publish(STREAMS, model), str(uuid.uuid4()), View()
    async with house.tab(flow, chat, view) as one:
        said = await one.say("hello")
        queued = await one.say("and then?")
        await until_second_streams(one, said["turn"])
        await house.kill()
        with pytest.raises(Closed):
            await one.until("turn_end")
    await house.start()
    async with house.tab(flow, chat, view) as one:
        answer = await one.until_stored(said["turn"])
        await one.until_stored(queued["turn"])
    assert (answer["status"], text_of(answer["parts"])) == ("done", f"First.|{SECOND}")
    assert asked_of(model) == [FIRST, HANGS_ONCE, HANGS_ONCE, FIRST, HANGS_ONCE], "a step that was done ran again"
    assert text_of(view.messages[queued["answer"]]["parts"]) == f"First.|{SECOND}"
    await check_stored(house, chat, view, said["turn"], attempt=2)


async def test_turn_of_a_server_that_was_told_to_end_is_released_and_runs_on(house, model):
    flow, chat, view = await house.publish(STREAMS, model), str(uuid.uuid4()), View()
    async with house.tab(flow, chat, view) as one:
        said = await one.say("hello")
        await until_second_streams(one, said["turn"])
        ending = asyncio.create_task(house.stop())
        closed = await one.closed()
        assert (closed.code, closed.reason, one.frames[-1]["type"]) == (1012, "going_away", "going_away")
        await ending
    assert not view.ended
    await until(lambda: model.seen.requests[1].closed, what="the provider's connection is closed")
    await house.start()
    async with house.tab(flow, chat, view) as one:
        answer = await one.until_stored(said["turn"])
    assert (answer["status"], text_of(answer["parts"])) == ("done", f"First.|{SECOND}")
    assert [part["kind"] for part in answer["parts"]] == ["text", "reasoning", "text"], "a part that was cut was kept"
    assert asked_of(model) == [FIRST, HANGS_ONCE, HANGS_ONCE]
    await check_stored(house, chat, view, said["turn"], attempt=2)


async def test_turn_of_a_killed_worker_that_is_stopped_before_its_claim_ends_stopped(house, model):
    flow, chat, view = await house.publish(STREAMS, model), str(uuid.uuid4()), View()
    async with house.tab(flow, chat, view) as one:
        said = await one.say("hello")
        await until_second_streams(one, said["turn"])
    await house.kill()
    await house.start(HEADRACE_SWEEP_S="3600")
    async with house.tab(flow, chat, view) as one:
        await until_back(one)
        assert view.turns[said["turn"]]["state"] == "running"
        assert (await one.command("stop"))["turn"] == said["turn"]
    await house.kill()
    await house.start()
    async with house.tab(flow, chat, view) as one:
        end_ = await one.until_stored(said["turn"])
    assert end_["status"] == "stopped"
    assert text_of(end_["parts"]).startswith("First.")
    assert asked_of(model) == [FIRST, HANGS_ONCE], "a stopped turn ran again"
    await check_stored(house, chat, view, said["turn"], attempt=2)


async def test_say_with_the_same_id_after_a_kill_is_the_same_turn(house, model):
    flow, chat, view = await house.publish(ASKS, model), str(uuid.uuid4()), View()
    async with house.tab(flow, chat, view) as one:
        said = await one.command("say", id="mine", text="hello")
    await house.kill()
    await house.start()
    async with house.tab(flow, chat, view) as one:
        assert await one.command("say", id="mine", text="hello") == said
        other = await one.command("say", id="mine", text="something else")
        assert other["code"] == "id_conflict"
        while not view.turns.get(said["turn"], {}).get("question"):
            await one.recv()
    messages = (await house.ask("GET", f"chats/{chat}/messages/"))["results"]
    assert [(message["role"], message["client_id"]) for message in messages] == [("user", "mine")]


async def until_back(tab: Tab) -> None:
    """By its position where the log has lived on, which the bundled store's does not through a kill; else anew."""
    if not (await tab.until("welcome"))["resumed"]:
        await tab.until("snapshot")


async def until_second_streams(tab: Tab, turn: str) -> None:
    await tab.until_text(len("First.") + 10, turn)


async def check_stored(house: House, chat: str, view: View, turn: str, attempt: int) -> None:
    """What REST says is what was shown; the turn ended once, in that attempt."""
    stored = await house.ask("GET", f"turns/{turn}/")
    assert stored["attempt"] == attempt
    messages = (await house.ask("GET", f"chats/{chat}/messages/"))["results"]
    assert {message["id"]: message for message in messages} == view.messages
    assert sum(message["turn"] == turn and message["role"] == "assistant" for message in messages) == 1
