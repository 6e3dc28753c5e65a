"""The steps of a turn as its `node` events told them, kept with its row so that a page can show them later. Pure."""

from collections.abc import Iterable
from typing import Any

import msgspec

from chat import protocol

Row = dict[str, Any]
FIELDS = ("node", "visit", "kind", "title", "state", "ms", "output", "error")


class Nodes:
    """At most `limit` steps, the last ones; outputs until they are `outputs_bytes` together."""

    def __init__(self, rows: Iterable[Row], limit: int, outputs_bytes: int) -> None:
        self._rows = {_key(row): row for row in rows}
        self._limit = limit
        self._room = outputs_bytes - sum(_size(row) for row in self._rows.values())

    def add(self, event: protocol.Node) -> None:
        row = {name: getattr(event, name) for name in FIELDS}
        self._room -= _size(row)
        if self._room < 0 and row["output"] is not None:
            self._room += _size(row)
            row["output"] = None
        self._rows[_key(row)] = row
        if len(self._rows) > self._limit:
            del self._rows[next(iter(self._rows))]

    def rows(self) -> list[Row]:
        return list(self._rows.values())


def _key(row: Row) -> tuple[str, int]:
    return row["node"], row["visit"]


def _size(row: Row) -> int:
    return 0 if row["output"] is None else len(msgspec.json.encode(row["output"]))
