"""The model calls of a run: budgets before, pictures read, what streams shown in the answer, usage counted after."""

from contextlib import aclosing
from typing import Any

import msgspec
from django.conf import settings

from accounts import spend
from chat import protocol
from chat.files import store as files
from chat.turns import usage as usages
from chat.turns.orders import RunOrder
from chat.turns.outbox import Outbox
from chat.turns.parts import Parts
from chat.turns.shown import Shown
from chat.turns.visits import Visits
from flows import providers
from flows.context import LLMCall, LLMResult
from providers.base import LLMMessage, LLMRequest, ProviderError
from providers.base import Usage as ProviderUsage
from streams import database, metrics
from streams.errors import WireError


class ModelCalls:
    """Of one run. What they used is summed from what earlier runs of the turn did."""

    def __init__(self, order: RunOrder, parts: Parts, outbox: Outbox, visits: Visits, log: Any) -> None:
        self._bounds = settings.HEADRACE
        self._order, self._parts, self._outbox, self._visits, self._log = order, parts, outbox, visits, log
        self._user = int(order.inputs["user"]["id"])
        self._usage = None if order.usage is None else msgspec.convert(order.usage, protocol.Usage)

    async def stream(self, call: LLMCall) -> LLMResult:
        await self._check_budgets()
        llm, model = await providers.open_llm(call.provider, call.model)
        shown = Shown(self._parts, call.show)
        if await providers.continues(call.provider):
            shown.go_on()
        request = LLMRequest(
            model=model,
            messages=await self._with_pictures(call),
            temperature=call.temperature,
            max_tokens=call.max_tokens,
            schema=call.schema,
            begun=shown.begun,
        )
        said, streamed = None, 0
        metrics.provider_calls.inc()
        span = self._visits.span.child("provider", provider=call.provider, model=model)
        try:
            async with aclosing(llm.stream(request)) as chunks:
                async for chunk in chunks:
                    if chunk.reasoning:
                        shown.reasoning(chunk.reasoning, chunk.tokens)
                    if chunk.text:
                        shown.text(chunk.text, chunk.tokens)
                    said, streamed = chunk.usage or said, streamed + chunk.tokens
                    await self._outbox.room()
        except ProviderError as error:
            self._log.info("provider_failed", provider=call.provider, kind=error.kind, text=error.text)
            metrics.provider_errors.labels(error.kind).inc()
            span.end(error.kind)
            raise providers.wire_error(error) from error
        finally:
            shown.close()
            usage = await self._used(call.provider, model, said or ProviderUsage(output_tokens=streamed))
            span.end(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
        return LLMResult(text=shown.whole_text, reasoning=shown.whole_reasoning, usage=usage, model=model)

    async def _used(self, provider: str, model: str, usage: ProviderUsage) -> ProviderUsage:
        """What a call used, also one that was stopped or cut: where its provider did not say, what it streamed."""
        usage = usages.sane(usage, self._bounds.usage_tokens)
        if usage != ProviderUsage():
            cost = await providers.cost_micros(provider, usage)
            self._usage = usages.added(self._usage, usage, model, cost)
        return usage

    def usage_row(self) -> dict[str, Any] | None:
        return msgspec.to_builtins(self._usage) if self._usage else None

    async def _check_budgets(self) -> None:
        """Raises WireError quota_exceeded. What this run has used was counted with the steps before."""
        if spend.seems_unlimited():
            return
        try:
            await database.read(spend.check, self._order.spender)
        except WireError as error:
            if error.code != "unavailable":  # the database is away: streams go on
                raise

    async def _with_pictures(self, call: LLMCall) -> tuple[LLMMessage, ...]:
        """Pictures are read for a provider that takes them; another is told that there was one."""
        if not any(message.pictures for message in call.messages):
            return call.messages
        takes = await providers.takes_pictures(call.provider)
        return tuple([await self._shown_message(message, takes) for message in call.messages])

    async def _shown_message(self, message: LLMMessage, takes_pictures: bool) -> LLMMessage:
        if not message.pictures:
            return message
        if not takes_pictures:
            names = "\n".join(f"[{picture.name or picture.mime}]" for picture in message.pictures)
            return LLMMessage(message.role, f"{message.text}\n\n{names}")
        user = self._user
        read = [
            (picture, await database.read(files.picture, user, picture.file, until_done=True))
            for picture in message.pictures
        ]
        whole = tuple(msgspec.structs.replace(picture, data=data) for picture, data in read if data)
        return msgspec.structs.replace(message, pictures=whole)
