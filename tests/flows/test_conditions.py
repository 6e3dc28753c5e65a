from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.conditions import Comparison, ConditionError, When, compare, faults, holds, kind

OPS = list(Comparison.__annotations__["op"].__args__)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def as_is(side: Any, undefined: bool) -> Any:
    return side


@pytest.mark.parametrize(
    ("left", "op", "right", "answer"),
    [
        ("a", "equals", "a", True),
        ("a", "equals", "A", False),
        (1, "equals", 1.0, True),
        (None, "equals", "a", False),
        (None, "equals", None, True),
        ("a", "not_equals", "b", True),
        ("hello", "contains", "ell", True),
        (["a", "b"], "contains", "b", True),
        ([1], "contains", True, False),
        ({"a": 1}, "contains", "a", True),
        ("hello", "not_contains", "x", True),
        ("hello", "starts_with", "he", True),
        ("hello", "ends_with", "lo", True),
        ("", "is_empty", None, True),
        ([], "is_empty", None, True),
        (None, "is_empty", None, True),
        (0, "is_empty", None, False),
        (False, "is_empty", None, False),
        ("x", "is_not_empty", None, True),
        (2, "gt", 1, True),
        (1, "gte", 1, True),
        ("a", "lt", "b", True),
        (1, "lte", 0.5, False),
        ("order 42", "matches", r"\d+", True),
        ("Straße", "matches", "(?i)STRASSE", False),
        ("née", "matches", "^n.e$", True),
    ],
)
def test_each_operator_compares_by_type(left: Any, op: str, right: Any, answer: bool) -> None:
    assert holds(When(all=[Comparison(left, op, right)]), as_is) is answer


@pytest.mark.parametrize(
    ("left", "op", "right"),
    [
        ("1", "equals", 1),
        ("1", "gt", 1),
        (True, "equals", 1),
        (True, "gt", False),
        (1, "contains", 1),
        ("a", "contains", 1),
        (1, "starts_with", "1"),
        (None, "lt", 1),
        ([1], "matches", "1"),
        (["a"], "equals", "a"),
    ],
)
def test_unlike_types_are_an_error_and_no_silent_no(left: Any, op: str, right: Any) -> None:
    with pytest.raises(ConditionError):
        compare(left, op, right)


@given(VALUES, st.sampled_from(OPS), VALUES)
def test_any_two_values_compare_or_are_refused(left: Any, op: str, right: Any) -> None:
    try:
        answer = holds(When(any=[Comparison(left, op, right)]), as_is)  # type: ignore[arg-type]
    except ConditionError:
        return
    assert answer in (True, False)


@given(VALUES, VALUES)
def test_not_equals_is_the_opposite_of_equals(left: Any, right: Any) -> None:
    if kind(left) == kind(right) or left is None or right is None:
        assert compare(left, "equals", right) != compare(left, "not_equals", right)


def test_all_needs_every_one_and_any_needs_one() -> None:
    yes, no = Comparison(1, "equals", 1), Comparison(1, "equals", 2)
    assert not holds(When(all=[yes, no]), as_is)
    assert holds(When(any=[no, yes]), as_is)


def test_comparisons_behind_the_answer_are_not_read() -> None:
    seen: list[Any] = []

    def read(side: Any, undefined: bool) -> Any:
        seen.append(side)
        return side

    holds(When(any=[Comparison("a", "equals", "a"), Comparison("b", "equals", "b")]), read)
    assert seen == ["a", "a"]


def test_what_is_undefined_is_asked_for_only_by_the_test_for_emptiness() -> None:
    asked: list[bool] = []

    def read(side: Any, undefined: bool) -> Any:
        asked.append(undefined)
        return side

    holds(When(any=[Comparison("x", "is_empty"), Comparison("a", "equals", "a")]), read)
    assert asked == [True, False, False]


@pytest.mark.parametrize(
    "pattern", ["(", "a{1000}{1000}", r"(?=x)", r"(a)\1", "x" * 1001, "\\p{Nope}", "(((((a{100}){100}){100})))"]
)
def test_a_pattern_that_re2_refuses_is_a_fault_of_the_graph_and_an_error_of_the_run(pattern: str) -> None:
    assert faults(When(all=[Comparison("a", "matches", pattern)]))
    with pytest.raises(ConditionError):
        compare("a", "matches", pattern)


def test_a_pattern_made_by_a_template_is_not_judged_before_it_runs() -> None:
    assert faults(When(all=[Comparison("a", "matches", "({{ vars.x }}")])) == []


def test_a_pattern_of_the_evil_kind_takes_no_time() -> None:
    assert not compare("a" * 50_000, "matches", "(a+)+$b")


@pytest.mark.parametrize("raw", [{}, {"all": []}, {"any": []}, {"all": [], "any": []}])
def test_a_condition_has_comparisons_under_one_of_all_and_any(raw: dict) -> None:
    assert faults(msgspec.convert(raw, When))


def test_half_a_surrogate_pair_is_an_error_not_a_crash() -> None:
    with pytest.raises(ConditionError):
        compare("\ud800", "matches", "a")
    with pytest.raises(ConditionError):
        compare("a", "matches", "\ud800")
