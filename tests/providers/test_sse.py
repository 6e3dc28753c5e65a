"""The decoder of server-sent events: what comes out does not depend on how the bytes were cut."""

from hypothesis import example, given
from hypothesis import strategies as st

from providers.sse import Decoder, Event

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
SSE_BYTES = st.lists(
    st.sampled_from(
        [b"data", b": ", b":", b"\n", b"\r", b"\n\n", b"event", b"x", b"\xef\xbb\xbf", "水".encode(), b"\xff"]
    ),
    max_size=60,
).map(b"".join)


def fed(pieces: list[bytes], **bounds: int) -> tuple[list[Event], str]:
    decoder = Decoder(**bounds)
    return [event for piece in pieces for event in decoder.feed(piece)], decoder.fault


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[first:last] for first, last in zip(edges, edges[1:], strict=False)]


@given(
    st.lists(st.tuples(st.lists(LINE, min_size=1, max_size=3), LINE.filter(bool), ENDS, st.booleans()), max_size=8),
    st.lists(st.integers(min_value=0), max_size=12),
)
def test_written_events_come_out_whole_however_they_are_cut(events, at):
    data = b""
    for lines, name, end, has_comment in events:
        written = [": a comment"] * has_comment + [f"event: {name}"] + [f"data: {line}" for line in lines] + ["", ""]
        data += end.join(written).encode()
    expected = [Event("\n".join(lines).encode(), name) for lines, name, _, _ in events]
    assert fed(cut(data, at)) == (expected, "")


@given(SSE_BYTES, st.lists(st.integers(min_value=0), max_size=20))
def test_any_bytes_cut_anywhere_give_the_same_events(data, at):
    assert fed(cut(data, at)) == fed([data])
    assert fed([bytes([byte]) for byte in data]) == fed([data])


@example(b"\xef\xbb\xbf" * 3 + b"data:x\xef\xbb\xbf\n\n", [16])
@given(SSE_BYTES, st.lists(st.integers(min_value=0), max_size=20))
def test_bounds_cut_at_the_same_event_however_the_bytes_are_cut(data, at):
    assert fed(cut(data, at), max_event_bytes=6) == fed([data], max_event_bytes=6)


def test_a_character_split_over_two_reads_is_one_character():
    whole = "data: 水\n\n".encode()
    assert fed([whole[:7], whole[7:]]) == ([Event("水".encode())], "")


def test_one_blank_after_the_colon_is_dropped_and_no_more():
    assert fed([b"data:a\n\ndata: b\n\ndata:  c\n\n"])[0] == [Event(b"a"), Event(b"b"), Event(b" c")]


def test_an_event_without_its_blank_line_is_none():
    assert fed([b"data: a\n\ndata: b\n"]) == ([Event(b"a")], "")


def test_an_event_without_data_is_none_and_its_name_is_forgotten():
    assert fed([b"event: x\n\ndata: a\n\n"])[0] == [Event(b"a", "message")]


def test_id_and_retry_are_passed_over():
    assert fed([b"id: 1\nretry: 5\ndata: a\n\n"])[0] == [Event(b"a")]


def test_an_event_of_the_largest_size_passes_and_one_byte_more_does_not():
    assert fed([b"data: ", b"x" * 10, b"\n\n"], max_event_bytes=10) == ([Event(b"x" * 10)], "")
    assert fed([b"data: ", b"x" * 11, b"\n\n"], max_event_bytes=10)[1]


def test_events_before_a_fault_are_given_and_none_after_it():
    events, fault = fed([b"data: a\n\ndata: " + b"x" * 50 + b"\n\ndata: b\n\n", b"data: c\n\n"], max_event_bytes=10)
    assert events == [Event(b"a")]
    assert fault


def test_a_line_without_end_is_bounded():
    decoder = Decoder(max_event_bytes=100)
    for _ in range(50):
        assert decoder.feed(b": comment ") == []
    assert decoder.fault == "a line is too long"
