"""Ends the turn, with data for whoever called it."""

import msgspec
from django.utils.translation import gettext_lazy as _

from flows.kinds import Kind, NodeContext, Outcome, Values, register


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: Values = None


async def run(fields: Fields, ctx: NodeContext) -> Outcome:
    return Outcome({"data": ctx.values(fields.data)})


register(Kind("end", Fields, run, title=_("End"), passes=False, is_end=True))
