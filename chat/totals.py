"""What many stream sessions carried together: for the admin and for REST, of so many rows that nobody waits for it."""

from typing import Any

from django.conf import settings
from django.db.models import Count, Q, QuerySet, Sum

from streams.states import Door, StreamState

COUNTERS = ("chunks_sent", "bytes_sent", "chunks_recv", "bytes_recv")


def carried(rows: QuerySet) -> dict[str, Any]:
    """Sums of the counters, and how many `sessions`, by `doors` and `states`.

    Over all rows, or where there are more over the newest `admin_totalled_rows`: then `is_cut`.
    """
    most = settings.HEADRACE.admin_totalled_rows
    rows = rows.order_by()
    is_cut = rows.values("id")[: most + 1].count() > most
    if is_cut:
        rows = rows.order_by("-started", "-id").values("id", "door", "state", *COUNTERS)[:most]
    found = rows.aggregate(
        sessions=Count("id"),
        **{name: Sum(name, default=0) for name in COUNTERS},
        **{f"door_{door.value}": Count("id", filter=Q(door=door.value)) for door in Door},
        **{f"state_{state.value}": Count("id", filter=Q(state=state.value)) for state in StreamState},
    )
    return {
        "sessions": found["sessions"],
        **{name: found[name] for name in COUNTERS},
        "doors": {door.value: count for door in Door if (count := found[f"door_{door.value}"])},
        "states": {state.value: count for state in StreamState if (count := found[f"state_{state.value}"])},
        "is_cut": is_cut,
    }
