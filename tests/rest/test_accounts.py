"""Log-ins, tickets and oneself by REST."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from accounts.tokens import Credential, verify
from tests.rest.conftest import Api, code_of

Make = Callable[..., Api]


@pytest.fixture
def anna(db: None) -> User:
    return User.objects.create_user("anna", password="a password", first_name="Anna")


def log_in(password: str = "a password") -> Api:
    client = Api()
    pair = client.post("auth/token/", {"username": "anna", "password": password}).json()
    client.headers = {"Authorization": f"Bearer {pair['access']}"}
    client.refresh = pair["refresh"]
    return client


def test_a_pair_of_tokens_for_name_and_password(anna: User) -> None:
    me = log_in().get("me/").json()
    assert me == {
        "id": str(anna.pk),
        "username": "anna",
        "name": "Anna",
        "locale": "",
        "theme": "",
        "staff": False,
    }


@pytest.mark.parametrize(("name", "password"), [("anna", "wrong"), ("nobody", "a password"), ("an\0na", "x")])
def test_wrong_names_and_passwords(anna: User, name: str, password: str) -> None:
    response = Api().post("auth/token/", {"username": name, "password": password})
    assert code_of(response)[0] in (400, 401)


def test_a_deactivated_user_gets_no_token(anna: User) -> None:
    anna.is_active = False
    anna.save()
    response = Api().post("auth/token/", {"username": "anna", "password": "a password"})
    assert code_of(response) == (401, "unauthorized")


def test_row_9_a_refresh_token_is_good_once_and_twice_ends_the_login(anna: User) -> None:
    client = log_in()
    pair = Api().post("auth/refresh/", {"refresh": client.refresh}).json()
    assert client.get("me/").status_code == 200
    for refresh in (client.refresh, pair["refresh"], "x"):
        assert code_of(Api().post("auth/refresh/", {"refresh": refresh})) == (401, "unauthorized")
    assert code_of(client.get("me/")) == (401, "unauthorized")


def test_revoking_ends_this_login_only(anna: User) -> None:
    first, second = log_in(), log_in()
    assert first.post("auth/revoke/").status_code == 204
    assert code_of(first.get("me/")) == (401, "unauthorized")
    assert second.get("me/").status_code == 200


def test_revoking_all_ends_every_login_and_every_page(anna: User) -> None:
    first, second, page = log_in(), log_in(), Client()
    page.force_login(anna)
    assert page.get("/api/me/").status_code == 200
    assert first.post("auth/revoke/", {"all": True}).status_code == 204
    assert code_of(second.get("me/")) == (401, "unauthorized")
    assert page.get("/api/me/").status_code == 401
    assert page.get("/")["Location"].startswith("/login/")


def test_a_page_that_outlived_a_secret_key_ends_with_its_login_too(anna: User, settings: Any) -> None:
    page = Client()
    page.force_login(anna)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a newer one", [settings.SECRET_KEY]
    assert page.get("/api/me/").status_code == 200
    assert log_in().post("auth/revoke/", {"all": True}).status_code == 204
    assert page.get("/api/me/").status_code == 401


def test_who_changes_his_own_password_keeps_his_page_and_loses_his_tokens(anna: User) -> None:
    User.objects.filter(pk=anna.pk).update(is_staff=True)
    token, page = log_in(), Client()
    page.force_login(User.objects.get(pk=anna.pk))
    form = {"old_password": "a password", "new_password1": "quite another", "new_password2": "quite another"}
    assert page.post("/admin/password_change/", form).status_code == 302
    assert code_of(token.get("me/")) == (401, "unauthorized")
    assert page.get("/api/me/").status_code == 200


def test_signing_out_of_a_page_ends_its_login(anna: User) -> None:
    page = Client()
    page.force_login(anna)
    key = page.session.session_key
    assert page.post("/logout/").status_code == 302
    with pytest.raises(Exception, match="unauthorized"):
        verify(Credential("session", key))


def test_a_ticket_is_bought_with_a_token(anna: User) -> None:
    bought = log_in().post("auth/ticket/")
    assert bought.status_code == 201
    assert 55 <= bought.json()["expires_in"] <= 60
    assert verify(Credential("ticket", bought.json()["ticket"])).user_id == anna.pk


def test_nobody_buys_a_ticket(db: None) -> None:
    assert code_of(Api().post("auth/ticket/")) == (401, "unauthorized")


@pytest.mark.parametrize("locale", ["xx", 5, None, "en\0"])
def test_languages_that_are_not_spoken(anna: User, locale: object) -> None:
    assert code_of(log_in().patch("me/", {"locale": locale})) == (400, "validation_error")
