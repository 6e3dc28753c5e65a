"""What changed between two graphs."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from flows.diff import diff

BEFORE = {
    "nodes": [
        {"id": "start", "kind": "start", "at": [0, 0]},
        {"id": "hello", "kind": "message", "fields": {"text": "Hello", "extra": 1}},
        {"id": "old", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "hello"}, {"from": "hello", "to": "old"}],
}
AFTER = {
    "nodes": [
        {"id": "start", "kind": "start", "at": [9, 9]},
        {"id": "hello", "kind": "message", "title": "Greet", "fields": {"text": "Hi"}},
        {"id": "end", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "hello"}, {"from": "hello", "to": "end", "branch": "x"}],
}
ANYTHING = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["nodes", "id", "from", "to"]), inner),
    max_leaves=12,
)


def test_nodes_and_edges_that_came_went_and_changed() -> None:
    found = msgspec.json.decode(msgspec.json.encode(diff(BEFORE, AFTER)))
    assert [(node["id"], node["change"]) for node in found["nodes"]] == [
        ("end", "added"),
        ("hello", "changed"),
        ("old", "removed"),
    ]
    assert found["nodes"][1]["fields"] == [
        {"field": "extra", "before": 1, "after": None},
        {"field": "text", "before": "Hello", "after": "Hi"},
        {"field": "title", "before": "", "after": "Greet"},
    ]
    assert found["nodes"][0]["fields"] == [
        {"field": "kind", "before": None, "after": "end"},
        {"field": "title", "before": None, "after": ""},
    ]
    assert found["nodes"][2]["fields"][0] == {"field": "kind", "before": "end", "after": None}
    assert found["edges"] == [
        {"from": "hello", "to": "old", "branch": None, "change": "removed"},
        {"from": "hello", "to": "end", "branch": "x", "change": "added"},
    ]


def test_places_on_the_canvas_are_no_change() -> None:
    moved = {**BEFORE, "nodes": [{**node, "at": [7, 7]} for node in BEFORE["nodes"]]}
    assert msgspec.to_builtins(diff(BEFORE, moved)) == {"nodes": [], "edges": []}


@given(ANYTHING, ANYTHING)
def test_drafts_out_of_form_have_a_diff_too(before: object, after: object) -> None:
    msgspec.json.encode(diff(before, after))
    assert msgspec.to_builtins(diff(before, before)) == {"nodes": [], "edges": []}
