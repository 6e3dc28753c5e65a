"""The address of a Redis that Sentinel watches, which redis-py has no form for. Pure.

`redis+sentinel://[user:password@]host[:26379],host…/name[/db][?sentinel_password=…]`, `rediss+sentinel://` with TLS.
User and password are those of Redis itself.
"""

from urllib.parse import parse_qsl, unquote

import msgspec

from streams.servers import Endpoint, address, endpoint, take_apart

SCHEMES = {"redis+sentinel": False, "rediss+sentinel": True}
PORT = 26379
_OPTIONS = {"sentinel_username", "sentinel_password"}


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """`service`: the name under which the sentinels know the master."""

    sentinels: tuple[Endpoint, ...]
    service: str
    db: int = 0
    is_tls: bool = False
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    def master_at(self, host: str, port: int) -> str:
        """The master's own address, once a sentinel has said where it is."""
        return address((host, port), self.is_tls, self.username, self.password, self.db)


def is_sentinel(url: str) -> bool:
    return url.partition("://")[0].lower() in SCHEMES


def parse(url: str) -> Watched:
    """Raises ValueError where `url` is not of the form above."""
    parts, username, password, hosts = take_apart(url)
    if parts.scheme not in SCHEMES or parts.fragment:
        raise ValueError("not an address of sentinels")
    service, _, db = parts.path.removeprefix("/").partition("/")
    options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    if not service or options.keys() - _OPTIONS:
        raise ValueError("the name of the master is missing, or an option is unknown")
    return Watched(
        sentinels=tuple(endpoint(host, PORT) for host in hosts),
        service=unquote(service),
        db=_number(db or "0"),
        is_tls=SCHEMES[parts.scheme],
        username=username,
        password=password,
        **options,
    )


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a database of Redis is a number")
    return int(text)
