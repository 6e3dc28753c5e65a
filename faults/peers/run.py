"""One run of one fault on a peer: the same load, and afterwards what is shown and stored of what was accepted."""

import asyncio
import time
from typing import Any

from faults.client import next_event
from faults.house import Worker
from faults.peers.house import Peer
from faults.peers.tab import PeerTab, Turn, read
from faults.peers.tally import Answer, Tally
from faults.run import SETTLE_S, Run, Speech

QUIET_S = 20.0  # nothing came for so long: nothing will
QUIET_QUICK_S = 4.0
FRESH_S = 2.0  # the same of a tab that was just opened


class PeerRun(Run):
    house: Peer
    size = 6  # an answer of more than 10,000 tokens has no number twice
    first = ""

    def __init__(self, house: Peer, seed: int) -> None:
        super().__init__(house, seed)
        self.quiet_s = QUIET_QUICK_S if house.is_quick else QUIET_S
        self.accepted: dict[str, Speech] = {}  # by id; two tabs may say the same

    async def tab(self, worker: Worker, chat: str | None = None, flow: str = "", door: str = "") -> PeerTab:
        tab = self._new_tab(chat or self.fresh_chat(), door or worker.address, self.quiet_s)
        self.tabs.append(tab)
        return await tab.open()

    def _new_tab(self, chat: str, door: str, quiet_s: float) -> PeerTab:
        return PeerTab(chat, self.house.doors, door, self.house.can_resume, quiet_s)

    async def say(self, tab: PeerTab, tokens: int, rate: float, id: str = "", **directive: Any) -> Speech:
        said = await super().say(tab, tokens, rate, id, **directive)
        return self.accepted.setdefault(said.id, said)

    def expect(self, is_so: object, what: str) -> None:
        """What is promised by Headrace is not asked of others."""

    async def tally(self) -> Tally:
        """Wait until all has ended or nothing more comes, and count."""
        for task in self._tasks:
            try:
                await task
            except TimeoutError as error:  # never answered, so not accepted
                self.note(str(error))
        await asyncio.gather(
            *(tab.until_ended(said.turn) for said in self.accepted.values() for tab in self._tabs_of(said))
        )
        chats = {said.tab.chat for said in self.accepted.values()}
        shown = dict(zip(chats, await asyncio.gather(*(self._look(chat) for chat in chats)), strict=True))
        tally = Tally(notes=self.notes)
        for said in self.accepted.values():
            tally.add(self._answer(said, *shown[said.tab.chat]))
        if self.hit_at is not None:
            found = [next_event(tab.record, self.hit_at, SETTLE_S) for tab in self.tabs]
            tally.waits = [wait for wait in found if wait is not None]
        tally.took_s = time.monotonic() - self._began
        return tally

    def _tabs_of(self, said: Speech) -> list[PeerTab]:
        return [tab for tab in self.tabs if tab.chat == said.tab.chat]

    async def _look(self, chat: str) -> tuple[PeerTab, list[Turn]]:
        """A tab that is opened now, and closed again once it shows all that it will; the rows."""
        door = self.house.workers[0].address
        tab = await self._new_tab(chat, door, FRESH_S).open()
        turns = await asyncio.to_thread(read, door, chat)
        for said in self.accepted.values():
            if said.tab.chat == chat:
                await tab.until_ended(said.turn)
        await tab.close()
        return tab, turns

    def _answer(self, said: Speech, fresh: PeerTab, turns: list[Turn]) -> Answer:
        tabs = self._tabs_of(said)
        rows = [turn for turn in turns if turn.said.endswith(f"#{said.id}")]
        ended = [said.turn in tab.view.ended for tab in tabs]
        return Answer(
            wanted=self.answers[said.id],
            stored=fresh.text(said.turn),
            tabs=[tab.text(said.turn) for tab in tabs],
            times=len(rows),
            has_ended=all(ended) and any(row.has_ended for row in rows),
        )
