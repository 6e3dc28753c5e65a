"""The parts of an answer as its run builds them: named after where the run stands, counted, told to the log.

A run that takes up a lost one goes on with what that one delivered: it shows it, and reaches it part by part as it
goes through the same code. Where it goes another way, what it did not reach is dropped, and clients begin anew.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from chat import protocol
from chat.turns.outbox import Outbox, part_events
from streams import metrics
from streams.errors import WireError


class OpenPart(msgspec.Struct):
    """`texts` joined are the part's text. `is_ahead`: delivered by a lost run, and not reached yet by this one."""

    part: protocol.Part
    texts: list[str]
    is_open: bool
    is_ahead: bool = False
    was_whole: bool = True

    def whole(self) -> protocol.Part:
        return msgspec.structs.replace(self.part, text="".join(self.texts))


class Parts:
    """Of one run. `scope` is what new ones are named after: `<node or handler>#<visit>`.

    What opens, grows and ends beyond `answer_bytes` raises WireError answer_too_long; what stands is kept.
    """

    def __init__(
        self,
        turn: str,
        number: int,
        scope: str,
        answer_bytes: int,
        outbox: Outbox,
        start: Callable[[list[protocol.Part]], protocol.TurnStart],
    ) -> None:
        self.scope = scope
        self._start = start
        self.first_token_ms: int | None = None
        self._turn, self._number, self._outbox = turn, number, outbox
        self._list: list[OpenPart] = []
        self._named: dict[str, int] = {}  # in each scope, so far
        self._bytes_left = answer_bytes
        self._began = time.monotonic()
        self._kept = 0  # how many of them stand with a step that was taken
        self._step_from: int | None = None  # where those of the step that is being done begin

    # ----------------------------------------------------------------------------- as a run begins

    def adopt(self, parts: list[protocol.Part]) -> None:
        """These stand already."""
        self._bytes_left -= sum(len(msgspec.json.encode(part)) for part in parts)
        self._list.extend(OpenPart(part=part, texts=[part.text], is_open=False) for part in parts)
        self._kept = len(self._list)

    def clear(self) -> None:
        self._list.clear()

    def go_on_from(self, parts: list[protocol.Part], open_ids: frozenset[str]) -> None:
        """What a lost run delivered besides what stands. The last one may grow, so it is shown open."""
        ahead = [part for part in parts if not self.stands(part.id)]
        for part in ahead:
            may_grow = part is ahead[-1] and part.kind in ("text", "reasoning")
            was_whole = part.id not in open_ids
            opened = OpenPart(part, [part.text], is_open=may_grow, is_ahead=True, was_whole=was_whole)
            self._bytes_left -= _size(opened)
            self._list.append(opened)

    def begin_events(self) -> list[protocol.Event]:
        """`turn_start` with all that is shown now."""
        events: list[protocol.Event] = [self._start([opened.whole() for opened in self._list if not opened.is_open])]
        for opened in self._list:
            if opened.is_open:
                events += part_events(self._turn, opened.whole(), is_open=True)
        return events

    def reach(self, *kinds: str) -> list[OpenPart]:
        """The next parts that the lost run delivered, where they are those of these kinds that would open here now."""
        ahead = [opened for opened in self._list if opened.is_ahead][: len(kinds)]
        here = [(kind, self._id(self.named() + n)) for n, kind in enumerate(kinds, 1)]
        if [(opened.part.kind, opened.part.id) for opened in ahead] != here:
            return []
        self.pass_over(len(kinds))
        for opened in ahead:
            opened.is_ahead = False
        return ahead

    def drop_ahead(self) -> None:
        """This run goes another way, or does anew what was cut: what was not reached is not shown any more."""
        ahead = [opened for opened in self._list if opened.is_ahead]
        if ahead:
            self._bytes_left += sum(map(_size, ahead))
            self._list = [opened for opened in self._list if not opened.is_ahead]
            for event in self.begin_events():
                self._outbox.put(event)

    # ----------------------------------------------------------------------------- as it goes on

    def next_id(self) -> str:
        """`<turn>.<node>#<visit>`, further ones `.2`, `.3`: the same in every run that goes the same way."""
        self.pass_over(1)
        return self._id(self.named())

    def _id(self, count: int) -> str:
        base = f"{self._number}.{self.scope}"
        return base if count == 1 else f"{base}.{count}"

    def pass_over(self, count: int) -> None:
        """So many names of this scope are taken: by parts of a step that stands."""
        self._named[self.scope] = self.named() + count

    def named(self) -> int:
        """How many names of this scope are taken."""
        return self._named.get(self.scope, 0)

    def stands(self, part_id: str) -> bool:
        return any(opened.part.id == part_id for opened in self._list)

    def show(self, kind: str, text: str, data: Any) -> None:
        """A whole part. What stands, or was delivered just so by a lost run, is not shown again."""
        [delivered] = self.reach(kind) or [None]
        if delivered is None:
            part_id = self.next_id()
            if self.stands(part_id):
                return
        elif delivered.was_whole and (delivered.part.text, delivered.part.data) == (text, data):
            self.close(delivered)
            return
        else:
            part_id, delivered.is_ahead = delivered.part.id, True
        opened = self.open(kind, data, part_id)
        if text:
            self.grow(opened, text)
        self.close(opened)

    def open(self, kind: str, data: Any = None, part_id: str | None = None) -> OpenPart:
        self.drop_ahead()
        node = self.scope.split("#", 1)[0]
        part = protocol.Part(id=part_id or self.next_id(), kind=kind, data=data, node=node)
        self.count(len(msgspec.json.encode(part)))
        opened = OpenPart(part=part, texts=[], is_open=True)
        self._list.append(opened)
        self._outbox.put(protocol.PartStart(turn=self._turn, part=part.id, kind=kind, node=node, data=data))
        return opened

    def grow(self, opened: OpenPart, text: str, tokens: int = 1) -> None:
        text = text.replace("\x00", "")
        self.count(len(text.encode()))
        if text:
            if self.first_token_ms is None:
                first_s = time.monotonic() - self._began
                self.first_token_ms = int(first_s * 1000)
                metrics.first_token.observe(first_s)
            opened.texts.append(text)
            self._outbox.delta(opened.part.id, text, tokens)

    def count(self, size: int) -> None:
        """Bytes of the answer, shown or not."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise WireError("answer_too_long")

    def close(self, opened: OpenPart) -> None:
        if opened.is_open:
            opened.is_open = False
            self._outbox.put(protocol.PartEnd(part=opened.part.id))

    def close_all(self) -> None:
        for opened in self._list:
            self.close(opened)

    # ----------------------------------------------------------------------------- as it is seen

    def whole(self) -> list[dict[str, Any]]:
        """Those that have ended, for a row."""
        return [msgspec.to_builtins(opened.whole()) for opened in self._list if not opened.is_open]

    # ----------------------------------------------------------------------------- by steps

    def begin_step(self) -> None:
        """What was delivered and not reached is this step's, or of what follows it."""
        ahead = (place for place, opened in enumerate(self._list) if opened.is_ahead)
        self._step_from = next(ahead, len(self._list))

    def end_step(self) -> None:
        """What it showed stands."""
        self._step_from = None

    def take(self) -> list[dict[str, Any]]:
        """Those that ended since the step before: they stand with this step."""
        fresh = [opened for opened in self._list[self._kept :] if not opened.is_open and not opened.is_ahead]
        self._kept += len(fresh)
        return [msgspec.to_builtins(opened.whole()) for opened in fresh]

    def whole_without_step(self) -> list[dict[str, Any]]:
        """Without those of a step that was cut: it is done again, and a run that starts again shows them anew."""
        parts = []
        for opened in self._list[: self._step_from]:
            if opened.is_open or opened.is_ahead:
                break
            parts.append(msgspec.to_builtins(opened.whole()))
        return parts


def _size(opened: OpenPart) -> int:
    return len(msgspec.json.encode(opened.part))
