"""Cursor pages of lists: `{results, next, previous}`."""

import re
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core import signing
from django.db.models import Q, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from streams.errors import WireError

PAGE_DEFAULT = 50
PAGE_MOST = 200
ROWS_AT_ONCE = 8  # of those that may be large


def page(
    request: Request,
    rows: QuerySet,
    order: tuple[str, ...],
    show: Callable[[list[Any]], list[dict[str, Any]]],
    weigh: Callable[[Any], int] | None = None,
) -> Response:
    """`{results, next, previous}`: rows by `order`, all of it descending and unique together, from a cursor on.

    `weigh`: bytes of a row that may be large; a page of them ends past `page_bytes`, whatever its limit.

    A cursor is signed for this list and user, and holds the `order` values of the row it stands beside. Raises
    WireError bad_cursor, bad_limit.
    """
    limit = _limit(request.query_params.get("limit"))
    cursor = request.query_params.get("cursor")
    after, is_back = _read_cursor(request, cursor, order) if cursor is not None else (None, False)
    if after is not None:
        rows = rows.filter(_beyond(order, after, "gt" if is_back else "lt"))
    sign = "" if is_back else "-"
    rows = rows.order_by(*(sign + name for name in order))[: limit + 1]
    found, has_more = _light(rows, weigh) if weigh else (list(rows), False)
    has_more, found = has_more or len(found) > limit, found[:limit]
    if is_back:
        found.reverse()
    has_next, has_previous = (cursor is not None, has_more) if is_back else (has_more, cursor is not None)
    return Response(
        {
            "results": show(found),
            "next": _link(request, found[-1], order, False) if found and has_next else None,
            "previous": _link(request, found[0], order, True) if found and has_previous else None,
        }
    )


def _light(rows: QuerySet, weigh: Callable[[Any], int]) -> tuple[list[Any], bool]:
    """At least one row, and as many as weigh no more than a page may; whether there are more."""
    found: list[Any] = []
    left = settings.HEADRACE.page_bytes
    for row in rows.iterator(chunk_size=ROWS_AT_ONCE):
        left -= weigh(row)
        if found and left < 0:
            return found, True
        found.append(row)
    return found, False


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_DEFAULT
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= PAGE_MOST:
        raise WireError("bad_limit")
    return int(text)


def _salt(request: Request) -> str:
    return f"headrace.cursor:{request.path}:{request.user.pk}"


def _link(request: Request, row: Any, order: tuple[str, ...], is_back: bool) -> str:
    values = [row._meta.get_field(name).value_to_string(row) for name in order]
    query = request.query_params.copy()
    query["cursor"] = signing.dumps([is_back, *values], salt=_salt(request), compress=True)
    return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")


def _read_cursor(request: Request, cursor: str, order: tuple[str, ...]) -> tuple[list[str], bool]:
    try:
        is_back, *values = signing.loads(cursor, salt=_salt(request))
    except (signing.BadSignature, ValueError) as error:
        raise WireError("bad_cursor") from error
    if len(values) != len(order):
        raise WireError("bad_cursor")
    return values, is_back


def _beyond(order: tuple[str, ...], values: list[str], comparison: str) -> Q:
    """Rows after `values`: less in the first column that differs."""
    beyond = Q()
    equal: dict[str, str] = {}
    for name, value in zip(order, values, strict=True):
        beyond |= Q(**equal, **{f"{name}__{comparison}": value})
        equal[name] = value
    return beyond
