"""The figures of the admin's first page, each with the rows it is made of. A fixed number of bounded queries."""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from django.conf import settings
from django.contrib.humanize.templatetags.humanize import intcomma
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts import lists
from chat.admin.sessions import LIVE_VALUES, cause
from chat.models import Question, Turn
from chat.turns.states import TurnState
from streams.database import now
from streams.models import StreamSession, Worker
from streams.store import alive_since

PACE = timedelta(minutes=5)
WAITED = timedelta(hours=1)
FAILED = timedelta(hours=24)
CAUSES = 6


class Figure(NamedTuple):
    label: str
    value: str
    note: str
    url: str


class Cause(NamedTuple):
    label: str
    count: str
    share: int  # of the most frequent one, in hundredths
    url: str


def figures() -> list[Figure]:
    return [_pace(), *_first_tokens(), _live(), _running(), _questions(), _workers()]


def causes() -> list[Cause]:
    """Why turns ended in an error lately, the most frequent first."""
    since = now() - FAILED
    failed = Turn.objects.filter(state=TurnState.ERROR.value, created__gte=since).order_by("-created")
    codes = Counter(failed.values_list("error__code", flat=True)[: settings.HEADRACE.admin_figure_turns])
    most = max(codes.values(), default=1)
    return [
        Cause(
            cause(code or "") or _("unknown"),
            intcomma(count),
            100 * count // most,
            lists.rows_url(Turn, state="error", created__gte=since.isoformat(), **({"cause": code} if code else {})),
        )
        for code, count in codes.most_common(CAUSES)
    ]


def quantile(values: Sequence[int], share: float) -> int | None:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _pace() -> Figure:
    since = now() - PACE
    count = Turn.objects.filter(created__gte=since).count()
    return Figure(
        _("Turns a minute"),
        number_format(round(count / (PACE.total_seconds() / 60), 1), 1, force_grouping=True),
        _("in the last 5 minutes"),
        lists.rows_url(Turn, created__gte=since.isoformat()),
    )


def _first_tokens() -> list[Figure]:
    since = now() - WAITED
    newest = Turn.objects.filter(created__gte=since, first_token_ms__isnull=False).order_by("-created")
    waits = list(newest.values_list("first_token_ms", flat=True)[: settings.HEADRACE.admin_figure_turns])
    url = lists.rows_url(Turn, created__gte=since.isoformat(), first_token_ms__isnull="False")
    note = ngettext("%(count)s turn of the last hour", "%(count)s turns of the last hour", len(waits))
    return [
        Figure(label, lists.seconds(None if ms is None else ms / 1000), note % {"count": intcomma(len(waits))}, url)
        for label, ms in (
            (_("First token, half of them within"), quantile(waits, 0.5)),
            (_("First token, 95 % within"), quantile(waits, 0.95)),
        )
    ]


def _live() -> Figure:
    count = StreamSession.objects.filter(state__in=LIVE_VALUES).count()
    return Figure(_("Live sockets"), intcomma(count), _("now"), lists.rows_url(StreamSession, state="live"))


def _running() -> Figure:
    count = Turn.objects.filter(state=TurnState.RUNNING.value).count()
    return Figure(_("Turns running"), intcomma(count), _("now"), lists.rows_url(Turn, state="running"))


def _questions() -> Figure:
    count = Question.objects.filter(action="").count()
    return Figure(_("Open questions"), intcomma(count), _("wait for an answer"), lists.rows_url(Question, state="open"))


def _workers() -> Figure:
    alive = Worker.objects.filter(last_seen__gte=alive_since()).count()
    return Figure(_("Workers"), intcomma(alive), _("alive"), lists.rows_url(Worker))
