"""Server-sent events from bytes, in any pieces. Pure.

Follows the HTML standard (9.2.6) for line ends, comments, fields and multi-line data, and holds bounds.
It works on whole lines of bytes, so a character that was split over two reads is never seen in halves;
who decodes `data` finds out whether it is UTF-8.
"""

import msgspec

BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True, gc=False):
    """`data`: the lines of data, joined by a line feed. `name`: what `event:` said."""

    data: bytes
    name: str = "message"


class Decoder:
    """Feed it what was read; it gives the events that became whole. One without its blank line is none.

    Past a bound `fault` says why and nothing comes out any more; what came before is given all the same.
    """

    def __init__(self, *, max_event_bytes: int = 1024 * 1024) -> None:
        self.fault = ""
        self._max = max_event_bytes
        self._max_line = max_event_bytes + len(BOM) + len(b"data: ")
        self._partial: list[bytes] = []  # the pieces of the line that is not whole yet
        self._partial_bytes = 0
        self._data: list[bytes] = []  # the lines of the event that is not whole yet
        self._name = "message"
        self._is_after_cr = False
        self._is_first_line = True

    def feed(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if self.fault or not data:
            return events
        for line in self._lines(data):
            if line[:6] == b"data: ":
                self._data.append(line[6:])
            elif line:
                if len(line) > self._max_line:
                    self.fault = "a line is too long"
                    break
                self._field(line)
            elif self._data:
                whole = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                if len(whole) > self._max:
                    break
                events.append(Event(whole, self._name))
                self._data = []
                self._name = "message"
            else:
                self._name = "message"
        self._hold_bounds()
        return events

    def _lines(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, whichever of LF, CR and CRLF ends them."""
        if self._is_after_cr:
            data = data.removeprefix(b"\n")
            self._is_after_cr = False
        if b"\r" in data:
            self._is_after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        if len(lines) == 1:
            self._partial.append(data)
            self._partial_bytes += len(data)
            return []
        if self._partial:
            lines[0] = b"".join(self._partial) + lines[0]
        rest = lines.pop()
        self._partial = [rest] if rest else []
        self._partial_bytes = len(rest)
        if self._is_first_line:
            lines[0] = lines[0].removeprefix(BOM)
            self._is_first_line = False
        return lines

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")

    def _hold_bounds(self) -> None:
        mark = len(BOM) if self._is_first_line else 0  # which goes before the line is judged
        if self._partial_bytes > self._max_line + mark:
            self.fault = "a line is too long"
        elif self._data and sum(map(len, self._data)) + len(self._data) - 1 > self._max:
            self.fault = "an event is too long"
        if self.fault:
            self._partial = []
            self._data = []
