"""How a server drops a peer that does not read: an ASGI extension, {"abort": () -> None}. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

EXTENSION = "headrace.abort"


def abort_of(scope: Mapping[str, Any]) -> Callable[[], None] | None:
    """None: this server cannot."""
    return scope.get("extensions", {}).get(EXTENSION, {}).get("abort")
