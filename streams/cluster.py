"""The address of a Redis or Valkey cluster, and what its servers say of their slots. Pure.

`redis+cluster://[user:password@]host[:6379],host…`, `rediss+cluster://` with TLS: some of its servers, which know the
others. See docs/decisions/023-cluster.md.
"""

from binascii import crc_hqx
from typing import Any

import msgspec

from streams.servers import Endpoint, address, endpoint, take_apart

SCHEMES = {"redis+cluster": False, "rediss+cluster": True}
PORT = 6379
SLOTS = 16384


class Seeds(msgspec.Struct, frozen=True, kw_only=True):
    """The servers that the address names, and what all of the cluster are asked with."""

    endpoints: tuple[Endpoint, ...]
    is_tls: bool = False
    username: str | None = None
    password: str | None = None

    def at(self, there: Endpoint) -> str:
        """The address of one server of the cluster."""
        return address(there, self.is_tls, self.username, self.password)


def is_cluster(url: str) -> bool:
    return url.partition("://")[0].lower() in SCHEMES


def parse(url: str) -> Seeds:
    """Raises ValueError where `url` is not of the form above."""
    parts, username, password, hosts = take_apart(url)
    if parts.scheme not in SCHEMES or parts.query or parts.fragment:
        raise ValueError("not an address of a cluster")
    if parts.path not in ("", "/", "/0"):
        raise ValueError("a cluster has one database")
    return Seeds(
        endpoints=tuple(endpoint(host, PORT) for host in hosts),
        is_tls=SCHEMES[parts.scheme],
        username=username,
        password=password,
    )


def slot_of(key: str) -> int:
    """The slot of a key or channel: of what its first braces hold, where they hold something."""
    start = key.find("{")
    if start >= 0:
        end = key.find("}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key.encode(), 0) % SLOTS


def masters(reply: list[Any], asked: Endpoint) -> list[tuple[int, int, Endpoint]]:
    """First and last slot of each piece, and who has it, by what `asked` replied to CLUSTER SLOTS."""
    return [
        (first, last, _named(host.decode() if host else "", port, asked)) for first, last, (host, port, *_), *_ in reply
    ]


def redirection(refusal: str, asked: Endpoint) -> tuple[int, Endpoint]:
    """Slot and endpoint of `MOVED 3999 host:6381` or `ASK …`, as `asked` said it."""
    _, slot, there = refusal.split(" ")[:3]
    host, _, port = there.rpartition(":")
    return int(slot), _named(host, int(port), asked)


def _named(host: str, port: int, asked: Endpoint) -> Endpoint:
    """A server that does not know how it is reached names no host: it is where it was asked."""
    return (asked[0] if host in ("", "?") else host), port
