from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.schemas import SchemaError, parse, validate

FORM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "title": "Name", "minLength": 2, "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "size": {"type": "number", "default": 1.5},
        "agrees": {"type": "boolean", "default": False},
        "color": {"enum": ["red", "blue"], "default": "red"},
    },
    "required": ["name"],
}


def test_values_are_filled_with_defaults_and_kept_by_type() -> None:
    assert validate(FORM, {"name": "Anna", "age": 3.0}) == {
        "name": "Anna",
        "age": 3,
        "size": 1.5,
        "agrees": False,
        "color": "red",
    }


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({}, {"name"}),
        ({"name": "A"}, {"name"}),
        ({"name": "Annabel"}, {"name"}),
        ({"name": 1}, {"name"}),
        ({"name": "A\0a"}, {"name"}),
        ({"name": "Anna", "age": "3"}, {"age"}),
        ({"name": "Anna", "age": True}, {"age"}),
        ({"name": "Anna", "age": 3.5}, {"age"}),
        ({"name": "Anna", "age": -1}, {"age"}),
        ({"name": "Anna", "size": float("inf")}, {"size"}),
        ({"name": "Anna", "size": 10**30}, {"size"}),
        ({"name": "Anna", "agrees": 1}, {"agrees"}),
        ({"name": "Anna", "color": "green"}, {"color"}),
        ({"name": "Anna", "other": 1}, {"other"}),
        ({"age": 999, "color": 7}, {"name", "age", "color"}),
        ([], {""}),
        (None, {""}),
    ],
)
def test_each_wrong_field_is_named(values: Any, wrong: set[str]) -> None:
    with pytest.raises(SchemaError) as caught:
        validate(FORM, values)
    assert set(caught.value.fields) == wrong


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {}},
        {"type": "array", "properties": {"a": {"type": "string"}}},
        {"properties": {"a": {"type": "object", "properties": {}}}},
        {"properties": {"a": {"type": "array"}}},
        {"properties": {"a": {}}},
        {"properties": {"a": {"enum": []}}},
        {"properties": {"a": {"enum": [{"b": 1}]}}},
        {"properties": {"a": {"type": "string", "enum": [1]}}},
        {"properties": {"a": {"type": "string", "default": 1}}},
        {"properties": {"a": {"type": "integer", "default": 9, "maximum": 3}}},
        {"properties": {"a": {"type": "string", "$ref": "x"}}},
        {"properties": {"a b": {"type": "string"}}},
        {"properties": {"a": {"type": "string"}}, "required": ["b"]},
        {"properties": {f"a{number}": {"type": "string"} for number in range(51)}},
    ],
)
def test_what_is_outside_of_the_subset_is_no_schema(schema: dict) -> None:
    with pytest.raises(SchemaError):
        parse(schema)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=10,
)


@given(JSON, JSON)
def test_any_json_is_judged_without_another_exception(schema: Any, values: Any) -> None:
    for one in (schema, FORM):
        try:
            validate(one, values)
        except SchemaError as error:
            assert error.fields


def test_a_number_beyond_a_float_is_a_fault_and_no_crash():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    with pytest.raises(SchemaError):
        validate(schema, {"a": 10**400})
