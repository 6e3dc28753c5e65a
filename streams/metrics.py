"""All that is counted: each metric with its name, its unit and a line of help. Whoever counts imports it from here.

Labels have few values: a door, a code of the catalogue; never a user, a chat or a flow. What happens often is counted
on a child that was bound once, and never more than once for each batch or write (docs/decisions/017-metrics.md).
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

DELAYS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
ANSWERS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
LANES = ("append", "read", "place")


class Tally:
    """One series of a histogram that the event loop alone counts on: without a lock, in a tenth of the time."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Buckets, each with those below it, and the sum."""
        named = map(floatToGoString, (*self._bounds, float("inf")))
        return list(zip(named, accumulate(self._counts.copy()), strict=True)), self._sum


class LoopHistogram:
    """A histogram of tallies, one for each of `values` of its label; without a label there is one."""

    def __init__(
        self, name: str, text: str, bounds: tuple[float, ...], label: str = "", values: tuple[str, ...] = ("",)
    ) -> None:
        self._name, self._text, self._label = name, text, label
        self._tallies = {value: Tally(bounds) for value in values}
        registry.register(self)

    def of(self, value: str = "") -> Tally:
        return self._tallies[value]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label] if self._label else [])
        for value, tally in self._tallies.items():
            family.add_metric([value] if self._label else [], *tally.read())
        yield family


disable_created_metrics()
registry = CollectorRegistry()
ProcessCollector(registry=registry)  # memory, processor time, open files

about = Info("headrace_worker", "This process: its version, and whether it runs turns.", registry=registry)

loop_delay = LoopHistogram(
    "headrace_loop_delay_seconds",
    "From asking the event loop for a beat, each second or oftener, to its coming: how long everything waits there.",
    DELAYS_S,
)

# sockets
sockets = Gauge("headrace_sockets", "Sockets and event streams that are open.", ["door"], registry=registry)
socket_closes = Counter(
    "headrace_socket_closes_total",
    "Those that ended, by code of the catalogue; left: by the peer.",
    ["reason"],
    registry=registry,
)
refusals = Counter(
    "headrace_refusals_total",
    "Those that were refused, by code of the catalogue; http_…: before there was a socket.",
    ["code"],
    registry=registry,
)
lagging_sockets = Gauge("headrace_lagging_sockets", "Sockets that are behind their chat.", registry=registry)
lag_events = Gauge("headrace_lag_events", "By how many events the slowest of them is behind.", registry=registry)

# turns
running_turns = Gauge("headrace_running_turns", "Turns that run here.", registry=registry)
turns_ended = Counter(
    "headrace_turns_ended_total",
    "Turns whose end was written here: done, stopped, or error with its code.",
    ["end", "code"],
    registry=registry,
)
takeovers = Counter("headrace_takeovers_total", "Turns taken over from workers that died.", registry=registry)
first_token = Histogram(
    "headrace_first_token_seconds",
    "From the beginning of a run to its first text.",
    buckets=ANSWERS_S,
    registry=registry,
)

# providers
provider_calls = Counter("headrace_provider_calls_total", "Calls of models.", registry=registry)
provider_errors = Counter("headrace_provider_errors_total", "Those that failed, by kind.", ["kind"], registry=registry)

# events
events = Counter("headrace_events_total", "Events that this worker appended to the log.", registry=registry)
event_delay = LoopHistogram(
    "headrace_event_delay_seconds",
    "From an event's beginning to its writing to this worker's sockets, of the oldest one of each write to Redis.",
    DELAYS_S,
)
redis_round_trip = LoopHistogram(
    "headrace_redis_round_trip_seconds", "From a write to Redis to its last answer.", DELAYS_S, "lane", LANES
)
redis_flight_calls = LoopHistogram(
    "headrace_redis_flight_calls",
    "Calls that went out in one write to Redis; of the lane append: batches of events.",
    SIZES,
    "lane",
    LANES,
)

# database
database_waiting = Gauge("headrace_database_waiting", "Calls that wait for a database thread.", registry=registry)
database_wait = Histogram(
    "headrace_database_wait_seconds",
    "From a call's coming to its beginning on a database thread.",
    ["kind"],
    buckets=DELAYS_S,
    registry=registry,
)
