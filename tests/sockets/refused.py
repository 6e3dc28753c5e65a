"""How a refusal looks: one error frame, then the close with the code's name as its reason."""

import asyncio
import json
import re
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from tests.serving import told
from tests.wire import RECV_S, Socket

# Of the contract: close code, whether trying again helps, whether it says when.
TABLE = {
    "unauthorized": (1008, False, False),
    "going_away": (1012, True, True),
    "too_many_connections": (1013, True, True),
    "bad_request": (1008, False, False),
    "not_supported": (1008, False, False),
    "flow_not_found": (1008, False, False),
    "skill_not_found": (1008, False, False),
    "version_not_found": (1008, False, False),
    "chat_not_found": (1008, False, False),
    "flow_offline": (1008, False, False),
    "forbidden": (1008, False, False),
    "not_built": (1013, False, False),
    "unavailable": (1013, True, None),
    "internal": (1011, False, False),
}


class Refusal(NamedTuple):
    """`raw`: the frame as it came, without its trace."""

    code: str
    raw: str
    close: int
    reason: str
    frame: dict[str, Any]


async def refusal(opening: AbstractAsyncContextManager[Socket]) -> Refusal:
    """What a socket gets that is refused: nothing but an error frame of the right shape, then the close."""
    async with opening as socket:
        async with asyncio.timeout(RECV_S):
            raw = await socket.connection.recv()
        frame = json.loads(raw)
        check_error(frame)
        closed = await socket.closed()
    assert socket.frames == []
    code, reason = told(closed.code, closed.reason, [frame])
    return Refusal(frame["code"], raw.replace(frame["trace"], ""), code, reason, frame)


def check_refusal(refused: Refusal, code: str) -> None:
    """It is the row of the table that `code` names."""
    close, is_retryable, has_wait = TABLE[code]
    assert (refused.code, refused.close, refused.reason) == (code, close, code)
    assert refused.frame["retryable"] is is_retryable
    assert has_wait is None or ("retry_after" in refused.frame) is has_wait


def check_error(frame: dict[str, Any]) -> None:
    """The shape of every error frame."""
    assert frame["type"] == "error", frame
    assert {"code", "text", "trace", "retryable"} <= frame.keys() - {"type"}
    assert frame.keys() <= {"type", "code", "text", "trace", "retryable", "id", "field", "retry_after"}
    assert isinstance(frame["retryable"], bool)
    assert re.fullmatch(r"[0-9a-f]{8,}", frame["trace"])
    assert re.fullmatch(r"[A-Z].* .*\.", frame["text"]), frame["text"]
    assert frame["text"] != frame["code"]
