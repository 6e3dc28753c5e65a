"""Any server that speaks the chat completions of OpenAI: OpenAI, vLLM, Ollama, DeepSeek, Mistral and others.

All that one read of the network brought becomes one Chunk, so a model that pours costs little. A request is
repeated only before the first token. No error text holds the key or anything that the server wrote.
"""

import asyncio
import email.utils
import math
import random
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from providers.address import AddressRefused, PublicResolver, check_url
from providers.base import Chunk, ErrorKind, LLMMessage, LLMRequest, ProviderError, Usage
from providers.base import noop as _
from providers.sse import Decoder

BACKOFF_S = 0.5  # doubles with each attempt, with jitter
KEEPALIVE_S = 30
END_MARK_S = 2  # after the model has finished: for usage and the end mark
LAST_BYTES_S = 0.05  # after the end mark: for the end of the body, so that the connection can be kept
ERROR_BODY_S = 1
ERROR_BODY_BYTES = 16 * 1024

FINISH = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "filter",
}
FAILED_FINISH = ("error", "insufficient_system_resource")  # OpenRouter and Mistral; DeepSeek


class OpenAICompatible:
    """One server and key. `aclose` ends its streams; all of a loop share a session, which goes with the last.

    `base_url` as vendors write it, "/v1" included. `allow_private` lets http and addresses in that are not
    public. Bounds: to connect; from the request to the first token (an empty event is none); between tokens;
    attempts after the first one, and how long after the first one's start another may begin; connections of
    all that share a session; one event; the whole body.
    """

    def __init__(
        self,
        base_url: str,
        key: str = "",
        *,
        allow_private: bool = False,
        connect_s: float = 5,
        first_token_s: float = 30,
        between_tokens_s: float = 20,
        retries: int = 2,
        retry_total_s: float = 20,
        connections: int = 1000,
        max_event_bytes: int = 1024 * 1024,
        max_body_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._base_url = base_url
        self._key = key.strip()
        self._allow_private = allow_private
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s)
        self._first_token_s = first_token_s
        self._between_tokens_s = between_tokens_s
        self._retries = retries
        self._retry_total_s = retry_total_s
        self._connections = connections
        self._max_event_bytes = max_event_bytes
        self._max_body_bytes = max_body_bytes
        self._live: set[aiohttp.ClientResponse] = set()

    async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """Chunks of the answer. Raises ProviderError. Closing it closes the connection at once."""
        headers = self._headers()
        body = encode(request, _max_tokens_name(self._base_url))
        begun = time.monotonic()
        for attempt in range(self._retries + 1):
            has_begun = False
            try:
                async with aclosing(self._attempt(headers, body)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
                return
            except ProviderError as error:
                wait_s = pause_before_retry(error, attempt)
                is_late = time.monotonic() - begun + wait_s > self._retry_total_s
                if has_begun or attempt == self._retries or is_late:
                    raise
            await asyncio.sleep(wait_s)

    async def aclose(self) -> None:
        for response in tuple(self._live):
            _abort(response)
        await _leave(self)

    def _headers(self) -> dict[str, str]:
        try:
            check_url(self._base_url, self._allow_private)
        except ValueError as reason:
            raise ProviderError(
                "bad_request", _("The server's address is not allowed: {reason}."), {"reason": reason}
            ) from None
        if not (self._key.isascii() and self._key.isprintable()):
            raise ProviderError("auth", _("The key holds characters that no key has."))
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "User-Agent": "headrace",
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    async def _attempt(self, headers: dict[str, str], body: bytes) -> AsyncIterator[Chunk]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._first_token_s
        response = await self._open(headers, body, deadline)
        self._live.add(response)
        content = response.content
        patience = _Patience(loop, content, deadline, min(1, self._between_tokens_s / 4))
        reading = _Reading(self._max_event_bytes, self._max_body_bytes)
        try:
            while not (reading.is_whole or reading.error):
                reason = None
                try:
                    data = await content.readany()
                    is_over = not data
                except (aiohttp.ClientError, _OutOfPatience, OSError) as error:
                    data, is_over, reason = _unread(content), True, error
                chunk = reading.feed(data) if data else None
                if is_over:
                    reading.end(reason)
                if chunk:
                    patience.deadline = math.inf  # the time our reader takes is not the server's
                    yield chunk
                    wait_s = END_MARK_S if reading.has_finished else self._between_tokens_s
                    patience.deadline = loop.time() + wait_s
            if reading.error:
                raise reading.error
            if chunk := reading.last():
                yield chunk
            await _read_to_end(content)
        finally:
            patience.end()
            self._live.discard(response)
            _abort(response)

    async def _open(self, headers: dict[str, str], body: bytes, deadline: float) -> aiohttp.ClientResponse:
        """Send the request; return a response that is a stream. Everything else is a ProviderError."""
        session = _join(self, not self._allow_private, self._connections)
        try:
            async with asyncio.timeout_at(deadline):
                response = await session.post(
                    self._url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _not_reached(error) from None
        if response.status == 200 and response.content_type not in ("application/json", "text/html"):
            return response
        try:
            raise refusal(response.status, await _error_code(response), seconds_to_wait(response.headers, time.time()))
        finally:
            _abort(response)


def encode(request: LLMRequest, max_tokens_name: str = "max_tokens") -> bytes:
    """The body of a request for `request`."""
    messages = [{"role": message.role, "content": _content(message)} for message in request.messages]
    if request.begun:
        messages.append({"role": "assistant", "content": request.begun})  # servers that can go on from there
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.max_tokens is not None:
        body[max_tokens_name] = request.max_tokens
    if request.schema is not None:
        form = {"name": "answer", "schema": request.schema, "strict": is_strict(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise ProviderError("bad_request", _("The request holds half a character.")) from None


def _content(message: LLMMessage) -> Any:
    """A text, or with pictures a list of parts."""
    pictures = [f"data:{picture.mime};base64,{picture.data}" for picture in message.pictures if picture.data]
    if not pictures:
        return message.text
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.text}]
    return parts + [{"type": "image_url", "image_url": {"url": url}} for url in pictures]


def is_strict(schema: Any) -> bool:
    """Whether OpenAI takes `schema` as strict: every object closed and every property required."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        is_closed = schema.get("additionalProperties") is False
        if not is_closed or set(schema.get("required", ())) != set(properties or ()):
            return False
    return all(map(is_strict, schema.values()))


def refusal(status: int, code: str, retry_after: float | None = None) -> ProviderError:
    """The error that an answer other than a stream stands for. `code`: the vendor's word, never shown."""
    said, values = _("The server answered {status}."), {"status": status}
    if status in (401, 403):
        return ProviderError("auth", said, values)
    if status == 429:
        is_retryable = code not in ("insufficient_quota", "billing_hard_limit_reached")
        return ProviderError("rate_limited", said, values, is_retryable=is_retryable, retry_after=retry_after)
    if status in (408, 504):
        return ProviderError("timeout", said, values, is_retryable=True, retry_after=retry_after)
    if status >= 500 or status in (409, 425):
        return ProviderError("unavailable", said, values, is_retryable=True, retry_after=retry_after)
    if status >= 400:
        is_refused = code in ("content_filter", "content_policy_violation", "cyber_policy_violation")
        return ProviderError("refused" if is_refused else "bad_request", said, values)
    if status >= 300:
        return ProviderError("protocol", _("The server answered {status}; redirects are not followed."), values)
    return ProviderError("protocol", _("The server did not answer with a stream of events."))


def pause_before_retry(error: ProviderError, attempt: int) -> float:
    """Seconds to wait before the request is sent again; infinite where that would not help."""
    if not error.is_retryable or error.kind == "timeout":
        return math.inf
    if error.retry_after is not None:
        return error.retry_after * random.uniform(1, 1.1)
    return BACKOFF_S * 2**attempt * random.uniform(0.5, 1)


def seconds_to_wait(headers: Any, now: float) -> float | None:
    """What `Retry-After` (seconds or a date) or `retry-after-ms` says; None where it says nothing of use."""
    if text := headers.get("retry-after-ms"):
        return _number(text, 0.001)
    text = headers.get("Retry-After")
    if not text:
        return None
    if (seconds := _number(text, 1)) is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _number(text: str, unit: float) -> float | None:
    try:
        number = float(text) * unit
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _max_tokens_name(base_url: str) -> str:
    """OpenAI's reasoning models know only the new name, other servers often only the old one."""
    return "max_completion_tokens" if urlsplit(base_url).hostname == "api.openai.com" else "max_tokens"


# What the server sends. Unknown fields are passed over.


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # OpenRouter, newer vLLM
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode: Callable[[bytes], _Event] = msgspec.json.Decoder(_Event).decode


class _Reading:
    """What one stream has said so far. `is_whole`: its end mark came, `[DONE]` or the end after a finish."""

    def __init__(self, max_event_bytes: int, max_body_bytes: int) -> None:
        self.error: ProviderError | None = None
        self.is_whole = False
        self._finish = ""
        self._sse = Decoder(max_event_bytes=max_event_bytes)
        self._bytes_left = max_body_bytes

    @property
    def has_finished(self) -> bool:
        return bool(self._finish)

    def feed(self, data: bytes) -> Chunk | None:
        """All that `data` completes, as one chunk; None if that is nothing. What is wrong is in `error`."""
        texts: list[str] = []
        reasonings: list[str] = []
        tool_calls: list[dict[str, Any]] = []
        usage = None
        finish = None
        tokens = 0
        self._bytes_left -= len(data)
        for sent in self._sse.feed(data):
            if sent.data == b"[DONE]":
                self.is_whole = True
                break
            try:
                event = _decode(sent.data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._fail("protocol", _("The server sent an event that is not of the dialect."))
                break
            if event.error is not None:
                self._fail(*_kind_of(event.error))
                break
            if event.usage is not None:
                usage = _usage(event.usage)
            for choice in event.choices or ():
                delta = choice.delta
                if delta is not None:
                    text = delta.content or delta.refusal
                    reasoning = delta.reasoning_content or delta.reasoning
                    if text:
                        texts.append(text)
                    if reasoning:
                        reasonings.append(reasoning)
                    if delta.tool_calls:
                        tool_calls.extend(delta.tool_calls)
                    if text or reasoning or delta.tool_calls:
                        tokens += 1
                if choice.finish_reason:
                    if choice.finish_reason in FAILED_FINISH:
                        self._fail("unavailable", _("The server failed in mid-answer."))
                    else:
                        finish = self._finish = FINISH.get(choice.finish_reason, "stop")
            if self.error:
                break
        if self.is_whole:
            pass
        elif self._sse.fault:
            self._fail("protocol", _("The server sent too much: {fault}."), {"fault": self._sse.fault})
        elif self._bytes_left < 0:
            self._fail("protocol", _("The server sent too much: the answer is too long."))
        if not (tokens or usage or finish):
            return None
        return Chunk(
            text="".join(texts),
            reasoning="".join(reasonings),
            tool_calls=tuple(tool_calls),
            usage=usage,
            finish=finish,
            tokens=tokens,
        )

    def end(self, reason: Exception | None) -> None:
        """The body is over, for `reason` (None: as HTTP has it). Whole only if the model had finished."""
        if self._finish or self.is_whole:
            self.is_whole = True
        elif isinstance(reason, _OutOfPatience):
            self._fail("timeout", _("The server sent no token in time."))
        else:
            self._fail("cut", _("The answer ended without its end mark."))

    def last(self) -> Chunk | None:
        """What is still to be said once the stream is whole: its finish, where the server named none."""
        return None if self._finish else Chunk(finish="stop")

    def _fail(self, kind: ErrorKind, id: str, values: dict[str, Any] | None = None) -> None:
        self.error = self.error or ProviderError(
            kind, id, values, is_retryable=kind in ("unavailable", "rate_limited", "timeout", "cut")
        )


def _usage(usage: _Usage) -> Usage:
    details = usage.prompt_tokens_details
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=(details.cached_tokens or 0) if details else 0,
    )


def _kind_of(error: Any) -> tuple[ErrorKind, str]:
    """An error object in mid-stream. Vendors agree on nothing but that it is there."""
    words = {str(error.get(name)) for name in ("code", "type", "status")} if isinstance(error, dict) else set()
    if words & {"429", "rate_limit_exceeded", "rate_limit_error", "tokens", "requests"}:
        return "rate_limited", _("The server has too much to do.")
    if words & {"401", "403", "invalid_api_key", "authentication_error", "permission_error"}:
        return "auth", _("The server refused the key in mid-answer.")
    if words & {"content_filter", "content_policy_violation"}:
        return "refused", _("The server refused to go on.")
    return "unavailable", _("The server reported an error in mid-answer.")


async def _error_code(response: aiohttp.ClientResponse) -> str:
    """The vendor's word for an error, from the body's first bytes; empty where there is none."""
    try:
        async with asyncio.timeout(ERROR_BODY_S):
            body = await response.content.read(ERROR_BODY_BYTES)
        error = msgspec.json.decode(body).get("error")
        return str(error.get("code") or error.get("type") or "")
    except (aiohttp.ClientError, OSError, ValueError, AttributeError, RecursionError, msgspec.MsgspecError):
        return ""


def _not_reached(error: Exception) -> ProviderError:
    if isinstance(error, TimeoutError):
        return ProviderError("timeout", _("The server did not answer in time."), is_retryable=True)
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
        return ProviderError("bad_request", _("The server's address is not allowed: it is not public."))
    if isinstance(error, aiohttp.ClientSSLError):
        return ProviderError("unavailable", _("The server's certificate is not good."))
    if isinstance(error, ValueError):
        return ProviderError("bad_request", _("The server's address is malformed."))
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return ProviderError("unavailable", _("The server cannot be reached."), is_retryable=True)
    return ProviderError("protocol", _("The server did not answer in HTTP."))


# Time, ends, and the sessions that all share.


class _OutOfPatience(Exception):
    """Set on a body's reader when nothing came in time."""


class _Patience:
    """Watches one body's `deadline` (loop time) by a look now and then, not by a timer for each read."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, content: aiohttp.StreamReader, deadline: float, look_s: float
    ) -> None:
        self.deadline = deadline
        self._loop = loop
        self._content = content
        self._look_s = look_s
        self._timer = loop.call_soon(self._look)

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left_s = self.deadline - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(min(left_s, self._look_s), self._look)
        else:
            self._content.set_exception(_OutOfPatience())


def _unread(content: aiohttp.StreamReader) -> bytes:
    """What had come before the body failed. The reader itself would keep it for ever: it only raises."""
    return b"".join(content._buffer)


async def _read_to_end(content: aiohttp.StreamReader) -> None:
    if content.at_eof():
        return
    try:
        async with asyncio.timeout(LAST_BYTES_S):
            await content.readany()
    except (aiohttp.ClientError, OSError, _OutOfPatience):
        pass


def _abort(response: aiohttp.ClientResponse) -> None:
    """Close the connection now, with TLS too; nothing where it was given back after a whole body."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


class _Shared:
    """A session with those who use it. Guarded: it connects to public addresses only."""

    def __init__(self, is_guarded: bool, connections: int) -> None:
        self.users: weakref.WeakSet[OpenAICompatible] = weakref.WeakSet()
        connector = aiohttp.TCPConnector(
            limit=connections,
            keepalive_timeout=KEEPALIVE_S,
            resolver=PublicResolver() if is_guarded else None,
        )
        self.session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[bool, int], _Shared]]
_shared = weakref.WeakKeyDictionary()


def _join(user: OpenAICompatible, is_guarded: bool, connections: int) -> aiohttp.ClientSession:
    of_loop = _shared.setdefault(asyncio.get_running_loop(), {})
    shared = of_loop.get((is_guarded, connections))
    if shared is None or shared.session.closed:
        shared = of_loop[is_guarded, connections] = _Shared(is_guarded, connections)
    shared.users.add(user)
    return shared.session


async def _leave(user: OpenAICompatible) -> None:
    of_loop = _shared.get(asyncio.get_running_loop(), {})
    for key, shared in tuple(of_loop.items()):
        if user in shared.users:
            shared.users.discard(user)
            if not shared.users:
                del of_loop[key]
                await shared.session.close()
