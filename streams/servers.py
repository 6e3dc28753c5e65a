"""Addresses that name several servers, which Python and redis-py have no form for. Pure."""

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

Endpoint = tuple[str, int]  # of a server: host and port

_NETLOC = re.compile(r"[^/?#]*")


def take_apart(url: str) -> tuple[SplitResult, str | None, str | None, list[str]]:
    """The address with one host in the place of all, then user, password and hosts. Raises ValueError."""
    # Apart from the rest of the address: Python's newer patches take no list with an IPv6 address in it for one.
    scheme, _, rest = url.partition("://")
    netloc = _NETLOC.match(rest).group()
    credentials, _, hosts = netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    parts = urlsplit(f"{scheme}://places{rest.removeprefix(netloc)}")
    return parts, unquote(username) or None, unquote(password) or None, hosts.split(",")


def endpoint(host: str, port: int) -> Endpoint:
    """Of `host`, `host:port`, `[v6]` or `[v6]:port`; `port` where there is none. Raises ValueError."""
    parts = urlsplit(f"//{host}")
    if not parts.hostname or parts.path:
        raise ValueError("a server has no host")
    return parts.hostname, parts.port or port


def address(there: Endpoint, is_tls: bool, username: str | None, password: str | None, db: int = 0) -> str:
    """Of one server, as redis-py reads it."""
    host, port = there
    credentials = f"{quote(username or '', safe='')}:{quote(password or '', safe='')}@"
    return (
        f"{'rediss' if is_tls else 'redis'}://{credentials if username or password else ''}"
        f"{f'[{host}]' if ':' in host else host}:{port}/{db}"
    )
