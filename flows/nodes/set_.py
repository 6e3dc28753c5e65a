"""Keeps a value with the chat. The run changes its own copy; it is stored with the end of the turn."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
from django.conf import settings
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from flows.graph import RESERVED
from flows.kinds import Kind, NodeContext, NodeError, Outcome, Values, register
from streams.sentences import Sentence


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,39}$(?!\n)")]
    value: Values


def check(fields: Fields) -> Iterator[tuple[str, str]]:
    if fields.name in RESERVED:
        yield "name", Sentence(gettext_noop("the name {name} is taken by the template language"), name=fields.name)


async def run(fields: Fields, ctx: NodeContext) -> Outcome:
    value = ctx.values(fields.value)
    kept = {**ctx.vars, fields.name: value}
    limit = settings.HEADRACE.vars_bytes
    if len(msgspec.json.encode(kept)) > limit:
        raise NodeError(gettext_noop("the chat's variables are larger than {limit} bytes"), limit=limit)
    ctx.vars[fields.name] = value
    return Outcome()


register(Kind("set", Fields, run, title=_("Set"), check=check, sets=lambda fields: (fields.name,)))
