"""Which pages may open sockets. Pure."""

from collections.abc import Sequence

from django.http.request import split_domain_port, validate_host


def is_allowed(origin: str, host: str, is_secure: bool, origins: Sequence[str], hosts: Sequence[str]) -> bool:
    """Whether `origin` is the site's own (by its Host header, which must be an allowed one) or one of `origins`.

    Compared as a whole and exactly: no suffix, no other port, scheme or case, and `null` is nobody's.
    """
    if origin in origins:
        return True
    domain, _ = split_domain_port(host)
    if not domain or not validate_host(domain, hosts):
        return False
    return origin == f"{'https' if is_secure else 'http'}://{host}"
