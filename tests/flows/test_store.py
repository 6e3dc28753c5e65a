from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows import graph, store
from flows.models import Flow
from streams.errors import WireError
from tests.flows.fake import chain, node

DRAFT = chain(node("say", "message", text="hi"))


def code_of(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(WireError) as caught:
        call(*args, **kwargs)
    return caught.value.code


@pytest.fixture
def flow(owner: Any) -> Flow:
    return store.create_flow(owner.id, "My flow", draft=DRAFT)


def test_a_flow_is_found_by_both_forms_of_its_id_and_by_its_slug(flow: Flow) -> None:
    for ref in (str(flow.id), flow.id.hex, "my-flow", flow.id):
        assert store.find_flow(ref) == flow  # type: ignore[arg-type]
        assert store.find_light_flow(ref) == flow  # type: ignore[arg-type]


def test_what_a_socket_opens_with_is_read_without_what_weighs(flow: Flow, django_assert_num_queries) -> None:
    with django_assert_num_queries(1):
        light = store.find_light_flow("my-flow")
        assert (light.name, light.owner_id, light.published) == (flow.name, flow.owner_id, None)
    assert light.get_deferred_fields() == {"draft"}


@pytest.mark.parametrize(
    "ref",
    ["", "nobody", "..", "%00", "a" * 10_000, "\0", "é", "9d6f3a1e-5b0c-4c67-8a54-0d2b1c3e4f51", "{" + "0" * 34 + "}"],
)
def test_what_is_no_flow_is_not_found(flow: Flow, ref: str) -> None:
    assert store.find_flow(ref) is None
    assert store.find_light_flow(ref) is None


def test_a_new_flow_builds_as_it_is(owner: Any) -> None:
    flow = store.create_flow(owner.id, "Empty")
    from flows.kinds import KINDS

    assert graph.check(flow.draft, KINDS, graph.World()) == []
    assert (flow.status, flow.revision) == (Flow.Status.OFFLINE, 1)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("My flow", "my-flow-2"),
        ("Über_uns & mehr!", "uber-uns-mehr"),
        ("x" * 120, "x" * 60),
        ("日本語", "flow"),
        ("", "flow"),
        ("a", "flow-a"),
        ("---", "flow"),
        ("0123456789abcdef0123456789ABCDEF", "flow-0123456789abcdef0123456789abcdef"),
        ("12345678-1234-4234-8234-123456789abc", "flow-12345678-1234-4234-8234-123456789abc"),
    ],
)
def test_a_slug_is_made_from_the_name_and_is_no_id(flow: Flow, owner: Any, name: str, slug: str) -> None:
    assert store.create_flow(owner.id, name).slug == slug


@pytest.mark.django_db
@hypothesis_settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=150))
def test_any_name_makes_a_slug_of_the_right_form(name: str) -> None:
    slug = store.free_slug(name)
    assert store.SLUG.match(slug) and store._uuid(slug) is None


@pytest.mark.parametrize(
    "slug", ["my-flow", "A", "a", "-a", "a" * 65, "0" * 32, "a/b", "a\n", "9d6f3a1e-5b0c-4c67-8a54-0d2b1c3e4f52"]
)
def test_a_slug_that_is_taken_or_none_is_refused(flow: Flow, owner: Any, slug: str) -> None:
    assert code_of(store.create_flow, owner.id, "x", slug=slug) == "validation_error"
    other = store.create_flow(owner.id, "Other")
    assert code_of(store.update_flow, other.id, slug=slug) == "validation_error"


def test_a_save_over_somebody_elses_is_a_conflict(flow: Flow) -> None:
    saved = store.save_draft(flow.id, chain(), 1)
    assert (saved.revision, saved.draft) == (2, chain())
    assert code_of(store.save_draft, flow.id, DRAFT, 1) == "conflict"
    flow.refresh_from_db()
    assert flow.draft == chain()


@pytest.mark.parametrize("draft", [[], None, {"a": "\0"}, {"nodes": ["x" * 1024 * 1024]}, {"a": float("inf")}])
def test_a_draft_out_of_bounds_is_not_kept(flow: Flow, owner: Any, draft: Any) -> None:
    assert code_of(store.save_draft, flow.id, draft, 1) == "graph_invalid"
    if draft is not None:
        assert code_of(store.create_flow, owner.id, "x", draft=draft) == "graph_invalid"


def test_an_unfinished_draft_is_kept(flow: Flow) -> None:
    assert store.save_draft(flow.id, {"nodes": [{"id": "?"}]}, 1).revision == 2


def test_versions_are_numbered_and_stay_as_they_were(flow: Flow, owner: Any) -> None:
    first = store.publish(flow.id, graph.checksum(DRAFT), owner.id, "first")
    store.save_draft(flow.id, chain(), 1)
    second = store.publish(flow.id, graph.checksum(chain()), owner.id)
    assert [version.number for version in store.versions(flow.id)] == [2, 1]
    assert (first.number, first.note, first.graph) == (1, "first", DRAFT)
    assert store.version_graph(first.id) == DRAFT
    flow.refresh_from_db()
    assert (flow.published_id, flow.status) == (second.id, Flow.Status.ONLINE)


def test_a_draft_that_is_published_already_makes_no_new_version(flow: Flow, owner: Any) -> None:
    first = store.publish(flow.id, graph.checksum(DRAFT), owner.id)
    store.offline(flow.id)
    assert store.publish(flow.id, graph.checksum(DRAFT), owner.id) == first
    flow.refresh_from_db()
    assert flow.status == Flow.Status.ONLINE


def test_what_was_not_built_is_not_published(flow: Flow, owner: Any) -> None:
    assert code_of(store.publish, flow.id, graph.checksum(chain()), owner.id) == "not_built"
    flow.refresh_from_db()
    assert flow.status == Flow.Status.OFFLINE


def test_a_version_comes_back_as_a_draft(flow: Flow, owner: Any) -> None:
    store.publish(flow.id, graph.checksum(DRAFT), owner.id)
    store.save_draft(flow.id, chain(), 1)
    restored = store.restore(flow.id, 1)
    assert (restored.draft, restored.revision) == (DRAFT, 3)
    assert code_of(store.restore, flow.id, 9) == "version_not_found"


def test_a_deleted_flow_is_gone_and_its_slug_free(flow: Flow, owner: Any) -> None:
    store.delete(flow.id)
    assert store.find_flow("my-flow") is None and store.find_flow(str(flow.id)) is None
    assert store.create_flow(owner.id, "My flow").slug == "my-flow"
    for call, *args in ((store.save_draft, DRAFT, 1), (store.offline,), (store.delete,), (store.draft_of,)):
        assert code_of(call, flow.id, *args) == "flow_not_found"
