"""A model answers."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from flows import schemas
from flows.context import LLMCall, with_files
from flows.graph import Name
from flows.kinds import Kind, NodeContext, NodeError, Outcome, Template, register
from flows.templates import text_of
from providers.base import LLMMessage
from streams.numbers import OutOfRange, check_numbers

FENCE = "```"


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`model`: empty means the provider's first. `history`: messages before this one. `show`: where its text goes.
    `files`: whether it reads what came with the message.

    `prompt` may be a text or the `messages` of a prompt. With a `schema` the answer is one JSON object: `data`.
    """

    provider: Annotated[str, msgspec.Meta(min_length=1, max_length=64, extra_json_schema={"format": "provider"})]
    model: Annotated[str, msgspec.Meta(max_length=200, extra_json_schema={"format": "model"})] = ""
    system: Template = ""
    prompt: Template = "{{ input.text }}"
    files: bool = True
    history: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    schema: dict[str, Any] | None = None
    show: Literal["answer", "reasoning", "hidden"] = "answer"


def check(fields: Fields) -> Iterator[tuple[str, str]]:
    if fields.schema is not None:
        try:
            schemas.parse(fields.schema)
        except schemas.SchemaError as error:
            yield "schema", error.sentence


def names(fields: Fields) -> tuple[Name, ...]:
    provider = Name("provider", "provider", fields.provider)
    if not fields.model:
        return (provider,)
    return (provider, Name("model", "model", fields.model, provider=fields.provider))


async def run(fields: Fields, ctx: NodeContext) -> Outcome:
    messages: list[LLMMessage] = []
    system = ctx.render(fields.system)
    if system:
        messages.append(LLMMessage("system", system))
    if fields.history:
        messages.extend(await ctx.history(fields.history))
    prompted = _prompted(ctx.value(fields.prompt))
    if fields.files and prompted and prompted[-1].role == "user":
        prompted[-1] = with_files(prompted[-1], ctx.input.files)
    messages.extend(prompted)
    if not messages:
        raise NodeError(gettext_noop("there is nothing to give to the model"))
    result = await ctx.llm(
        LLMCall(
            provider=fields.provider,
            model=fields.model,
            messages=tuple(messages),
            temperature=fields.temperature,
            max_tokens=fields.max_tokens,
            schema=fields.schema,
            show=fields.show,
        )
    )
    usage = {**msgspec.structs.asdict(result.usage), "model": result.model}
    data = None if fields.schema is None else structured(result.text, fields.schema)
    return Outcome({"text": result.text, "data": data, "reasoning": result.reasoning, "usage": usage})


def _prompted(value: Any) -> list[LLMMessage]:
    if isinstance(value, list):
        try:
            return msgspec.convert(value, list[LLMMessage])
        except msgspec.ValidationError as error:
            raise NodeError(gettext_noop("the prompt is a list, but not one of messages")) from error
    text = text_of(value)
    return [LLMMessage("user", text)] if text else []


def _unfenced(text: str) -> str:
    """What stands in a code fence around the whole. By hand: a pattern would take days over many ends of lines."""
    bare = text.strip()
    if len(bare) < 2 * len(FENCE) or not (bare.startswith(FENCE) and bare.endswith(FENCE)):
        return text
    head, newline, body = bare.removeprefix(FENCE).removesuffix(FENCE).partition("\n")
    return body if newline and head.strip() in ("", "json") else text


def structured(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The object that a model wrote, a code fence around it or not. Raises NodeError where it does not fit."""
    written = _unfenced(text)
    try:
        values = msgspec.json.decode(written)
        check_numbers(written, values)
    except OutOfRange as error:
        raise NodeError(gettext_noop("the model's answer has a number that is too large")) from error
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise NodeError(gettext_noop("the model's answer is not JSON")) from error
    try:
        return schemas.validate(schema, values)
    except schemas.SchemaError as error:
        raise NodeError(gettext_noop("the model's answer does not fit: {reason}"), reason=error.sentence) from error


register(
    Kind(
        "llm",
        Fields,
        run,
        title=_("Model"),
        outputs=("text", "data", "reasoning", "usage"),
        check=check,
        names=names,
    )
)
