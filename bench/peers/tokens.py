"""How the peers read a model: token by token, as their examples do, and with the repeats of OpenAI's own client."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

REPEATS = 2
PAUSE_S = 0.5  # before a repeat, where no Retry-After is told
MODEL = os.environ["BENCH_MODEL"]
_session: aiohttp.ClientSession | None = None


def session() -> aiohttp.ClientSession:
    global _session
    if _session is None:
        _session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1000))
    return _session


async def tokens_of(said: str) -> AsyncIterator[str]:
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": said}]}
    async with await _post(body) as response:
        async for line in response.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            choices = json.loads(line[6:])["choices"]
            token = choices[0]["delta"].get("content") if choices else None
            if token:
                yield token


async def _post(body: dict[str, Any]) -> aiohttp.ClientResponse:
    response = await session().post(f"{MODEL}/chat/completions", json=body)
    for _ in range(REPEATS):
        if response.status != 429 and response.status < 500:
            break
        response.release()
        await asyncio.sleep(float(response.headers.get("Retry-After", PAUSE_S)))
        response = await session().post(f"{MODEL}/chat/completions", json=body)
    response.raise_for_status()
    return response
