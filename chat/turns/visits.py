"""The nodes that a run visits: told as events, timed and traced, kept with the turn."""

import time
from typing import Any

import msgspec
from django.conf import settings

from chat import protocol
from chat.turns import handed
from chat.turns.journal import Journal
from chat.turns.nodes import Nodes, Row
from chat.turns.orders import RunOrder
from chat.turns.outbox import Outbox
from streams import traces
from streams.traces import Span


class Visits:
    """Of one run. `span`: what happens now is a child of it: the node's that is visited, else the turn's."""

    def __init__(self, order: RunOrder, journal: Journal, outbox: Outbox) -> None:
        self._bounds = settings.HEADRACE
        self._turn, self._journal, self._outbox = order.turn, journal, outbox
        self._nodes = Nodes(order.nodes, self._bounds.turn_nodes, self._bounds.turn_nodes_bytes)
        self._node: tuple[str, int, str, str, float] | None = None
        self._output_bytes = 0  # of nodes, shown
        self._turn_span = self.span = traces.NOTHING

    def begin(self, span: Span) -> None:
        """Of the turn, before any node."""
        self._turn_span = self.span = span

    def rows(self) -> list[Row]:
        return self._nodes.rows()

    def start(self, node: str, visit: int, kind: str, title: str) -> None:
        self._node = (node, visit, kind, title, time.monotonic())
        if not self._journal.is_replaying:
            self.span = self._turn_span.child("node", node=node, kind=kind, visit=visit)
            self._put_node("start")

    def end(self, *, output: Any = None, error: str | None = None) -> None:
        if not self._journal.is_replaying:
            self._put_node("error" if error else "end", output=self._shown_output(output), error=error)
        self.leave("failed" if error else None)

    def leave(self, error: str | None = None) -> None:
        """The visit that is on, if one is."""
        if self.span is not self._turn_span:
            self.span.end(error)
            self.span = self._turn_span

    def _shown_output(self, output: Any) -> Any:
        """Cut; and none once the run has shown enough of them."""
        cut = handed.cut(output)
        self._output_bytes += len(msgspec.json.encode(cut))
        return cut if self._output_bytes <= self._bounds.node_outputs_bytes else None

    def _put_node(self, state: str, output: Any = None, error: str | None = None) -> None:
        node, visit, kind, title, began = self._node
        ms = None if state == "start" else int((time.monotonic() - began) * 1000)
        event = protocol.Node(
            turn=self._turn,
            node=node,
            visit=visit,
            kind=kind,
            state=state,
            title=handed.text(title),
            ms=ms,
            output=output,
            error=None if error is None else handed.text(error),
        )
        self._nodes.add(event)
        self._outbox.put(event, can_wait=True)
