"""What a model is to Headrace: a request, a stream of chunks, an error. No Django, no flows, no chats."""

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

import msgspec

ErrorKind = Literal["auth", "rate_limited", "refused", "bad_request", "unavailable", "timeout", "cut", "protocol"]


def noop(text: str) -> str:
    """Marks a message id for gettext's extraction, by the name `_`."""
    return text


class SetupError(ValueError):
    """Settings that make no provider. `id`: a message id of gettext; `values` fill it."""

    def __init__(self, id: str, **values: Any) -> None:
        super().__init__(id.format(**values))
        self.id = id
        self.values = values


class ProviderError(Exception):
    """`retry_after` in seconds. `id`: a message id of gettext, `values` fill it; `text`: both, in English.

    None of them ever holds a key, a token or a body that might echo one.
    """

    def __init__(
        self,
        kind: ErrorKind,
        id: str,
        values: dict[str, Any] | None = None,
        *,
        is_retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        self.kind = kind
        self.id = id
        self.values = values or {}
        self.text = id.format(**self.values)
        super().__init__(f"{kind}: {self.text}")
        self.is_retryable = is_retryable
        self.retry_after = retry_after


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one read of a stream brought, joined: text, reasoning, and at the end usage and `finish`.

    `tokens` counts the vendor's chunks joined in it. `finish` is "stop", "length", "tool_calls" or "filter".
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    usage: Usage | None = None
    finish: str | None = None
    tokens: int = 0


class Picture(msgspec.Struct, frozen=True, omit_defaults=True):
    """Beside a message's text. `data`: its bytes as base64, once somebody read the `file`."""

    mime: str
    file: str = ""
    name: str = ""
    data: str = ""


class LLMMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    role: Literal["system", "user", "assistant", "tool"]
    text: str
    pictures: tuple[Picture, ...] = ()


class LLMRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    messages: tuple[LLMMessage, ...]
    temperature: float | None = None
    max_tokens: int | None = None
    schema: dict[str, Any] | None = None  # structured output
    begun: str = ""  # what the model has said of its answer already; it goes on from there


class LLM(Protocol):
    """A model. `stream` yields chunks and raises ProviderError; wrap it in `contextlib.aclosing`.

    Closing the generator (or cancelling its reader) closes the connection to the vendor at once.
    A stream that ends without its end mark raises ProviderError("cut"), never ends quietly.
    """

    def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]: ...

    async def aclose(self) -> None: ...
