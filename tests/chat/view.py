"""A client's view as wire.md 2 ("Applying") makes it from frames, and nothing else. Checks the order as it goes."""

from typing import Any

NOT_EVENTS = {
    "welcome",
    "snapshot",
    "ok",
    "error",
    "pong",
    "degraded",
    "restored",
    "auth_expiring",
    "going_away",
    "chats",
}


class View:
    """`messages`, `turns` and `head` as shown; `epoch` and `seq` as seen."""

    def __init__(self) -> None:
        self.epoch, self.seq = "", 0
        self.messages: dict[str, dict[str, Any]] = {}
        self.turns: dict[str, dict[str, Any]] = {}
        self.ended: set[str] = set()
        self.ends: list[tuple[str, str]] = []  # (epoch, turn) of each end that was applied as an event
        self.head: str | None = None
        self.rev = 0
        self.title = ""
        self.has_begun = False
        self.replies: dict[str, dict[str, Any]] = {}
        self.seen: list[tuple[str, int, str]] = []

    def apply(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind in ("ok", "error"):
            if frame.get("id"):
                self.replies[frame["id"]] = frame
        elif kind == "welcome":
            if not frame["resumed"]:
                self.has_begun = False
        elif kind == "snapshot":
            self._snapshot(frame)
        elif kind not in NOT_EVENTS:
            assert self.has_begun, f"{kind} before a snapshot"
            assert frame["seq"] == self.seq + 1, f"{kind} {frame['seq']} after {self.seq}"
            self.seq = frame["seq"]
            self.seen.append((self.epoch, self.seq, kind))
            getattr(self, f"_{kind}", lambda frame: None)(frame)

    def resumes(self) -> None:
        """A new connection goes on from its position."""

    def _snapshot(self, frame: dict[str, Any]) -> None:
        self.has_begun = True
        self.epoch, self.seq = frame["epoch"], frame["seq"]
        self.messages = {message["id"]: message for message in frame["messages"]}
        self.turns = {turn["turn"]: turn | {"parts": [dict(part) for part in turn["parts"]]} for turn in frame["turns"]}
        self.ended = {
            message["turn"] for message in frame["messages"] if message["role"] == "assistant" and message["turn"]
        }
        self.head, self.rev, self.title = frame["chat"]["head"], frame["chat"]["rev"], frame["chat"]["title"]

    def _add(self, message: dict[str, Any]) -> None:
        self.messages.setdefault(message["id"], message)

    def _message(self, frame: dict[str, Any]) -> None:
        self._add(frame["message"])

    def _turn_queued(self, frame: dict[str, Any]) -> None:
        if frame["turn"] in self.ended:
            return
        self._add(frame["message"])
        shown = self.turns.setdefault(frame["turn"], {"state": "queued", "place": frame["place"], "parts": []})
        if shown["state"] == "queued":
            shown["place"] = min(shown["place"], frame["place"])

    def _turn_start(self, frame: dict[str, Any]) -> None:
        if frame["turn"] in self.ended:
            return
        self._add(frame["message"])
        before = self.turns.get(frame["turn"])
        if frame["attempt"] > 0 and (before is None or before["state"] == "queued"):
            self.head = frame["answer"]
        self.turns[frame["turn"]] = {
            "state": "running",
            "message": frame["message"],
            "place": None,
            "answer": frame["answer"],
            "attempt": frame["attempt"],
            "parts": [dict(part) for part in frame["parts"]],
            "question": None,
        }

    def _part(self, frame: dict[str, Any]) -> None:
        turn = self.turns.get(frame["turn"])
        if turn is not None:
            fresh = {"id": frame["part"], "kind": frame["kind"]}
            fresh |= {key: frame[key] for key in ("node", "data") if frame.get(key) is not None}
            turn["parts"] = [part for part in turn["parts"] if part["id"] != frame["part"]] + [fresh]

    def _shown(self, part_id: str) -> dict[str, Any] | None:
        for turn in self.turns.values():
            for part in turn["parts"]:
                if part["id"] == part_id:
                    return part
        return None

    def _delta(self, frame: dict[str, Any]) -> None:
        part = self._shown(frame["part"])
        if part is not None:
            part["text"] = part.get("text", "") + frame["text"]

    def _part_end(self, frame: dict[str, Any]) -> None:
        part = self._shown(frame["part"])
        if part is not None and frame.get("data") is not None:
            part["data"] = frame["data"]

    def _question(self, frame: dict[str, Any]) -> None:
        turn = self.turns.get(frame["turn"])
        if turn is not None and frame["turn"] not in self.ended:
            turn["state"], turn["question"] = "waiting", frame

    def _answered(self, frame: dict[str, Any]) -> None:
        turn = self.turns.get(frame["turn"])
        if turn is not None:
            turn["question"] = None

    def _turn_end(self, frame: dict[str, Any]) -> None:
        if frame["turn"] in self.ended:
            return
        self.ends.append((self.epoch, frame["turn"]))
        shown = self.turns.pop(frame["turn"], {"parts": []})
        message = dict(frame["message"])
        if shown.get("attempt", 0) > 0 and self.head in (message["id"], message["parent"]):
            self.head = message["id"]
        if message["parts"] is None:
            message["parts"] = shown["parts"]
        else:
            self.last_shown = shown["parts"]
            assert shown["parts"] == message["parts"], f"shown {shown['parts']}, stored {message['parts']}"
        self.ended.add(frame["turn"])
        self._add(message)

    def _chat(self, frame: dict[str, Any]) -> None:
        if frame["rev"] >= self.rev:
            self.rev, self.title = frame["rev"], frame.get("title", self.title)
            self.head = frame.get("head", self.head)

    @property
    def leaf(self) -> str | None:
        """The head, or the answer that is being written to it."""
        for turn in self.turns.values():
            if turn["state"] != "queued" and turn["message"]["id"] == self.head:
                return turn["answer"]
        return self.head


def text_of(parts: list[dict[str, Any]] | None) -> str:
    return "|".join(part.get("text", "") for part in parts or [] if part["kind"] == "text")
