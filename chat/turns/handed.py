"""What a handler hands over, made into JSON of our own and held to its bounds."""

import re
from typing import Any

import msgspec
from django.conf import settings
from django.utils.translation import gettext_noop as _

from streams.errors import WireError
from streams.numbers import check_numbers

OUTPUT_BYTES = 4096
EVENT_SPARE_BYTES = 1024  # what else an event holds besides what a handler gives it
NOT_JSON = _("A result of the flow is not JSON.")
TOO_LARGE_DATA = _("What the flow ends with is too large.")
TOO_LARGE_VARS = _("The chat's variables are too large.")
TOO_LARGE_STEP = _("The result of a step is too large.")
TOO_LARGE_PART = _("What a part of the answer holds besides its text is too large.")
TOO_LARGE_EVENT = _("What a handler sends is too large for one event.")
TOO_LARGE_QUESTION = _("The question is too large for one event.")
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")  # escaped, not a backslash before "u0000"


def plain(data: Any, limit: int, too_large: str) -> Any:
    """`data` as JSON values of our own, without NUL, at most `limit` bytes. Raises WireError flow_error."""
    if data is None:
        return None
    try:
        encoded = _NUL.sub(rb"\1", msgspec.json.encode(data))
        if len(encoded) > limit:
            raise WireError("flow_error", too_large)
        value = msgspec.json.decode(encoded)
        check_numbers(encoded, value)
        return value
    except (TypeError, ValueError) as error:
        raise WireError("flow_error", NOT_JSON) from error


def text(said: str) -> str:
    """Without NUL, which no row holds."""
    return said.replace("\x00", "")


def event_room() -> int:
    """Bytes that a handler may fill of one event."""
    return settings.HEADRACE.event_bytes - EVENT_SPARE_BYTES


def cut(output: Any) -> Any:
    """A node's output as a step shows it: whole where it is small, else the beginning of its JSON."""
    encoded = msgspec.json.encode(output)
    if b"\\u0000" in encoded:
        encoded = _NUL.sub(rb"\1", encoded)
        output = msgspec.json.decode(encoded)
    if len(encoded) <= OUTPUT_BYTES:
        return output
    return encoded[:OUTPUT_BYTES].decode(errors="ignore") + "…"
