"""The graph of a flow: its form, its canonical checksum, and everything that can be wrong with it.

Pure. `check` takes JSON from anybody and never raises: it answers with all faults at once. What a kind of node is
comes as an argument (`flows/kinds.py`), and so does what the graph may name outside of itself (`World`).
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from streams import names
from streams.sentences import Kept, Sentence, kept, restored, told
from streams.sentences import noop as _

SCHEMA = 1
ID = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
BRANCH = re.compile(rf"{names.ID}\Z")
TITLE_CHARS = 120  # of the form of a graph, not of an installation

# What a template may read besides nodes; None: any name may follow.
ROOTS: dict[str, frozenset[str] | None] = {
    "input": frozenset({"text", "params", "files"}),
    "chat": frozenset({"history"}),
    "user": frozenset({"name"}),
    "vars": None,
    "now": frozenset(),
}
# Words of the template language, and names that it puts into every scope.
_LANGUAGE = """
    and or not contains in true false nil null empty blank if elsif else endif unless endunless case when endcase for
    endfor assign capture endcapture comment endcomment raw endraw break continue cycle limit offset reversed cols
    with as required forloop parentloop partial today
"""
RESERVED = frozenset(_LANGUAGE.split()) | frozenset(ROOTS)


class Limits(msgspec.Struct, frozen=True):
    """Bounds of a graph that comes from outside; the settings are in `HEADRACE`."""

    nodes: int = 500
    bytes: int = 1024 * 1024
    depth: int = 32
    template_tags: int = 5000  # in all templates together: each costs some 30 us to compile

    @property
    def edges(self) -> int:
        return 4 * self.nodes


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong, and where. `edge` is an index. `names` fill the code's sentence once it is translated."""

    node: str | None
    field: str | None
    code: str
    text: str
    edge: int | None = None
    names: dict[str, str | Kept] = {}


FAULTS: dict[str, str] = {
    "bad_graph": _("The graph is not of the right form: {what}."),
    "bad_text": _("There is a character that cannot be kept (NUL, or half of a surrogate pair)."),
    "too_large": _("The graph is too large: {limit} bytes at most."),
    "too_deep": _("The graph nests too deep: {limit} levels at most."),
    "too_many_nodes": _("There are too many nodes: {limit} at most."),
    "too_many_edges": _("There are too many edges: {limit} at most."),
    "too_many_tags": _("The templates have too many tags together: {limit} at most."),
    "unknown_key": _("There is no such key here: {name}."),
    "bad_id": _("This is not an id of a node: small letters, digits and _, a letter first, 40 at most."),
    "reserved_id": _("The name {name} is taken by the template language. Choose another id."),
    "doubled_id": _("Two nodes have the id {name}."),
    "unknown_kind": _("There is no kind of node {name}."),
    "unknown_field": _("This kind of node has no field {name}."),
    "missing_field": _("The field {name} is needed."),
    "wrong_type": _("This value does not fit: {what}."),
    "bad_template": _("The template does not compile: {what}."),
    "bad_value": _("This value does not fit: {what}."),
    "unknown_variable": _("There is nothing named {name} to read here."),
    "late_variable": _("{name} is not known yet here: its node never runs before this one."),
    "dangling_edge": _("This edge leads from or to {name}, which is not there."),
    "doubled_edge": _("Two edges leave {name} by the same branch. One way at a time."),
    "missing_branch": _("Nothing follows {branch}. Draw an edge from it."),
    "missing_edge": _("Nothing follows this node. Draw an edge from it, to an end at last."),
    "unknown_branch": _("Nothing chooses this branch: {name}."),
    "unreachable": _("No way leads here from the start."),
    "no_start": _("There is no start."),
    "two_starts": _("There is more than one start."),
    "no_end": _("No way leads to an end from here."),
    "endless_cycle": _("These nodes go round for ever, nothing leaves them: {name}."),
    "unknown_provider": _("There is no provider {name}."),
    "unknown_model": _("The provider has no model {name}."),
    "unknown_handler": _("There is no handler {name}."),
    "unknown_flow": _("There is no published flow {name}."),
}


def fault(code: str, node: str | None = None, field: str | None = None, edge: int | None = None, **names: Any) -> Fault:
    filled = {name: kept(value) for name, value in names.items()}
    text = Sentence(FAULTS[code], **{name: restored(value) for name, value in filled.items()})
    return Fault(node, field, code, str(text), edge, filled)


def sentence(item: Fault, gettext: Callable[[str], str]) -> str:
    """The fault's text in the reader's language."""
    return told(as_sentence(item), gettext)


def as_sentence(item: Fault) -> Sentence:
    return Sentence(FAULTS[item.code], **{name: restored(value) for name, value in item.names.items()})


def faults_json(faults: list[Any], gettext: Callable[[str], str]) -> list[dict[str, Any]]:
    """Faults, as structs or as a build kept them, as editors show them."""
    items = msgspec.convert(msgspec.to_builtins(faults), list[Fault])
    return [
        {
            "node": item.node,
            "field": item.field,
            "edge": item.edge,
            "code": item.code,
            "text": sentence(item, gettext),
        }
        for item in items
    ]


# ------------------------------------------------------------------------------------ what a kind tells


class Read(msgspec.Struct, frozen=True):
    """A template at `field` reads `path`. `is_optional`: it goes straight into `default`."""

    field: str
    path: tuple[str, ...]
    is_optional: bool = False


class Name(msgspec.Struct, frozen=True):
    """A field names something outside of the graph. `what`: provider, model, handler, flow."""

    field: str
    what: str
    name: str
    provider: str = ""


class Inspection(msgspec.Struct, frozen=True):
    """What a node's fields say. `outputs` and `branches` are None where faults leave them unknown.

    `passes`: an edge without a branch is taken by whatever has no edge of its own. `optional`: branches
    that need no edge.
    """

    faults: tuple[Fault, ...] = ()
    reads: tuple[Read, ...] = ()
    names: tuple[Name, ...] = ()
    outputs: tuple[str, ...] | None = None
    branches: tuple[str, ...] | None = None
    optional: frozenset[str] = frozenset()
    passes: bool = True
    sets: tuple[str, ...] = ()
    is_start: bool = False
    is_end: bool = False
    tags: int = 0


class Kind(Protocol):
    def inspect(self, node: str, fields: dict[str, Any]) -> Inspection: ...


class World(msgspec.Struct, frozen=True):
    """What is there outside of the graph. A provider without a list of models takes any."""

    providers: dict[str, tuple[str, ...]] = {}
    handlers: frozenset[str] = frozenset()
    flows: frozenset[str] = frozenset()

    def has(self, name: Name) -> bool:
        if name.what == "provider":
            return name.name in self.providers
        if name.what == "model":
            models = self.providers.get(name.provider)
            return not models or name.name in models
        return name.name in (self.handlers if name.what == "handler" else self.flows)


# --------------------------------------------------------------------------------------------- form


class Node(msgspec.Struct, frozen=True):
    id: str
    kind: str
    fields: dict[str, Any] = {}
    title: str = ""


class Edge(msgspec.Struct, frozen=True):
    start: str
    to: str
    branch: str | None
    index: int


class Graph(msgspec.Struct, frozen=True):
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]


def bounds(raw: Any, limits: Limits) -> list[Fault]:
    """Faults of size alone: what a draft may not have, however unfinished it is."""
    if not isinstance(raw, dict):
        return [fault("bad_graph", what=Sentence(_("it must be an object")))]
    stack: list[tuple[Any, int]] = [(raw, 1)]
    has_bad_text = False
    while stack:
        value, depth = stack.pop()
        if isinstance(value, str):
            has_bad_text = has_bad_text or not _is_storable(value)
            continue
        if not isinstance(value, dict | list):
            continue
        if depth > limits.depth:
            return [fault("too_deep", limit=limits.depth)]
        if isinstance(value, dict):
            has_bad_text = has_bad_text or not all(isinstance(key, str) and _is_storable(key) for key in value)
            stack.extend((item, depth + 1) for item in value.values())
        else:
            stack.extend((item, depth + 1) for item in value)
    if has_bad_text:
        return [fault("bad_text")]
    try:
        size = len(json.dumps(raw, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())
    except (ValueError, TypeError):
        return [fault("bad_graph", what=Sentence(_("it must be JSON, numbers finite")))]
    return [fault("too_large", limit=limits.bytes)] if size > limits.bytes else []


def _is_storable(text: str) -> bool:
    """PostgreSQL keeps no NUL in JSON, and UTF-8 no half of a surrogate pair."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))


def parse(raw: Any, limits: Limits) -> tuple[Graph, list[Fault]]:
    """The nodes and edges that have the right form, and the faults of the others."""
    found = bounds(raw, limits)
    if found:
        return Graph({}, ()), found
    found.extend(_unknown_keys(raw, {"schema", "nodes", "edges"}))
    schema = raw.get("schema", SCHEMA)
    if type(schema) is not int or schema != SCHEMA:
        found.append(fault("bad_graph", field="schema", what=Sentence(_("schema must be {number}"), number=SCHEMA)))
    nodes: dict[str, Node] = {}
    for index, item in enumerate(_listed(raw, "nodes", limits.nodes, found)):
        node = _parse_node(index, item, found)
        if node is not None and nodes.setdefault(node.id, node) is not node:
            found.append(fault("doubled_id", node.id, name=node.id))
    edges = [_parse_edge(index, item, found) for index, item in enumerate(_listed(raw, "edges", limits.edges, found))]
    return Graph(nodes, tuple(edge for edge in edges if edge is not None)), found


def _listed(raw: dict[str, Any], key: str, limit: int, found: list[Fault]) -> list[Any]:
    items = raw.get(key, [])
    if not isinstance(items, list):
        found.append(fault("bad_graph", field=key, what=Sentence(_("{key} must be a list"), key=key)))
        return []
    if len(items) > limit:
        found.append(fault(f"too_many_{key}", field=key, limit=limit))
    return items[:limit]


def _unknown_keys(
    raw: dict[str, Any], known: set[str], node: str | None = None, edge: int | None = None
) -> Iterator[Fault]:
    for key in sorted(set(raw) - known):
        yield fault("unknown_key", node, key, edge, name=key)


def _parse_node(index: int, raw: Any, found: list[Fault]) -> Node | None:
    where = f"nodes[{index}]"
    if not isinstance(raw, dict):
        found.append(fault("bad_graph", field=where, what=Sentence(_("a node must be an object"))))
        return None
    name = raw.get("id")
    if not isinstance(name, str) or not ID.match(name):
        found.append(fault("bad_id", field=f"{where}.id"))
        return None
    if name in RESERVED:
        found.append(fault("reserved_id", name, "id", name=name))
    found.extend(_unknown_keys(raw, {"id", "kind", "title", "fields", "at"}, name))
    kind, fields, title, at = (
        raw.get("kind"),
        raw.get("fields", {}),
        raw.get("title", ""),
        raw.get("at", [0, 0]),
    )
    if not isinstance(kind, str):
        found.append(fault("bad_graph", name, "kind", what=Sentence(_("kind must be a text"))))
        kind = ""
    if not isinstance(fields, dict):
        found.append(fault("bad_graph", name, "fields", what=Sentence(_("fields must be an object"))))
        fields = {}
    if not isinstance(title, str) or len(title) > TITLE_CHARS:
        what = Sentence(_("title must be a text of {limit} characters"), limit=TITLE_CHARS)
        found.append(fault("bad_graph", name, "title", what=what))
        title = ""
    if not isinstance(at, list) or len(at) != 2 or not all(type(item) in (int, float) for item in at):
        found.append(fault("bad_graph", name, "at", what=Sentence(_("at must be two numbers"))))
    return Node(name, kind, fields, title)


def _parse_edge(index: int, raw: Any, found: list[Fault]) -> Edge | None:
    if not isinstance(raw, dict):
        found.append(fault("bad_graph", edge=index, what=Sentence(_("an edge must be an object"))))
        return None
    found.extend(_unknown_keys(raw, {"from", "to", "branch"}, edge=index))
    start, to, branch = raw.get("from"), raw.get("to"), raw.get("branch")
    if not isinstance(start, str) or not isinstance(to, str):
        found.append(fault("bad_graph", edge=index, what=Sentence(_("an edge must say from and to"))))
        return None
    if branch is not None and (not isinstance(branch, str) or not BRANCH.match(branch)):
        found.append(fault("bad_graph", edge=index, what=Sentence(_("branch must be of letters, digits, _ and -"))))
        return None
    return Edge(start, to, branch, index)


# ----------------------------------------------------------------------------------------- checksum


def checksum(raw: Any) -> str:
    """SHA-256 of the canonical form: the order of keys, nodes and edges, `at` and `title` carry no meaning.

    Any JSON has one, also a draft that is no graph yet.
    """
    form = raw
    if isinstance(raw, dict):
        form = {"schema": SCHEMA, "nodes": [], "edges": [], **raw}
        for key, strip in (("nodes", _bare_node), ("edges", _bare_edge)):
            if isinstance(form[key], list):
                form[key] = sorted((strip(item) for item in form[key]), key=_dumps)
    return hashlib.sha256(_dumps(form).encode("utf-8", "surrogatepass")).hexdigest()


def _bare_node(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {"fields": {}, **{key: value for key, value in node.items() if key not in ("at", "title")}}


def _bare_edge(edge: Any) -> Any:
    if not isinstance(edge, dict):
        return edge
    return {key: value for key, value in edge.items() if key != "branch" or value is not None}


def _dumps(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """A browser writes 1.0 as 1: both are one number."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# -------------------------------------------------------------------------------------------- check


def check(raw: Any, kinds: Mapping[str, Kind], world: World, limits: Limits | None = None) -> list[Fault]:
    """Everything that is wrong with a graph. Empty: it can be built. Never raises, whatever `raw` is."""
    limits = limits or Limits()
    graph, found = parse(raw, limits)
    if not graph.nodes:
        return found or [fault("no_start")]
    inspections: dict[str, Inspection] = {}
    tags = 0
    for node in graph.nodes.values():
        if node.kind not in kinds:
            found.append(fault("unknown_kind", node.id, "kind", name=node.kind))
            inspections[node.id] = Inspection()
            continue
        if tags > limits.template_tags:
            inspections[node.id] = Inspection()
            continue
        inspections[node.id] = inspection = kinds[node.kind].inspect(node.id, node.fields)
        tags += inspection.tags
        found.extend(inspection.faults)
    if tags > limits.template_tags:
        found.append(fault("too_many_tags", limit=limits.template_tags))
    found.extend(_check_names(inspections, world))
    found.extend(_check_edges(graph, inspections))
    map_ = _Map(graph)
    found.extend(_check_ways(map_, inspections))
    found.extend(_check_reads(map_, inspections))
    return found


def _check_names(inspections: dict[str, Inspection], world: World) -> Iterator[Fault]:
    for node, inspection in inspections.items():
        for name in inspection.names:
            if not world.has(name):
                yield fault(f"unknown_{name.what}", node, name.field, name=name.name)


def _check_edges(graph: Graph, inspections: dict[str, Inspection]) -> Iterator[Fault]:
    leaving: dict[str, set[str | None]] = {node: set() for node in graph.nodes}
    for edge in graph.edges:
        missing = [end for end in (edge.start, edge.to) if end not in graph.nodes]
        for end in missing:
            yield fault("dangling_edge", edge=edge.index, name=end)
        if edge.start not in graph.nodes:
            continue
        if edge.branch in leaving[edge.start]:
            yield fault("doubled_edge", edge.start, edge=edge.index, name=edge.start)
        leaving[edge.start].add(edge.branch)
        inspection = inspections[edge.start]
        if inspection.branches is None:
            continue
        if edge.branch is None:
            is_chosen = inspection.passes
        else:
            is_chosen = edge.branch in inspection.branches or edge.branch in inspection.optional
        if not is_chosen:
            name = edge.branch or Sentence(_("an edge without one"))
            yield fault("unknown_branch", edge.start, edge=edge.index, name=name)
    for node, inspection in inspections.items():
        if inspection.branches is None or inspection.is_end or None in leaving[node]:
            continue
        if not inspection.branches or (inspection.passes and not leaving[node].intersection(inspection.branches)):
            yield fault("missing_edge", node)
            continue
        for branch in inspection.branches:
            if branch not in leaving[node]:
                yield fault("missing_branch", node, branch=branch)


class _Map:
    """Who reaches whom, as bits: 500 nodes take some 30 ms, whatever their edges."""

    def __init__(self, graph: Graph):
        self.nodes = list(graph.nodes)
        self.at = {node: index for index, node in enumerate(self.nodes)}
        self.next = [0] * len(self.nodes)
        for edge in graph.edges:
            if edge.start in self.at and edge.to in self.at:
                self.next[self.at[edge.start]] |= 1 << self.at[edge.to]
        self.reach = list(self.next)
        for middle in range(len(self.nodes)):
            bit, onward = 1 << middle, self.reach[middle]
            for start, reached in enumerate(self.reach):
                if reached & bit:
                    self.reach[start] = reached | onward

    def bits(self, names: Iterator[str]) -> int:
        return sum(1 << self.at[name] for name in names)

    def leads(self, start: str, to: str) -> bool:
        """Whether a way of one edge or more leads from `start` to `to`."""
        return bool(self.reach[self.at[start]] >> self.at[to] & 1)


def _check_ways(map_: _Map, inspections: dict[str, Inspection]) -> Iterator[Fault]:
    starts = [node for node, inspection in inspections.items() if inspection.is_start]
    ends = map_.bits(node for node, inspection in inspections.items() if inspection.is_end)
    if not starts:
        yield fault("no_start")
    for start in starts[1:]:
        yield fault("two_starts", start)
    if not ends:
        yield fault("no_end")
    if starts:
        reached = map_.bits(iter(starts))
        for start in starts:
            reached |= map_.reach[map_.at[start]]
        for node, index in map_.at.items():
            if not reached >> index & 1:
                yield fault("unreachable", node)
    # A node without an edge has its fault already; what leads to it shall not repeat it.
    stops = ends | sum(1 << index for index, onward in enumerate(map_.next) if not onward)
    told = 0
    for node, index in map_.at.items():
        if (map_.reach[index] | 1 << index) & stops or told >> index & 1:
            continue
        ring = sum(
            1 << other
            for other in range(len(map_.nodes))
            if map_.reach[index] >> other & 1 and map_.reach[other] >> index & 1
        )
        if ring and not map_.reach[index] & ~ring:
            told |= ring
            names = [name for name, other in map_.at.items() if ring >> other & 1]
            yield fault("endless_cycle", node, name=", ".join(names))
        elif ends:
            yield fault("no_end", node)


def _check_reads(map_: _Map, inspections: dict[str, Inspection]) -> Iterator[Fault]:
    variables = {name for inspection in inspections.values() for name in inspection.sets}
    for node, inspection in inspections.items():
        for read in inspection.reads:
            code = _read_fault(map_, inspections, variables, node, read)
            if code:
                yield fault(code, node, read.field, name=".".join(read.path))


def _read_fault(
    map_: _Map, inspections: dict[str, Inspection], variables: set[str], node: str, read: Read
) -> str | None:
    root, rest = read.path[0], read.path[1:]
    if root in ROOTS:
        known = ROOTS[root]
        if root == "vars":
            is_known = not rest or read.is_optional or rest[0] in variables
        elif known:
            is_known = bool(rest) and rest[0] in known
        else:
            is_known = not rest
        return None if is_known else "unknown_variable"
    if root not in inspections or not rest:
        return "unknown_variable"
    outputs = inspections[root].outputs
    if outputs is not None and rest[0] not in outputs:
        return "unknown_variable"
    return None if map_.leads(root, node) else "late_variable"


def start_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What the start node of a graph says: greeting, suggestions, the schema of `params`. Empty where there is none."""
    start = next((node for node in raw.get("nodes", []) if node.get("kind") == "start"), {})
    return start.get("fields", {})
