"""The address of a Redis that Sentinel watches, which redis-py has no form for. Pure.

`redis+sentinel://[user:password@]host[:26379],host…/name[/db][?sentinel_password=…]`, `rediss+sentinel://` with TLS.
User and password are those of Redis itself.
"""

import re
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

SCHEMES = {"redis+sentinel": False, "rediss+sentinel": True}
PORT = 26379
_PLACES = re.compile(r"[^/?#]*")
_OPTIONS = {"sentinel_username", "sentinel_password"}


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """`service`: the name under which the sentinels know the master."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int = 0
    is_tls: bool = False
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    def master_at(self, host: str, port: int) -> str:
        """The master's own address, once a sentinel has said where it is."""
        credentials = f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"
        return (
            f"{'rediss' if self.is_tls else 'redis'}://{credentials if self.username or self.password else ''}"
            f"{f'[{host}]' if ':' in host else host}:{port}/{self.db}"
        )


def is_sentinel(url: str) -> bool:
    return url.partition("://")[0].lower() in SCHEMES


def parse(url: str) -> Watched:
    """Raises ValueError where `url` is not of the form above."""
    # Apart from the rest of the address: Python's newer patches take no list with an IPv6 address in it for one.
    scheme, _, rest = url.partition("://")
    places = _PLACES.match(rest).group()
    parts = urlsplit(f"{scheme}://places{rest.removeprefix(places)}")
    if parts.scheme not in SCHEMES or parts.fragment:
        raise ValueError("not an address of sentinels")
    credentials, _, hosts = places.rpartition("@")
    username, _, password = credentials.partition(":")
    service, _, db = parts.path.removeprefix("/").partition("/")
    options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    if not service or options.keys() - _OPTIONS:
        raise ValueError("the name of the master is missing, or an option is unknown")
    return Watched(
        sentinels=tuple(_place(host) for host in hosts.split(",")),
        service=unquote(service),
        db=_number(db or "0"),
        is_tls=SCHEMES[parts.scheme],
        username=unquote(username) or None,
        password=unquote(password) or None,
        **options,
    )


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a database of Redis is a number")
    return int(text)


def _place(host: str) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]` or `[v6]:port`."""
    parts = urlsplit(f"//{host}")
    if not parts.hostname or parts.path:
        raise ValueError("a sentinel has no host")
    return parts.hostname, parts.port or PORT
