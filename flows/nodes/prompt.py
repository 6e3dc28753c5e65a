"""Makes a text, or messages for a model, without saying it."""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from flows.kinds import Kind, NodeContext, Outcome, Template, register
from streams.sentences import Sentence


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    text: Template


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the two."""

    text: Template | None = None
    messages: Annotated[list[Line], msgspec.Meta(min_length=1, max_length=100)] | None = None


def check(fields: Fields) -> Iterator[tuple[str, str]]:
    if (fields.text is None) == (fields.messages is None):
        yield "text", Sentence(gettext_noop("a prompt has either a text or messages"))


def outputs(fields: Fields) -> tuple[str, ...]:
    return ("text",) if fields.messages is None else ("messages",)


async def run(fields: Fields, ctx: NodeContext) -> Outcome:
    if fields.messages is None:
        return Outcome({"text": ctx.render(fields.text or "")})
    lines = [{"role": line.role, "text": ctx.render(line.text)} for line in fields.messages]
    return Outcome({"messages": lines})


register(Kind("prompt", Fields, run, title=_("Prompt"), outputs=outputs, check=check))
