"""Log-ins by password are few a minute, and few at once, at every door."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.backends import ModelBackend
from django.test import Client, RequestFactory

from accounts.models import User
from accounts.passwords import network_of
from streams.errors import WireError
from tests.rest.conftest import code_of
from tests.server import free_port
from tests.waiting import wait_until

MOST = 3


@pytest.fixture(autouse=True)
def few(settings: Any) -> Callable[..., None]:
    def bound(**bounds: Any) -> None:
        settings.HEADRACE = msgspec.structs.replace(settings.HEADRACE, **bounds)

    bound(logins_per_name_a_minute=MOST)
    return bound


@pytest.fixture
def name(db: None) -> str:
    """Of a user whose password is `right`; quotas outlive a test, so each has its own."""
    name = f"user-{uuid.uuid4().hex[:12]}"
    User.objects.create_user(name, password="right", is_staff=True)
    return name


@pytest.fixture
def address() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose passwords were checked."""
    checked: list[str] = []
    whole = ModelBackend.authenticate

    def check(self: ModelBackend, request: Any, username: str, **more: Any) -> Any:
        checked.append(username)
        return whole(self, request, username=username, **more)

    monkeypatch.setattr(ModelBackend, "authenticate", check)
    return checked


def by_rest(name: str, password: str, **more: str) -> Any:
    body = json.dumps({"username": name, "password": password})
    return Client(**more).post("/api/auth/token/", body, content_type="application/json")


def by_page(name: str, password: str, **more: str) -> Any:
    return Client(**more).post("/login/", {"username": name, "password": password})


def by_admin(name: str, password: str, **more: str) -> Any:
    return Client(**more).post("/admin/login/", {"username": name, "password": password})


@pytest.mark.parametrize("door", [by_rest, by_page, by_admin])
def test_log_ins_of_a_name_are_bounded_before_the_password_is_checked(
    name: str, checks: list[str], door: Callable[..., Any]
) -> None:
    answers = [door(name, "wrong") for _ in range(MOST)]
    assert 429 not in {answer.status_code for answer in answers}
    refused = door(name, "right")
    assert refused.status_code == 429
    assert 1 <= int(refused["Retry-After"]) <= 60
    assert checks == [name] * MOST


def test_refusal_is_throttled_by_rest_and_a_sentence_on_the_page(name: str) -> None:
    for _ in range(MOST):
        by_rest(name, "wrong")
    assert code_of(by_rest(name, "wrong")) == (429, "throttled")
    assert "Too many log-ins" in by_page(name, "wrong").content.decode()
    assert "Too many log-ins" in by_admin(name, "wrong").content.decode()


def test_name_is_counted_at_all_doors_together_and_whatever_its_case(name: str) -> None:
    for door in (by_rest, by_page, by_admin):
        door(name.upper(), "wrong")
    assert by_rest(name, "right").status_code == 429


def test_log_in_that_works_is_not_counted_against_the_name(name: str) -> None:
    for _ in range(MOST * 2):
        assert by_rest(name, "right").status_code == 200


def test_name_is_not_locked_for_other_addresses(name: str) -> None:
    for _ in range(MOST + 1):
        by_rest(name, "wrong", REMOTE_ADDR="192.0.2.1")
    assert by_rest(name, "right", REMOTE_ADDR="192.0.2.2").status_code == 200


def test_log_ins_of_an_address_are_bounded_whatever_the_names(
    db: None, few: Callable[..., None], address: str, checks: list[str]
) -> None:
    few(logins_per_address_a_minute=MOST)
    statuses = [by_rest(f"nobody-{number}", "x", REMOTE_ADDR=address).status_code for number in range(MOST + 2)]
    assert statuses == [401] * MOST + [429] * 2
    assert len(checks) == MOST


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("", "", True),
        ("testclient", "192.0.2.1", False),
    ],
)
def test_addresses_that_are_one_subscriber(one: str, other: str, are_same: bool) -> None:
    assert (network_of(one) == network_of(other)) is are_same


def test_without_redis_people_still_log_in(name: str, settings: Any) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    assert by_rest(name, "right").status_code == 200


class Checking:
    """Passwords that are checked until they are let go; `inside`: how many at this moment."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.may_end = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.may_end.wait(30)
        with self._lock:
            self.inside -= 1


class LoggingIn(threading.Thread):
    error: WireError | None = None

    def run(self) -> None:
        try:
            authenticate(RequestFactory().post("/", REMOTE_ADDR=str(uuid.uuid4())), username="x", password="y")
        except WireError as error:
            self.error = error


@pytest.fixture
def checking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checking]:
    checking = Checking()
    monkeypatch.setattr(ModelBackend, "authenticate", checking)
    yield checking
    checking.may_end.set()


def test_few_passwords_are_checked_at_once_and_few_wait(checking: Checking, few: Callable[..., None]) -> None:
    few(logins_at_once=2, logins_waiting=3, login_wait_s=30)
    threads = [LoggingIn() for _ in range(10)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(thread.error is not None for thread in threads) == 5, what="those too many are refused")
    checking.may_end.set()
    for thread in threads:
        thread.join(30)
    errors = [thread.error for thread in threads if thread.error is not None]
    assert {(error.code, error.extra["retry_after"]) for error in errors} == {("throttled", 30)}
    assert len(errors) == 5 and checking.most == 2


def test_who_has_waited_long_enough_is_told_to_come_again(checking: Checking, few: Callable[..., None]) -> None:
    few(logins_at_once=1, login_wait_s=0.05)
    first, second = LoggingIn(), LoggingIn()
    first.start()
    wait_until(lambda: checking.inside == 1, what="the first is being checked")
    second.start()
    second.join(30)
    assert second.error is not None and second.error.code == "throttled"
    checking.may_end.set()
    first.join(30)
    assert first.error is None
