"""One shape of errors from everything under /api/."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client, RequestFactory

from accounts.models import User
from config import errors
from tests.rest.conftest import Api, bare, code_of

Make = Callable[..., Api]
EVERY_ID = ["flows/{}/", "flows/{}/build/", "flows/{}/versions/", "chats/{}/", "chats/{}/messages/", "turns/{}/"]
ABSENT = ["00000000-0000-4000-8000-000000000000", "x", "..", "%00", "no-such-slug", "1", "a" * 3000, "%F0%9F%92%A9"]


@pytest.mark.parametrize("body", [b"{", b"", b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000, b"nul"])
def test_row_29_malformed_json(api: Make, body: bytes) -> None:
    anna = api("anna")
    response = anna.client.generic("POST", "/api/chats/", body, "application/json", headers=anna.headers)
    assert code_of(response) == (400, "validation_error" if not body else "bad_json")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "rubbish", ""])
def test_row_29_wrong_content_type(api: Make, kind: str) -> None:
    anna = api("anna")
    response = anna.client.generic("POST", "/api/chats/", b'{"flow": "x"}', kind, headers=anna.headers)
    assert code_of(response) == (415, "unsupported_media_type")


@pytest.mark.parametrize("number", [b"18446744073709551616", b"-9223372036854775809", b"1" + 400 * b"0", b"1e400"])
def test_a_number_out_of_range(api: Make, number: bytes) -> None:
    anna = api("anna")
    body = b'{"name": "Flow", "draft": {"nodes": [{"fields": {"n": ' + number + b"}}]}}"
    response = anna.client.generic("POST", "/api/flows/", body, "application/json", headers=anna.headers)
    assert code_of(response) == (400, "bad_json")


def test_json_with_a_charset_is_json(api: Make) -> None:
    anna = api("anna")
    kind = "application/json; charset=utf-8"
    response = anna.client.generic("POST", "/api/chats/", b'{"flow": "x"}', kind, headers=anna.headers)
    assert code_of(response) == (404, "flow_not_found")


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"true"])
def test_a_body_that_is_no_object_is_a_validation_error(api: Make, body: bytes) -> None:
    anna = api("anna")
    response = anna.client.generic("POST", "/api/chats/", body, "application/json", headers=anna.headers)
    assert code_of(response) == (400, "validation_error")


@pytest.mark.parametrize("method", ["post", "patch", "delete"])
def test_row_30_session_without_csrf_token(api: Make, method: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_user("anna", password="anna"))
    response = getattr(client, method)("/api/me/", {}, content_type="application/json")
    assert code_of(response) == (403, "csrf_failed")


def test_a_session_with_its_csrf_token_may_write(api: Make) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_user("anna", password="anna"))
    token = "a" * 32
    client.cookies["csrftoken"] = token
    response = client.patch(
        "/api/me/", {"locale": "en"}, content_type="application/json", headers={"X-CSRFToken": token}
    )
    assert (response.status_code, response.json()["locale"]) == (200, "en")


@pytest.mark.parametrize("path", EVERY_ID)
def test_row_31_unknown_foreign_and_malformed_ids_are_the_same(
    api: Make, make_flow: Callable[..., Any], path: str
) -> None:
    anna, bert = api("anna"), api("bert")
    flow = make_flow(anna.user, visibility="owner")
    answers = {bare(bert.get(path.format(ref))) for ref in [*ABSENT, str(flow.id), flow.slug]}
    assert len(answers) == 1
    assert code_of(bert.get(path.format(flow.id))) == (404, "not_found")


@pytest.mark.parametrize("path", ["", "x/", "flows", "flows/x/y/z/", "chats/x/y/", "%00/", "../admin/"])
def test_paths_that_are_not_there(api: Make, path: str) -> None:
    for client in (api(), api("anna")):
        for method in ("GET", "POST", "DELETE"):
            assert code_of(client.request(method, f"/api/{path}")) == (404, "not_found")


def test_unknown_methods(api: Make) -> None:
    response = api("anna").request("PUT", "me/")
    assert code_of(response) == (405, "method_not_allowed")
    assert "PATCH" in response["Allow"]


@pytest.mark.parametrize(
    "path", ["me/", "flows/", "chats/", "nodes/", "sessions/", "providers/", "flows/x/", "chats/x/", "turns/x/"]
)
def test_nobody_is_unauthorized_everywhere(api: Make, path: str) -> None:
    response = api().get(path)
    assert code_of(response) == (401, "unauthorized")
    assert response["WWW-Authenticate"] == "Bearer"


def test_a_bad_bearer_is_not_passed_over_for_the_session(api: Make) -> None:
    client = Client()
    client.force_login(User.objects.create_user("anna", password="anna"))
    assert client.get("/api/me/").status_code == 200
    assert code_of(client.get("/api/me/", headers={"Authorization": "Bearer x"})) == (401, "unauthorized")


def test_what_nobody_foresaw_is_internal_and_says_nothing(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("accounts.api.me_json", fail)
    response = api("anna").get("me/")
    assert code_of(response) == (500, "internal")
    assert b"secret" not in response.content


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (lambda request: errors.server_error(request), 500, "internal"),
        (lambda request: errors.bad_request(request, Exception()), 400, "bad_request"),
        (lambda request: errors.forbidden(request, Exception()), 403, "forbidden"),
        (lambda request: errors.not_found(request, Exception()), 404, "not_found"),
        (lambda request: errors.csrf_failure(request, "why"), 403, "csrf_failed"),
    ],
)
def test_django_s_own_answers_have_the_shape_too(answer: Callable[..., Any], status: int, code: str) -> None:
    response = answer(RequestFactory().get("/api/x/"))
    error = json.loads(response.content)["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert set(error) == {"code", "text", "retryable", "trace"}


def test_a_host_that_is_not_ours_is_bad_request(api: Make) -> None:
    response = api("anna").get("me/", Host="evil.example")
    assert code_of(response) == (400, "bad_request")


@pytest.mark.parametrize("path", ["/api/me/", "/", "/login/", "/healthz"])
def test_a_host_that_is_not_ours_is_told_which_it_asked_for_and_which_setting_allows_it(db: None, path: str) -> None:
    response = Client(headers={"host": "evil.example:8000"}).get(path)
    assert code_of(response) == (400, "bad_request")
    text = response.json()["error"]["text"]
    assert "evil.example:8000" in text and "ALLOWED_HOSTS" in text


def test_unknown_fields_are_refused(api: Make) -> None:
    response = api("anna").patch("me/", {"is_staff": True})
    assert code_of(response) == (400, "unknown_field")
    assert set(response.json()["error"]["fields"]) == {"is_staff"}


def test_every_field_that_is_wrong_is_named(api: Make) -> None:
    response = api("anna").post("flows/", {"name": 5, "visibility": "x", "groups": [1]})
    assert code_of(response) == (400, "validation_error")
    assert set(response.json()["error"]["fields"]) == {"name", "visibility", "groups"}


@pytest.mark.parametrize("limit", ["0", "-1", "1000000000", "x", "", "1.5", "201", "²"])
def test_row_33_bad_limits(api: Make, limit: str) -> None:
    assert code_of(api("anna").get(f"flows/?limit={limit}")) == (400, "bad_limit")


def test_row_33_forged_cursors(api: Make, make_flow: Callable[..., Any]) -> None:
    anna, bert = api("anna"), api("bert")
    for number in range(3):
        make_flow(anna.user, f"Flow {number}")
    cursor = anna.get("flows/?limit=1").json()["next"].split("cursor=")[1].split("&")[0]
    assert anna.get(f"flows/?cursor={cursor}").status_code == 200
    for forged in ("x", "", cursor[:-1], cursor + "x", "%00", "a" * 5000):
        assert code_of(anna.get(f"flows/?cursor={forged}")) == (400, "bad_cursor")
    assert code_of(bert.get(f"flows/?cursor={cursor}")) == (400, "bad_cursor")
    assert code_of(anna.get(f"chats/?cursor={cursor}")) == (400, "bad_cursor")


def test_pages_go_forth_and_back_over_the_same_rows(api: Make, make_flow: Callable[..., Any]) -> None:
    anna = api("anna")
    for number in range(7):
        make_flow(anna.user, f"Flow {number}")

    def follow(url: str) -> dict[str, Any]:
        return anna.client.get(url, headers=anna.headers).json()

    pages = [anna.get("flows/?limit=3").json()]
    while pages[-1]["next"]:
        pages.append(follow(pages[-1]["next"]))
    names = [[row["name"] for row in page["results"]] for page in pages]
    assert names == [["Flow 6", "Flow 5", "Flow 4"], ["Flow 3", "Flow 2", "Flow 1"], ["Flow 0"]]
    assert pages[0]["previous"] is None
    back = follow(pages[2]["previous"])
    assert [row["name"] for row in back["results"]] == names[1]
    first = follow(back["previous"])
    assert [row["name"] for row in first["results"]] == names[0]
    assert first["previous"] is None and follow(first["next"])["results"] == back["results"]
