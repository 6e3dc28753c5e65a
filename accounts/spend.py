"""Budgets: what may be used in a day or a month, and what was.

A model is called while nothing is used up that its turn counts for, and what it used is counted afterwards, by the
provider's own figures where it gives some, in the transaction that writes the turn's usage. So calls under way may
pass a limit, no later one does, and nothing is counted twice. Days and months are UTC's, by the database's clock.
"""

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import Any

import msgspec
from django.conf import settings
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils.translation import gettext_lazy
from django.utils.translation import gettext_noop as _

from accounts.models import ApiKey, Budget, Spent, User
from accounts.tokens import Identity
from streams import database
from streams.errors import WireError
from streams.prepared import Select
from streams.sentences import Sentence

COST_MOST = 10**15  # counted at once: sums stay within their columns, whatever prices an operator types
USED_UP = {
    "user": _("Your budget is used up until {until}."),
    "group": _("The budget of the group {name} is used up until {until}."),
    "key": _("The budget of this API key is used up until {until}."),
    "flow": _("The budget of this flow is used up until {until}."),
}


class Spender(msgspec.Struct, frozen=True):
    """Whom a turn counts for: its user with his groups, the API key that said it, its flow."""

    user: int
    key: uuid.UUID | None
    flow: uuid.UUID | None


# ------------------------------------------------------------------------------------------- check and count


def check(spender: Spender, at: datetime | None = None) -> None:
    """Raises WireError quota_exceeded where something is used up: of several, by what is so the longest."""
    if is_unlimited():
        return
    at = at or database.now()
    day, month = start_of(Budget.Period.DAY, at), start_of(Budget.Period.MONTH, at)
    rows = _USED_UP.all(spender.user, spender.user, spender.key, spender.flow, day, month)
    if rows:
        raise _refusal(max((row.budget for row in rows), key=lambda budget: end_of(budget.period, at)), at)


def count(spender: Spender, tokens: int, cost_micros: int, at: datetime) -> None:
    """Adds to every budget of his. Inside the transaction that keeps what was counted for."""
    tokens, cost_micros = max(tokens, 0), min(max(cost_micros, 0), COST_MOST)
    if not (tokens or cost_micros) or is_unlimited():
        return
    for budget in _BUDGETS.all(spender.user, spender.user, spender.key, spender.flow):
        _add(budget, start_of(budget.period, at), tokens, cost_micros)


def _add(budget: Budget, start: date, tokens: int, cost_micros: int) -> None:
    """The budget's row is locked: nobody else makes its first sum of a period."""
    sums = Spent.objects.filter(budget=budget, start=start)
    if not sums.update(tokens=F("tokens") + tokens, cost_micros=F("cost_micros") + cost_micros):
        Spent.objects.create(budget=budget, start=start, tokens=tokens, cost_micros=cost_micros)


def _refusal(budget: Budget, at: datetime) -> WireError:
    end = end_of(budget.period, at)
    values = {"until": end.strftime("%Y-%m-%d %H:%M UTC")}  # in this form: pages tell it in the reader's zone
    if budget.group is not None:
        values["name"] = budget.group.name
    return WireError("quota_exceeded", Sentence(USED_UP[budget.of], **values), retry_after=(end - at).total_seconds())


def start_of(period: str, at: datetime) -> date:
    """The first day of the period that `at` is in."""
    day = at.astimezone(UTC).date()
    return day if period == Budget.Period.DAY else day.replace(day=1)


def end_of(period: str, at: datetime) -> datetime:
    """When the next one begins."""
    start = start_of(period, at)
    after = start + timedelta(days=1) if period == Budget.Period.DAY else (start + timedelta(days=31)).replace(day=1)
    return datetime.combine(after, clock.min, UTC)


# --------------------------------------------------------------------------------------- whether there is any

_seen: tuple[float, bool] | None = None  # when (monotonic), and whether there was no budget at all


def is_unlimited() -> bool:
    """Whether there is no budget at all, as seen a moment ago (`budgets_fresh_s`), else asked of the database."""
    global _seen
    known = _seen_lately()
    if known is None:
        known = not Budget.objects.exists()
        _seen = time.monotonic(), known
    return known


def seems_unlimited() -> bool:
    """The same without asking; False where nobody has looked lately."""
    return _seen_lately() is True


def look_again() -> None:
    """Budgets were changed in this process."""
    global _seen
    _seen = None


def _seen_lately() -> bool | None:
    seen = _seen  # other threads look again
    is_fresh = seen is not None and time.monotonic() - seen[0] < settings.HEADRACE.budgets_fresh_s
    return seen[1] if is_fresh else None


# ------------------------------------------------------------------------------------------- looked at, set


def budgets_of(identity: Identity) -> QuerySet[Budget]:
    """His own, those of his groups, and that of the API key he came with."""
    mine = Q(user=identity.user_id) | Q(group__in=identity.group_ids)
    if identity.key is not None:
        mine |= Q(key=identity.key)
    return Budget.objects.filter(mine).select_related("user", "group", "key").order_by("id")


def spent_of(budgets: Sequence[Budget], at: datetime) -> dict[int, Spent]:
    """What was used of each in its present day or month, by its id."""
    current = _current(start_of(Budget.Period.DAY, at), start_of(Budget.Period.MONTH, at))
    known = {row.budget_id: row for row in Spent.objects.filter(current, budget__in=budgets)}
    return {row.pk: known.get(row.pk) or Spent(budget=row, start=start_of(row.period, at)) for row in budgets}


def is_used_up(budget: Budget, spent: Spent) -> bool:
    pairs = ((budget.limit_tokens, spent.tokens), (budget.limit_cost_micros, spent.cost_micros))
    return any(limit is not None and used >= limit for limit, used in pairs)


def put(of: str, id_: int | uuid.UUID, period: str, limits: dict[str, int | None]) -> Budget:
    """Sets the limits of one budget; without any there is none from now on. Raises WireError validation_error."""
    model: Any = {"user": User, "group": Group, "key": ApiKey}.get(of)
    if model is not None and not model.objects.filter(pk=id_).exists():
        raise WireError("validation_error", fields={"id": _NOBODY})
    which = {of if of == "flow" else f"{of}_id": id_, "period": period}
    with transaction.atomic():
        if any(limits.values()):
            budget, _is_new = Budget.objects.update_or_create(**which, defaults=limits)
            return budget
        Budget.objects.filter(**which).delete()
        return Budget(**which, **limits)


_NOBODY = gettext_lazy("There is nobody and nothing of this id.")


# ----------------------------------------------------------------------------------------------- statements


def _counts_for(user: int, member: int, key: uuid.UUID, flow: uuid.UUID, prefix: str = "") -> Q:
    """`member` is `user` once more: a prepared argument stands in one place."""
    groups = User.groups.through.objects.filter(user_id=member).values("group_id")
    whose = {"user": user, "group__in": groups, "key": key, "flow": flow}
    found = Q()
    for name, value in whose.items():
        found |= Q(**{prefix + name: value})
    return found


def _current(day: date, month: date) -> Q:
    return Q(budget__period=Budget.Period.DAY, start=day) | Q(budget__period=Budget.Period.MONTH, start=month)


_IS_USED_UP = Q(tokens__gte=F("budget__limit_tokens")) | Q(cost_micros__gte=F("budget__limit_cost_micros"))
_USED_UP = Select(
    lambda user, member, key, flow, day, month: Spent.objects.filter(
        _counts_for(user, member, key, flow, "budget__"), _current(day, month), _IS_USED_UP
    ).select_related("budget__group"),
    int, int, uuid.UUID, uuid.UUID, date, date,
)  # fmt: skip
# Locked in one order: ends that meet wait for each other, and none for ever.
_BUDGETS = Select(
    lambda user, member, key, flow: (
        Budget.objects.select_for_update(no_key=True).filter(_counts_for(user, member, key, flow)).order_by("id")
    ),
    int, int, uuid.UUID, uuid.UUID,
)  # fmt: skip
