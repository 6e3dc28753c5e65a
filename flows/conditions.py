"""Conditions of a flow: data, never code. Pure.

Both sides are templates or plain values and keep their types: a text, a number, yes or no, a list, an object.
Comparing unlike types is an error of the run at that node, never a silent "no". Nothing (null) equals nothing only.
"""

import operator
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import re2

from streams.sentences import Sentence, SentenceError
from streams.sentences import noop as _

PATTERN_CHARS = 1000  # of the form of a graph, not of an installation: a graph that builds here builds anywhere

Op = Literal[
    "equals",
    "not_equals",
    "contains",
    "not_contains",
    "starts_with",
    "ends_with",
    "is_empty",
    "is_not_empty",
    "gt",
    "gte",
    "lt",
    "lte",
    "matches",
]
ORDER = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
Side = Annotated[str | int | float | bool | None, msgspec.Meta(extra_json_schema={"format": "template"})]


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`is_empty` and `is_not_empty` have no right side; to them what is undefined is empty."""

    left: Side
    op: Op
    right: Side = None


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of the two: all comparisons hold, or any of them."""

    all: Annotated[list[Comparison], msgspec.Meta(max_length=50)] | None = None
    any: Annotated[list[Comparison], msgspec.Meta(max_length=50)] | None = None

    @property
    def comparisons(self) -> list[Comparison]:
        return self.all or self.any or []


class ConditionError(SentenceError):
    """Two values that cannot be compared, or a pattern that is none."""


def faults(when: When) -> list[str]:
    """What is wrong with a condition before it runs."""
    if (when.all is None) == (when.any is None):
        return [Sentence(_("a condition has either all or any"))]
    if not when.comparisons:
        return [Sentence(_("a condition needs a comparison"))]
    found = []
    for item in when.comparisons:
        if item.op == "matches" and isinstance(item.right, str) and "{{" not in item.right and "{%" not in item.right:
            try:
                _pattern(item.right)
            except ConditionError as error:
                found.append(error.sentence)
    return found


def holds(when: When, read: Callable[[Any, bool], Any]) -> bool:
    """Whether the condition holds. `read(side, True)` gives None for what is undefined. Raises ConditionError."""
    answers = (_compare(item, read) for item in when.comparisons)
    return all(answers) if when.all is not None else any(answers)


def _compare(item: Comparison, read: Callable[[Any, bool], Any]) -> bool:
    if item.op in ("is_empty", "is_not_empty"):
        value = read(item.left, True)
        is_empty = value is None or (isinstance(value, str | list | tuple | dict) and not value)
        return is_empty == (item.op == "is_empty")
    return compare(read(item.left, False), item.op, read(item.right, False))


def compare(left: Any, op: str, right: Any) -> bool:
    """Raises ConditionError where the types do not go together."""
    match op:
        case "equals":
            return _equals(left, right)
        case "not_equals":
            return not _equals(left, right)
        case "contains":
            return _contains(left, right)
        case "not_contains":
            return not _contains(left, right)
        case "gt" | "gte" | "lt" | "lte":
            if kind(left) != kind(right) or kind(left) not in ("number", "text"):
                raise _unlike(left, op, right)
            return ORDER[op](left, right)
    if kind(left) != "text" or kind(right) != "text":
        raise _unlike(left, op, right)
    if op == "starts_with":
        return left.startswith(right)
    if op == "ends_with":
        return left.endswith(right)
    try:
        return _pattern(right).search(left) is not None
    except UnicodeError as error:
        raise ConditionError(_("the text has half of a surrogate pair")) from error


def _equals(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    if kind(left) != kind(right):
        raise _unlike(left, "equals", right)
    return left == right


def _contains(left: Any, right: Any) -> bool:
    if kind(left) == "list":
        return any(kind(item) == kind(right) and item == right for item in left)
    if kind(left) == kind(right) == "text":
        return right in left
    if kind(left) == "object" and kind(right) == "text":
        return right in left
    raise _unlike(left, "contains", right)


def _pattern(text: str) -> Any:
    if len(text) > PATTERN_CHARS:
        raise ConditionError(_("a pattern has {limit} characters at most"), limit=PATTERN_CHARS)
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(text, options=options)
    except (re2.error, UnicodeError) as error:
        raise ConditionError(_("the pattern does not compile: {reason}"), reason=_told(error)) from error


def _told(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def kind(value: Any) -> str:
    """The type's name as people read it, a message id."""
    if isinstance(value, bool):
        return _("yes or no")
    if isinstance(value, int | float):
        return _("number")
    if isinstance(value, str):
        return _("text")
    if isinstance(value, list | tuple):
        return _("list")
    return _("nothing") if value is None else _("object")


def _unlike(left: Any, op: str, right: Any) -> ConditionError:
    return ConditionError(
        _("{op} cannot compare {left} with {right}"), op=op, left=Sentence(kind(left)), right=Sentence(kind(right))
    )
