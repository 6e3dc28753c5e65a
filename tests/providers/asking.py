"""Asking a model and keeping all that came."""

import json
from contextlib import aclosing
from typing import Any

from providers.base import LLM, Chunk, LLMMessage, LLMRequest, ProviderError


class Heard:
    """What one stream brought, up to its end or its error."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.error: ProviderError | None = None

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def reasoning(self) -> str:
        return "".join(chunk.reasoning for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        return sum(chunk.tokens for chunk in self.chunks)

    @property
    def finish(self) -> str | None:
        return next((chunk.finish for chunk in self.chunks if chunk.finish), None)

    @property
    def usage(self) -> Any:
        return next((chunk.usage for chunk in self.chunks if chunk.usage), None)


def request(text: str = "Hello", model: str = "fake", **options: Any) -> LLMRequest:
    return LLMRequest(model=model, messages=(LLMMessage("user", text),), **options)


def directing(**directive: Any) -> LLMRequest:
    """A request that tells the fake server what to do."""
    return request(json.dumps({"fake": directive}))


async def hear(llm: LLM, asked: LLMRequest) -> Heard:
    heard = Heard()
    try:
        async with aclosing(llm.stream(asked)) as chunks:
            async for chunk in chunks:
                heard.chunks.append(chunk)
    except ProviderError as error:
        heard.error = error
    return heard
