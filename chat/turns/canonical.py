"""One hash for what is compared with an earlier one: a command's body, a step's arguments. Pure."""

import hashlib
from typing import Any

import msgspec


def hash_of(body: Any) -> str:
    """Of its JSON, whatever the order of its keys."""
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest()
