"""Who may read `/metrics`: this machine, others by their token, nobody else; and to those there is no such page."""

from typing import Any

import pytest
from django.test import Client

TOKEN = "0123456789abcdef0123"


def read(**sent: str) -> Any:
    return Client().get("/metrics", **sent)


def by(token: str) -> dict[str, str]:
    return {"REMOTE_ADDR": "192.0.2.7", "HTTP_AUTHORIZATION": f"Bearer {token}"}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_reads(redis_url: str, db: None, address: str) -> None:
    response = read(REMOTE_ADDR=address)
    assert response.status_code == 200
    assert response["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response["Cache-Control"].startswith("max-age=0")
    assert b"# TYPE headrace_sockets gauge" in response.content


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.0.1", "", "nonsense"])
def test_to_others_there_is_no_such_page(db: None, address: str) -> None:
    assert read(REMOTE_ADDR=address).status_code == 404


@pytest.mark.parametrize("header", ["HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED"])
def test_what_a_proxy_of_this_machine_passes_on_is_not_of_this_machine(db: None, header: str) -> None:
    assert read(REMOTE_ADDR="127.0.0.1", **{header: "192.0.2.7"}).status_code == 404


def test_token_opens(redis_url: str, db: None, settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN
    assert read(**by(TOKEN)).status_code == 200


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "0", "None", "é"])
def test_wrong_token_does_not(db: None, settings: Any, token: str) -> None:
    settings.METRICS_TOKEN = TOKEN
    assert read(**by(token)).status_code == 404


@pytest.mark.parametrize("token", ["", "None"])
def test_no_token_is_set_and_none_opens(db: None, token: str) -> None:
    assert read(**by(token)).status_code == 404


def test_foreign_host_is_refused(db: None) -> None:
    """What a page reaches by a name that it points here."""
    assert read(REMOTE_ADDR="127.0.0.1", HTTP_HOST="evil.example").status_code == 400


def test_nothing_is_changed_there(db: None) -> None:
    assert Client().post("/metrics", REMOTE_ADDR="127.0.0.1").status_code == 405
