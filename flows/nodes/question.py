"""Asks the user and waits, if need be for days, holding nothing."""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from flows import schemas
from flows.kinds import Branch, Kind, NodeContext, Outcome, Template, register
from flows.templates import text_of
from streams.sentences import Sentence

EXPIRED = "expired"
DECLINED = "declined"


class Option(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Branch
    label: Template


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options, or a form's schema, or neither: free text. `default`: the answer where nobody answers in time.

    An option's id, `expired` and `declined` are branches where edges name them. Without an edge `expired` and
    without a default the turn ends `question_expired`.
    """

    text: Template
    options: Annotated[list[Option], msgspec.Meta(max_length=50)] = []
    schema: dict[str, Any] | None = None
    expires_s: Annotated[float, msgspec.Meta(ge=1, le=30 * 86400)] | None = None
    default: Any = None
    secret: bool = False


def check(fields: Fields) -> Iterator[tuple[str, str]]:
    if fields.options and fields.schema is not None:
        yield "schema", Sentence(gettext_noop("a question has either options or a schema"))
    for id_, count in Counter(option.id for option in fields.options).items():
        if count > 1 or id_ in (EXPIRED, DECLINED):
            yield "options", Sentence(gettext_noop("the id {name} is taken"), name=id_)
    if fields.schema is not None:
        try:
            schemas.parse(fields.schema)
        except schemas.SchemaError as error:
            yield "schema", error.sentence
            return
    if fields.default is not None:
        what = _default_fault(fields)
        if what:
            yield "default", what


def _default_fault(fields: Fields) -> Sentence | None:
    if fields.options:
        is_option = any(fields.default == option.id for option in fields.options)
        return None if is_option else Sentence(gettext_noop("it is not the id of an option"))
    if fields.schema is None:
        return None if isinstance(fields.default, str) else Sentence(gettext_noop("it must be a text"))
    try:
        schemas.validate(fields.schema, fields.default)
    except schemas.SchemaError as error:
        return error.sentence
    return None


def branches(fields: Fields) -> tuple[str, ...]:
    return tuple(dict.fromkeys(option.id for option in fields.options))


async def run(fields: Fields, ctx: NodeContext) -> Outcome:
    answer = await ctx.stream.ask(
        ctx.render(fields.text),
        options=tuple({"id": option.id, "label": ctx.render(option.label)} for option in fields.options),
        schema=fields.schema,
        secret=fields.secret,
        expires_s=fields.expires_s,
        default=fields.default,
        goes_on_expired=EXPIRED in ctx.branches,
    )
    if answer.action == "expire":
        return Outcome({"value": None, "label": ""}, EXPIRED)
    if answer.action != "accept":
        return Outcome({"value": None, "label": ""}, DECLINED)
    label = answer.label or text_of(answer.value)
    branch = answer.value if fields.options else None
    return Outcome({"value": answer.value, "label": label}, branch, is_secret=fields.secret)


register(
    Kind(
        "question",
        Fields,
        run,
        title=_("Question"),
        outputs=("value", "label"),
        branches=branches,
        optional=frozenset({EXPIRED, DECLINED}),
        check=check,
    )
)
