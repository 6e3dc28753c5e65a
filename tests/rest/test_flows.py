"""Flows by REST: drafts, builds, versions, rights; kinds of nodes; providers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group

from flows.models import Flow, Provider
from flows.providers import decrypt_key
from tests.rest.conftest import Api, code_of

Make = Callable[..., Api]
GRAPH = {
    "schema": 1,
    "nodes": [
        {"id": "start", "kind": "start"},
        {"id": "hello", "kind": "message", "fields": {"text": "Hello"}},
        {"id": "end", "kind": "end"},
    ],
    "edges": [{"from": "start", "to": "hello"}, {"from": "hello", "to": "end"}],
}
BROKEN = {**GRAPH, "edges": [{"from": "start", "to": "nowhere"}]}


def names(response: Any) -> set[str]:
    return {row["name"] for row in response.json()["results"]}


def test_a_flow_is_made_changed_and_deleted(api: Make) -> None:
    anna = api("anna")
    made = anna.post("flows/", {"name": "My guide", "draft": GRAPH})
    assert made.status_code == 201
    flow = made.json()
    assert (flow["slug"], flow["status"], flow["revision"], flow["draft"]) == ("my-guide", "offline", 1, GRAPH)
    assert made["Location"] == f"/api/flows/{flow['id']}/"
    changed = anna.patch("flows/my-guide/", {"name": "Guide", "slug": "guide", "double_text": "reject"}).json()
    assert (changed["name"], changed["slug"], changed["double_text"], changed["revision"]) == (
        "Guide",
        "guide",
        "reject",
        1,
    )
    assert anna.delete(f"flows/{flow['id']}/").status_code == 204
    assert code_of(anna.get("flows/guide/")) == (404, "not_found")
    assert names(anna.get("flows/")) == set()
    assert anna.post("flows/", {"name": "x", "slug": "guide"}).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": None},
        {"name": "x" * 121},
        {"name": "a\0b"},
        {"name": ["x"]},
        {"name": "x", "slug": "A B"},
        {"name": "x", "slug": "0" * 32},
        {"name": "x", "visibility": "nobody"},
        {"name": "x", "double_text": 1},
        {"name": "x", "groups": "all"},
    ],
)
def test_fields_of_a_flow_that_do_not_fit(api: Make, body: dict[str, Any]) -> None:
    assert code_of(api("anna").post("flows/", body)) == (400, "validation_error")


@pytest.mark.parametrize("draft", [[], "x", {"nodes": [{"id": "a\0"}]}, {"x": "y" * 1_100_000}])
def test_a_draft_out_of_bounds_is_refused(api: Make, draft: Any) -> None:
    assert code_of(api("anna").post("flows/", {"name": "x", "draft": draft})) == (400, "graph_invalid")


def test_a_draft_is_saved_over_the_revision_that_was_read(api: Make, make_flow: Callable[..., Flow]) -> None:
    anna = api("anna")
    flow = make_flow(anna.user)
    path = f"flows/{flow.id}/"
    assert code_of(anna.patch(path, {"draft": GRAPH})) == (428, "conflict")
    tag = anna.get(path)["ETag"]
    saved = anna.patch(path, {"draft": GRAPH}, If_Match=tag)
    assert (saved.status_code, saved.json()["revision"], saved["ETag"]) == (200, 2, '"2"')
    for stale in (tag, '"99"', "x", "*", 'W/"2"'):
        assert code_of(anna.patch(path, {"draft": BROKEN, "name": "other"}, If_Match=stale)) == (412, "conflict")
    assert anna.get(path).json()["draft"] == GRAPH
    assert anna.get(path).json()["name"] == flow.name


def test_faults_of_a_graph_that_is_not_saved(api: Make, make_flow: Callable[..., Flow]) -> None:
    anna = api("anna")
    flow = make_flow(anna.user)
    assert anna.post(f"flows/{flow.id}/check/", {"graph": GRAPH}).json() == {"faults": []}
    faults = anna.post(f"flows/{flow.id}/check/", {"graph": BROKEN}).json()["faults"]
    assert {"code", "node", "field", "edge", "text"} == set(faults[0])
    assert "dangling_edge" in {fault["code"] for fault in faults}
    for rubbish in ([], 7, "x", {"nodes": 1}):
        assert anna.post(f"flows/{flow.id}/check/", {"graph": rubbish}).json()["faults"]


# --------------------------------------------------------------------------------------------- who may what


def test_a_flow_is_open_to_those_it_is_visible_to_once_online(api: Make, make_flow: Callable[..., Flow]) -> None:
    anna, bert, chief = api("anna"), api("bert"), api("chief", is_staff=True)
    readers = Group.objects.create(name="readers")
    api("carl").user.groups.add(readers)
    make_flow(anna.user, "open")
    make_flow(anna.user, "offline", is_online=False)
    make_flow(anna.user, "own", visibility="owner")
    make_flow(anna.user, "group", visibility="groups", group_ids=[readers.pk])
    every = {"open", "offline", "own", "group"}
    seen = {name: names(client.get("flows/")) for name, client in (("anna", anna), ("bert", bert), ("chief", chief))}
    assert seen == {"anna": every, "bert": {"open"}, "chief": every}
    assert names(api("carl").get("flows/")) == {"open", "group"}
    assert names(anna.get("flows/?status=offline")) == {"offline"}
    assert names(chief.get(f"flows/?owner={bert.user.pk}")) == set()
    assert names(anna.get("flows/?q=GRO")) == {"group"}
    assert code_of(anna.get("flows/?status=x&owner=y")) == (400, "validation_error")


def test_who_may_only_chat_does_not_see_the_draft(api: Make, make_flow: Callable[..., Flow]) -> None:
    flow = make_flow(api("anna").user)
    shown = api("bert").get(f"flows/{flow.slug}/").json()
    assert {"draft", "revision", "groups", "visibility"}.isdisjoint(shown) and shown["editable"] is False


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "check/"),
        ("POST", "build/"),
        ("GET", "build/"),
        ("POST", "publish/"),
        ("POST", "offline/"),
        ("GET", "versions/"),
        ("GET", "versions/1/"),
    ],
)
def test_row_31_another_s_flow_is_not_there_to_be_edited(
    api: Make, make_flow: Callable[..., Flow], method: str, path: str
) -> None:
    flow = make_flow(api("anna").user)
    body = {"graph": {}} if path == "check/" else {}
    assert code_of(api("bert").request(method, f"/api/flows/{flow.id}/{path}", body)) == (404, "not_found")


def test_staff_edits_every_flow(api: Make, make_flow: Callable[..., Flow]) -> None:
    flow = make_flow(api("anna").user, visibility="owner")
    changed = api("chief", is_staff=True).patch(f"flows/{flow.id}/", {"name": "Other"})
    assert changed.json()["name"] == "Other"


# ------------------------------------------------------------------------------------------ build and publish


@pytest.fixture
def anna(api: Make, transactional_db: None, redis_url: str) -> Iterator[Api]:
    """Builds read the draft on threads of the bridge: rows are committed."""
    yield api("anna")


def test_build_publish_and_offline(anna: Api) -> None:
    flow = anna.post("flows/", {"name": "Guide", "draft": GRAPH}).json()
    path = f"flows/{flow['id']}"
    assert code_of(anna.get(f"{path}/build/")) == (404, "not_found")
    started = anna.post(f"{path}/build/")
    assert started.status_code == 202
    built = anna.get(f"{path}/build/").json()
    assert (built["build"], built["status"], built["progress"]) == (started.json()["build"], "success", 100)
    version = anna.post(f"{path}/publish/", {"note": "first"}).json()
    assert (version["number"], version["note"], version["author"]["name"]) == (1, "first", "anna")
    shown = anna.get(f"{path}/").json()
    assert (shown["status"], shown["version"]) == ("online", 1)
    listed = anna.get(f"{path}/versions/").json()["results"]
    assert [(row["number"], row["published"]) for row in listed] == [(1, True)]
    assert anna.get(f"{path}/versions/1/").json()["graph"] == GRAPH
    for number in ("2", "0", "x", "-1", "1" * 30):
        assert code_of(anna.get(f"{path}/versions/{number}/")) == (404, "not_found")
    assert anna.post(f"{path}/offline/").json()["status"] == "offline"


def test_the_build_of_a_version_is_shown_where_it_is_said_to_be(anna: Api) -> None:
    flow = anna.post("flows/", {"name": "Guide", "draft": GRAPH}).json()
    path = f"flows/{flow['id']}"
    anna.post(f"{path}/publish/")
    draft, version = anna.post(f"{path}/build/"), anna.post(f"{path}/build/", {"version": 1})
    assert [one["Location"] for one in (draft, version)] == [f"/api/{path}/build/", f"/api/{path}/build/?version=1"]
    for begun in (draft, version):
        assert anna.get(begun["Location"].removeprefix("/api/")).json()["build"] == begun.json()["build"]
    assert draft.json() != version.json()
    for number in ("2", "0"):
        assert code_of(anna.get(f"{path}/build/?version={number}")) == (404, "version_not_found")
    for number in ("", "x", "-1", "1" * 30):
        refused = anna.get(f"{path}/build/?version={number}")
        assert code_of(refused) == (400, "validation_error")
        assert refused.json()["error"]["fields"] == {"version": "This must be the number of a version."}


def test_publishing_refuses_what_does_not_build_and_says_where(anna: Api) -> None:
    flow = anna.post("flows/", {"name": "Guide", "draft": BROKEN}).json()
    refused = anna.post(f"flows/{flow['id']}/publish/")
    assert code_of(refused) == (409, "build_failed")
    assert "dangling_edge" in {fault["code"] for fault in refused.json()["error"]["faults"]}
    built = anna.get(f"flows/{flow['id']}/build/").json()
    assert built["status"] == "failure" and built["faults"]
    assert anna.get(f"flows/{flow['id']}/").json()["status"] == "offline"


def test_kinds_of_nodes_have_a_schema(api: Make) -> None:
    kinds = {kind["kind"]: kind for kind in api("anna").get("nodes/").json()["results"]}
    assert {"start", "message", "prompt", "llm", "condition", "question", "set", "end"} <= set(kinds)
    assert "text" in str(kinds["message"]["schema"])


# -------------------------------------------------------------------------------------------------- providers

PROVIDER = {
    "slug": "mine",
    "kind": "openai_compatible",
    "base_url": "https://models.example.com/v1",
    "key": "sk-very-secret",
    "models": ["small"],
}


@pytest.fixture
def chief(api: Make, settings: Any) -> Api:
    settings.ALLOW_PRIVATE_PROVIDERS = False
    return api("chief", is_staff=True)


def test_a_provider_s_key_is_written_and_never_shown(chief: Api) -> None:
    made = chief.post("providers/", PROVIDER)
    assert made.status_code == 201 and made.json()["has_key"] is True
    row = Provider.objects.get()
    assert "very-secret" not in row.key_encrypted and decrypt_key(row.key_encrypted) == "sk-very-secret"
    path = f"providers/{row.id}/"
    for response in (made, chief.get("providers/"), chief.get(path), chief.patch(path, {"models": ["large"]})):
        assert b"secret" not in response.content and row.key_encrypted.encode() not in response.content
    row.refresh_from_db()
    assert row.model_names == ["large"] and decrypt_key(row.key_encrypted) == "sk-very-secret"
    assert chief.delete(path).status_code == 204
    assert code_of(chief.get(path)) == (404, "not_found")


def test_a_key_goes_to_no_new_host(chief: Api) -> None:
    row_id = chief.post("providers/", PROVIDER).json()["id"]
    changed = chief.patch(f"providers/{row_id}/", {"base_url": "https://other.example.com/v1"})
    assert changed.json()["has_key"] is False


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://models.example.com/v1",
        "https://localhost/v1",
        "https://127.0.0.1/v1",
        "https://10.0.0.8/v1",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://user:pass@models.example.com/",
        "ftp://models.example.com/",
        "file:///etc/passwd",
        "https://metadata.google.internal/",
        "javascript:alert(1)",
    ],
)
def test_row_34_addresses_of_providers(chief: Api, url: str) -> None:
    assert code_of(chief.post("providers/", PROVIDER | {"base_url": url})) == (400, "url_not_allowed")
    assert not Provider.objects.exists()
    row_id = chief.post("providers/", PROVIDER).json()["id"]
    assert code_of(chief.patch(f"providers/{row_id}/", {"base_url": url})) == (400, "url_not_allowed")


def test_private_addresses_where_the_setting_allows_them(chief: Api, settings: Any) -> None:
    settings.ALLOW_PRIVATE_PROVIDERS = True
    assert chief.post("providers/", PROVIDER | {"base_url": "http://127.0.0.1:11434/v1"}).status_code == 201


def test_a_slug_is_taken_once(chief: Api) -> None:
    assert chief.post("providers/", PROVIDER).status_code == 201
    assert code_of(chief.post("providers/", PROVIDER)) == (400, "validation_error")


def test_providers_are_for_staff(api: Make, chief: Api) -> None:
    row_id = chief.post("providers/", PROVIDER).json()["id"]
    anna = api("anna")
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("GET", f"{row_id}/"),
        ("PATCH", f"{row_id}/"),
        ("DELETE", f"{row_id}/"),
    ):
        assert code_of(anna.request(method, f"/api/providers/{path}")) == (403, "forbidden")
