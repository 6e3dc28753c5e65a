"""What figures are made of: stamps in tokens, goals by round, the picture."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stamp, svg
from bench.client import Socket, SocketIo, Viewer
from bench.job import deltas_of
from bench.measure import Goal, Line, Row
from bench.report import table


@given(written=st.floats(0, 1e6), delay=st.floats(0, 900))
def test_a_token_says_how_long_it_was_on_its_way(written: float, delay: float) -> None:
    token = stamp.encode(written).decode()
    assert len(token) == stamp.TOKEN_CHARS
    [read] = stamp.delays_s(token, written + delay)
    assert read == pytest.approx(delay, abs=3e-6) or read > 1073  # rounded to before its own writing


def line(goal: Goal, ours: list[float], bare: list[float]) -> Line:
    return Line("p50", "ms", {"bare": bare, "headrace": ours}, [goal])


@pytest.mark.parametrize(
    ("goal", "is_met"),
    [
        (Goal("<= 1.3 x bare", 1.3, against="bare"), True),
        (Goal(">= 1.3 x bare", 1.3, against="bare", is_least=True), False),
        (Goal("<= bare + 1 ms", 1, "difference", "bare"), False),
        (Goal("<= 15 ms", 15, "value"), True),
    ],
)
def test_a_goal_is_judged_by_the_median_of_its_rounds(goal: Goal, is_met: bool) -> None:
    measured = line(goal, ours=[12, 12, 90], bare=[10, 10, 10])
    assert goal.is_met(goal.reached(measured)) is is_met


def test_a_row_that_was_lost_is_shown_as_missed() -> None:
    row = Row("first token", "First token", [line(Goal("<= 1.3 x bare", 1.3, against="bare"), [30.0], [10.0])])
    assert "**missed**: 3" in table(row)


def test_the_picture_is_well_formed() -> None:
    goal = Goal("<= 1.3 x bare & more", 1.3, against="bare")
    row = Row("first token", "First <token>", [line(goal, [3000.0], [0.5])])
    assert ElementTree.fromstring(svg.picture([row])).tag.endswith("svg")


@pytest.mark.parametrize("cut", range(1, 40, 7))
async def test_frames_are_read_whole_however_they_are_cut(cut: int) -> None:
    payloads = [b"a", b"b" * 200, b"c" * 70_000]
    heads = [b"\x81\x01", b"\x81\x7e\x00\xc8", b"\x81\x7f" + (70_000).to_bytes(8)]
    wire = b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"".join(map(b"".join, zip(heads, payloads, strict=True)))
    socket = Socket("127.0.0.1:1", "/", "")
    for start in range(0, 400, cut):
        socket.data_received(wire[start : min(start + cut, 400)])
    socket.data_received(wire[400:])
    assert [payload for _, payload in socket.frames] == payloads


def test_a_goal_may_judge_another_column() -> None:
    goal = Goal("<= 1.3 x 1 chat", 1.3, against="1 chat", of="10 chats")
    measured = Line("p50", "ms", {"1 chat": [10.0], "10 chats": [12.0]}, [goal])
    assert goal.reached(measured) == [1.2]


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


HANDSHAKE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def framed(*payloads: bytes) -> bytes:
    return b"".join(bytes((0x81, len(payload))) + payload for payload in payloads)


async def test_a_viewer_reads_after_the_measurement_what_came_while_it_ran() -> None:
    viewer = Viewer("127.0.0.1:1", "/", "")
    viewer.data_received(HANDSHAKE)
    viewer.keep()
    wire = framed(b'{"type":"delta","text":"a"}', b'{"type":"turn_end"}')
    for start in range(0, len(wire), 7):
        assert viewer.frames == []
        viewer.data_received(wire[start : start + 7])
    await viewer.ended()
    viewer.replay()
    assert [text for _, text in deltas_of(viewer)] == ["a"]


async def test_a_ping_among_many_frames_is_answered_at_once() -> None:
    viewer = Viewer("127.0.0.1:1", "/", "")
    viewer.transport = Wire()
    viewer.data_received(HANDSHAKE)
    viewer.keep()
    viewer.data_received(b"\x89\x04ping")
    assert viewer.transport.written.endswith(b"ping")


async def test_socket_io_is_joined_and_its_events_are_read() -> None:
    socket = SocketIo("127.0.0.1:1", "/", "")
    socket.transport = Wire()
    socket.data_received(HANDSHAKE + framed(b'0{"sid":"x"}', b'40{"sid":"y"}', b'42["delta",{"text":"a"}]'))
    await socket.first(None)
    assert b"40" in socket.transport.written
    assert [text for _, text in deltas_of(socket)] == ["a"]
