"""Tokens that carry the time at which they were written. Pure.

Five characters of a 64-letter alphabet: 30 bits of CLOCK_MONOTONIC in microseconds, which all processes of a machine
share. A token that is read within 17 minutes says how long it was on its way.
"""

TOKEN_CHARS = 5
SPAN_US = 1 << 30

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PAIRS = [(high + low).encode() for high in _ALPHABET for low in _ALPHABET]
_VALUES = {pair.decode(): value for value, pair in enumerate(_PAIRS)}
_LETTERS = {letter: value for value, letter in enumerate(_ALPHABET)}


def encode(at_s: float) -> bytes:
    """`at_s`: time.monotonic()."""
    us = int(at_s * 1e6) % SPAN_US
    return _PAIRS[us >> 18] + _PAIRS[(us >> 6) & 4095] + _PAIRS[us & 63][1:]


def delays_s(text: str, now_s: float) -> list[float]:
    """How long each token of `text` was on its way when it was read at `now_s`."""
    now_us = int(now_s * 1e6)
    return [
        ((now_us - decode_us(text[i : i + TOKEN_CHARS])) % SPAN_US) / 1e6
        for i in range(0, len(text) - TOKEN_CHARS + 1, TOKEN_CHARS)
    ]


def decode_us(token: str) -> int:
    return _VALUES[token[:2]] << 18 | _VALUES[token[2:4]] << 6 | _LETTERS[token[4]]
