"""Which addresses a model's server may have (server-side request forgery).

`check_url` judges what a person wrote, without asking anybody. `PublicResolver` judges what a name means at
the moment of connecting, and what it returns is what is connected to: a name that changes its mind afterwards
gains nothing. An address written as a number never reaches a resolver, so both are needed.
"""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from providers.base import SetupError
from providers.base import noop as _

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL_CHARS = 500
LOCAL_NAMES = (
    "localhost",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "private",
    "home.arpa",
    "arpa",
)

# Beyond what `ipaddress` calls private: shared and special ranges, clouds' metadata on public numbers.
CLOSED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        ("100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24",
         "192.88.99.0/24", "192.175.48.0/24"),
    )
)  # fmt: skip
# Of IPv6 only what is given out to networks; in it, tunnels (Teredo, 6to4) lead to any IPv4 address.
OPEN_V6 = ipaddress.IPv6Network("2000::/3")
CLOSED_V6 = (ipaddress.IPv6Network("2001::/23"), ipaddress.IPv6Network("2002::/16"))
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_PERCENT_OR_CONTROL = re.compile(r"[\x00-\x20\x7f\\%]")
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")


class AddressRefused(OSError):
    """A name stands for an address that is not public."""


def check_url(url: str, allow_private: bool) -> None:
    """Raise SetupError, with the reason in plain words, unless `url` may be the base URL of a model's server.

    Public means https and a name or number that can be public. `allow_private` lets http and private ones in.
    """
    if not url or len(url) > MAX_URL_CHARS:
        raise SetupError(_("it must have 1 to {limit} characters"), limit=MAX_URL_CHARS)
    if _PERCENT_OR_CONTROL.search(url):
        raise SetupError(_("it has a blank, a backslash, a percent sign or a control character in it"))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SetupError(_("it is malformed")) from None
    if parts.scheme not in ("https", "http"):
        raise SetupError(_("it must begin with https://"))
    if parts.scheme == "http" and not allow_private:
        raise SetupError(_("it must begin with https://, not http://"))
    if "@" in parts.netloc:
        raise SetupError(_("it must not hold a user name or password"))
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise SetupError(_("it must not have a query or a fragment"))
    if port == 0 or parts.netloc.endswith(":"):
        raise SetupError(_("its port is not a port"))
    _check_host(parts.hostname or "", "[" in parts.netloc, allow_private)


def is_public(address: IPAddress) -> bool:
    """Whether `address` belongs to the open internet, and to nothing that leads elsewhere."""
    if address.version == 6:
        if address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in OPEN_V6 or any(address in network for network in CLOSED_V6):
            return False
    elif any(address in network for network in CLOSED_V4):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses; one that is not public among them refuses the name as a whole."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for result in found:
            if not is_public(ipaddress.ip_address(result["host"])):
                raise AddressRefused("the name stands for an address that is not public")
        return found

    async def close(self) -> None:
        await self._inner.close()


def _check_host(host: str, is_bracketed: bool, allow_private: bool) -> None:
    if is_bracketed:
        try:
            _check_address(ipaddress.IPv6Address(host), allow_private)
        except ipaddress.AddressValueError:
            raise SetupError(_("its address is malformed")) from None
        return
    host = _ascii(host.removesuffix("."))
    # As browsers and resolvers see it, a host whose last label is a number is an IPv4 address in some form.
    if _NUMBER.match(host.rpartition(".")[2]):
        try:
            address = ipaddress.IPv4Address(host)
        except ipaddress.AddressValueError:
            raise SetupError(_("write an IP address as four plain numbers")) from None
        _check_address(address, allow_private)
        return
    if not _NAME.match(host):
        raise SetupError(_("its host is not a name"))
    if allow_private:
        return
    if "." not in host:
        raise SetupError(_("a name without a dot is not public"))
    if any(host == local or host.endswith("." + local) for local in LOCAL_NAMES):
        raise SetupError(_("this name is not public"))


def _check_address(address: IPAddress, allow_private: bool) -> None:
    if not allow_private and not is_public(address):
        raise SetupError(_("this address is not public"))


def _ascii(host: str) -> str:
    try:
        return host.encode("idna").decode("ascii").lower() if host else ""
    except UnicodeError:
        raise SetupError(_("its host is not a name")) from None
