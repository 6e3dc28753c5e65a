"""Templates: Liquid in an environment of our own, bounded in work, memory and output.

The library's own limits do not bound an expression (361 characters took 331 MiB), so here everything that could
grow is counted while it runs: each node of the syntax tree, each path, each filter, each round of a loop is a step,
and each character made or read is counted. The counts are the same on every machine, so a run that is repeated
goes the same way. Undefined is an error, except as the left side of `default`.
"""

import base64
import binascii
import html
import inspect
import math
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from io import StringIO
from typing import Any

import msgspec
from django.conf import settings
from liquid import Environment, RenderContext
from liquid.ast import Node
from liquid.builtin import content, illegal, output
from liquid.builtin.expressions import FilteredExpression, LoopExpression, Path
from liquid.builtin.expressions.primitive import RangeLiteral
from liquid.builtin.tags import assign_tag, capture_tag, case_tag, comment_tag, for_tag, if_tag, unless_tag
from liquid.exceptions import LiquidError
from liquid.expression import Expression
from liquid.undefined import StrictDefaultUndefined, Undefined
from liquid.utils import ReadOnlyChainMap

from streams.sentences import Sentence, SentenceError
from streams.sentences import noop as _

TAGS = frozenset({"if", "unless", "case", "for", "assign", "capture", "comment", "raw"})
INNER = frozenset({"else", "elsif", "when"})
MAX_NUMBER = 2**63  # what the databases and most clients hold
DATE_LETTERS = frozenset("YmdHMSBbAajyIpeZz%")


class TemplateError(SentenceError):
    """A template does not compile, or its rendering failed or grew too large. The text says why."""


# ----------------------------------------------------------------------------------------- compiling


class Read(msgspec.Struct, frozen=True):
    """A variable that a template reads. `is_optional`: it goes straight into `default`."""

    path: tuple[str, ...]
    is_optional: bool = False


class Template(msgspec.Struct, frozen=True):
    """`tree` is the library's; `only` its one expression where there is nothing else, so that its type is kept."""

    source: str
    tree: Any
    only: Expression | None
    reads: tuple[Read, ...]
    tags: int

    def render(self, scope: Mapping[str, Any], work: "Work | None" = None) -> str:
        """The text. Raises TemplateError."""
        return _guarded(self, lambda run, context: run.text(self.tree, context), scope, work)

    def value(self, scope: Mapping[str, Any], undefined: bool = False, work: "Work | None" = None) -> Any:
        """The value with its type where the template is one `{{ … }}`, else the text.

        `undefined`: what is not there is None, not an error. Raises TemplateError.
        """
        if self.only is None:
            return self.render(scope, work)
        expression = self.only

        def evaluate(run: "Work", context: RenderContext) -> Any:
            found = expression.evaluate(context)
            if undefined and _is_undefined(found):
                return None
            return _plain(found)

        return _guarded(self, evaluate, scope, work)


@lru_cache(maxsize=256)
def compile(source: str) -> Template:
    """Raises TemplateError."""
    tags = scan(source)
    try:
        tree = ENVIRONMENT.from_string(source)
        analysis = _Analysis()
        analysis.visit(tree.nodes)
    except LiquidError as error:
        raise TemplateError("{reason}", reason=_told(error)) from error
    except RecursionError as error:
        raise TemplateError(_("it nests too deep")) from error
    nodes = tree.nodes
    only = nodes[0].expression if len(nodes) == 1 and isinstance(nodes[0], _OutputNode) else None
    return Template(source, tree, only, tuple(analysis.reads), tags)


_OPENING = re.compile(r"\{\{|\{%")
_NAME = re.compile(r"-?\s*(\w+)?")
_ENDRAW = re.compile(r"\{%-?\s*endraw\s*-?%\}")


def scan(source: str) -> int:
    """How many tags a template has. Raises TemplateError on what is refused before the library sees it.

    The library's lexer takes quadratic time on tags that are not closed; after this each is, soon.
    """
    bounds = settings.HEADRACE
    if len(source) > bounds.template_chars:
        raise TemplateError(_("it has more than {limit} characters"), limit=bounds.template_chars)
    count, at = 0, 0
    while match := _OPENING.search(source, at):
        count += 1
        if count > bounds.template_tags:
            raise TemplateError(_("it has more than {limit} tags"), limit=bounds.template_tags)
        closing = "}}" if match.group() == "{{" else "%}"
        end = source.find(closing, match.end(), match.end() + bounds.template_tag_chars)
        if end < 0:
            raise TemplateError(
                _("{tag} is not closed within {limit} characters"), tag=match.group(), limit=bounds.template_tag_chars
            )
        inner = source[match.end() : end]
        if not inner.strip(" \t\r\n-"):
            raise TemplateError(_("{tag} is empty"), tag=f"{match.group()} {closing}")
        if inner.count("[") + inner.count("(") > bounds.template_tag_brackets:
            raise TemplateError(_("a tag has more than {limit} brackets"), limit=bounds.template_tag_brackets)
        at = end + 2
        if match.group() == "{%":
            name = _NAME.match(inner).group(1) or inner.strip()[:20]
            if name not in TAGS and name not in INNER and name.removeprefix("end") not in TAGS:
                raise TemplateError(_("there is no tag {name}"), name=name)
            if name == "raw":
                ending = _ENDRAW.search(source, at)
                if ending is None:
                    raise TemplateError(_("raw is not closed"))
                at = ending.end()
    return count


class _Analysis:
    """What a syntax tree reads, and what in it is refused: dynamic paths, ranges outside of `for`, bad filters."""

    def __init__(self) -> None:
        self.reads: list[Read] = []
        self.scopes: list[set[str]] = [set()]

    def visit(self, nodes: list[Node], depth: int = 0) -> None:
        if depth > 2 * settings.HEADRACE.template_nesting:
            raise TemplateError(_("it nests too deep"))
        for node in nodes:
            for expression in node.expressions():
                self.expression(expression)
            self.scopes[0].update(node.template_scope())
            self.scopes.append(set(node.block_scope()))
            self.visit(list(node.children(None)), depth + 1)  # type: ignore[arg-type]
            self.scopes.pop()

    def expression(self, expression: Expression, depth: int = 0, is_loop: bool = False) -> None:
        if depth > settings.HEADRACE.template_nesting:
            raise TemplateError(_("an expression nests too deep"))
        if isinstance(expression, Path):
            self.path(expression, False)
            return
        if isinstance(expression, RangeLiteral) and not is_loop:
            raise TemplateError(_("a range (a..b) stands in for only"))
        children = expression.children()
        if isinstance(expression, FilteredExpression):
            for item in expression.filters or ():
                _check_filter(item)
            if expression.filters and expression.filters[0].name == "default" and isinstance(expression.left, Path):
                self.path(expression.left, True)
                children = children[1:]
        for child in children:
            self.expression(child, depth + 1, isinstance(expression, LoopExpression) and child is expression.iterable)

    def path(self, path: Path, is_optional: bool) -> None:
        if any(isinstance(segment, Path) for segment in path.path):
            raise TemplateError(_("a path that is made while it runs is not allowed: {path}"), path=path)
        segments = tuple(str(segment) for segment in path.path)
        if not any(segments[0] in scope for scope in self.scopes):
            self.reads.append(Read(segments, is_optional))


def _check_filter(item: Any) -> None:
    function = FILTERS.get(item.name)
    if function is None:
        raise TemplateError(_("there is no filter {name}"), name=item.name)
    named = {argument.name: None for argument in item.args if getattr(argument, "name", None)}
    count = len(item.args) - len(named)
    try:
        inspect.signature(function).bind(None, *[None] * count, **named)
    except TypeError as error:
        raise TemplateError("{name}: {reason}", name=item.name, reason=error) from error


# ----------------------------------------------------------------------------------------- rendering


class Work:
    """What the renderings that share it may still spend: those of one node. A text of one has a bound of its own."""

    def __init__(self) -> None:
        bounds = settings.HEADRACE
        self.steps = bounds.template_steps
        self.chars = bounds.template_work_chars
        self.rounds = bounds.template_loop_rounds
        self.output_chars = bounds.template_output_chars

    def step(self, chars: int = 0, steps: int = 1) -> None:
        self.steps -= steps
        self.chars -= chars
        if self.steps < 0 or self.chars < 0:
            raise TemplateError(_("it does too much work"))

    def loop(self, rounds: int, weight: int) -> None:
        self.rounds -= rounds
        if self.rounds < 0:
            raise TemplateError(
                _("its loops go round more than {limit} times"), limit=settings.HEADRACE.template_loop_rounds
            )
        self.step(steps=rounds * weight)

    def text(self, tree: Any, context: RenderContext) -> str:
        buffer = context.get_buffer()
        tree.render_with_context(context, buffer)
        return buffer.getvalue()


class _Buffer(StringIO):
    def __init__(self, run: Work):
        super().__init__()
        self.run = run
        self.left = run.output_chars

    def write(self, text: str) -> int:
        self.left -= len(text)
        if self.left < 0:
            raise TemplateError(_("its text is longer than {limit} characters"), limit=self.run.output_chars)
        self.run.step(len(text))
        return super().write(text)


class _Context(RenderContext):
    """A rendering's scope. Every node asks for `disabled_tags` before it renders: there it is counted."""

    __slots__ = ("run",)

    def __init__(self, template: Any, *, globals: Mapping[str, Any], run: Work):
        self.run = run
        super().__init__(template, globals=globals)
        # The library puts the machine's clock into every scope; `now` is the turn's, the same at each run.
        self.scope = ReadOnlyChainMap(self.locals, globals)

    @property
    def disabled_tags(self) -> list[str]:
        self.run.step()
        return []

    @disabled_tags.setter
    def disabled_tags(self, value: list[str]) -> None:
        pass

    def get(self, path: list[object], *, token: Any, default: object = None) -> object:
        root = path[0]
        try:
            found = self.scope[root]
            for segment in path[1:]:
                found = _item(found, segment)
        except (KeyError, IndexError, TypeError):
            self.run.step()
            name = ".".join(str(segment) for segment in path)
            return self.env.undefined(str(root), hint=f"{name} is undefined", token=token)
        self.run.step(_weigh(found) // 8)
        return found

    def filter(self, name: str, token: Any) -> Callable[..., object]:
        function = FILTERS[name]

        def guarded(left: object, *args: object, **kwargs: object) -> object:
            self.run.step()
            for value in (left, *args, *kwargs.values()):
                if not _is_undefined(value):
                    self.run.step(_bound(name, value) // 8)
                elif name != "default":
                    str(value)  # raises what is undefined
            result = function(left, *args, **kwargs)
            if not _is_undefined(result):
                self.run.step(_bound(name, result))
            return result

        return guarded

    def get_buffer(self, buf: Any = None) -> StringIO:
        return _Buffer(self.run)


def _item(value: Any, key: Any) -> Any:
    """A member by name, an item by index; `size`, `first` and `last` of lists. Nothing else of any object."""
    if isinstance(value, dict):
        if key in value or key != "size":
            return value[key]
        return len(value)
    if isinstance(value, for_tag.ForLoop):
        return value[key]
    if isinstance(value, list | tuple):
        if key == "size":
            return len(value)
        return value[{"first": 0, "last": -1}.get(key, key)]
    if isinstance(value, str) and key == "size":
        return len(value)
    raise KeyError(key)


def _weigh(value: Any) -> int:
    """The characters of a value, roughly; stops beyond what a rendering may spend."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, dict | list | tuple):
        return 8
    limit, total, stack = settings.HEADRACE.template_work_chars, 0, [value]
    while stack and total <= limit:
        item = stack.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            total += 16 * len(item)
            stack.extend(item.values())
            stack.extend(item.keys())
        elif isinstance(item, list | tuple):
            total += 16 * len(item)
            stack.extend(item)
        else:
            total += 8
    return total


def _bound(name: str, value: Any) -> int:
    """The weight of what goes into or comes out of a filter. Raises TemplateError where it is too large."""
    limit = settings.HEADRACE.template_filter_chars
    if isinstance(value, str):
        if len(value) > limit:
            raise TemplateError(_("{name}: a text is longer than {limit} characters"), name=name, limit=limit)
        return len(value)
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value) or abs(value) > MAX_NUMBER:
            raise TemplateError(_("{name}: a number is too large"), name=name)
        return 8
    if isinstance(value, list | tuple) and len(value) > settings.HEADRACE.template_list_items:
        raise TemplateError(
            _("{name}: a list has more than {limit} items"), name=name, limit=settings.HEADRACE.template_list_items
        )
    return _weigh(value)


def _is_undefined(value: object) -> bool:
    return issubclass(type(value), Undefined)


def _plain(value: object) -> Any:
    """A value that JSON can keep."""
    if value is None or isinstance(value, bool | int | str | list | dict):
        return value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TemplateError(_("a number is too large"))
        return value
    return str(value)  # raises what is undefined


def _guarded(
    template: Template,
    evaluate: Callable[[Work, RenderContext], Any],
    scope: Mapping[str, Any],
    work: Work | None,
) -> Any:
    run = Work() if work is None else work
    try:
        return evaluate(run, _Context(template.tree, globals=scope, run=run))
    except TemplateError:
        raise
    except LiquidError as error:
        raise TemplateError("{reason}", reason=_told(error)) from error
    except RecursionError as error:
        raise TemplateError(_("it nests too deep")) from error
    except (ValueError, ArithmeticError, TypeError, AttributeError, LookupError) as error:
        raise TemplateError(_("a value does not fit: {reason}"), reason=str(error)[:200]) from error


def _told(error: LiquidError) -> str:
    """The library's sentence, with the line it means."""
    cause = error.__cause__
    if isinstance(cause, TemplateError):
        return cause.sentence
    if isinstance(cause, RecursionError):
        return Sentence(_("it nests too deep"))
    text = str(error.args[0] if error.args else error)[:200]
    if error.token is not None and error.token.start_index >= 0:
        line = error.token.source.count("\n", 0, error.token.start_index) + 1
        return f"{text} (line {line})"
    return text


# -------------------------------------------------------------------------------------- environment


class _OutputNode(output.OutputNode):
    """Lists and objects are written as JSON."""

    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: Any) -> int:
        return buffer.write(text_of(self.expression.evaluate(context)))


class _Output(output.Output):
    node_class = _OutputNode


class _Loop(LoopExpression):
    """Bounded before anything is sliced or reversed; all its rounds are paid before the first."""

    __slots__ = ("weight",)

    def evaluate(self, context: RenderContext) -> tuple[Iterator[Any], int]:
        items, length = super().evaluate(context)
        context.run.loop(length, self.weight)  # type: ignore[attr-defined]
        return items, length

    def _to_iter(self, obj: object, context: RenderContext) -> tuple[Iterator[Any], int]:
        if _is_undefined(obj):
            str(obj)  # raises what is undefined
        items, length = super()._to_iter(obj, context)
        if length > settings.HEADRACE.template_loop_rounds:
            raise TemplateError(
                _("its loops go round more than {limit} times"), limit=settings.HEADRACE.template_loop_rounds
            )
        return items, length


class _For(for_tag.ForTag):
    def parse(self, stream: Any) -> Node:
        node = super().parse(stream)
        found = node.expression  # type: ignore[attr-defined]
        loop = _Loop(
            found.token,
            found.identifier,
            found.iterable,
            limit=found.limit,
            offset=found.offset,
            reversed_=found.reversed,
            cols=found.cols,
        )
        loop.weight = _count(node)
        node.expression = loop  # type: ignore[attr-defined]
        return node


def _count(node: Node) -> int:
    """How many nodes and expressions a syntax tree has."""
    count, stack = 0, [node]
    while stack:
        item = stack.pop()
        count += 1
        if isinstance(item, Node):
            stack.extend(item.expressions())
            stack.extend(item.children(None))  # type: ignore[arg-type]
        else:
            stack.extend(item.children())
    return count


class _Environment(Environment):
    block_nesting_limit = settings.HEADRACE.template_nesting
    context_depth_limit = settings.HEADRACE.template_nesting + 5

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        for tag in (
            content.Literal,
            _Output,
            illegal.Illegal,
            if_tag.IfTag,
            unless_tag.UnlessTag,
            case_tag.CaseTag,
        ):
            self.add_tag(tag)
        for tag in (_For, assign_tag.AssignTag, capture_tag.CaptureTag, comment_tag.CommentTag):
            self.add_tag(tag)


def text_of(value: object) -> str:
    """How a value is written in a text: lists and objects as JSON, nothing as nothing."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        return msgspec.json.encode(value).decode()
    return str(value)


# ------------------------------------------------------------------------------------------ filters


def _limit_product(text: str, count: int, by: int) -> None:
    if len(text) + count * by > settings.HEADRACE.template_filter_chars:
        raise TemplateError(_("a text would become too long"))


def _replace(text: object, old: object, new: object = "", count: int = -1) -> str:
    source, old, new = text_of(text), text_of(old), text_of(new)
    if not old:
        return source
    found = source.count(old) if count < 0 else min(count, source.count(old))
    _limit_product(source, found, len(new))
    return source.replace(old, new, count)


def _replace_first(text: object, old: object, new: object = "") -> str:
    return _replace(text, old, new, 1)


def _replace_last(text: object, old: object, new: object = "") -> str:
    source, old = text_of(text), text_of(old)
    before, found, after = source.rpartition(old) if old else ("", "", source)
    return before + text_of(new) + after if found else source


def _remove(text: object, old: object) -> str:
    return _replace(text, old)


def _remove_first(text: object, old: object) -> str:
    return _replace(text, old, "", 1)


def _remove_last(text: object, old: object) -> str:
    return _replace_last(text, old)


def _append(text: object, more: object) -> str:
    return text_of(text) + text_of(more)


def _prepend(text: object, more: object) -> str:
    return text_of(more) + text_of(text)


def _split(text: object, by: object) -> list[str]:
    source, by = text_of(text), text_of(by)
    if not source:
        return []
    parts = (
        list(source[: settings.HEADRACE.template_list_items + 1])
        if not by
        else source.split(by, settings.HEADRACE.template_list_items)
    )
    return parts


def _join(items: object, by: object = " ") -> str:
    between = text_of(by)
    listed = _listed(items)
    _limit_product("", len(listed), len(between))
    return between.join(text_of(item) for item in listed)


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _concat(items: object, more: object) -> list[Any]:
    return _listed(items) + _listed(more)


def _map(items: object, key: object) -> list[Any]:
    return [item.get(text_of(key)) if isinstance(item, dict) else None for item in _listed(items)]


def _where(items: object, key: object, value: object = None) -> list[Any]:
    name = text_of(key)
    found = [(item, item.get(name)) for item in _listed(items) if isinstance(item, dict)]
    if value is None:
        return [item for item, member in found if member not in (None, False)]
    return [item for item, member in found if member == value]


def _reverse(items: object) -> list[Any]:
    return _listed(items)[::-1]


def _compact(items: object) -> list[Any]:
    return [item for item in _listed(items) if item is not None]


def _uniq(items: object) -> list[Any]:
    found: dict[str, Any] = {}
    for item in _listed(items):
        found.setdefault(text_of(item), item)
    return list(found.values())


def _first(items: object) -> Any:
    listed = _listed(items)
    return listed[0] if listed else None


def _last(items: object) -> Any:
    listed = _listed(items)
    return listed[-1] if listed else None


def _sort(items: object, key: object = None) -> list[Any]:
    listed = _listed(items)
    if key is None:
        return sorted(listed)
    name = text_of(key)
    return sorted(listed, key=lambda item: item[name])


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _slice(value: object, start: int, length: int = 1) -> Any:
    items = value if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else text_of(value)
    at = int(start) if int(start) >= 0 else max(len(items) + int(start), 0)
    return items[at : at + max(int(length), 0)]


def _truncate(text: object, length: int = 50, end: object = "…") -> str:
    source, ending = text_of(text), text_of(end)
    return source if len(source) <= int(length) else source[: max(int(length) - len(ending), 0)] + ending


def _truncatewords(text: object, count: int = 15, end: object = "…") -> str:
    words = text_of(text).split()
    return " ".join(words) if len(words) <= int(count) else " ".join(words[: max(int(count), 1)]) + text_of(end)


def _date(value: object, pattern: object) -> str:
    """`%`-letters of strftime without widths; the time as RFC 3339."""
    form = text_of(pattern)
    for letter in re.findall(r"%(.?)", form, re.DOTALL):
        if letter not in DATE_LETTERS:
            raise TemplateError(_("date: there is no {letter}"), letter=f"%{letter}")
    if len(form) > 200:
        raise TemplateError(_("date: the pattern is too long"))
    return datetime.fromisoformat(text_of(value)).strftime(form)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _base64_decode(text: object) -> str:
    try:
        return base64.b64decode(text_of(text), validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise TemplateError(_("base64_decode: this is not base64 of a text")) from error


def _number(value: object) -> int | float:
    """A filter's number: text that is one counts as one, as Liquid has it; anything else is an error."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TemplateError(_("{value} is not a number"), value=repr(text_of(value)[:40]))
    if isinstance(value, str):
        text = value.strip()
        if not re.fullmatch(r"[-+]?\d{1,18}(\.\d{1,18})?", text, re.ASCII):
            raise TemplateError(_("{value} is not a number"), value=repr(text[:40]))
        return float(text) if "." in text else int(text)
    return value


def _numeric(function: Callable[..., Any]) -> Callable[..., Any]:
    """Exact where both are whole; else decimal, so that 0.1 + 0.2 is 0.3."""

    def wrapped(left: object, *args: object) -> Any:
        numbers = [_number(item) for item in (left, *args)]
        if all(isinstance(item, int) for item in numbers):
            return function(*numbers)
        result = function(*(Decimal(str(item)) for item in numbers))
        return float(result) if isinstance(result, Decimal) else result

    wrapped.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return wrapped


def _round(number: Any, digits: Any = 0) -> Any:
    return round(number, min(int(digits), 12)) if digits else round(number)


def _divide(number: Any, other: Any) -> Any:
    return number // other if isinstance(number, int) else number / other


def _default(value: object, fallback: object = "") -> object:
    if _is_undefined(value) or value is None or value is False:
        return fallback
    return fallback if isinstance(value, str | list | tuple | dict) and not value else value


def _textual(function: Callable[[str], str]) -> Callable[[object], str]:
    def wrapped(text: object) -> str:
        return function(text_of(text))

    return wrapped


FILTERS: dict[str, Callable[..., Any]] = {
    "append": _append,
    "prepend": _prepend,
    "capitalize": _textual(str.capitalize),
    "downcase": _textual(str.lower),
    "upcase": _textual(str.upper),
    "strip": _textual(str.strip),
    "lstrip": _textual(str.lstrip),
    "rstrip": _textual(str.rstrip),
    "squish": _textual(lambda text: " ".join(text.split())),
    "strip_newlines": _textual(lambda text: text.replace("\r", "").replace("\n", "")),
    "escape": _textual(html.escape),
    "url_encode": _textual(urllib.parse.quote_plus),
    "url_decode": _textual(urllib.parse.unquote_plus),
    "base64_encode": _textual(lambda text: base64.b64encode(text.encode()).decode()),
    "base64_decode": _base64_decode,
    "replace": _replace,
    "replace_first": _replace_first,
    "replace_last": _replace_last,
    "remove": _remove,
    "remove_first": _remove_first,
    "remove_last": _remove_last,
    "slice": _slice,
    "split": _split,
    "truncate": _truncate,
    "truncatewords": _truncatewords,
    "join": _join,
    "first": _first,
    "last": _last,
    "concat": _concat,
    "map": _map,
    "where": _where,
    "reverse": _reverse,
    "sort": _sort,
    "compact": _compact,
    "uniq": _uniq,
    "size": _size,
    "date": _date,
    "json": _json,
    "default": _default,
    "abs": _numeric(abs),
    "ceil": _numeric(math.ceil),
    "floor": _numeric(math.floor),
    "round": _numeric(_round),
    "plus": _numeric(lambda number, other: number + other),
    "minus": _numeric(lambda number, other: number - other),
    "times": _numeric(lambda number, other: number * other),
    "divided_by": _numeric(_divide),
    "modulo": _numeric(lambda number, other: number % other),
    "at_most": _numeric(lambda number, other: min(number, other)),
    "at_least": _numeric(lambda number, other: max(number, other)),
}
ENVIRONMENT = _Environment(undefined=StrictDefaultUndefined)
