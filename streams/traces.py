"""Spans of what runs, for OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a receiver. Else nothing is imported.

A span holds ids, names that a flow's editor gave, numbers and codes: no text of a person or a model, no token, no
secret, and no sentence of an error, which may repeat one.
"""

import importlib.util
from typing import Protocol

from django.conf import settings

Value = str | int | float | bool | None


class Span(Protocol):
    def child(self, name: str, **attributes: Value) -> "Span":
        """Something that happens within this."""

    def end(self, error: str | None = None, **attributes: Value) -> None:
        """`error`: the code it ended with. A second end says nothing."""


class Tracer(Protocol):
    def begin(self, name: str, turn: str, **attributes: Value) -> Span: ...

    def close(self) -> None: ...


class _Nothing:
    def child(self, name: str, **attributes: Value) -> Span:
        return self

    def end(self, error: str | None = None, **attributes: Value) -> None:
        pass


NOTHING: Span = _Nothing()
_tracer: Tracer | None = None


def are_wanted() -> bool:
    return settings.OTEL_EXPORTER_OTLP_ENDPOINT is not None


def can_be_sent() -> bool:
    """Whether what `requirements-otel.txt` names is installed."""
    return importlib.util.find_spec("opentelemetry") is not None


def start() -> None:
    """Once a worker. Where no receiver is named it does nothing."""
    global _tracer
    if are_wanted() and _tracer is None:
        from streams import otlp

        _tracer = otlp.Tracer(settings.OTEL_EXPORTER_OTLP_ENDPOINT, settings.HEADRACE_VERSION)


def stop() -> None:
    """Send what is left. Blocking, for some seconds at most."""
    global _tracer
    if _tracer is not None:
        leaving, _tracer = _tracer, None
        leaving.close()


def begin(name: str, turn: str, **attributes: Value) -> Span:
    """A span without a parent, `turn` among its attributes. All of one turn, on whatever workers, are one trace."""
    return NOTHING if _tracer is None else _tracer.begin(name, turn, **attributes)
