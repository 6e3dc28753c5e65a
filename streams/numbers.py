"""Numbers as they may come in, at every door: whole ones of 64 bits. Pure.

JSON knows no bound, and what is beyond it fails late and elsewhere: in a row, a template, a client.
Floats beyond their range are refused by the parser itself.
"""

import re
from typing import Any

SMALLEST, LARGEST = -(2**63), 2**63


def _(text: str) -> str:  # marks a sentence for gettext's extraction; it is translated at the edge
    return text


TOO_LARGE = _("A number is too large: whole numbers have 64 bits at most.")
_LONG, _LONG_BYTES = re.compile("[0-9]{19}"), re.compile(b"[0-9]{19}")


class OutOfRange(ValueError):
    """A whole number of more than 64 bits."""


def check_numbers(raw: str | bytes, value: Any) -> None:
    """`value` was read from `raw`. Raises OutOfRange. Costs nothing where `raw` has no long number."""
    if not (_LONG.search(raw) if isinstance(raw, str) else _LONG_BYTES.search(raw)):
        return
    level = [value]
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            elif isinstance(item, int) and not SMALLEST <= item <= LARGEST:
                raise OutOfRange
        level = inner
