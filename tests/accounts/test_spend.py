"""Budgets: whom a turn counts for, which day and month, and when something is used up."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction

from accounts import spend, store, tokens
from accounts.models import ApiKey, Budget, Spent, User
from accounts.spend import Spender
from streams.errors import WireError

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
FLOW = uuid.uuid4()


@pytest.fixture
def anna() -> User:
    return User.objects.create_user("anna")


def budget(period: str = "day", tokens: int | None = 100, cost: int | None = None, **of: Any) -> Budget:
    return Budget.objects.create(period=period, limit_tokens=tokens, limit_cost_micros=cost, **of)


def spender(user: User, key: ApiKey | None = None, flow: uuid.UUID | None = FLOW) -> Spender:
    return Spender(user.pk, key and key.pk, flow)


def count(who: Spender, tokens: int = 100, cost: int = 0, at: datetime = NOON) -> None:
    with transaction.atomic():
        spend.count(who, tokens, cost, at)


def refusal(who: Spender, at: datetime = NOON) -> WireError | None:
    try:
        spend.check(who, at)
    except WireError as error:
        return error
    return None


def test_a_budget_is_used_up_once_its_limit_is_reached(anna: User) -> None:
    budget(user=anna)
    count(spender(anna), 99)
    assert refusal(spender(anna)) is None
    count(spender(anna), 1)
    assert refusal(spender(anna)).code == "quota_exceeded"


def test_a_cost_is_limited_as_tokens_are(anna: User) -> None:
    budget(user=anna, tokens=None, cost=500)
    count(spender(anna), 10**9, 499)
    assert refusal(spender(anna)) is None
    count(spender(anna), 0, 1)
    assert refusal(spender(anna)) is not None


def test_a_refusal_says_when_it_ends(anna: User) -> None:
    budget(user=anna)
    count(spender(anna))
    error = refusal(spender(anna))
    assert error.text == "Your budget is used up until 2026-11-22 00:00 UTC."
    assert error.extra["retry_after"] == 12 * 3600 and error.entry.is_retryable


def test_of_several_the_one_that_ends_last_is_told(anna: User) -> None:
    budget(user=anna)
    budget("month", flow=FLOW)
    count(spender(anna))
    assert refusal(spender(anna)).text == "The budget of this flow is used up until 2026-12-01 00:00 UTC."


@pytest.mark.parametrize(
    ("period", "at", "start", "end"),
    [
        ("day", NOON, "2026-11-21", "2026-11-22"),
        ("day", datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "2026-12-31", "2027-01-01"),
        ("month", NOON, "2026-11-01", "2026-12-01"),
        ("month", datetime(2026, 12, 31, 23, tzinfo=UTC), "2026-12-01", "2027-01-01"),
        ("month", datetime(2028, 2, 1, tzinfo=UTC), "2028-02-01", "2028-03-01"),
        ("month", datetime(2027, 1, 31, tzinfo=UTC), "2027-01-01", "2027-02-01"),
    ],
)
def test_days_and_months_are_those_of_utc(period: str, at: datetime, start: str, end: str) -> None:
    assert spend.start_of(period, at).isoformat() == start
    assert spend.end_of(period, at).isoformat() == f"{end}T00:00:00+00:00"


def test_the_next_day_begins_anew_and_the_month_goes_on(anna: User) -> None:
    day, month = budget(user=anna), budget("month", 250, user=anna)
    first, second = datetime(2026, 11, 1, 23, 59, tzinfo=UTC), datetime(2026, 11, 2, 0, 0, tzinfo=UTC)
    count(spender(anna), 100, at=first)
    assert refusal(spender(anna), first) is not None and refusal(spender(anna), second) is None
    count(spender(anna), 60, at=second)
    used = spend.spent_of([day, month], second)
    assert (used[day.pk].tokens, used[month.pk].tokens) == (60, 160)


def test_a_group_s_members_share_its_budget(anna: User) -> None:
    bert, stranger = User.objects.create_user("bert"), User.objects.create_user("carl")
    group = Group.objects.create(name="mill")
    group.user_set.add(anna, bert)
    budget(group=group)
    count(spender(anna), 60)
    count(spender(bert), 40)
    assert refusal(spender(bert)).text == "The budget of the group mill is used up until 2026-11-22 00:00 UTC."
    assert refusal(spender(anna)) is not None and refusal(spender(stranger)) is None


def test_a_key_s_budget_counts_what_came_by_that_key_alone(anna: User) -> None:
    one, other = store.create_key(anna.pk, "one", ["chat"])[0], store.create_key(anna.pk, "two", ["chat"])[0]
    budget(key=one)
    count(spender(anna))
    count(spender(anna, other))
    assert refusal(spender(anna, one)) is None
    count(spender(anna, one))
    assert refusal(spender(anna, one)).text.startswith("The budget of this API key is used up")
    assert refusal(spender(anna)) is None and refusal(spender(anna, other)) is None


def test_a_flow_s_budget_counts_everybody_who_uses_it(anna: User) -> None:
    bert = User.objects.create_user("bert")
    budget(flow=FLOW)
    count(spender(anna), 50)
    count(spender(bert), 50)
    assert refusal(spender(bert)) is not None and refusal(spender(bert, flow=uuid.uuid4())) is None


def test_whoever_comes_with_a_key_is_known_by_it(anna: User) -> None:
    row, value = store.create_key(anna.pk, "one", ["chat"])
    assert tokens.verify(tokens.Credential("header", value)).key == str(row.pk)
    assert tokens.verify(tokens.Credential("header", tokens.mint(anna))).key is None


def test_a_ticket_counts_for_the_key_that_bought_it(anna: User) -> None:
    row, value = store.create_key(anna.pk, "one", ["chat"])
    ticket, _end = tokens.buy_ticket(tokens.verify(tokens.Credential("header", value)))
    assert tokens.verify(tokens.Credential("ticket", ticket)).key == str(row.pk)


def test_without_any_budget_nothing_is_asked(anna: User, django_assert_num_queries: Any) -> None:
    spend.look_again()
    with django_assert_num_queries(1):
        assert spend.is_unlimited()
    with django_assert_num_queries(0):
        spend.check(spender(anna), NOON)
        spend.count(spender(anna), 100, 100, NOON)


def test_a_check_is_one_statement(anna: User, django_assert_num_queries: Any) -> None:
    budget(user=anna)
    spend.is_unlimited()
    with django_assert_num_queries(1):
        spend.check(spender(anna), NOON)


def test_the_first_budget_counts_at_once_where_it_was_made(anna: User) -> None:
    spend.look_again()
    assert spend.is_unlimited()
    budget(user=anna)
    assert not spend.is_unlimited()


def test_no_price_makes_a_sum_that_a_row_cannot_hold(anna: User) -> None:
    budget(user=anna, tokens=None, cost=500)
    for _ in range(3):
        count(spender(anna), 0, 10**30)
    assert Spent.objects.get().cost_micros == 3 * spend.COST_MOST


@pytest.mark.parametrize("fields", [{}, {"flow": FLOW, "tokens": None}])
def test_a_budget_is_somebody_s_and_has_a_limit(fields: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        budget(**fields)


def test_a_budget_is_of_one_and_once_a_period(anna: User) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        budget(user=anna, flow=FLOW)
    budget(user=anna)
    budget("month", user=anna)
    with pytest.raises(IntegrityError), transaction.atomic():
        budget(user=anna)


def test_put_sets_changes_and_takes_away(anna: User) -> None:
    limits = {"limit_tokens": 5, "limit_cost_micros": None}
    made = spend.put("user", anna.pk, "day", limits)
    count(spender(anna), 5)
    changed = spend.put("user", anna.pk, "day", limits | {"limit_tokens": 6})
    assert changed.pk == made.pk and refusal(spender(anna)) is None
    assert spend.put("user", anna.pk, "day", dict.fromkeys(limits)).pk is None
    assert not Budget.objects.exists() and not Spent.objects.exists()
