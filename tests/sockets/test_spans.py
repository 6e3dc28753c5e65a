"""Spans of turns as a receiver of OTLP gets them; without one nothing of OpenTelemetry is even imported."""

import gzip
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from config import startup
from streams import traces
from tests.chat.conftest import graph_of, node
from tests.server import ROOT
from tests.sockets.conftest import SLOW
from tests.sockets.tabs import fake
from tests.waiting import until

MARK = "xylophone"  # in all that people and models say
ASKS = graph_of(
    node("start", "start"),
    node("ask", "question", text=f"Which {MARK}?", secret=True),
    node("second", "llm", provider="model", model="m", prompt='{"fake": {"text": "A ' + MARK + '."}}'),
    node("end", "end"),
)


class Receiver:
    """A server that takes OTLP over HTTP. `spans` by name, in the order of their ends; `bodies` as they came."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.resources: list[dict[str, Any]] = []
        self.spans: list[Any] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(values(resource.resource.attributes))
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture
def receiver(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Asked for before `live`: a worker looks once whether there is one."""
    found = Receiver()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    settings.OTEL_EXPORTER_OTLP_ENDPOINT = found.url
    yield found
    found.close()


async def test_turn_is_a_span_with_its_nodes_and_its_calls_of_models(receiver, live, modelled, tab):
    flow = await modelled()
    chat = str(uuid.uuid4())
    async with tab(flow, chat) as one:
        said = await one.say(fake(text=f"A {MARK}."))
        await one.until_ended(said["turn"])
    await until(lambda: receiver.named("turn"))
    (turn,) = receiver.named("turn")
    assert values(turn.attributes) == {
        "headrace.turn": said["turn"],
        "headrace.chat": chat,
        "headrace.flow": str(flow.id),
        "headrace.version": 1,
        "headrace.skill": "flow",
        "headrace.attempt": 1,
        "headrace.state": "done",
    }
    nodes = receiver.named("node")
    assert [values(span.attributes)["headrace.node"] for span in nodes] == ["start", "model", "end"]
    assert {span.parent_span_id for span in nodes} == {turn.span_id}
    (call,) = receiver.named("provider")
    assert call.parent_span_id == nodes[1].span_id
    shown = values(call.attributes)
    assert (shown["headrace.provider"], shown["headrace.model"]) == ("model", "m")
    assert shown["headrace.output_tokens"] > 0
    assert len({span.trace_id for span in receiver.spans}) == 1
    assert set(receiver.paths) == {"/v1/traces"}
    assert receiver.resources[0]["service.name"] == "headrace"
    assert receiver.resources[0]["service.instance.id"]


async def test_runs_of_a_turn_that_asked_are_one_trace_without_a_word_of_what_was_said(receiver, live, modelled, tab):
    flow = await modelled(ASKS)
    async with tab(flow, str(uuid.uuid4())) as one:
        said = await one.say(f"My {MARK}")
        question = await one.until("question")
        await one.command("answer", question=question["question"], action="accept", value=f"The {MARK} of my house")
        await one.until_ended(said["turn"])
    await until(lambda: len(receiver.named("turn")) == 2)
    turns = receiver.named("turn")
    shown = [(values(span.attributes)["headrace.attempt"], values(span.attributes)["headrace.state"]) for span in turns]
    assert shown == [(1, "waiting"), (2, "done")]
    assert len({span.trace_id for span in receiver.spans}) == 1
    assert not any(MARK.encode() in body for body in receiver.bodies)


async def test_fault_is_told_by_its_code_alone(receiver, live, modelled, tab):
    flow = await modelled()
    async with tab(flow, str(uuid.uuid4())) as one:
        said = await one.say(fake(status=401))
        await one.until_ended(said["turn"])
    await until(lambda: receiver.named("turn"))
    shown = {span.name: (span.status.code, span.status.message) for span in receiver.spans if span.status.code}
    assert shown == {"provider": (2, "auth"), "node": (2, "failed"), "turn": (2, "provider_auth")}
    assert not any(span.events for span in receiver.spans)


async def test_stopped_turn_leaves_no_span_open(receiver, live, online, tab):
    flow = await online()
    async with tab(flow, str(uuid.uuid4())) as one:
        said = await one.say(SLOW)
        await one.until("turn_start")
        await one.command("stop")
        await one.until_ended(said["turn"])
    await until(lambda: receiver.named("turn"))
    assert values(receiver.named("turn")[0].attributes)["headrace.state"] == "stopped"
    assert len(receiver.named("node")) == 2


async def test_receiver_that_is_away_holds_up_nobody(receiver, live, online, tab):
    receiver.close()
    flow = await online()
    async with tab(flow, str(uuid.uuid4())) as one:
        said = await one.say("hello")
        assert (await one.until_ended(said["turn"]))["message"]["status"] == "done"


def test_without_a_receiver_nothing_is_imported():
    """By us: redis-py looks at OpenTelemetry's metrics wherever they are installed."""
    code = """
import sys, config.asgi
from streams import traces
traces.start()
assert traces.begin("turn", "t") is traces.NOTHING
ours = ("streams.otlp", "opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto")
print([name for name in sys.modules if name.startswith(ours)])
"""
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    env.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_receiver_without_the_packages_is_one_sentence(settings, monkeypatch):
    settings.OTEL_EXPORTER_OTLP_ENDPOINT = "http://collector:4318"
    monkeypatch.setattr(traces, "can_be_sent", lambda: False)
    with pytest.raises(startup.Fault, match=r"pip install -r requirements-otel\.txt"):
        startup.check_traces()
