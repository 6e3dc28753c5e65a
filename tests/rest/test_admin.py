"""The admin: everything can be looked at, what transactions own can not be written, drafts show their faults."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import store as accounts
from accounts.models import Budget, User
from chat.models import Chat, Message, Question, Turn
from flows import store
from flows.admin import FlowForm
from flows.graph import checksum
from flows.models import Flow, FlowVersion, Provider
from flows.providers import decrypt_key
from streams.models import StreamSession, Worker
from tests.rest.test_flows import BROKEN, GRAPH

MakeFlow = Callable[..., Flow]
READ_ONLY = [
    "flows/flowversion",
    "chat/chat",
    "chat/turn",
    "chat/question",
    "streams/streamsession",
    "streams/worker",
    "accounts/apikey",
]
ALL = [*READ_ONLY, "flows/flow", "flows/provider", "accounts/user", "accounts/budget"]


def fill(user: User, name: str) -> None:
    """One row of everything."""
    now = timezone.now()
    flow = store.create_flow(user.pk, name, draft=GRAPH)
    version = FlowVersion.objects.create(flow=flow, number=1, graph=GRAPH, checksum="c", author=user)
    Flow.objects.filter(pk=flow.pk).update(published=version)
    worker = Worker.objects.create(host="box", pid=7, started=now, last_seen=now)
    chat = Chat.objects.create(user=user, flow=flow, title=f"Chat {name}")
    said = Message.objects.create(chat=chat, role="user", parts=[], created=now)
    turn = Turn.objects.create(
        chat=chat,
        user=user,
        number=1,
        input=said.id,
        version=version,
        state="waiting",
        created=now,
        running_at=now - timedelta(seconds=3),
        worker=worker.id,
        usage={"input_tokens": 1200, "output_tokens": 34},
        error={"code": "flow_error", "text": "<b>x</b>"},
    )
    Question.objects.create(turn=turn, key="k", part="1.ask#1", text="Who?", expires=now)
    StreamSession.objects.create(
        user=user, flow=flow.id, chat=chat.id, worker=worker.id, started=now, last_seen=now,
        bytes_sent=5 * 1024 * 1024, chunks_sent=12345, state="streaming",
    )  # fmt: skip
    Provider.objects.create(slug=f"provider-{name}", kind="scripted")
    accounts.create_key(user.pk, f"key {name}", ["chat"])
    Budget.objects.create(flow=flow.pk, period="day", limit_tokens=5)


@pytest.mark.parametrize("model", ALL)
def test_lists_and_pages_of_everything(page: Client, chief: User, model: str) -> None:
    fill(chief, "one")
    listed = page.get(f"/admin/{model}/")
    assert listed.status_code == 200
    row = listed.context["cl"].queryset.first()
    assert page.get(f"/admin/{model}/{row.pk}/change/").status_code == 200
    assert page.get(f"/admin/{model}/?q=one").status_code == 200
    assert page.get(f"/admin/{model}/?q={'x' * 40}").status_code == 200


@pytest.mark.parametrize("model", ALL)
def test_a_list_costs_the_same_queries_whatever_its_length(page: Client, chief: User, model: str) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert page.get(f"/admin/{model}/").status_code == 200
        return len(captured)

    fill(chief, "one")
    queries()
    few = queries()
    for name in ("two", "three", "four"):
        fill(User.objects.create_user(name), name)
    assert queries() == few


@pytest.mark.parametrize("model", READ_ONLY)
def test_rows_of_transactions_are_not_written(page: Client, chief: User, model: str) -> None:
    fill(chief, "one")
    row = page.get(f"/admin/{model}/").context["cl"].queryset.first()
    assert page.get(f"/admin/{model}/add/").status_code == 403
    assert page.post(f"/admin/{model}/{row.pk}/change/", {}).status_code == 403
    assert page.post(f"/admin/{model}/{row.pk}/delete/", {"post": "yes"}).status_code == 403


def test_counters_are_in_human_units(page: Client, chief: User) -> None:
    fill(chief, "one")
    assert "5.0\xa0MB in 12,345 frames" in page.get("/admin/streams/streamsession/").content.decode()


def test_what_a_turn_said_is_text_and_no_markup(page: Client, chief: User) -> None:
    fill(chief, "one")
    shown = page.get(f"/admin/chat/turn/{Turn.objects.get().pk}/change/").content.decode()
    assert "&lt;b&gt;x&lt;/b&gt;" in shown and "<b>x</b>" not in shown


# ------------------------------------------------------------------------------------------------------- flows


def form_of(flow: Flow, **changes: Any) -> dict[str, Any]:
    form = {
        "name": flow.name,
        "slug": flow.slug,
        "owner": flow.owner_id,
        "double_text": flow.double_text,
        "visibility": flow.visibility,
        "draft": json.dumps(flow.draft),
        "base_revision": flow.revision,
    }
    return form | changes


def test_a_flow_is_made_with_a_slug_of_its_name(page: Client, chief: User) -> None:
    form = {"name": "New Guide", "owner": chief.pk, "double_text": "queue", "visibility": "everyone", "draft": ""}
    assert page.post("/admin/flows/flow/add/", form).status_code == 302
    assert Flow.objects.get().slug == "new-guide"


def test_faults_of_a_draft_stand_at_its_field(page: Client, chief: User, make_flow: MakeFlow) -> None:
    flow = make_flow(chief, draft=GRAPH)
    path = f"/admin/flows/flow/{flow.pk}/change/"
    assert page.post(path, form_of(flow, draft=json.dumps(BROKEN))).status_code == 302
    shown = page.get(path).content.decode()
    assert "edges[0]: This edge leads from or to nowhere" in shown
    flow.refresh_from_db()
    assert (flow.draft, flow.revision) == (BROKEN, 2)


@pytest.mark.parametrize("draft", ["{", "[]", '"x"', '{"nodes": "\\u0000"}'])
def test_a_draft_that_cannot_be_kept_is_refused_at_its_field(
    page: Client, chief: User, make_flow: MakeFlow, draft: str
) -> None:
    flow = make_flow(chief, draft=GRAPH)
    shown = page.post(f"/admin/flows/flow/{flow.pk}/change/", form_of(flow, draft=draft))
    assert shown.status_code == 200 and "draft" in shown.context["adminform"].form.errors


def test_two_operators_on_one_draft(page: Client, chief: User, make_flow: MakeFlow) -> None:
    flow = make_flow(chief, draft=GRAPH)
    path = f"/admin/flows/flow/{flow.pk}/change/"
    assert page.post(path, form_of(flow, draft=json.dumps(BROKEN))).status_code == 302
    late = page.post(path, form_of(flow, draft=json.dumps({})))
    assert "draft" in late.context["adminform"].form.errors
    assert page.post(path, form_of(flow, name="Other", draft=json.dumps(BROKEN), base_revision=2)).status_code == 302
    flow.refresh_from_db()
    assert (flow.name, flow.revision) == ("Other", 2)


def test_a_slug_in_use_is_said_at_its_field(page: Client, chief: User, make_flow: MakeFlow) -> None:
    other = make_flow(chief, "Other")
    flow = make_flow(chief, "Mine")
    for path in ("add/", f"{flow.pk}/change/"):
        shown = page.post(f"/admin/flows/flow/{path}", form_of(flow, slug=other.slug))
        assert shown.context["adminform"].form.errors == {"slug": ["Another flow has this slug."]}
    assert page.post(f"/admin/flows/flow/{flow.pk}/change/", form_of(flow, slug="mine-too")).status_code == 302
    flow.refresh_from_db()
    assert flow.slug == "mine-too"


def test_a_save_does_not_undo_what_happened_while_it_was_read(
    page: Client, chief: User, make_flow: MakeFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow(chief, draft=GRAPH, is_online=False)
    form = form_of(flow, name="Renamed", owner=User.objects.create_user("next").pk)
    cleaned = FlowForm.clean

    def meanwhile(self: FlowForm) -> dict[str, Any]:
        store.publish(flow.pk, checksum(flow.draft), chief.pk)
        store.update_flow(flow.pk, icon="🌊")
        return cleaned(self)

    monkeypatch.setattr(FlowForm, "clean", meanwhile)
    assert page.post(f"/admin/flows/flow/{flow.pk}/change/", form).status_code == 302
    flow.refresh_from_db()
    assert (flow.name, flow.owner.username) == ("Renamed", "next")
    assert flow.is_online and flow.published is not None and flow.icon == "🌊"


def test_deleting_a_flow_keeps_its_chats_and_frees_its_slug(page: Client, chief: User) -> None:
    fill(chief, "one")
    flow = Flow.objects.get()
    assert page.post(f"/admin/flows/flow/{flow.pk}/delete/", {"post": "yes"}).status_code == 302
    flow.refresh_from_db()
    assert flow.deleted and Chat.objects.count() == 1
    assert page.get(f"/admin/flows/flow/{flow.pk}/change/").status_code == 302


def act(page: Client, action: str, *flows: Flow) -> str:
    form = {"action": action, "_selected_action": [str(flow.pk) for flow in flows]}
    return page.post("/admin/flows/flow/", form, follow=True).content.decode()


def test_actions_build_publish_and_take_offline(
    transactional_db: None, redis_url: str, page: Client, chief: User
) -> None:
    good = store.create_flow(chief.pk, "Good", draft=GRAPH)
    bad = store.create_flow(chief.pk, "Bad", draft=BROKEN)
    built = act(page, "build", good, bad)
    assert "1 flow was built." in built and "edges[0]: This edge leads" in built
    published = act(page, "publish", good, bad)
    assert "1 flow is online." in published and "Bad: The flow does not build." in published
    good.refresh_from_db()
    assert good.is_online
    assert "1 flow is offline." in act(page, "offline", good)


# --------------------------------------------------------------------------------------------------- providers


def test_a_provider_s_key_is_write_only(page: Client, settings: Any) -> None:
    settings.ALLOW_PRIVATE_PROVIDERS = False
    form = {
        "slug": "mine",
        "kind": "openai_compatible",
        "base_url": "https://models.example.com/v1",
        "model_names": '["small"]',
        "options": "{}",
        "prices": "{}",
        "on_takeover": "restart",
        "enabled": "on",
    }
    assert page.post("/admin/flows/provider/add/", form | {"key": "sk-secret"}).status_code == 302
    row = Provider.objects.get()
    path = f"/admin/flows/provider/{row.pk}/change/"
    assert decrypt_key(row.key_encrypted) == "sk-secret"
    shown = page.get(path).content.decode()
    assert "sk-secret" not in shown and row.key_encrypted not in shown
    assert page.post(path, form | {"slug": "ours"}).status_code == 302
    row.refresh_from_db()
    assert (row.slug, decrypt_key(row.key_encrypted)) == ("ours", "sk-secret")
    assert page.post(path, form | {"base_url": "https://other.example.com/v1"}).status_code == 302
    row.refresh_from_db()
    assert row.key_encrypted == ""
    refused = page.post(path, form | {"base_url": "https://10.0.0.1/"})
    assert "base_url" in refused.context["adminform"].form.errors


@pytest.mark.parametrize("takes", [True, False])
def test_an_operator_says_whether_a_provider_takes_pictures(page: Client, takes: bool) -> None:
    form = {"slug": "mine", "kind": "scripted", "model_names": "[]", "options": "{}", "prices": "{}"}
    form |= {"on_takeover": "restart", "enabled": "on"} | ({"takes_pictures": "on"} if takes else {})
    assert page.post("/admin/flows/provider/add/", form).status_code == 302
    assert Provider.objects.get().takes_pictures is takes


# ------------------------------------------------------------------------------------------------------- users


def test_an_operator_ends_the_log_ins_of_a_user(page: Client, chief: User) -> None:
    anna = User.objects.create_user("anna", password="anna")
    client = Client()
    client.force_login(anna)
    form = {"action": "end_logins", "_selected_action": [anna.pk]}
    assert "1 log-in was ended." in page.post("/admin/accounts/user/", form, follow=True).content.decode()
    assert client.get("/api/me/").status_code == 401
