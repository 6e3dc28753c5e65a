"""Budgets by REST and in the admin: staff sets them, viewers look, everybody sees what he has used of his."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from accounts import spend, store
from accounts.models import Budget, Spent, User
from config.management.commands.setup import make_viewers
from flows.models import Flow
from streams import database
from tests.conftest import Live
from tests.rest.conftest import Api, code_of
from tests.rest.remote import ASK, HELLO, Remote, chat_with, in_state, remote

Make = Callable[..., Api]
LIST = "/admin/accounts/budget/"


def use(budget: Budget, tokens: int, cost: int = 0) -> Budget:
    start = spend.start_of(budget.period, database.now())
    Spent.objects.create(budget=budget, start=start, tokens=tokens, cost_micros=cost)
    return budget


def limited(tokens: int | None = 100, cost: int | None = None, period: str = "day", **of: Any) -> Budget:
    return Budget.objects.create(period=period, limit_tokens=tokens, limit_cost_micros=cost, **of)


# -------------------------------------------------------------------------------------------------------- REST


def test_staff_sets_a_budget_changes_it_and_takes_it_away(api: Make) -> None:
    chief, anna = api("chief", is_staff=True), api("anna").user
    body = {"of": "user", "id": str(anna.pk), "period": "month", "limit_tokens": 500}
    made = chief.request("PUT", "budgets/", body)
    assert made.status_code == 200, made.content
    use(Budget.objects.get(), 7, 3)
    [listed] = chief.get("budgets/").json()["results"]
    end = spend.end_of("month", database.now()).strftime("%Y-%m-%dT00:00:00.000Z")
    assert listed == body | {
        "name": "anna", "limit_cost_micros": None, "spent_tokens": 7, "spent_cost_micros": 3, "ends": end,
    }  # fmt: skip
    changed = chief.request("PUT", "budgets/", body | {"limit_tokens": None, "limit_cost_micros": 9}).json()
    assert (changed["limit_tokens"], changed["limit_cost_micros"], changed["spent_tokens"]) == (None, 9, 7)
    gone = chief.request("PUT", "budgets/", body | {"limit_tokens": None})
    assert gone.status_code == 200 and gone.json()["limit_cost_micros"] is None
    assert not Budget.objects.exists()


def test_a_budget_is_of_a_user_a_group_a_key_or_a_flow(api: Make, make_flow: Callable[..., Flow]) -> None:
    chief = api("chief", is_staff=True)
    key, _value = store.create_key(chief.user.pk, "script", ["chat"])
    whose = {
        "user": (chief.user.pk, "chief"),
        "group": (Group.objects.create(name="mill").pk, "mill"),
        "key": (key.pk, f"script (…{key.hint})"),
        "flow": (make_flow(chief.user).pk, ""),
    }
    for of, (id_, name) in whose.items():
        put = chief.request("PUT", "budgets/", {"of": of, "id": str(id_), "period": "day", "limit_tokens": 1})
        assert (put.status_code, put.json()["of"], put.json()["id"], put.json()["name"]) == (200, of, str(id_), name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "99999"}, {"id": "x"}, {"id": "٣"}, {"of": "key", "id": str(uuid4())}, {"of": "flow", "id": "7"},
        {"of": "nobody"}, {"period": "year"}, {"limit_tokens": 0}, {"limit_tokens": 2**53}, {"limit_cost_micros": -1},
    ],
)  # fmt: skip
def test_a_budget_that_cannot_be_meant_is_refused_by_its_field(api: Make, wrong: dict[str, Any]) -> None:
    chief = api("chief", is_staff=True)
    body = {"of": "user", "id": str(chief.user.pk), "period": "day", "limit_tokens": 1}
    refused = chief.request("PUT", "budgets/", body | wrong)
    assert code_of(refused) == (400, "validation_error")
    assert set(refused.json()["error"]["fields"]) <= set(wrong) and not Budget.objects.exists()


def test_one_sees_one_s_own_budgets_and_those_of_one_s_groups(api: Make) -> None:
    anna, bert = api("anna"), api("bert")
    group, other = Group.objects.create(name="mill"), Group.objects.create(name="other")
    group.user_set.add(anna.user)
    use(limited(user=anna.user), 12)
    limited(user=bert.user)
    limited(group=group)
    limited(group=other)
    limited(flow=uuid4())
    shown = anna.get("me/usage/").json()["budgets"]
    assert [(each["of"], each["name"], each["spent_tokens"]) for each in shown] == [
        ("user", "anna", 12),
        ("group", "mill", 0),
    ]


def test_a_key_sees_its_own_budget_too(api: Make) -> None:
    anna = api("anna")
    key, value = store.create_key(anna.user.pk, "script", ["chat"])
    limited(key=key)
    by_key = Api()
    by_key.headers = {"Authorization": f"Bearer {value}"}
    assert [each["of"] for each in by_key.get("me/usage/").json()["budgets"]] == ["key"]
    assert anna.get("me/usage/").json() == {"budgets": []}


async def test_a_say_past_a_budget_is_refused_with_when_it_ends(anna: Remote) -> None:
    chat = await chat_with(anna, HELLO)
    await database.write(lambda: use(limited(user=User.objects.get()), 100))
    status, body, headers = await anna("POST", f"chats/{chat}/turns/", {"text": "Hi"}, Accept_Language="de")
    assert (status, body["error"]["code"], body["error"]["retryable"]) == (429, "quota_exceeded", True)
    assert body["error"]["text"].startswith("Ihr Budget ist bis 20") and " 00:00 UTC " in body["error"]["text"]
    assert 0 < body["error"]["retry_after"] <= 86400 and 0 < int(headers["Retry-After"]) <= 86400


async def test_an_answer_past_a_budget_is_refused(anna: Remote) -> None:
    chat = await chat_with(anna, ASK)
    _, said, _ = await anna("POST", f"chats/{chat}/turns/", {"text": "Hi"})
    waiting = await in_state(anna, said["turn"], "waiting")
    await database.write(lambda: use(limited(user=User.objects.get()), 100))
    path = f"questions/{waiting['question']['question']}/answer/"
    status, body, _ = await anna("POST", path, {"value": "Anna"})
    assert (status, body["error"]["code"]) == (429, "quota_exceeded")


async def test_what_is_said_by_a_key_counts_for_that_key(live: Live, anna: Remote) -> None:
    chat = await chat_with(anna, HELLO)

    def make() -> str:
        key, value = store.create_key(User.objects.get().pk, "script", ["chat"])
        use(limited(key=key), 100)
        return value

    async with remote(live, await database.write(make)) as by_key:
        status, body, _ = await by_key("POST", f"chats/{chat}/turns/", {"text": "Hi"})
        assert (status, body["error"]["code"]) == (429, "quota_exceeded")
    assert (await anna("POST", f"chats/{chat}/turns/", {"text": "Hi"}))[0] == 202


# ------------------------------------------------------------------------------------------------------- admin


def form(**fields: Any) -> dict[str, Any]:
    names = ("user", "group", "key", "flow", "limit_tokens", "limit_cost_micros")
    return dict.fromkeys(names, "") | {"period": "day"} | fields


def test_an_operator_sets_a_budget_of_each(page: Client, chief: User, make_flow: Callable[..., Flow]) -> None:
    key, _value = store.create_key(chief.pk, "script", ["chat"])
    flow, group = make_flow(chief, "Guide"), Group.objects.create(name="mill")
    for name, row in {"user": chief, "group": group, "key": key, "flow": flow}.items():
        saved = page.post(f"{LIST}add/", form(**{name: str(row.pk), "limit_tokens": 5}))
        assert saved.status_code == 302, saved.context["adminform"].form.errors
    assert [each.of for each in Budget.objects.order_by("id")] == ["user", "group", "key", "flow"]
    assert "flow Guide" in page.get(LIST).content.decode()


@pytest.mark.parametrize("fields", [{"limit_tokens": 5}, {"user": "chief"}, {"user": "chief", "limit_tokens": 0}])
def test_a_form_without_whose_or_how_much_says_so(page: Client, chief: User, fields: dict[str, Any]) -> None:
    fields = {name: chief.pk if value == "chief" else value for name, value in fields.items()}
    shown = page.post(f"{LIST}add/", form(**fields))
    assert shown.status_code == 200 and shown.context["adminform"].form.errors
    assert not Budget.objects.exists()


def test_a_second_budget_of_the_same_is_refused(page: Client, chief: User) -> None:
    limited(user=chief)
    assert page.post(f"{LIST}add/", form(user=chief.pk, limit_tokens=5)).status_code == 200
    assert page.post(f"{LIST}add/", form(user=chief.pk, limit_tokens=5, period="month")).status_code == 302


def test_an_operator_raises_a_limit_and_sees_what_was_used(page: Client, chief: User) -> None:
    budget = use(limited(user=chief), 1500)
    shown = page.get(f"{LIST}{budget.pk}/change/").content.decode()
    assert "1,500 of 100" in shown and "used up" in shown
    assert page.post(f"{LIST}{budget.pk}/change/", {"limit_tokens": 2000, "limit_cost_micros": ""}).status_code == 302
    budget.refresh_from_db()
    assert (budget.limit_tokens, budget.user) == (2000, chief)
    assert "1,500 of 2,000" in page.get(LIST).content.decode()


def test_a_viewer_sees_budgets_and_sets_none(db: None) -> None:
    vera = User.objects.create_user("vera")
    vera.groups.add(make_viewers())
    client = Client()
    client.force_login(vera)
    budget = use(limited(user=vera), 40)
    assert "40 of 100" in client.get(LIST).content.decode()
    assert "40 of 100" in client.get(f"{LIST}{budget.pk}/change/").content.decode()
    assert client.post(f"{LIST}{budget.pk}/change/", {"limit_tokens": 9}).status_code == 403
    assert client.get(f"{LIST}add/").status_code == 403
