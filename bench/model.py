"""The model of the measurements: a seeded time-table that speaks OpenAI's stream, in a process of its own.

    python -m bench.model PORT

What to answer stands in the last user message: `tag=<name> tokens=<n> rate=<tokens/s, 0: all at once> seed=<n>`.
A paced answer follows its time-table whether anybody reads or not; each token is the time of its writing. A poured
one is a seeded text, written in blocks as fast as it is taken. `GET /seen?<prefix>`: what was sent for each tag.
"""

import asyncio
import gc
import hashlib
import random
import re
import signal
import sys
import time
from array import array
from urllib.parse import unquote

import msgspec
import uvloop

from bench import stamp

BLOCK_TOKENS = 128  # of a poured answer, in one write: what a model's server sends that has them ready
POURED_TOKENS = 4096  # the poured text repeats after so many
JITTER = 0.5  # gaps of the time-table are this share around the mean

HEAD = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"'
)
TAIL = b'"},"finish_reason":null}]}\n\n'
FIRST = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
)
LAST = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":%d,"total_tokens":%d}}\n\n'
    b"data: [DONE]\n\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_SAID = re.compile(r"(\w+)=([\w.-]+)")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Told(msgspec.Struct):
    """What was sent for a tag. Times: time.monotonic(). `late_ms`: how far behind its time-table each token was.

    `closed_at`: when its reader hung up before its end.
    """

    received_at: float
    first_at: float = 0.0
    last_at: float = 0.0
    tokens: int = 0
    sha1: str = ""
    closed_at: float = 0.0
    late_p99_ms: float = 0.0


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


TOKEN_HEAD = b"%x\r\n" % (len(HEAD) + stamp.TOKEN_CHARS + len(TAIL)) + HEAD
TOKEN_TAIL = TAIL + b"\r\n"


class Poured:
    """The seeded text of poured answers, and its blocks as they go over the wire."""

    def __init__(self, seed: int) -> None:
        letters = random.Random(seed)
        words = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz    ", k=5)) for _ in range(POURED_TOKENS)]
        self._tokens = [word.encode() for word in words]
        self._blocks = [self._pack(self._tokens[i : i + BLOCK_TOKENS]) for i in range(0, POURED_TOKENS, BLOCK_TOKENS)]
        self._whole = b"".join(self._tokens)

    def block(self, first: int, last: int) -> bytes:
        """Tokens `first` to `last` (not included), at most a block."""
        start = first % POURED_TOKENS
        if last - first == BLOCK_TOKENS and start % BLOCK_TOKENS == 0:
            return self._blocks[start // BLOCK_TOKENS]
        return self._pack([self._tokens[i % POURED_TOKENS] for i in range(first, last)])

    def sha1(self, count: int) -> str:
        whole, rest = divmod(count, POURED_TOKENS)
        text = self._whole * whole + self._whole[: rest * stamp.TOKEN_CHARS]
        return hashlib.sha1(text, usedforsecurity=False).hexdigest()

    @staticmethod
    def _pack(tokens: list[bytes]) -> bytes:
        return chunked(b"".join(HEAD + token + TAIL for token in tokens))


class Model:
    """What all connections share."""

    def __init__(self) -> None:
        self.told: dict[str, Told] = {}
        self._poured: dict[int, Poured] = {}

    def poured(self, seed: int) -> Poured:
        if seed not in self._poured:
            self._poured[seed] = Poured(seed)
        return self._poured[seed]


class Connection(asyncio.Protocol):
    """One HTTP connection; one request at a time."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._buffer = b""
        self._answer: Paced | Pouring | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_writable = True

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        match = _LENGTH.search(head)
        size = end + 4 + (int(match[1]) if match else 0)
        if len(self._buffer) < size:
            return
        body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
        if head.startswith(b"GET /seen?"):
            self._tell(unquote(head[10 : head.index(b" ", 10)].decode()))
        else:
            self._begin(body)

    def _tell(self, prefix: str) -> None:
        found = {tag: told for tag, told in self._model.told.items() if tag.startswith(prefix)}
        body = msgspec.json.encode(found)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)

    def _begin(self, body: bytes) -> None:
        told = Told(received_at=time.monotonic())
        said = next(m["content"] for m in reversed(msgspec.json.decode(body)["messages"]) if m["role"] == "user")
        order = dict(_SAID.findall(said))
        self._model.told[order.get("tag", "")] = told
        tokens, rate, seed = int(order.get("tokens", 20)), float(order.get("rate", 0)), int(order.get("seed", 1))
        self._transport.write(ANSWER + chunked(FIRST))
        if rate:
            self._answer = Paced(self._transport, told, tokens, rate, seed)
        else:
            self._answer = Pouring(self, self._transport, told, tokens, self._model.poured(seed))
        self._answer.go_on()

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        if isinstance(self._answer, Pouring):
            self._answer.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None:
            self._answer.end()
            if not self._answer.told.sha1:
                self._answer.told.closed_at = time.monotonic()


class Paced:
    """Token by token by the time-table; what is late goes at once."""

    def __init__(self, transport: asyncio.Transport, told: Told, tokens: int, rate: float, seed: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport, self.told, self._tokens = transport, told, tokens
        gaps = random.Random(seed)
        self._gap = lambda: gaps.uniform(1 - JITTER, 1 + JITTER) / rate
        self._due = time.monotonic()
        self._sum = hashlib.sha1(usedforsecurity=False)
        self._late = array("f")
        self._timer: asyncio.TimerHandle | None = None

    def go_on(self) -> None:
        told, now = self.told, time.monotonic()
        if not told.tokens:
            told.first_at = now
        while self._due <= now and told.tokens < self._tokens:
            token = stamp.encode(now)
            self._transport.write(TOKEN_HEAD + token + TOKEN_TAIL)
            self._sum.update(token)
            self._late.append(now - self._due)
            told.tokens += 1
            self._due += self._gap()
        told.last_at = now
        if told.tokens == self._tokens:
            told.sha1 = self._sum.hexdigest()
            told.late_p99_ms = sorted(self._late)[int(len(self._late) * 0.99)] * 1000
            self._transport.write(chunked(LAST % (told.tokens, told.tokens)) + b"0\r\n\r\n")
        else:
            self._timer = self._loop.call_later(max(0.0, self._due - time.monotonic()), self.go_on)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Pouring:
    """Block by block while the other side takes them, others getting their turn between two."""

    def __init__(
        self, connection: Connection, transport: asyncio.Transport, told: Told, tokens: int, text: Poured
    ) -> None:
        self._connection, self._transport, self.told = connection, transport, told
        self._tokens, self._text = tokens, text
        self._timer: asyncio.Handle | None = None

    def go_on(self) -> None:
        told = self.told
        if not told.tokens:
            told.first_at = time.monotonic()
        if told.tokens < self._tokens and self._connection.is_writable:
            last = min(self._tokens, told.tokens + BLOCK_TOKENS)
            self._transport.write(self._text.block(told.tokens, last))
            told.tokens = last
        if told.tokens < self._tokens:
            if self._connection.is_writable:
                self._timer = asyncio.get_running_loop().call_soon(self.go_on)
        elif not told.sha1:
            told.last_at = time.monotonic()
            told.sha1 = self._text.sha1(told.tokens)
            self._transport.write(chunked(LAST % (told.tokens, told.tokens)) + b"0\r\n\r\n")

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def main(port: int) -> None:
    gc.disable()  # its pauses would be measured as the server's
    model = Model()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(model), "127.0.0.1", port, backlog=2048)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print("ready", flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
