"""A server of OpenAI's dialect with faults on request, for tests and benchmarks: it says what it saw.

    python -m providers.fake_openai --port 0 [--host 127.0.0.1] [--default '{"rate": 50}']

prints `listening on http://127.0.0.1:PORT` once it is ready. In a process: `server = await start()`, then
`server.url` (`server.base_url` with /v1), `server.seen`, `await server.close()`.

POST /v1/chat/completions   an answer, streamed or (`"stream": false`) whole
GET  /v1/models             the names it knows (it takes any)
GET  /__seen                requests and connections, below; `?texts=1` with the text sent for each request
POST /__reset               forgets all that; fresh counts for `times` and `statuses`

A request whose last message is the assistant's is answered with what follows that text.

What it does is a directive, a JSON object. Parts of it come, the later ones over the earlier, from
`--default`, from the model's name (`fake?rate=50&tokens=200`), from the last user message (`{"fake": {...}}`
anywhere in it), and from the header `X-Fake` (the object itself):

    text       what is answered (default: a short text with letters of one to four bytes)
    echo       true: the last user message is answered, without its directive
    tokens     instead of a text: so many tokens of `size` characters (default 5): their numbers
    stamp      with tokens: each one is its time of sending ("write") or the time it was due ("due"),
               CLOCK_MONOTONIC in 5 characters; `read_stamps` reads them
    reasoning  sent as reasoning_content before the text
    first_s    seconds before the first token
    rate       tokens a second by a time-table that does not wait for the reader; 0 (default): all it can
    split      bytes in one write, 1 ms apart: characters are split over reads
    crlf, comments   true: CRLF line ends; a comment before each event
    usage      false: none, even when asked for

    status     answers this HTTP status with an error that echoes the key
    statuses   [429, 500]: the first requests with the same body get these in this order, the next succeed
    retry_after      value of Retry-After beside an error
    fault      one of FAULTS; those that break an answer do it after `after` tokens (default 3)
    times      only the first so many requests with the same body get `status` or `fault`; null: all
    bytes      size for huge_event and long_line (default 2 MiB)

FAULTS
    drop          closes the connection instead of answering     garbage      answers what is not HTTP
    hang_headers  never answers                                  hang         stops, and stays open
    cut           closes the connection in mid-body              reset        the same by a TCP reset
    no_end        ends the body without finish and [DONE]        no_done      finish, but no [DONE]
    no_finish     [DONE], but no finish                          open_end     finish, then stays open
    bad_json      an event that is not JSON                      bad_utf8     an event that is not UTF-8
    half_char     ends the body within a character               error        an error object as an event
    huge_event    an event of `bytes`                            long_line    a line of `bytes` without end
    html, json    200 with a page; with a JSON error             redirect     302 to /__elsewhere

Seen, as JSON: `{"open": connections open now, "connections": [{"id", "opened", "closed"}], "requests": [{"n",
"connection", "path", "authorized", "body", "status", "began", "tokens", "first_token", "last_token", "ended",
"closed", "tokens_after_close"}]}`. A time is `{"mono": time.monotonic(), "wall": time.time()}` or null.
`ended`: the answer, or what its fault left of it, was sent; `closed`: the connection closed before that.
"""

import argparse
import asyncio
import functools
import hashlib
import json
import signal
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec
import uvloop
from aiohttp import web

from providers.scripted import tokens_of

TEXT = "Here is a **short answer**: naïve café, 水車, and a wheel 🎡.\n\n- one\n- two\n"
MODELS = ("fake", "fake-large")
POUR_TOKENS = 128  # in one write
SPLIT_PAUSE_S = 0.001
KEPT_REQUESTS = 20_000

FAULTS = (
    "drop", "garbage", "hang_headers", "hang", "cut", "reset", "no_end", "no_done", "no_finish", "open_end",
    "bad_json", "bad_utf8", "half_char", "error", "huge_event", "long_line", "html", "json", "redirect",
)  # fmt: skip
WHOLE = ("no_done", "no_finish", "open_end")  # faults that leave the text whole


class Directive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As the module's docstring says."""

    text: str = TEXT
    echo: bool = False
    tokens: int = 0
    size: int = 5
    stamp: Literal["", "write", "due"] = ""
    reasoning: str = ""
    first_s: float = 0
    rate: float = 0
    split: int = 0
    crlf: bool = False
    comments: bool = False
    usage: bool = True
    status: int = 200
    statuses: tuple[int, ...] = ()
    retry_after: str | float | None = None
    fault: str = ""
    after: int = 3
    times: int | None = None
    bytes: int = 2 * 1024 * 1024


class SeenConnection(msgspec.Struct):
    """Times here are time.monotonic(); the JSON has the wall clock's besides."""

    id: int
    opened: float
    closed: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "opened": moment(self.opened), "closed": moment(self.closed)}


class SeenRequest(msgspec.Struct):
    n: int
    connection: int
    path: str
    authorized: bool
    body: Any
    began: float
    status: int = 0
    tokens: int = 0
    first_token: float | None = None
    last_token: float | None = None
    ended: float | None = None
    closed: float | None = None
    tokens_at_close: int = 0
    sent: Sequence[str] = ()

    @property
    def text(self) -> str:
        """The text sent so far."""
        return "".join(self.sent[: self.tokens])

    @property
    def tokens_after_close(self) -> int:
        return 0 if self.closed is None else self.tokens - self.tokens_at_close

    def count(self, tokens: int) -> None:
        self.last_token = time.monotonic()
        if self.first_token is None:
            self.first_token = self.last_token
        self.tokens += tokens

    def to_json(self) -> dict[str, Any]:
        names = ("n", "connection", "path", "authorized", "body", "status", "tokens", "tokens_after_close")
        times = ("began", "first_token", "last_token", "ended", "closed")
        return {name: getattr(self, name) for name in names} | {name: moment(getattr(self, name)) for name in times}


class Seen:
    """What the server saw since its start or its last reset."""

    def __init__(self) -> None:
        self.requests: deque[SeenRequest] = deque(maxlen=KEPT_REQUESTS)
        self.connections: deque[SeenConnection] = deque(maxlen=KEPT_REQUESTS)
        self.by_body: Counter[bytes] = Counter()
        self.count = 0

    @property
    def open(self) -> int:
        return sum(connection.closed is None for connection in self.connections)

    def reset(self) -> None:
        self.requests.clear()
        self.by_body.clear()
        live = [connection for connection in self.connections if connection.closed is None]
        self.connections.clear()
        self.connections.extend(live)

    def to_json(self, with_texts: bool = False) -> dict[str, Any]:
        requests = [request.to_json() | ({"text": request.text} if with_texts else {}) for request in self.requests]
        connections = [connection.to_json() for connection in self.connections]
        return {"open": self.open, "connections": connections, "requests": requests}


WALL_AT_0 = time.time() - time.monotonic()


def moment(mono: float | None) -> dict[str, float] | None:
    return None if mono is None else {"mono": mono, "wall": WALL_AT_0 + mono}


# Stamps: CLOCK_MONOTONIC, which all processes of a machine share, in steps of 10 us and five characters.

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
STAMP_STEP_S = 1e-5
STAMP_RANGE = 64**5  # about three hours


def stamp(mono: float) -> str:
    """`mono` (time.monotonic) in five characters."""
    steps = int(mono / STAMP_STEP_S) % STAMP_RANGE
    return _PAIRS[steps >> 18] + _PAIRS[steps >> 6 & 4095] + _DIGITS[steps & 63]


def read_stamps(text: str, mono: float) -> list[float]:
    """The moments stamped in `text`, all within an hour of `mono` (both time.monotonic)."""
    at = int(mono / STAMP_STEP_S)
    found = []
    for i in range(0, len(text) - 4, 5):
        steps = 0
        for digit in text[i : i + 5]:
            steps = steps << 6 | _VALUES[digit]
        ago = (at - steps) % STAMP_RANGE
        # A stamp may be ahead by a step or two of rounding, never by half the range.
        found.append((at - (ago if ago < STAMP_RANGE // 2 else ago - STAMP_RANGE)) * STAMP_STEP_S)
    return found


@functools.lru_cache(maxsize=64)
def numbered(count: int, size: int) -> tuple[str, ...]:
    """`count` tokens of `size` characters: their numbers, so that a lost or doubled one shows."""
    return tuple(f"{i % 10 ** (size - 1):0{size - 1}d} " if size > 1 else "x" for i in range(count))


@functools.lru_cache(maxsize=64)
def encoded(tokens: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(msgspec.json.encode(token) for token in tokens)


class Server:
    """One listening server. Made by `start`."""

    def __init__(self, default: dict[str, Any]) -> None:
        self.seen = Seen()
        self.url = ""
        self._default = default
        self._watching = _Watching(self._handle, self.seen)
        self._listener: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    async def listen(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._watching, host, port, backlog=2048)
        self.url = f"http://{host}:{self._listener.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._watching.abort()
        await self._watching.shutdown(1)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        where = request.method, request.path
        if where == ("POST", "/v1/chat/completions"):
            return await self._complete(request)
        if where == ("GET", "/v1/models"):
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "fake"} for name in MODELS]
            return web.json_response({"object": "list", "data": models})
        if where == ("GET", "/__seen"):
            return web.json_response(self.seen.to_json("texts" in request.query))
        if where == ("POST", "/__reset"):
            self.seen.reset()
            return web.json_response({})
        self._note(request, None).status = 404
        return _error(404, "There is nothing here.")

    async def _complete(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.read()
        try:
            body = msgspec.json.decode(raw)
            seen = self._note(request, body)
            directive, said = read_directive(self._default, body, request.headers.get("X-Fake", ""))
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError, AttributeError) as error:
            return _error(400, f"The request is malformed: {error}")
        digest = hashlib.sha256(raw).digest()
        nth = self.seen.by_body[digest]
        self.seen.by_body[digest] += 1

        status = directive.statuses[nth] if nth < len(directive.statuses) else directive.status
        fault = directive.fault
        if directive.times is not None and nth >= directive.times:
            status, fault = 200, ""
        if status != 200:
            seen.status, seen.ended = status, time.monotonic()
            return _error(status, f"No: {request.headers.get('Authorization')}", directive.retry_after)
        seen.status = 200
        return await _Answer(request, directive, fault, body, said, seen).run()

    def _note(self, request: web.BaseRequest, body: Any) -> SeenRequest:
        self.seen.count += 1
        seen = SeenRequest(
            n=self.seen.count,
            connection=self._watching.connection_of(request).id,
            path=request.path,
            authorized="Authorization" in request.headers,
            body=body,
            began=time.monotonic(),
        )
        self.seen.requests.append(seen)
        self._watching.live[request.protocol] = seen
        return seen


async def start(port: int = 0, host: str = "127.0.0.1", default: dict[str, Any] | None = None) -> Server:
    """A server that listens; port 0 takes a free one. `default`: the directive under all others."""
    server = Server(default or {})
    await server.listen(host, port)
    return server


def read_directive(default: dict[str, Any], body: dict[str, Any], header: str) -> tuple[Directive, str]:
    """The directive of a request, and its last user message without it. Raises ValueError and its like."""
    wanted = dict(default)
    _, _, query = body["model"].partition("?")
    wanted |= dict(parse_qsl(query, strict_parsing=True)) if query else {}
    said = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
    begin = said.find('{"fake"')
    if begin >= 0:
        told, end = json.JSONDecoder().raw_decode(said, begin)
        wanted |= told["fake"]
        said = (said[:begin] + said[end:]).strip()
    if header:
        wanted |= json.loads(header)
    directive = msgspec.convert(wanted, Directive, strict=False)
    if directive.fault and directive.fault not in FAULTS:
        raise ValueError(f"there is no fault {directive.fault!r}")
    return directive, said


class _Answer:
    """One answer on its way."""

    def __init__(
        self,
        request: web.BaseRequest,
        directive: Directive,
        fault: str,
        body: dict[str, Any],
        said: str,
        seen: SeenRequest,
    ) -> None:
        self._request = request
        self._directive = directive
        self._fault = fault
        self._body = body
        self._seen = seen
        text = said if directive.echo else directive.text
        self._reasoning = tuple(tokens_of(directive.reasoning))
        self._tokens = numbered(directive.tokens, directive.size) if directive.tokens else tuple(tokens_of(text))
        last = body["messages"][-1]
        if last["role"] == "assistant" and (whole := "".join(self._tokens)).startswith(last["content"]):
            self._reasoning, self._tokens = (), tuple(tokens_of(whole.removeprefix(last["content"])))
        seen.sent = self._tokens
        self._response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        )

    async def run(self) -> web.StreamResponse:
        if instead := await self._instead():
            self._seen.ended = time.monotonic()
            return instead
        if not self._body.get("stream"):
            return self._whole()
        self._response.enable_chunked_encoding()
        await self._response.prepare(self._request)
        await self._write(self._event('{"role":"assistant","content":""}'))
        if self._directive.first_s:
            await asyncio.sleep(self._directive.first_s)
        await self._send(self._reasoning, "reasoning_content", is_counted=False)
        is_short = self._fault and self._fault not in WHOLE
        await self._send(self._tokens[: self._directive.after] if is_short else self._tokens, "content")
        if self._fault:
            await self._do_fault()
        if self._fault not in ("no_end", "half_char"):
            await self._end()
        self._seen.ended = time.monotonic()
        await self._response.write_eof()
        return self._response

    async def _instead(self) -> web.StreamResponse | None:
        """Faults that come instead of a stream."""
        transport = self._request.transport
        match self._fault:
            case "drop":
                transport.close()
                await _for_ever()
            case "garbage":
                transport.write(b"I do not speak HTTP.\r\n\r\n")
                transport.close()
                await _for_ever()
            case "hang_headers":
                await _for_ever()
            case "html":
                return web.Response(text="<h1>Welcome</h1>", content_type="text/html")
            case "json":
                return web.json_response({"error": {"message": "no", "code": "invalid_request"}})
            case "redirect":
                return web.Response(status=302, headers={"Location": "/__elsewhere"})
        return None

    async def _do_fault(self) -> None:
        """Faults in mid-stream; those that only leave something out are done by `_end`."""
        request, size = self._request, self._directive.bytes
        match self._fault:
            case "hang":
                await _for_ever()
            case "cut":
                request.transport.close()
                await _for_ever()
            case "reset":
                linger = struct.pack("ii", 1, 0)
                request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                request.transport.abort()
                await _for_ever()
            case "bad_json":
                await self._write(b'data: {"choices":[{"delta":{"content":"x"\n\n')
            case "bad_utf8":
                await self._write(self._event('{"content":"~"}').replace(b"~", b"\xe6\xb0"))
            case "half_char":
                await self._write(self._event('{"content":"~"}').partition(b"~")[0] + b"\xe6\xb0")
            case "error":
                await self._write(b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n')
            case "huge_event":
                await self._write(self._event(f'{{"content":"{"x" * size}"}}'))
            case "long_line":
                await self._write(b"data: " + b"x" * size)
                await _for_ever()

    async def _end(self) -> None:
        if self._fault != "no_finish":
            await self._write(self._event("{}", '"stop"'))
        asked = (self._body.get("stream_options") or {}).get("include_usage")
        if asked and self._directive.usage:
            await self._write(self._event("", "", self._usage()))
        if self._fault == "open_end":
            await _for_ever()
        if self._fault != "no_done":
            await self._write(b"data: [DONE]\n\n")

    def _whole(self) -> web.Response:
        text = "".join(self._tokens)
        self._seen.count(len(self._tokens))
        self._seen.ended = time.monotonic()
        message = {"role": "assistant", "content": text}
        return web.json_response(
            {
                "id": f"chatcmpl-{self._seen.n}",
                "object": "chat.completion",
                "created": int(WALL_AT_0 + self._seen.began),
                "model": self._body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": self._usage(),
            }
        )

    def _usage(self) -> dict[str, int]:
        asked = sum(len(tokens_of(str(message["content"]))) for message in self._body["messages"])
        answered = len(self._reasoning) + len(self._tokens)
        return {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
        }

    def _event(self, delta: str, finish: str = "null", usage: dict[str, int] | None = None) -> bytes:
        head = (
            f'data: {{"id":"chatcmpl-{self._seen.n}","object":"chat.completion.chunk",'
            f'"created":{int(WALL_AT_0 + self._seen.began)},"model":{json.dumps(self._body["model"])},"choices":['
        )
        choice = f'{{"index":0,"delta":{delta},"finish_reason":{finish}}}' if delta else ""
        tail = f'],"usage":{json.dumps(usage)}}}\n\n' if usage else "]}\n\n"
        event = f"{head}{choice}{tail}".encode()
        return b": still here\n\n" + event if self._directive.comments else event

    async def _send(self, tokens: tuple[str, ...], field: str, is_counted: bool = True) -> None:
        """Send `tokens`, each an event of its own, by the time-table or as fast as they are taken."""
        directive = self._directive
        if not tokens:
            return
        prefix, suffix = self._event(f'{{"{field}":"~"}}').split(b'"~"')
        contents: Callable[[int, int, float], Sequence[bytes]]
        whole = encoded(tokens)
        contents = lambda first, last, due: whole[first:last]
        if directive.stamp == "write" or (directive.stamp and not directive.rate):
            contents = lambda first, last, due: [b'"%b"' % stamp(time.monotonic()).encode()] * (last - first)
        elif directive.stamp == "due":
            contents = lambda first, last, due: [
                b'"%b"' % stamp(due + i / directive.rate).encode() for i in range(first, last)
            ]

        def block(first: int, last: int, begun: float) -> bytes:
            return prefix + (suffix + prefix).join(contents(first, last, begun)) + suffix

        count = self._seen.count if is_counted else lambda tokens: None
        if directive.rate and not directive.split:
            await _TimeTable(self._request.transport, len(tokens), directive.rate, block, count, self._ends).run()
            return
        for first in range(0, len(tokens), 1 if directive.split else POUR_TOKENS):
            last = min(len(tokens), first + (1 if directive.split else POUR_TOKENS))
            await self._write(block(first, last, time.monotonic()))
            count(last - first)

    def _ends(self, data: bytes) -> bytes:
        return data.replace(b"\n", b"\r\n") if self._directive.crlf else data

    async def _write(self, data: bytes) -> None:
        data = self._ends(data)
        step = self._directive.split
        if not step:
            await self._response.write(data)
            return
        for i in range(0, len(data), step):
            await self._response.write(data[i : i + step])
            await asyncio.sleep(SPLIT_PAUSE_S)


class _TimeTable:
    """Sends token i at begin + i / rate, whether or not anybody reads; late ones go together.

    By callbacks and straight to the transport: one process must carry hundreds of these.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        total: int,
        rate: float,
        block: Callable[[int, int, float], bytes],
        count: Callable[[int], None],
        ends: Callable[[bytes], bytes],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._total = total
        self._rate = rate
        self._block = block
        self._count = count
        self._ends = ends
        self._sent = 0
        self._begun = time.monotonic()
        self._done = self._loop.create_future()
        self._timer = self._loop.call_soon(self._tick)

    async def run(self) -> None:
        try:
            await self._done
        finally:
            self._timer.cancel()

    def _tick(self) -> None:
        due = min(self._total, int((time.monotonic() - self._begun) * self._rate) + 1)
        if self._transport.is_closing():
            self._done.cancel()
            return
        if due > self._sent:
            data = self._ends(self._block(self._sent, due, self._begun))
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            self._count(due - self._sent)
            self._sent = due
        if self._sent == self._total:
            self._done.set_result(None)
        else:
            pause_s = self._begun + self._sent / self._rate - time.monotonic()
            self._timer = self._loop.call_later(max(pause_s, 0), self._tick)


class _Watching(web.Server):
    """A server that notes when connections open and close."""

    def __init__(self, handler: Callable[..., Any], seen: Seen) -> None:
        super().__init__(handler, handler_cancellation=True, access_log=None)
        self._seen = seen
        self._ids = 0
        self._seen_connections: dict[Any, SeenConnection] = {}
        self.live: dict[Any, SeenRequest] = {}

    def connection_of(self, request: web.BaseRequest) -> SeenConnection:
        return self._seen_connections[request.protocol]

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._ids += 1
        connection = self._seen_connections[handler] = SeenConnection(self._ids, time.monotonic())
        self._seen.connections.append(connection)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        connection = self._seen_connections.pop(handler)
        connection.closed = time.monotonic()
        request = self.live.pop(handler, None)
        if request is not None and request.ended is None:
            request.closed = connection.closed
            request.tokens_at_close = request.tokens

    def abort(self) -> None:
        for handler in self.connections:
            if handler.transport is not None:
                handler.transport.abort()


def _error(status: int, text: str, retry_after: str | float | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after}".removesuffix(".0")}
    error = {"message": text, "type": "fake_error", "code": f"fake_{status}"}
    return web.json_response({"error": error}, status=status, headers=headers)


async def _for_ever() -> None:
    """Until the connection is lost, which cancels the handler."""
    await asyncio.get_running_loop().create_future()


async def main(port: int, host: str, default: dict[str, Any]) -> None:
    server = await start(port, host, default)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sys.stdout.write(f"listening on {server.url}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m providers.fake_openai", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--default", type=json.loads, default={})
    arguments = parser.parse_args()
    uvloop.run(main(arguments.port, arguments.host, arguments.default))
