"""How the peers read a model: token by token, as their examples do."""

import json
import os
from collections.abc import AsyncIterator

import aiohttp

MODEL = os.environ["BENCH_MODEL"]
_session: aiohttp.ClientSession | None = None


def session() -> aiohttp.ClientSession:
    global _session
    if _session is None:
        _session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1000))
    return _session


async def tokens_of(said: str) -> AsyncIterator[str]:
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": said}]}
    async with session().post(f"{MODEL}/chat/completions", json=body) as response:
        async for line in response.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            choices = json.loads(line[6:])["choices"]
            token = choices[0]["delta"].get("content") if choices else None
            if token:
                yield token
