"""Sentences for people that are made far below: an English message id and what fills it, translated at the edge.

Pure. A `Sentence` is its English text, and goes wherever a text goes; who knows the reader's language asks `told`.
"""

from collections.abc import Callable
from typing import Any

import msgspec


def noop(text: str) -> str:
    """Marks a message id for gettext's extraction, by the name `_`."""
    return text


class Sentence(str):
    """`Sentence(_("it has more than {limit} tags"), limit=500)`. A value may be a sentence itself."""

    id: str
    values: dict[str, Any]

    def __new__(cls, id: str, **values: Any) -> "Sentence":
        made = super().__new__(cls, id.format(**values))
        made.id = id
        made.values = values
        return made


class SentenceError(Exception):
    """An error whose text reaches people. Made as a `Sentence` is."""

    def __init__(self, id: str, **values: Any) -> None:
        self.sentence = Sentence(id, **values)
        super().__init__(str(self.sentence))


class Kept(msgspec.Struct, frozen=True):
    """A sentence as JSON keeps it. `values` that are no sentences are cut to what a person reads."""

    id: str
    values: dict[str, "str | Kept"] = {}


CHARS = 200  # of a value


def kept(value: Any) -> str | Kept:
    if isinstance(value, Sentence):
        return Kept(value.id, {name: kept(item) for name, item in value.values.items()})
    return str(value)[:CHARS]


def restored(value: str | Kept) -> str:
    """What `kept` kept."""
    if isinstance(value, str):
        return value
    return Sentence(value.id, **{name: restored(item) for name, item in value.values.items()})


def told(text: str, gettext: Callable[[str], str]) -> str:
    """The text in the reader's language; what is no `Sentence` is a message id without anything to fill in."""
    if not isinstance(text, Sentence):
        return gettext(text) if text else ""
    values = {
        name: told(value, gettext) if isinstance(value, Sentence) else value for name, value in text.values.items()
    }
    return gettext(text.id).format(**values)
