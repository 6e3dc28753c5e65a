import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.graph import FAULTS, Limits, World, check, checksum, sentence
from flows.kinds import KINDS
from tests.flows.fake import END, START, chain, edge, node

WORLD = World(providers={"scripted": (), "openai": ("large", "small")})


def codes(graph: Any, limits: Limits | None = None) -> list[tuple[str | None, str]]:
    return [(fault.node, fault.code) for fault in check(graph, KINDS, WORLD, limits)]


def question(id_: str = "ask", *options: str, **fields: Any) -> dict[str, Any]:
    listed = [{"id": option, "label": option.title()} for option in options]
    return node(id_, "question", text="?", **({"options": listed} if listed else {}), **fields)


def condition(id_: str = "check", *branches: str, left: Any = "{{ input.text }}") -> dict[str, Any]:
    when = {"all": [{"left": left, "op": "equals", "right": "x"}]}
    return node(id_, "condition", cases=[{"branch": branch, "when": when} for branch in branches])


def say(id_: str = "say", text: str = "hi") -> dict[str, Any]:
    return node(id_, "message", text=text)


def test_a_chain_of_each_kind_has_no_fault() -> None:
    graph = chain(
        question("ask", "a", "b"),
        node("keep", "set", name="n", value={"who": "{{ ask.value }}", "at": ["{{ now }}", 1]}),
        node("make", "prompt", messages=[{"role": "user", "text": "{{ vars.n.who }} {{ input.params.x }}"}]),
        node("model", "llm", provider="openai", model="small", prompt="{{ make.messages }}", history=3),
        say("say", "{{ model.text }} {{ chat.history.size }} {{ user.name }}"),
    )
    assert check(graph, KINDS, WORLD) == []


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({}, [(None, "no_start")]),
        ([], [(None, "bad_graph")]),
        (None, [(None, "bad_graph")]),
        ({"schema": 2, "nodes": [], "edges": []}, [(None, "bad_graph")]),
        ({"nodes": {}, "edges": 3}, [(None, "bad_graph"), (None, "bad_graph")]),
        ({**chain(), "color": 1}, [(None, "unknown_key")]),
        (chain({**say(), "x": 1}), [("say", "unknown_key")]),
        (chain(node("say", "shout", text="")), [("say", "unknown_kind")]),
        (chain(node("say", "message", text="", size=3)), [("say", "unknown_field")]),
        (chain(node("say", "message")), [("say", "missing_field")]),
        (chain(node("say", "message", text=3)), [("say", "wrong_type")]),
        (chain({"id": "say", "kind": "message", "fields": []}), [("say", "bad_graph"), ("say", "missing_field")]),
        (chain(say(text="{{ a")), [("say", "bad_template")]),
        (chain(say(text="{{ a[input.text] }}")), [("say", "bad_template")]),
        (chain(say(text="{{ nobody.text }}")), [("say", "unknown_variable")]),
        (chain(say(text="{{ start.nothing }}")), [("say", "unknown_variable")]),
        (chain(say(text="{{ start }}")), [("say", "unknown_variable")]),
        (chain(say(text="{{ input.secret }}")), [("say", "unknown_variable")]),
        (chain(say(text="{{ now.year }}")), [("say", "unknown_variable")]),
        (chain(say(text="{{ vars.never_set }}")), [("say", "unknown_variable")]),
        (chain(say(text="{{ vars.never_set | default: 1 }}")), []),
        (chain(say("one", "{{ two.text }}"), say("two")), [("one", "late_variable")]),
        (chain(say("one", "{{ one.text }}")), [("one", "late_variable")]),
        (chain(node("model", "llm", provider="nobody")), [("model", "unknown_provider")]),
        (chain(node("model", "llm", provider="openai", model="huge")), [("model", "unknown_model")]),
        (chain(node("model", "llm", provider="scripted", model="any")), []),
        (chain(node("x", "prompt")), [("x", "bad_value")]),
        (chain(node("x", "prompt", text="a", messages=[{"role": "user", "text": ""}])), [("x", "bad_value")]),
        (chain(question("x", "a", "a")), [("x", "bad_value")]),
        (chain(question("x", "expired")), [("x", "bad_value")]),
        (chain(question("x", "a", default="b")), [("x", "bad_value")]),
        (chain(question("x", schema={"type": "array"})), [("x", "bad_value")]),
        (chain(node("x", "set", name="Bad", value=1)), [("x", "wrong_type")]),
        (chain(node("x", "set", name="true", value=1)), [("x", "bad_value")]),
        (chain(start=node("start", "start", params={"properties": {"a": {"type": "list"}}})), [("start", "bad_value")]),
        (chain(start={"id": "go", "kind": "start", "at": [0]}), [("go", "bad_graph")]),
        (chain(say("input")), [("input", "reserved_id")]),
        (chain(say("for")), [("for", "reserved_id")]),
        (chain(end=say()), [("say", "missing_edge"), (None, "no_end")]),
        (chain(start=say()), [(None, "no_start")]),
        (chain(node("again", "start")), [("again", "two_starts")]),
    ],
)
def test_a_fault_is_found_where_it_is(graph: Any, expected: list[tuple[str | None, str]]) -> None:
    assert codes(graph) == expected


@pytest.mark.parametrize(
    ("id_", "is_good"),
    [("a" * 40, True), ("a" * 41, False), ("A", False), ("1a", False), ("a-b", False), ("a\n", False)],
)
def test_ids_have_their_form(id_: str, is_good: bool) -> None:
    graph = chain(start={"id": id_, "kind": "start"})
    assert ((None, "bad_id") in codes(graph)) is not is_good


def test_two_nodes_of_one_id() -> None:
    graph = chain(say())
    graph["nodes"].append(say())
    assert codes(graph) == [("say", "doubled_id")]


def edited(*edges: dict[str, Any], nodes: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"schema": 1, "nodes": [START, END, *nodes], "edges": list(edges)}


def test_an_edge_to_nowhere_or_from_nowhere() -> None:
    graph = edited(edge("start", "end"), edge("say", "gone"), edge("gone", "end"), edge("start", "say"), nodes=(say(),))
    found = check(graph, KINDS, WORLD)
    assert [fault.edge for fault in found if fault.code == "dangling_edge"] == [1, 2]
    assert [fault.edge for fault in found if fault.code == "doubled_edge"] == [3]


def test_each_branch_of_a_condition_needs_an_edge_and_no_other_may_leave_it() -> None:
    graph = edited(
        edge("start", "check"),
        edge("check", "end", "a"),
        edge("check", "end", "c"),
        edge("check", "end"),
        nodes=(condition("check", "a", "b"),),
    )
    found = check(graph, KINDS, WORLD)
    assert [(fault.code, fault.edge) for fault in found] == [("unknown_branch", 2), ("unknown_branch", 3)]
    del graph["edges"][2:]
    found = check(graph, KINDS, WORLD)
    assert [(fault.code, fault.names) for fault in found] == [
        ("missing_branch", {"branch": "b"}),
        ("missing_branch", {"branch": "else"}),
    ]


@pytest.mark.parametrize("name", ["else", "a"])
def test_the_branches_of_a_condition_are_its_own(name: str) -> None:
    assert ("check", "bad_value") in codes(chain(condition("check", "a", name)))


def test_only_a_condition_and_a_question_choose() -> None:
    graph = edited(edge("start", "end"), edge("start", "end", "yes"))
    assert codes(graph) == [("start", "unknown_branch")]


def test_an_edge_without_a_branch_is_told_in_the_readers_language() -> None:
    [found] = check(edited(edge("start", "end"), edge("end", "start")), KINDS, WORLD)
    german = {"Nothing chooses this branch: {name}.": "Nichts wählt: {name}.", "an edge without one": "eine Kante ohne"}
    assert sentence(found, lambda text: german.get(text, text)) == "Nichts wählt: eine Kante ohne."


def test_an_edge_out_of_an_end_is_taken_by_nothing() -> None:
    assert codes(edited(edge("start", "end"), edge("end", "start"))) == [("end", "unknown_branch")]


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        ([None], []),
        (["a", "b"], []),
        (["a", "b", "expired"], []),
        ([None, "expired", "declined"], []),
        (["a", None], []),
        (["a"], [("ask", "missing_branch")]),
        (["expired"], [("ask", "missing_edge")]),
        (["a", "b", "c"], [("ask", "unknown_branch")]),
        ([], [("ask", "missing_edge"), ("end", "unreachable")]),
    ],
)
def test_a_question_chooses_by_its_options_where_edges_name_them(
    branches: list[str | None], expected: list[tuple[str, str]]
) -> None:
    edges = [edge("start", "ask"), *(edge("ask", "end", branch) for branch in branches)]
    assert codes(edited(*edges, nodes=(question("ask", "a", "b"),))) == expected


def test_a_cycle_with_a_way_out_is_good_and_may_read_itself() -> None:
    nodes = (question("ask"), condition("check", "again", left="{{ ask.value }}"))
    edges = [edge("start", "ask"), edge("ask", "check"), edge("check", "ask", "again"), edge("check", "end", "else")]
    graph = edited(*edges, nodes=nodes)
    graph["nodes"][2]["fields"]["text"] = "{{ check.branch | default: 'first' }}?"
    assert codes(graph) == []


def test_a_cycle_that_nothing_leaves_is_told_once_and_so_is_what_leads_only_there() -> None:
    nodes = (say("one"), say("two"), say("way"))
    graph = edited(edge("start", "way"), edge("way", "one"), edge("one", "two"), edge("two", "one"), nodes=nodes)
    found = check(graph, KINDS, WORLD)
    assert [(fault.node, fault.code, fault.names.get("name")) for fault in found] == [
        ("end", "unreachable", None),
        ("start", "no_end", None),
        ("one", "endless_cycle", "one, two"),
        ("way", "no_end", None),
    ]


def test_a_node_that_leads_to_itself_alone_is_an_endless_cycle() -> None:
    graph = edited(edge("start", "end"), edge("one", "one"), nodes=(say("one"),))
    assert codes(graph) == [("one", "unreachable"), ("one", "endless_cycle")]


def test_all_faults_are_told_at_once() -> None:
    graph = edited(
        edge("start", "say"),
        edge("gone", "end"),
        nodes=(
            node("say", "message", text="{{ nobody.x }} {{ later.text }}", size=1),
            node("model", "llm", provider="nobody", history=-1, temperature="hot"),
            say("later"),
            condition("check", "a", left="{{ also.x }}"),
        ),
    )
    assert {code for _node, code in codes(graph)} == {
        "unknown_field",
        "unknown_variable",
        "late_variable",
        "wrong_type",
        "dangling_edge",
        "missing_edge",
        "missing_branch",
        "unreachable",
    }
    found = check(graph, KINDS, WORLD)
    assert [fault.field for fault in found if fault.node == "model" and fault.code == "wrong_type"] == [
        "history",
        "temperature",
    ]


def test_a_fault_in_a_list_names_the_place() -> None:
    cases = [
        {"branch": "a", "when": {"any": [{"left": "{{ x", "op": "equals"}, {"left": "{{ input.text }}", "op": "is"}]}}
    ]
    graph = chain(node("check", "condition", cases=cases))
    fields = [fault.field for fault in check(graph, KINDS, WORLD) if fault.node == "check" and fault.field]
    assert fields == ["cases[0].when.any[1].op"]
    cases[0]["when"]["any"].pop()  # type: ignore[index]
    fields = [fault.field for fault in check(graph, KINDS, WORLD) if fault.node == "check" and fault.field]
    assert fields == ["cases[0].when.any[0].left"]


# ------------------------------------------------------------------------------------------------- bounds


def deep(levels: int) -> Any:
    value: Any = 1
    for _level in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("graph", "code"),
    [
        (chain(*(say(f"n{number}") for number in range(499))), "too_many_nodes"),
        ({**chain(), "edges": [edge("start", "end")] * 2001}, "too_many_edges"),
        (chain(say(text="x" * (1024 * 1024))), "too_large"),
        (chain(say(text="💧" * (256 * 1024))), "too_large"),
        (chain(node("x", "set", name="a", value=deep(40))), "too_deep"),
        (chain(node("x", "set", name="a", value=deep(3000))), "too_deep"),
        (chain(node("x", "set", name="a", value="\0")), "bad_text"),
        (chain(node("x", "set", name="a", value={"\ud800": 1})), "bad_text"),
        (chain(node("x", "set", name="a", value=float("nan"))), "bad_graph"),
        (chain(node("x", "set", name="a", value=10**5000)), "bad_graph"),
        (chain(*(say(f"n{number}", "{{ now }}" * 499) for number in range(12))), "too_many_tags"),
        (chain(node("x", "prompt", messages=[{"role": "user", "text": "{{ now }}" * 400}] * 50)), "too_many_tags"),
        (chain(say(text="x" * 33_000)), "bad_template"),
    ],
)
def test_a_graph_out_of_bounds_is_refused(graph: Any, code: str) -> None:
    assert code in [found for _node, found in codes(graph)]


def test_a_graph_at_its_bounds_is_checked_soon() -> None:
    import time

    names = [f"n{number}" for number in range(498)]
    nodes = [START, END, *(condition(name, "a", "b", "c") for name in names)]
    chosen = random.Random(7)
    edges = [edge("start", names[0])]
    for name in names:
        edges += [edge(name, chosen.choice([*names, "end"]), branch) for branch in ("a", "b", "c", "else")]
    begun = time.process_time()
    check({"schema": 1, "nodes": nodes, "edges": edges}, KINDS, WORLD)
    assert time.process_time() - begun < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=30,
)


@settings(max_examples=300)
@given(JSON)
def test_any_json_is_checked_without_an_exception(raw: Any) -> None:
    assert check(raw, KINDS, WORLD)
    assert len(checksum(raw)) == 64


KEYS = st.sampled_from(
    ["schema", "nodes", "edges", "id", "kind", "fields", "at", "title", "from", "to", "branch", "text", "options"]
    + ["cases", "when", "all", "any", "left", "op", "right", "provider", "schema", "name", "value", "messages", "role"]
)
WORDS = st.sampled_from(
    ["start", "end", "ask", "message", "llm", "condition", "question", "set", "prompt", "{{ ask.x }}"]
)
SHAPED = st.recursive(
    WORDS | JSON,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=40,
)
NODE = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b", "c", "start"]), "kind": st.sampled_from(sorted(KINDS))},
    optional={"fields": st.dictionaries(KEYS, SHAPED, max_size=5), "title": SHAPED, "at": SHAPED},
)
EDGE = st.fixed_dictionaries(
    {"from": st.sampled_from(["a", "b", "c", "start", "x"]), "to": st.sampled_from(["a", "b", "c", "start"])},
    optional={"branch": st.sampled_from([None, "a", "else", "expired", "\n"])},
)


@settings(max_examples=500)
@given(st.lists(NODE | SHAPED, max_size=6), st.lists(EDGE | SHAPED, max_size=8))
def test_what_looks_like_a_graph_is_checked_without_an_exception(nodes: list[Any], edges: list[Any]) -> None:
    graph = {"schema": 1, "nodes": nodes, "edges": edges}
    for fault in check(graph, KINDS, WORLD):
        assert sentence(fault, str) == fault.text
        assert fault.code in FAULTS


# ----------------------------------------------------------------------------------------------- checksum


def test_the_checksum_knows_no_order_of_keys_nodes_and_edges_no_place_and_no_title() -> None:
    graph = chain(say("one"), say("two"))
    shuffled = copy.deepcopy(graph)
    shuffled["nodes"].reverse()
    shuffled["edges"].reverse()
    shuffled["nodes"] = [dict(reversed(list(item.items()))) for item in shuffled["nodes"]]
    shuffled["nodes"][0] |= {"at": [1.5, 2], "title": "Other"}
    shuffled["edges"][0]["branch"] = None
    assert checksum(shuffled) == checksum(graph) == checksum(json.loads(json.dumps(graph)))


@given(JSON)
def test_the_checksum_survives_a_browser_that_writes_whole_floats_as_integers(value: Any) -> None:
    def browser(item: Any) -> Any:
        if isinstance(item, float) and item.is_integer():
            return int(item)
        if isinstance(item, list):
            return [browser(one) for one in item]
        return {key: browser(one) for key, one in item.items()} if isinstance(item, dict) else item

    graph = chain(node("x", "set", name="a", value=value))
    assert checksum(browser(graph)) == checksum(graph)


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph["nodes"][1]["fields"].update(text="other"),
        lambda graph: graph["nodes"][1].update(id="other"),
        lambda graph: graph["nodes"][1].update(kind="prompt"),
        lambda graph: graph["edges"].pop(),
        lambda graph: graph["edges"][0].update(branch="a"),
    ],
)
def test_the_checksum_knows_everything_else(change: Any) -> None:
    graph = chain(say())
    changed = copy.deepcopy(graph)
    change(changed)
    assert checksum(changed) != checksum(graph)


def test_the_checksum_of_a_node_without_fields_is_that_of_empty_ones() -> None:
    assert checksum(chain(start={"id": "start", "kind": "start", "fields": {}})) == checksum(chain())
