"""Pages, and what a load balancer asks."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from chat import views
from chat.models import Chat
from flows.models import Flow

MakeFlow = Callable[..., Flow]


@pytest.fixture
def anna(db: None) -> User:
    return User.objects.create_user("anna", password="a password")


@pytest.fixture
def page(anna: User) -> Client:
    client = Client()
    client.force_login(anna)
    return client


def config_of(response: Any) -> dict[str, Any]:
    found = re.search(r'<script id="config" type="application/json">(.*?)</script>', response.content.decode())
    return json.loads(found.group(1))


def test_signing_in_and_out(anna: User) -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.get("/")["Location"] == "/login/?next=/"
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/login/?next=/").content.decode()).group(1)
    form = {"username": "anna", "password": "a password", "csrfmiddlewaretoken": token, "next": "/"}
    assert client.post("/login/", form)["Location"] == "/"
    assert client.get("/").status_code == 200
    assert client.post("/logout/").status_code == 403
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/").content.decode()).group(1)
    assert client.post("/logout/", {"csrfmiddlewaretoken": token})["Location"] == "/login/"
    assert client.get("/").status_code == 302


def test_a_wrong_log_in_is_told_in_the_language_that_was_chosen_before_it(anna: User) -> None:
    client = Client()
    asked = client.get("/login/", headers={"Accept-Language": "de"}).content.decode()
    assert all(name in asked for name in ("English", "Deutsch", "简体中文"))
    client.cookies["django_language"] = "de"
    told = client.post("/login/", {"username": "anna", "password": "wrong"}).content.decode()
    assert "Die Anmeldung hat nicht geklappt: Der Name oder das Passwort ist falsch." in told


def test_editor_is_there_for_those_who_may_edit(page: Client, anna: User, make_flow: MakeFlow) -> None:
    bert = User.objects.create_user("bert", password="bert")
    mine, his = make_flow(anna, "Mine"), make_flow(bert, "His")
    shown = page.get(f"/edit/{mine.id}/")
    config = config_of(shown)
    assert shown.status_code == 200 and config["flow"]["id"] == str(mine.id) and config["admin"] is None
    assert "providers" in config
    assert page.get(f"/edit/{his.id}/").status_code == 404
    assert page.get("/edit/nothing/").status_code == 404
    assert Client().get(f"/edit/{mine.id}/")["Location"] == f"/login/?next=/edit/{mine.id}/"
    bert.is_staff = True
    bert.save()
    staff = Client()
    staff.force_login(bert)
    assert config_of(staff.get(f"/edit/{mine.id}/"))["admin"] == f"/admin/flows/flow/{mine.id}/change/"


def test_signing_in_leads_nowhere_else(anna: User) -> None:
    form = {"username": "anna", "password": "a password", "next": "https://evil.example/"}
    assert Client().post("/login/", form)["Location"] == "/"


def test_the_list_shows_what_is_online_for_one(page: Client, anna: User, make_flow: MakeFlow) -> None:
    bert = User.objects.create_user("bert", password="bert")
    make_flow(bert, "Open")
    make_flow(bert, "Hidden", visibility="owner")
    make_flow(bert, "Offline", is_online=False)
    make_flow(anna, "Mine", is_online=False)
    shown = page.get("/")
    assert [flow.name for flow in shown.context["online"]] == ["Open"]
    assert [flow.name for flow in shown.context["editable"]] == ["Mine"]
    assert b"Hidden" not in shown.content


def test_a_new_chat_s_page_knows_its_flow(page: Client, anna: User, make_flow: MakeFlow) -> None:
    flow = make_flow(anna, "Guide </script><script>alert(1)</script>", slug="guide")
    shown = page.get("/f/guide/")
    config = config_of(shown)
    assert (config["flow"]["id"], config["chat"], config["socket"]) == (str(flow.id), None, f"/chat/{flow.id}")
    assert config["flow"]["name"] == flow.name and b"<script>alert" not in shown.content


def test_a_chat_s_page_is_its_owner_s(page: Client, anna: User, make_flow: MakeFlow) -> None:
    flow = make_flow(anna)
    bert = User.objects.create_user("bert", password="bert")
    own, foreign = (Chat.objects.create(user=user, flow=flow, title="T") for user in (anna, bert))
    assert config_of(page.get(f"/c/{own.id}/"))["chat"] == str(own.id)
    assert page.get(f"/c/{foreign.id}/").status_code == 404
    Chat.objects.update(deleted=True)
    assert page.get(f"/c/{own.id}/").status_code == 404


@pytest.mark.parametrize(("fields", "status"), [({}, 200), ({"visibility": "owner"}, 404), ({"is_online": False}, 404)])
def test_a_flow_one_may_not_chat_with_has_no_page(
    page: Client, make_flow: MakeFlow, fields: dict[str, Any], status: int
) -> None:
    make_flow(User.objects.create_user("bert", password="bert"), "Guide", **fields)
    assert page.get("/f/guide/").status_code == status


@pytest.mark.parametrize("path", ["/", "/login/", "/f/guide/", "/admin/login/", "/nowhere/"])
def test_pages_allow_nothing_inline_and_nothing_from_elsewhere(
    page: Client, anna: User, make_flow: MakeFlow, path: str
) -> None:
    make_flow(anna, "Guide")
    policy = page.get(path)["Content-Security-Policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    sources = re.findall(r"(?:script|style|img|connect)-src ([^;]*)", policy)
    assert sources == ["'self'"] * 4


@pytest.mark.parametrize("path", ["/", "/login/", "/f/guide/"])
def test_no_page_has_anything_inline(page: Client, anna: User, make_flow: MakeFlow, path: str) -> None:
    make_flow(anna, "Guide")
    html = (Client() if path == "/login/" else page).get(path).content.decode()
    scripts = re.findall(r"<script(?![^>]*\bsrc=)([^>]*)>", html)
    assert all('type="application/json"' in attributes for attributes in scripts)
    assert not re.search(r"<style|\sstyle=|\son\w+=", html)


def test_the_process_answers(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_ready_means_database_and_redis_answer(client: Client, db: None, redis_url: str) -> None:
    assert (client.get("/readyz").status_code, client.get("/readyz").json()["faults"]) == (200, [])


@pytest.mark.parametrize("fault", ["database", "redis", "draining"])
def test_what_is_not_ready_is_named(client: Client, db: None, redis_url: str, monkeypatch: Any, fault: str) -> None:
    monkeypatch.setitem(views.READY_CHECKS, fault, lambda: False)
    response = client.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"status": "unready", "faults": [fault]})


def test_redis_that_is_away_is_not_ready(client: Client, db: None, monkeypatch: Any) -> None:
    def away() -> Any:
        raise OSError

    monkeypatch.setattr(views.redis, "blocking_client", away)
    assert client.get("/readyz").json()["faults"] == ["redis"]
