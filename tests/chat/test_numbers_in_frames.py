"""Frames in: what of JSON no row and no template should meet."""

import json

import pytest

from chat import protocol
from streams.errors import WireError


def say(number: str) -> str:
    frame = json.dumps({"type": "say", "id": "c1", "text": "1234567890123456789012345", "params": {"n": ["NUMBER"]}})
    return frame.replace('"NUMBER"', number)


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" + 400 * "0"])
def test_a_whole_number_beyond_64_bits_is_a_bad_frame_with_its_id(number: str):
    with pytest.raises(WireError) as refused:
        protocol.decode_command(say(number), 32, 1000)
    assert (refused.value.code, refused.value.extra) == ("bad_frame", {"id": "c1"})
    assert "64 bits" in refused.value.text


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + 5000 * "0"])
def test_a_number_that_no_parser_holds_is_refused(number: str):
    with pytest.raises(WireError) as refused:
        protocol.decode_command(say(number), 32, 1000)
    assert refused.value.entry.status == 400


@pytest.mark.parametrize("number", ["9223372036854775807", "-9223372036854775808", "1e308", "0.1234567890123456789"])
def test_a_number_of_64_bits_passes(number: str):
    assert protocol.decode_command(say(number), 32, 1000).params == {"n": [json.loads(number)]}
