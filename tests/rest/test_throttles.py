"""Requests a minute, of a user over all his tokens and of an address."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from accounts import quotas
from streams import redis
from tests.rest.conftest import Api, code_of

Make = Callable[..., Api]


@pytest.fixture
def window(settings: Any, db: None) -> None:
    """Counters of this test's own, three requests long."""
    import uuid

    settings.HEADRACE = msgspec.structs.replace(
        settings.HEADRACE, rest_requests_per_minute=3, rest_anonymous_per_minute=2
    )
    settings.REDIS_PREFIX = f"hr:{uuid.uuid4().hex}:"


def test_a_user_has_so_many_requests_a_minute_over_all_his_tokens(api: Make, window: None) -> None:
    anna, again, bert = api("anna"), api("anna"), api("bert")
    assert [anna.get("me/").status_code, again.get("me/").status_code, anna.get("x/").status_code] == [200, 200, 404]
    assert anna.get("me/").status_code == 200  # what is not there is not counted
    refused = again.get("me/")
    assert code_of(refused) == (429, "throttled")
    assert refused.json()["error"]["retryable"] is True
    assert 0 < refused.json()["error"]["retry_after"] <= 60 and 0 < int(refused["Retry-After"]) <= 60
    assert bert.get("me/").status_code == 200


def test_nobody_is_counted_by_his_address(api: Make, window: None) -> None:
    codes = [code_of(api().post("auth/refresh/", {"refresh": "x"}))[0] for _ in range(3)]
    assert codes == [401, 401, 429]


def test_addresses_of_one_network_are_counted_together(api: Make, window: None) -> None:
    def ask(address: str) -> int:
        body = ("/api/auth/refresh/", b'{"refresh": "x"}', "application/json")
        return api().client.generic("POST", *body, REMOTE_ADDR=address).status_code

    assert [ask(f"2001:db8::{n}") for n in range(1, 4)] == [401, 401, 429]
    assert ask("2001:db8:0:1::1") == 401


def test_without_redis_nobody_is_counted(api: Make, window: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise redis.Trouble

    monkeypatch.setattr(quotas.redis, "blocking_client", away)
    assert {api("anna").get("me/").status_code for _ in range(5)} == {200}
