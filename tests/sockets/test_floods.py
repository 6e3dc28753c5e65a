"""What one user may take of a worker: places, and large frames."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from accounts.models import User
from chat import protocol
from flows.models import Flow
from tests.conftest import Live

Online = Callable[..., Awaitable[Flow]]
TokenOf = Callable[[Any], Awaitable[str]]


async def test_sixty_handshakes_at_once_of_one_user_pass_no_limit(
    live: Live, online: Online, anna: User, token_of: TokenOf, bounds: Callable[..., None]
) -> None:
    bounds(command_hop_s=60, redis_timeout_s=30)
    flow, token = await online(), await token_of(anna)
    async with contextlib.AsyncExitStack() as stack:

        async def first_frame() -> tuple[str, str | None]:
            path = f"/chat/{flow.id}?chat_id={uuid.uuid4()}"
            socket = await stack.enter_async_context(live.open(path, token))
            frame = await socket.until("welcome", "error", within_s=60)
            return frame["type"], frame.get("code")

        frames = await asyncio.gather(*(first_frame() for _ in range(60)))
        assert 0 < frames.count(("welcome", None)) <= 20, frames
        assert ("error", "too_many_connections") in frames


async def test_large_frames_are_refused_before_they_are_read(
    live: Live, online: Online, anna: User, token_of: TokenOf, bounds: Callable[..., None], monkeypatch: Any
) -> None:
    bounds(commands_per_s=0.001, commands_burst=40)
    looked_at: list[int] = []
    whole = protocol.nests_too_much
    monkeypatch.setattr(
        protocol, "nests_too_much", lambda text, *most: looked_at.append(len(text)) or whole(text, *most)
    )
    flow = await online()
    async with live.open(f"/chat/{flow.id}?chat_id={uuid.uuid4()}", await token_of(anna)) as socket:
        await socket.until("snapshot")
        for number in range(5):
            frame = f'{{"type":"stop","id":"s{number}","turn":"{"x" * 250_000}"}}'
            await socket.connection.send(frame)
        replies = [await socket.until("error") for _ in range(5)]
        assert [(reply["code"], reply["id"]) for reply in replies] == [
            ("bad_frame", "s0"),
            ("bad_frame", "s1"),
            *(("rate_limited", f"s{number}") for number in range(2, 5)),
        ]
        assert replies[-1]["retry_after"] > 0
        assert len(looked_at) == 2
        await socket.send(type="ping", t=1)
        assert await socket.until("pong") == {"type": "pong", "t": 1}
