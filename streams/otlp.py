"""The one place that knows OpenTelemetry's SDK, imported only where spans are wanted (`streams/traces.py`)."""

import hashlib
import os
import threading

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Status, StatusCode

from streams import here
from streams.traces import Value

CLOSE_S = 2.0


class Tracer:
    """Sends to `endpoint` in a thread of its own. `begin` is called by one thread."""

    def __init__(self, endpoint: str, version: str) -> None:
        known = {"service.version": version, "service.instance.id": here.worker}
        if "OTEL_SERVICE_NAME" not in os.environ:
            known[SERVICE_NAME] = "headrace"
        self._ids = _Ids()
        self._provider = TracerProvider(resource=Resource.create(known), id_generator=self._ids, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("headrace")

    def begin(self, name: str, turn: str, **attributes: Value) -> "_Span":
        self._ids.turn = turn
        return _Span(self._tracer, name, {"turn": turn, **attributes}, Context())

    def close(self) -> None:
        """The SDK alone waits for half a minute where nobody answers."""
        leaving = threading.Thread(target=self._provider.shutdown, daemon=True)
        leaving.start()
        leaving.join(CLOSE_S)


class _Ids(RandomIdGenerator):
    """The trace of a turn is named after it. Hashed: samplers count on ids whose every bit is by chance."""

    turn = ""

    def generate_trace_id(self) -> int:
        return int.from_bytes(hashlib.blake2b(self.turn.encode(), digest_size=16).digest(), "big")


class _Span:
    def __init__(self, tracer: trace.Tracer, name: str, attributes: dict[str, Value], context: Context) -> None:
        self._tracer = tracer
        self._span = tracer.start_span(name, context, attributes=_named(attributes))

    def child(self, name: str, **attributes: Value) -> "_Span":
        return _Span(self._tracer, name, attributes, trace.set_span_in_context(self._span))

    def end(self, error: str | None = None, **attributes: Value) -> None:
        if not self._span.is_recording():  # sampled out, or ended
            return
        self._span.set_attributes(_named(attributes))
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


def _named(attributes: dict[str, Value]) -> dict[str, str | int | float | bool]:
    return {f"headrace.{name}": value for name, value in attributes.items() if value is not None}
