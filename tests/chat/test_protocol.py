"""What is looked at before a frame is parsed."""

import pytest

from chat.protocol import id_in_front, nests_too_much

FRAME_CHARS = 256 * 1024


@pytest.mark.parametrize(
    ("text", "is_too_much"),
    [
        ("[" * 32 + "]" * 32, False),
        ("[" * 33 + "]" * 33, True),
        ('["' + "[" * 100 + '"]', False),
        ('["\\"' + "[" * 100 + '"]', False),
        ('["\\\\"' + "," + "[" * 33, True),
        ('["\\\\\\"' + "[" * 100 + '"]', False),
        ("[" + "[]," * 999 + "[]]", True),
        ("[" + "[]," * 98 + "[]]", False),
    ],
)
def test_brackets_outside_of_strings_are_bounded_in_depth_and_number(text: str, is_too_much: bool) -> None:
    assert nests_too_much(text, 32, 100) is is_too_much


@pytest.mark.parametrize("piece", ['\\"', '"', "\\", "\\\\", '\\\\"', '["', "[]", '"\\'])
def test_frame_full_of_quotes_is_looked_at_once(piece: str) -> None:
    """Quadratic time over a whole frame would be minutes."""
    nests_too_much("[" * 40 + '"' + piece * (FRAME_CHARS // len(piece)), 32, 10_000)
    nests_too_much("[" * 40 + piece * (FRAME_CHARS // len(piece)), 32, 10_000)


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ('{"type":"say","id":"one","text":"x"}', "one"),
        (' { "type" : "say" , "id" : "a-1" , "text":"x"}', "a-1"),
        ('{"id":"one","type":"say"}', "one"),
        ('{"params":{"id":"inner"},"id":"one"}', None),
        ('{"type":"say","id":5}', None),
        ('{"type":"say","id":"' + "x" * 65 + '"}', None),
        ("[" * 1000, None),
        (" " * FRAME_CHARS, None),
    ],
)
def test_id_of_a_frame_that_is_not_decoded(text: str, id: str | None) -> None:
    assert id_in_front(text) == id
