"""Where a model's text and reasoning go in the answer, each into a part that opens with its first character."""

from chat.turns.parts import OpenPart, Parts

KINDS = {"answer": ("text", "reasoning"), "reasoning": ("reasoning", "reasoning"), "hidden": (None, None)}


class Shown:
    """Of one model call. `show`: answer, reasoning (its text too), or hidden. `begun`: the text that stands already."""

    def __init__(self, parts: Parts, show: str) -> None:
        self._parts = parts
        self._kinds = KINDS[show]
        self._open: dict[str, OpenPart] = {}
        self._texts: list[str] = []
        self._reasonings: list[str] = []
        self.begun = ""

    def go_on(self) -> None:
        """Take up the text that a lost run delivered of this call, if there is some. Else it begins anew."""
        if self._kinds[0] != "text":
            return
        reached = self._parts.reach("reasoning", "text") or self._parts.reach("text")
        for opened in reached:
            self._open[opened.part.kind] = opened
            kept = self._reasonings if opened.part.kind == "reasoning" else self._texts
            kept.append(opened.part.text)
        self.begun = self.whole_text

    def text(self, text: str, tokens: int) -> None:
        text = text.replace("\x00", "")  # no row can hold it, and what is kept must be what was said
        self._texts.append(text)
        self._show(self._kinds[0], text, tokens)

    def reasoning(self, text: str, tokens: int) -> None:
        text = text.replace("\x00", "")
        self._reasonings.append(text)
        self._show(self._kinds[1], text, tokens)

    def _show(self, kind: str | None, text: str, tokens: int) -> None:
        if kind is None:
            self._parts.count(len(text.encode()))
            return
        opened = self._open.get(kind)
        if opened is None:
            if kind == "text" and "reasoning" in self._open:
                self._parts.close(self._open["reasoning"])
            opened = self._open[kind] = self._parts.open(kind)
        elif not opened.is_open:  # reasoning that comes back after the text began
            opened = self._open[kind] = self._parts.open(kind)
        self._parts.grow(opened, text, max(tokens, 1))

    def close(self) -> None:
        for opened in self._open.values():
            self._parts.close(opened)

    @property
    def whole_text(self) -> str:
        return "".join(self._texts)

    @property
    def whole_reasoning(self) -> str:
        return "".join(self._reasonings)
