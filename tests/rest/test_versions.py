"""Versions by REST: restored, compared, exported and imported."""

from collections.abc import Callable
from typing import Any

import pytest

from flows.models import Flow
from flows.store import publish
from tests.rest.conftest import Api, code_of
from tests.rest.test_flows import BROKEN, GRAPH

Make = Callable[..., Api]
HI = {**GRAPH, "nodes": [GRAPH["nodes"][0], {**GRAPH["nodes"][1], "fields": {"text": "Hi"}}, GRAPH["nodes"][2]]}


@pytest.fixture
def two_versions(api: Make, make_flow: Callable[..., Flow]) -> Flow:
    """Version 1 says Hello, version 2 and the draft say Hi."""
    from flows import graph

    anna = api("anna")
    flow = make_flow(anna.user, draft=GRAPH)
    anna.patch(f"flows/{flow.id}/", {"draft": HI}, If_Match='"1"')
    publish(flow.id, graph.checksum(HI), anna.user.pk)
    return flow


def test_a_version_is_restored_as_a_save_of_the_draft(api: Make, two_versions: Flow) -> None:
    anna = api("anna")
    path = f"flows/{two_versions.id}/versions/1/restore/"
    assert code_of(anna.post(path, If_Match='"1"')) == (412, "conflict")
    restored = anna.post(path, If_Match='"2"')
    assert (restored.json()["draft"], restored.json()["revision"], restored["ETag"]) == (GRAPH, 3, '"3"')
    assert restored.json()["version"] == 2  # what is published stays
    assert anna.post(path).json()["revision"] == 4
    for number in ("3", "0", "x", "-1", "9" * 20):
        assert code_of(anna.post(f"flows/{two_versions.id}/versions/{number}/restore/")) == (404, "not_found")
    assert code_of(api("bert").post(path)) == (404, "not_found")


def test_versions_are_compared_with_each_other_and_with_the_draft(api: Make, two_versions: Flow) -> None:
    anna = api("anna")
    path = f"flows/{two_versions.id}/versions/1/diff/"
    changed = [{"field": "text", "before": "Hello", "after": "Hi"}]
    for to in ("?to=2", "?to=draft", ""):
        nodes = anna.get(path + to).json()["nodes"]
        assert [(node["id"], node["change"], node["fields"]) for node in nodes] == [("hello", "changed", changed)]
    assert anna.get(f"{path}?to=1").json() == {"nodes": [], "edges": []}
    assert code_of(anna.get(f"{path}?to=9")) == (404, "version_not_found")
    for to in ("x", "", "-1", "1.5", "%00"):
        assert code_of(anna.get(f"{path}?to={to}")) == (400, "validation_error")
    assert code_of(api("bert").get(path)) == (404, "not_found")


def test_an_export_imported_is_the_same_flow_of_its_importer(api: Make, two_versions: Flow) -> None:
    anna, bert = api("anna"), api("bert")
    exported = anna.get(f"flows/{two_versions.id}/export/?version=1")
    assert exported["Content-Disposition"] == f'attachment; filename="{two_versions.slug}.json"'
    assert set(exported.json()) == {"headrace", "name", "description", "double_text", "graph"}
    made = bert.post("flows/import/", exported.json())
    assert (made.status_code, made.json()["draft"], made.json()["faults"]) == (201, GRAPH, [])
    assert (made.json()["owner"]["id"], made.json()["status"]) == (str(bert.user.pk), "offline")
    assert made.json()["slug"] != two_versions.slug
    assert anna.get(f"flows/{two_versions.id}/export/").json()["graph"] == HI
    assert code_of(anna.get(f"flows/{two_versions.id}/export/?version=x")) == (400, "validation_error")
    assert code_of(bert.get(f"flows/{two_versions.id}/export/")) == (404, "not_found")


def stowed(**fields: Any) -> dict[str, Any]:
    node = {"id": "llm1", "kind": "llm", "fields": {"provider": "there", **fields}}
    edges = [{"from": "start", "to": "llm1"}, {"from": "llm1", "to": "end"}]
    return {**GRAPH, "nodes": [GRAPH["nodes"][0], node, GRAPH["nodes"][2]], "edges": edges}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "validation_error"),
        ({"headrace": 2, "name": "x", "graph": GRAPH}, 400, "validation_error"),
        ({"headrace": "1; drop", "name": "x", "graph": GRAPH}, 400, "validation_error"),
        ({"headrace": 1, "name": None, "graph": GRAPH}, 400, "validation_error"),
        ({"headrace": 1, "name": "x", "graph": GRAPH, "api_key": "sk-1"}, 400, "unknown_field"),
        ({"nodes": [], "edges": [], "viewport": {}}, 400, "unknown_field"),  # another builder's file
        ({"headrace": 1, "name": "x", "graph": []}, 400, "graph_invalid"),
        ({"headrace": 1, "name": "x", "graph": {"data": "y" * 1_100_000}}, 400, "graph_invalid"),
        ({"headrace": 1, "name": "x", "graph": {"data": "y" * 2_100_000}}, 413, "frame_too_large"),
        ({"headrace": 1, "name": "x", "graph": stowed(api_key="sk-1")}, 400, "graph_invalid"),
        (
            {"headrace": 1, "name": "x", "graph": {**GRAPH, "nodes": [{"id": "a", "kind": "shell"}]}},
            400,
            "graph_invalid",
        ),
        ({"headrace": 1, "name": "x", "graph": {**GRAPH, "secrets": {}}}, 400, "graph_invalid"),
    ],
)
def test_imports_that_are_refused(api: Make, body: dict[str, Any], status: int, code: str) -> None:
    assert code_of(api("anna").post("flows/import/", body)) == (status, code)
    assert not Flow.objects.exists()


def test_an_import_tells_what_this_server_lacks(api: Make) -> None:
    for draft, code in ((stowed(), "unknown_provider"), (BROKEN, "dangling_edge")):
        made = api("anna").post("flows/import/", {"headrace": 1, "name": "x", "graph": draft})
        assert made.status_code == 201 and code in {fault["code"] for fault in made.json()["faults"]}


def test_no_flow_has_the_address_of_an_import(api: Make) -> None:
    anna = api("anna")
    assert code_of(anna.post("flows/", {"name": "x", "slug": "import"})) == (400, "validation_error")
    assert anna.post("flows/", {"name": "Import"}).json()["slug"] != "import"
