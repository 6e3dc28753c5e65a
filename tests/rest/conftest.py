"""A client of REST: JSON in and out, as one user or as nobody."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client

from accounts.models import User
from accounts.tokens import mint
from flows import store
from flows.models import Flow
from streams.database import write
from tests.conftest import Live
from tests.rest.remote import Remote, remote


class Api:
    """`get("flows/")`, `post("flows/", {…})`: paths under /api/. Answers are Django's, `json()` their body."""

    def __init__(self, user: User | None = None) -> None:
        self.user = user
        self.headers = {"Authorization": f"Bearer {mint(user)}"} if user else {}
        self.client = Client(raise_request_exception=False)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> HttpResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.generic(
            method,
            path if path.startswith("/") else f"/api/{path}",
            self.client._encode_json({} if body is None else body, "application/json"),
            "application/json",
            headers=self.headers | names,
        )

    def get(self, path: str, **headers: str) -> HttpResponse:
        return self.client.get(f"/api/{path}", headers=self.headers | headers)

    def post(self, path: str, body: Any = None, **headers: str) -> HttpResponse:
        return self.request("POST", path, body, **headers)

    def patch(self, path: str, body: Any = None, **headers: str) -> HttpResponse:
        return self.request("PATCH", path, body, **headers)

    def delete(self, path: str) -> HttpResponse:
        return self.request("DELETE", path)


def code_of(response: HttpResponse) -> tuple[int, str]:
    """(status, code) of an error, whose shape is looked at on the way."""
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) - {"fields", "retry_after", "faults"} == {"code", "text", "retryable", "trace"}
    assert error["trace"] == response["X-Trace-Id"] and error["text"]
    return response.status_code, error["code"]


def bare(response: HttpResponse) -> bytes:
    """The body without its trace."""
    return response.content.replace(response["X-Trace-Id"].encode(), b"")


@pytest.fixture
def api(db: None) -> Callable[..., Api]:
    """`api("anna", is_staff=True)`: the client of a user, made where he is not there; `api()`: of nobody."""

    def make(name: str | None = None, **fields: Any) -> Api:
        if name is None:
            return Api()
        user = User.objects.filter(username=name).first()
        return Api(user or User.objects.create_user(name, password=name, **fields))

    return make


@pytest.fixture
def make_flow(db: None) -> Callable[..., Flow]:
    """A flow that is online without a build."""

    def make(owner: User, name: str = "Guide", is_online: bool = True, **fields: Any) -> Flow:
        flow = store.create_flow(owner.pk, name, **fields)
        if is_online:
            from flows import graph

            store.publish(flow.id, graph.checksum(flow.draft), owner.pk)
        flow.refresh_from_db()
        return flow

    return make


@pytest.fixture
async def anna(live: Live, make_user: Any, token_of: Any) -> AsyncIterator[Remote]:
    user = await write(make_user, "anna")
    async with remote(live, await token_of(user)) as client:
        yield client


@pytest.fixture
async def bert(live: Live, make_user: Any, token_of: Any) -> AsyncIterator[Remote]:
    user = await write(make_user, "bert")
    async with remote(live, await token_of(user)) as client:
        yield client
