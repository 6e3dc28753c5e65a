"""What `/metrics` says: the figures of all workers, whichever of them is asked.

A scrape reaches one of the workers behind a port, and one without sockets has no port. So each leaves its figures in
Redis every few seconds and when it is asked, and who is asked reads what all have left: no counter is seen to go
back. Redis away: its own alone. Everything here blocks.
"""

from collections.abc import Iterator

import msgspec
from django.conf import settings
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from streams import here, metrics, redis

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
KEPT_TIMES = 3  # the pause between two of its writes: a worker that was silent for longer is gone


class Family(msgspec.Struct, frozen=True):
    """A metric of one worker as Prometheus reads it: what it is, and its series, each with the label `worker`."""

    name: str
    head: str
    lines: str


_decode = msgspec.json.Decoder(list[Family]).decode


def leave() -> None:
    """Put this worker's figures where the others find them. Redis away: the next time."""
    try:
        _leave(own())
    except (redis.Trouble, OSError):
        pass


def page() -> bytes:
    """All workers' figures: what is of one name stands together, whoever counted it."""
    mine = own()
    try:
        _leave(mine)
        everybodys = _left()
    except (redis.Trouble, OSError):
        everybodys = {}
    heads: dict[str, str] = {}
    lines: dict[str, list[str]] = {}
    for families in {**everybodys, here.worker: mine}.values():
        for family in families:
            heads.setdefault(family.name, family.head)
            lines.setdefault(family.name, []).append(family.lines)
    return "".join(heads[name] + "".join(lines[name]) for name in heads).encode()


def own() -> list[Family]:
    return [_family(metric) for metric in metrics.registry.collect()]


def _family(metric: Metric) -> Family:
    metric.samples = [one._replace(labels={**one.labels, "worker": here.worker}) for one in metric.samples]
    kind, text, *lines = generate_latest(_One(metric)).decode().splitlines(keepends=True)
    return Family(metric.name, kind + text, "".join(lines))


class _One(msgspec.Struct):
    """As `generate_latest` takes it."""

    metric: Metric

    def collect(self) -> Iterator[Metric]:
        yield self.metric


def _leave(figures: list[Family]) -> None:
    if not here.worker:
        return
    kept_s = max(1, round(KEPT_TIMES * settings.HEADRACE.metrics_every_s))
    with redis.blocking_client().pipeline(transaction=False) as pipe:
        pipe.set(_key(here.worker), msgspec.json.encode(figures), ex=kept_s)
        pipe.sadd(_key(), here.worker)
        pipe.expire(_key(), kept_s)
        pipe.execute()


def _left() -> dict[str, list[Family]]:
    client = redis.blocking_client()
    names = sorted(name.decode() for name in client.smembers(_key()))
    found = dict(zip(names, client.mget([_key(name) for name in names]), strict=True)) if names else {}
    gone = [name for name, figures in found.items() if figures is None]
    if gone:
        client.srem(_key(), *gone)
    return {name: _decode(figures) for name, figures in found.items() if figures is not None}


def _key(*worker: str) -> str:
    """Of a worker's figures; of their names without one. One hash tag: they are read together."""
    return redis.key("{metrics}", *worker)
