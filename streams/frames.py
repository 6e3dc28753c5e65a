"""WebSocket text frames as a server writes them (RFC 6455, 5.2): unmasked, so equal for all sockets. Pure."""

from collections.abc import Iterable

# The ASGI extension by which a server takes ready-made frames: {"write": bytes -> whether it took them}.
EXTENSION = "headrace.frames"

_TEXT = 0x81  # the last fragment of a text message, without extensions


def head(nbytes: int) -> bytes:
    """What stands before a text payload of `nbytes`."""
    if nbytes < 126:
        return bytes((_TEXT, nbytes))
    if nbytes < 1 << 16:
        return b"\x81\x7e" + nbytes.to_bytes(2, "big")
    return b"\x81\x7f" + nbytes.to_bytes(8, "big")


def text_frames(payloads: Iterable[bytes]) -> bytes:
    """Each payload as a text frame, one behind the other."""
    return b"".join([piece for payload in payloads for piece in (head(len(payload)), payload)])
