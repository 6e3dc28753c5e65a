"""What changed from one graph to the next, node by node. Pure."""

from typing import Any, NamedTuple

import msgspec


class Line(NamedTuple):
    """A field that differs; empty where it was not there before, or is not there after."""

    field: str
    before: str
    after: str


class Change(NamedTuple):
    """`how`: added, removed or changed. `name`: of the node, or of the edges."""

    how: str
    name: str
    lines: list[Line]


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Nodes in the order of the later graph, then those that are gone, then edges. Where nodes lie does not count."""
    old, new = _nodes(before), _nodes(after)
    found = [change for id_ in [*new, *(id_ for id_ in old if id_ not in new)] if (change := _node(id_, old, new))]
    gone, come = _edges(before), _edges(after)
    lines = [Line("", edge, "") for edge in gone if edge not in come] + [
        Line("", "", edge) for edge in come if edge not in gone
    ]
    return [*found, Change("changed", "", lines)] if lines else found


def _nodes(graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {str(node.get("id")): node for node in graph.get("nodes", []) if isinstance(node, dict)}


def _node(id_: str, old: dict[str, dict], new: dict[str, dict]) -> Change | None:
    before, after = _flat(old.get(id_)), _flat(new.get(id_))
    how = "added" if id_ not in old else "removed" if id_ not in new else "changed"
    if how == "changed" and before == after:
        return None
    keys = dict.fromkeys([*before, *after])
    lines = [Line(key, before.get(key, ""), after.get(key, "")) for key in keys if before.get(key) != after.get(key)]
    return Change(how, id_, lines)


def _flat(node: dict[str, Any] | None) -> dict[str, str]:
    """A node's own values and its fields, as text."""
    if node is None:
        return {}
    own = {key: value for key, value in node.items() if key not in ("id", "fields", "at")}
    return {key: _text(value) for key, value in {**own, **(node.get("fields") or {})}.items()}


def _edges(graph: dict[str, Any]) -> list[str]:
    found = []
    for edge in graph.get("edges", []):
        branch = edge.get("branch")
        found.append(f"{edge.get('from')} → {edge.get('to')}" + (f" ({branch})" if branch else ""))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
