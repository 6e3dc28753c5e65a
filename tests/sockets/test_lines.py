"""Log lines of a server at its most talkative: what was said, what is secret and what opens doors is in none."""

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.chat.conftest import graph_of, node
from tests.server import HeadraceServer, manage
from tests.sockets.conftest import TALK
from tests.sockets.tabs import fake
from tests.sockets.test_restart import QUICK, House
from tests.waiting import until
from tests.wire import opened

MARK = "xylophone"  # in all that people and models say
SECRET = "the-secret-of-the-house"
METRICS_TOKEN = "token-of-who-reads-metrics"
ASKS = graph_of(
    node("start", "start"),
    node("ask", "question", text=f"Which {MARK}?", secret=True),
    node("set", "set", name="kept", value=f"{MARK} {{{{ ask.value }}}}"),
    node("second", "llm", provider="model", model="m", prompt='{"fake": {"text": "A ' + MARK + '."}}'),
    node("end", "end"),
)
FAILS = graph_of(
    node("start", "start"),
    node("message", "message", text="{% assign x = input.text | slice: 0, 'xylophone' %}{{ x }}"),
    node("end", "end"),
)
BEGAN = re.compile(r"^(Headrace listens|\s*$)")


@pytest.fixture
def house(make_server: Callable[..., HeadraceServer]) -> House:
    more = {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json", "METRICS_TOKEN": METRICS_TOKEN}
    server = make_server(**QUICK, **more, OPENAI_API_KEY="sk-key-of-the-environment")
    server.start()
    return House(server, manage("token", "admin", env=server.env).stdout.strip())


async def talk(house: House, model: Any) -> list[str]:
    """Turns that end in every way. Returns what opens doors."""
    secrets = [house.token, SECRET, METRICS_TOKEN, "sk-key-of-the-environment", *house.server.passwords.values()]
    flow, asks, fails = [await house.publish(graph, model) for graph in (TALK, ASKS, FAILS)]
    key = (await house.ask("POST", "keys/", {"name": MARK, "scopes": ["chat"]}))["key"]
    ticket = (await house.ask("POST", "auth/ticket/", {}))["ticket"]
    secrets += [key, ticket]
    chat = str(uuid.uuid4())
    async with house.tab(flow, chat) as one:
        for text in (
            fake(text=f"A {MARK}."),
            fake(status=401, text=MARK),
            fake(fault="bad_json", text=MARK),
            fake(fault="cut", text=MARK),
        ):
            said = await one.say(text)
            await one.until_ended(said["turn"])
        said = await one.say(fake(text=f"A {MARK}.", fault="hang", after=1))
        await one.until("turn_start")
        await one.command("stop")
        await one.until_ended(said["turn"])
        await one.command("say", text="")
        await one.connection.send(f'{{"type": "{MARK}", "token": "{SECRET}"}}')
        await one.until("error")
    async with house.tab(asks, str(uuid.uuid4())) as one:
        said = await one.say(f"My {MARK}")
        question = await one.until("question")
        await one.command("answer", question=question["question"], action="accept", value=SECRET)
        await one.until_ended(said["turn"])
    async with house.tab(fails, str(uuid.uuid4())) as one:
        said = await one.say(f"My {MARK}")
        await one.until_ended(said["turn"])
    async with opened(house.server.host, f"/chat/{flow}?chat_id={uuid.uuid4()}&ticket={ticket}") as one:
        await one.until("welcome")
    for credential in (f"wrong-{SECRET}", key + "x"):
        async with opened(house.server.host, f"/chat/{flow}?chat_id={uuid.uuid4()}&t={credential}") as one:
            await one.closed()
    return secrets


async def test_lines_say_whose_they_are_and_nothing_that_was_said_or_opens_doors(house, model):
    secrets = await talk(house, model)
    await until(lambda: house.server.log.count("turn_ended") >= 7)
    await house.stop()
    log = house.server.log
    assert [secret for secret in secrets if secret in log] == []
    assert [line for line in log.splitlines() if MARK in line] == []
    parsed = [json.loads(line) for line in log.splitlines() if not BEGAN.match(line)]
    parsed = [line for line in parsed if not line["logger"].startswith("redis.")]  # a library's own words, at DEBUG
    assert [line for line in parsed if "worker" not in line and "trace_id" not in line] == []
    assert {line["event"] for line in parsed} >= {"socket_admitted", "socket_refused", "turn_runs", "turn_ended"}
