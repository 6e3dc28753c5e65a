"""Chooses the first branch whose condition holds, else `else`."""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import msgspec
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from flows.conditions import ConditionError, When, faults, holds
from flows.kinds import Branch, Kind, NodeContext, NodeError, Outcome, register
from streams.sentences import Sentence

ELSE = "else"


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    branch: Branch
    when: When


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cases: Annotated[list[Case], msgspec.Meta(min_length=1, max_length=50)]


def check(fields: Fields) -> Iterator[tuple[str, str]]:
    for branch, count in Counter(case.branch for case in fields.cases).items():
        if count > 1 or branch == ELSE:
            yield "cases", Sentence(gettext_noop("the branch {name} is taken"), name=branch)
    for index, case in enumerate(fields.cases):
        for what in faults(case.when):
            yield f"cases[{index}].when", what


def branches(fields: Fields) -> tuple[str, ...]:
    return tuple(dict.fromkeys(case.branch for case in fields.cases))


async def run(fields: Fields, ctx: NodeContext) -> Outcome:
    for case in fields.cases:
        try:
            is_chosen = holds(case.when, ctx.value)
        except ConditionError as error:
            raise NodeError("{branch}: {reason}", branch=case.branch, reason=error.sentence) from error
        if is_chosen:
            return Outcome({"branch": case.branch}, case.branch)
    return Outcome({"branch": ELSE}, ELSE)


register(
    Kind(
        "condition",
        Fields,
        run,
        title=_("Condition"),
        outputs=("branch",),
        branches=branches,
        always=(ELSE,),
        passes=False,
        check=check,
    )
)
