"""What a handler gets: the Protocol of `ctx` and its frozen views. `chat/turns/ctx.py` is its one implementation.

A run may start again from the top, after an answer or on another worker. What costs or asks goes through `step`,
`llm` and `stream.ask`, whose results are kept: a run that starts again gets them at once, without events.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec

from providers.base import LLMMessage, Picture, Usage


class UserView(msgspec.Struct, frozen=True):
    id: str
    name: str


class ChatView(msgspec.Struct, frozen=True):
    id: str
    kind: str  # chat, debug, call
    locale: str


class FlowView(msgspec.Struct, frozen=True):
    """`version` is null in a debug run. `graph` is what this turn runs, checked and built.

    `checksum` is the graph's, where it is known: the engine finds its compiled plan by it.
    """

    id: str
    slug: str
    name: str
    version: int | None
    graph: dict[str, Any]
    checksum: str = ""


class FileView(msgspec.Struct, frozen=True):
    """A file that came with a message. `text`: what of it can be read as text; empty for a picture."""

    id: str
    name: str
    mime: str
    text: str = ""

    @property
    def is_picture(self) -> bool:
        return self.mime.startswith("image/")


class InputView(msgspec.Struct, frozen=True):
    text: str
    params: dict[str, Any]
    files: tuple[FileView, ...] = ()

    def shown_files(self) -> list[dict[str, str]]:
        """As templates read them."""
        return [msgspec.structs.asdict(file) for file in self.files]


def with_files(message: LLMMessage, files: tuple[FileView, ...]) -> LLMMessage:
    """A message as a model reads it together with its files: their texts behind its own, pictures beside it."""
    texts = [message.text, *(f"[{file.name}]\n{file.text}" for file in files if not file.is_picture)]
    pictures = tuple(Picture(file.mime, file.id, file.name) for file in files if file.is_picture)
    return msgspec.structs.replace(message, text="\n\n".join(texts), pictures=message.pictures + pictures)


class Answer(msgspec.Struct, frozen=True):
    """`expire`: nobody answered in time and the question said to go on. `label`: an option's label, else the value."""

    action: Literal["accept", "decline", "cancel", "expire"]
    value: Any = None
    label: str = ""


class LLMCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a model. `provider` is a Provider's slug. `show`: where its text goes in the answer."""

    provider: str
    model: str
    messages: tuple[LLMMessage, ...]
    temperature: float | None = None
    max_tokens: int | None = None
    schema: dict[str, Any] | None = None
    show: Literal["answer", "reasoning", "hidden"] = "answer"


class LLMResult(msgspec.Struct, frozen=True):
    text: str = ""
    reasoning: str = ""
    usage: Usage = Usage()
    model: str = ""


class Signal(Protocol):
    """Set once the turn is to stop. Awaitable and checkable; the run's task is cancelled besides."""

    @property
    def is_set(self) -> bool: ...

    async def wait(self) -> None: ...


class Stream(Protocol):
    async def send(self, type: str, text: str = "", data: Any = None) -> None:
        """`progress`, `status`, or a type of one's own. Gives back-pressure: returns once there is room."""

    async def ask(
        self,
        text: str,
        *,
        options: tuple[dict[str, str], ...] = (),
        schema: dict[str, Any] | None = None,
        secret: bool = False,
        expires_s: float | None = None,
        default: Any = None,
        goes_on_expired: bool = False,
        key: str | None = None,
    ) -> Answer:
        """Ask the user. Leaves the handler by `Suspend`; the run that gets the answer returns it here.

        On expiry: `default` is the answer where there is one, else Answer("expire") if `goes_on_expired`,
        else the turn ends `question_expired`.
        """


class Suspend(BaseException):
    """The turn waits for an answer. Not an error: let it pass."""


class Context(Protocol):
    user: UserView
    chat: ChatView
    flow: FlowView
    input: InputView
    params: dict[str, Any]
    now: str  # RFC 3339 UTC, as first read by this turn
    vars: dict[str, Any]  # the run's own copy, kept with the chat at the turn's end
    stream: Stream
    signal: Signal
    log: Any

    async def step(self, key: str, fn: Callable[[], Awaitable[Any]]) -> Any:
        """Run `fn` once a turn; its result (JSON) is kept under `key`."""

    async def llm(self, call: LLMCall, *, key: str | None = None) -> LLMResult:
        """Stream a model's answer to the user; the whole result is kept. Raises WireError of a provider code."""

    async def history(self, count: int) -> tuple[LLMMessage, ...]:
        """At most `count` messages before this turn's input, oldest first, from the branch that is shown."""

    async def write(self, text: str, kind: Literal["text", "reasoning", "data"] = "text", data: Any = None) -> None:
        """A whole part of the answer at once."""

    async def node_start(self, node: str, visit: int, kind: str, title: str) -> None:
        """A step of the flow begins: names the scope of the parts and keys that follow."""

    async def node_end(self, *, output: Any = None, error: str | None = None) -> None:
        """The present step ended. The runner measures its time."""


Handler = Callable[[dict[str, Any], Context], Awaitable[Any]]
