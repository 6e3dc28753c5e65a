"""REST of budgets: staff sets them, everybody sees what he has used of his."""

import re
import uuid
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import spend
from accounts.authentication import SCOPES, IsStaff
from accounts.models import OF, Budget, Spent
from accounts.rest.bodies import Body, Text, path_id
from accounts.rest.pages import page
from streams import database
from streams.clock import stamp
from streams.errors import WireError

LIMIT_MOST = 2**53 - 1  # what JSON's readers hold exactly
LIMITS = ("limit_tokens", "limit_cost_micros")


def limit() -> serializers.IntegerField:
    return serializers.IntegerField(min_value=1, max_value=LIMIT_MOST, allow_null=True, default=None)


class BudgetBody(Body):
    """`of` and `id`: whose; a limit that is null is none, without both the budget is taken away."""

    of = serializers.ChoiceField(choices=OF)
    id = Text(max_length=36)
    period = serializers.ChoiceField(choices=Budget.Period.values)
    limit_tokens = limit()
    limit_cost_micros = limit()


class BudgetsView(APIView):
    permission_classes = (IsStaff,)

    def get(self, request: Request) -> Response:
        rows = Budget.objects.select_related("user", "group", "key")
        return page(request, rows, ("created", "id"), budgets_json)

    def put(self, request: Request) -> Response:
        body = BudgetBody.of(request)
        limits = {name: body[name] for name in LIMITS}
        budget = spend.put(body["of"], _id(body["of"], body["id"]), body["period"], limits)
        if budget.pk is None:
            return Response(budget_json(budget, Spent(), database.now()))
        return Response(budgets_json([budget])[0])


class UsageView(APIView):
    """What one has used of one's own budgets, of those of one's groups, and of that of the API key that asks."""

    read_scopes = SCOPES

    def get(self, request: Request) -> Response:
        return Response({"budgets": budgets_json(list(spend.budgets_of(request.auth)))})


def budgets_json(rows: list[Budget]) -> list[dict[str, Any]]:
    at = database.now()
    spent = spend.spent_of(rows, at)
    return [budget_json(row, spent[row.pk], at) for row in rows]


def budget_json(row: Budget, spent: Spent, at: datetime) -> dict[str, Any]:
    """`name` is empty for a flow: who may see it reads it from the flow."""
    whose = getattr(row, row.of)
    return {
        "of": row.of,
        "id": str(getattr(whose, "pk", whose)),
        "name": "" if row.flow else str(whose),
        "period": row.period,
        "limit_tokens": row.limit_tokens,
        "limit_cost_micros": row.limit_cost_micros,
        "spent_tokens": spent.tokens,
        "spent_cost_micros": spent.cost_micros,
        "ends": stamp(spend.end_of(row.period, at)),
    }


def _id(of: str, text: str) -> int | uuid.UUID:
    """Users and groups have numbers, keys and flows UUIDs. Raises WireError validation_error."""
    if of in ("key", "flow"):
        try:
            return path_id(text)
        except WireError:
            pass
    elif re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        return int(text)
    raise WireError("validation_error", fields={"id": _("This is no id.")})
