"""Kinds of nodes: what one is, how its fields are read, and the registry that any installed app may add to.

A kind is one file: a frozen struct of fields, whose annotations say which of them are templates, what it gives and
chooses, and `async def run(fields, ctx) -> Outcome`. An app registers its own from its `nodes` module.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from django.conf import settings

from flows import templates
from flows.context import Context
from flows.graph import Fault, Inspection, Name, Read, fault
from flows.templates import TemplateError
from streams import names
from streams.sentences import Sentence, SentenceError
from streams.sentences import noop as _

# A field of a text with `{{ … }}` in it, and one of any JSON whose texts are such.
Template = Annotated[str, msgspec.Meta(extra_json_schema={"format": "template"})]
Values = Annotated[Any, msgspec.Meta(extra_json_schema={"format": "templates"})]
# A text that names a branch which the node may choose.
Branch = Annotated[str, msgspec.Meta(pattern=rf"^{names.ID}$(?!\n)", extra_json_schema={"format": "branch"})]


class Outcome(msgspec.Struct, frozen=True):
    """What a node gave, and which branch it chose. `is_secret`: its outputs are shown to nobody."""

    outputs: dict[str, Any] = {}
    branch: str | None = None
    is_secret: bool = False


class NodeError(SentenceError):
    """A node cannot go on: the turn ends `flow_error`, with this text and the node's name."""


class NodeContext:
    """The run's ctx as one node sees it: all of `Context`, and the values that its templates read."""

    def __init__(
        self,
        ctx: Context,
        scope: Mapping[str, Any],
        compiled: Mapping[str, templates.Template],
        branches: frozenset[str],
    ) -> None:
        self._ctx = ctx
        self._scope = scope
        self._compiled = compiled
        self._work = templates.Work()
        self.branches = branches  # those that have an edge of their own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def render(self, source: str) -> str:
        """The template's text. Raises TemplateError."""
        return self._template(source).render(self._scope, self._work)

    def value(self, source: Any, undefined: bool = False) -> Any:
        """The template's value with its type; what is no text stands for itself. Raises TemplateError."""
        if not isinstance(source, str):
            return source
        return self._template(source).value(self._scope, undefined, self._work)

    def values(self, tree: Any) -> Any:
        """A JSON value with every text in it taken as a template, within `data_bytes`.

        Raises TemplateError, NodeError.
        """
        limit = settings.HEADRACE.data_bytes
        held = 0

        def filled(tree: Any) -> Any:
            nonlocal held
            if isinstance(tree, dict):
                return {key: filled(item) for key, item in tree.items()}
            if isinstance(tree, list):
                return [filled(item) for item in tree]
            value = self.value(tree)
            held += len(msgspec.json.encode(value))  # as it goes: few names may stand for a great deal
            if held > limit:
                raise NodeError(_("its data are larger than {limit} bytes"), limit=limit)
            return value

        return filled(tree)

    def _template(self, source: str) -> templates.Template:
        return self._compiled.get(source) or templates.compile(source)


class Kind:
    """A kind of node.

    `outputs`: names, or a function of the fields. `branches`: what it may choose, by its fields. `optional`:
    branches that need no edge. `always`: branches that no field names. `passes`: an edge without a branch takes what
    has no edge of its own. `check`: faults beyond types, as (field, `Sentence`). `names`: what is named outside of the
    graph. `sets`: variables.
    """

    def __init__(
        self,
        name: str,
        fields: type[msgspec.Struct],
        run: Callable[[Any, NodeContext], Awaitable[Outcome]],
        *,
        title: str,
        outputs: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = (),
        branches: Callable[[Any], tuple[str, ...]] = lambda fields: (),
        always: tuple[str, ...] = (),
        optional: frozenset[str] = frozenset(),
        passes: bool = True,
        check: Callable[[Any], Iterator[tuple[str, str]]] = lambda fields: iter(()),
        names: Callable[[Any], tuple[Name, ...]] = lambda fields: (),
        sets: Callable[[Any], tuple[str, ...]] = lambda fields: (),
        is_start: bool = False,
        is_end: bool = False,
    ) -> None:
        self.name = name
        self.fields = fields
        self.run = run
        self.title = title
        self.always = always
        self.optional = optional
        self.passes = passes
        self.is_start = is_start
        self.is_end = is_end
        self._outputs = outputs
        self._branches = branches
        self._check = check
        self._names = names
        self._sets = sets

    def parse(self, raw: dict[str, Any]) -> Any:
        """The fields of a node that was checked. Raises msgspec.ValidationError."""
        return msgspec.convert(raw, self.fields)

    def sources(self, fields: msgspec.Struct) -> Iterator[tuple[str, str]]:
        """Each template of a node: the field's path and its text."""
        for name, hint in get_type_hints(self.fields, include_extras=True).items():
            yield from _sources(getattr(fields, name), hint, name)

    def inspect(self, node: str, raw: dict[str, Any]) -> Inspection:
        """All that is wrong with a node's fields, and what they read, name and choose."""
        good, faults = _fit_struct(raw, self.fields, "", node, is_top=True)
        reads, tags = self._read(node, good, faults)
        if faults and any(item.code in ("wrong_type", "missing_field", "unknown_field") for item in faults):
            return self._inspection(faults, reads, tags)
        fields = self.parse(raw)
        faults.extend(fault("bad_value", node, field, what=what) for field, what in self._check(fields))
        return self._inspection(
            faults,
            reads,
            tags,
            names=self._names(fields),
            outputs=self._outputs(fields) if callable(self._outputs) else self._outputs,
            branches=(*self._branches(fields), *self.always),
            sets=self._sets(fields),
        )

    def describe(self) -> dict[str, Any]:
        """The kind as REST and editors see it."""
        return {
            "kind": self.name,
            "title": str(self.title),
            "schema": msgspec.json.schema(self.fields),
            "outputs": None if callable(self._outputs) else list(self._outputs),
            "branches": list(self.always),
            "optional_branches": sorted(self.optional),
            "passes": self.passes,
            "is_start": self.is_start,
            "is_end": self.is_end,
        }

    def _inspection(self, faults: list[Fault], reads: list[Read], tags: int, **known: Any) -> Inspection:
        return Inspection(
            faults=tuple(faults),
            reads=tuple(reads),
            tags=tags,
            optional=self.optional,
            passes=self.passes,
            is_start=self.is_start,
            is_end=self.is_end,
            **known,
        )

    def _read(self, node: str, good: dict[str, Any], faults: list[Fault]) -> tuple[list[Read], int]:
        """Compile the templates of the fields that have their type."""
        reads: list[Read] = []
        tags, limit = 0, settings.HEADRACE.node_template_tags
        hints = get_type_hints(self.fields, include_extras=True)
        for name, value in good.items():
            for path, source in _sources(value, hints[name], name):
                if tags > limit:
                    faults.append(fault("too_many_tags", node, path, limit=limit))
                    return reads, tags
                try:
                    template = templates.compile(source)
                except TemplateError as error:
                    faults.append(fault("bad_template", node, path, what=error.sentence))
                    continue
                tags += template.tags
                reads.extend(Read(path, read.path, read.is_optional) for read in template.reads)
        return reads, tags


KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Add a kind. A name is given once; the same module loaded again says the same."""
    known = KINDS.get(kind.name)
    if known is not None and known.run.__module__ != kind.run.__module__:
        raise ValueError(f"two kinds of node have the name {kind.name}")
    KINDS[kind.name] = kind
    return kind


# ------------------------------------------------------------------------------------- reading fields


def _fit_struct(
    raw: Any, kind: type[msgspec.Struct], path: str, node: str, is_top: bool = False
) -> tuple[dict[str, Any], list[Fault]]:
    """The fields that have their type, and a fault for each of the others: msgspec tells the first one only."""
    if not isinstance(raw, dict):
        return {}, [fault("wrong_type", node, path or None, what=Sentence(_("it must be an object")))]
    hints = get_type_hints(kind, include_extras=True)
    good: dict[str, Any] = {}
    no_key = Sentence(_("there is no such key"))
    faults = [
        fault("unknown_field" if is_top else "wrong_type", node, _join(path, key), name=key, what=no_key)
        for key in raw
        if key not in hints
    ]
    for field in msgspec.structs.fields(kind):
        where = _join(path, field.name)
        if field.name in raw:
            value, found = _fit(raw[field.name], hints[field.name], where, node)
            faults.extend(found)
            if not found:
                good[field.name] = value
        elif field.required:
            faults.append(fault("missing_field", node, where, name=field.name))
    return good, faults


def _fit(raw: Any, hint: Any, path: str, node: str) -> tuple[Any, list[Fault]]:
    inner = _inner(hint)
    faults: list[Fault] = []
    if _is_struct(inner) and raw is not None:
        faults = _fit_struct(raw, inner, path, node)[1]
    elif get_origin(inner) is list and isinstance(raw, list) and _is_struct(_inner(get_args(inner)[0])):
        for index, item in enumerate(raw[:1000]):
            faults.extend(_fit_struct(item, _inner(get_args(inner)[0]), f"{path}[{index}]", node)[1])
    if faults:
        return None, faults
    try:
        return msgspec.convert(raw, hint), []
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        return None, [fault("wrong_type", node, path, what=error)]


def _sources(value: Any, hint: Any, path: str) -> Iterator[tuple[str, str]]:
    """The templates in a value, by the marks of its annotation."""
    form = _format(hint)
    if form == "template":
        if isinstance(value, str):
            yield path, value
    elif form == "templates":
        yield from _texts(value, path)
    elif isinstance(value, msgspec.Struct):
        for name, inner in get_type_hints(type(value), include_extras=True).items():
            yield from _sources(getattr(value, name), inner, _join(path, name))
    elif isinstance(value, list | tuple):
        inner = _inner(hint)
        items = get_args(inner)
        for index, item in enumerate(value):
            yield from _sources(item, items[0] if items else Any, f"{path}[{index}]")


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, _join(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]")


def _format(hint: Any) -> str | None:
    for item in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(item, msgspec.Meta) and item.extra_json_schema:
            return item.extra_json_schema.get("format")
    if get_origin(hint) in (Union, UnionType):
        forms = [form for part in get_args(hint) if (form := _format(part))]
        return forms[0] if forms else None
    return None


def _inner(hint: Any) -> Any:
    """The type without its annotations and without `| None`."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if part is not NoneType]
        if len(parts) == 1:
            return _inner(parts[0])
    return hint


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
