"""The registry of handlers: everything that answers is one, by its name. A flow is the handler `flow`.

Apps register theirs from a `handlers` module. A handler gets its params and a `flows.context.Context`, and what
it returns is the turn's data.
"""

from collections.abc import Callable

from flows.context import Handler

_handlers: dict[str, Handler] = {}


def handler(name: str) -> Callable[[Handler], Handler]:
    """Register the decorated coroutine function as the handler `name`."""

    def add(function: Handler) -> Handler:
        known = _handlers.get(name)
        if known is not None and known.__module__ != function.__module__:
            raise ValueError(f"two handlers have the name {name}")
        _handlers[name] = function
        return function

    return add


def get(name: str) -> Handler | None:
    return _handlers.get(name)


def names() -> list[str]:
    return sorted(_handlers)
