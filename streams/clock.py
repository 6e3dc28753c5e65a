"""How times are written on the wire. Pure."""

from datetime import UTC, datetime


def stamp(at: datetime) -> str:
    """RFC 3339 UTC with milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
