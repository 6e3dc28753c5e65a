"""What changed from one graph to another, by node and edge. Pure. Places on the canvas carry no meaning."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Change = Literal["added", "removed", "changed"]


class FieldChange(msgspec.Struct, frozen=True):
    """`field`: kind, title, or a field's name; null where it was not, or is not any more."""

    field: str
    before: Any
    after: Any


class NodeChange(msgspec.Struct, frozen=True):
    """`fields`: those that differ; of a node that came or went, all."""

    id: str
    kind: str
    title: str
    change: Change
    fields: tuple[FieldChange, ...] = ()


class EdgeChange(msgspec.Struct, frozen=True, rename={"start": "from"}):
    start: str
    to: str
    branch: str | None
    change: Change


class Diff(msgspec.Struct, frozen=True):
    nodes: list[NodeChange]
    edges: list[EdgeChange]


def diff(before: Any, after: Any) -> Diff:
    """Both as drafts may be: what is out of form in them is left out."""
    return Diff(list(_nodes(_named(before), _named(after))), list(_edges(_ways(before), _ways(after))))


def _nodes(before: dict[str, Any], after: dict[str, Any]) -> list[NodeChange]:
    changes = []
    for name in sorted(before.keys() | after.keys()):
        shown = after.get(name, before.get(name))
        kind, title = str(shown.get("kind", "")), str(shown.get("title", ""))
        change: Change = "added" if name not in before else "removed" if name not in after else "changed"
        fields = _fields(before.get(name), after.get(name))
        if fields or change != "changed":
            changes.append(NodeChange(name, kind, title, change, fields))
    return changes


def _fields(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> tuple[FieldChange, ...]:
    old, new = _flat(before), _flat(after)
    names = sorted(old.keys() | new.keys())
    return tuple(FieldChange(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name))


def _flat(node: Mapping[str, Any] | None) -> dict[str, Any]:
    if node is None:
        return {}
    fields = node.get("fields")
    own = {"kind": node.get("kind"), "title": node.get("title", "")}
    return (dict(fields) if isinstance(fields, Mapping) else {}) | own


def _edges(before: set[tuple], after: set[tuple]) -> list[EdgeChange]:
    removed = [EdgeChange(*way, "removed") for way in sorted(before - after, key=str)]
    return removed + [EdgeChange(*way, "added") for way in sorted(after - before, key=str)]


def _named(graph: Any) -> dict[str, Any]:
    nodes = graph.get("nodes") if isinstance(graph, Mapping) else None
    listed = nodes if isinstance(nodes, list) else []
    return {node["id"]: node for node in listed if isinstance(node, Mapping) and isinstance(node.get("id"), str)}


def _ways(graph: Any) -> set[tuple[str, str, str | None]]:
    edges = graph.get("edges") if isinstance(graph, Mapping) else None
    listed = edges if isinstance(edges, list) else []
    ways = [(edge.get("from"), edge.get("to"), edge.get("branch")) for edge in listed if isinstance(edge, Mapping)]
    return {way for way in ways if all(isinstance(end, str) for end in way[:2]) and isinstance(way[2], str | None)}
