"""Ready-made frames, read by the library that clients use."""

from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from streams.frames import text_frames


def payloads_of(data: bytes) -> list[bytes]:
    """Read by the library that clients use."""
    reader = StreamReader()
    reader.feed_data(data)
    payloads = []
    while reader.buffer:
        frame = drained(Frame.parse(reader.read_exact, mask=False))
        assert frame.opcode is Opcode.TEXT and frame.fin
        payloads.append(bytes(frame.data))
    return payloads


def drained(steps: Generator) -> Frame:
    try:
        next(steps)
    except StopIteration as done:
        return done.value
    raise AssertionError("a frame is cut off")


@pytest.mark.parametrize("nbytes", [0, 1, 125, 126, 127, 65_535, 65_536, 300_000])
def test_a_payload_of_each_length_form_is_read_whole(nbytes: int):
    assert payloads_of(text_frames([b"x" * nbytes, b"next"])) == [b"x" * nbytes, b"next"]


@given(st.lists(st.text().map(str.encode), max_size=20))
def test_joined_frames_are_read_as_what_they_were_made_of(payloads: list[bytes]):
    assert payloads_of(text_frames(payloads)) == payloads
