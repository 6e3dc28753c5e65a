"""A model's server in this process, and a client of it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from providers import fake_openai
from providers.openai_compatible import OpenAICompatible

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
async def server() -> AsyncIterator[fake_openai.Server]:
    server = await fake_openai.start()
    yield server
    await server.close()


@pytest.fixture
async def client(server: fake_openai.Server) -> AsyncIterator[Callable[..., OpenAICompatible]]:
    """Makes clients of `server`, with short bounds."""
    made: list[OpenAICompatible] = []

    def make(base_url: str = "", **options: Any) -> OpenAICompatible:
        bounds = {"allow_private": True, "first_token_s": 5, "between_tokens_s": 5} | options
        made.append(OpenAICompatible(base_url or server.base_url, KEY, **bounds))
        return made[-1]

    yield make
    for llm in made:
        await llm.aclose()
