"""Says a text."""

import msgspec
from django.utils.translation import gettext_lazy as _

from flows.kinds import Kind, NodeContext, Outcome, Template, register


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: Template


async def run(fields: Fields, ctx: NodeContext) -> Outcome:
    text = ctx.render(fields.text)
    if text:
        await ctx.write(text)
    return Outcome({"text": text})


register(Kind("message", Fields, run, title=_("Message"), outputs=("text",)))
