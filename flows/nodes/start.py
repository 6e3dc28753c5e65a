"""Where a turn begins: what the user wrote, and what a fresh chat shows before he does."""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from django.utils.translation import gettext_lazy as _

from flows import schemas
from flows.kinds import Kind, NodeContext, Outcome, register


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`params`: the schema of what may come with a message."""

    greeting: Annotated[str, msgspec.Meta(max_length=4000)] = ""
    suggestions: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=200)]], msgspec.Meta(max_length=10)
    ] = []
    params: dict[str, Any] | None = None


def check(fields: Fields) -> Iterator[tuple[str, str]]:
    if fields.params is not None:
        try:
            schemas.parse(fields.params)
        except schemas.SchemaError as error:
            yield "params", error.sentence


async def run(fields: Fields, ctx: NodeContext) -> Outcome:
    return Outcome({"text": ctx.input.text, "params": dict(ctx.input.params), "files": ctx.input.shown_files()})


register(
    Kind(
        "start",
        Fields,
        run,
        title=_("Start"),
        outputs=("text", "params", "files"),
        check=check,
        is_start=True,
    )
)
