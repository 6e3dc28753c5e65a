"""What a turn did, kept so that it is done once: a run that starts again takes from here what stands."""

from typing import Any

from chat.turns.canonical import hash_of
from chat.turns.orders import Kept, PendingStep
from streams.errors import WireError
from streams.sentences import Sentence
from streams.sentences import noop as _

KEY_CHARS = 200  # of a step and of a question
PART_CHARS = 120  # of the part in which a question stands
BAD_NAME = _("A step or a question is named by at most {limit} characters, without NUL.")


def checked(name: str, most: int) -> str:
    """What a row names, before anything is done by that name. Raises WireError flow_error where no row takes it."""
    if len(name) > most or "\x00" in name:
        raise WireError("flow_error", Sentence(BAD_NAME, limit=most))
    return name


class Journal:
    """Of one run. `kept` and `answers`, by key, are what earlier runs left. `pending` waits to be written."""

    def __init__(self, kept: dict[str, Kept], answers: dict[str, dict[str, Any]]) -> None:
        self.pending: PendingStep | None = None
        self._kept, self._answers = kept, answers
        self._unused = set(kept) | set(answers)
        self._calls: dict[tuple[str, str], int] = {}

    @property
    def is_replaying(self) -> bool:
        """What was done before is not done yet: nothing is told to clients."""
        return bool(self._unused)

    def key(self, kind: str, scope: str, key: str | None) -> str:
        """`key`, or `<kind>:<scope>:<n>` in the order of calls. Raises WireError flow_error where no row takes it."""
        if key is not None:
            return checked(key, KEY_CHARS)
        count = self._calls[kind, scope] = self._calls.get((kind, scope), 0) + 1
        return checked(f"{kind}:{scope}:{count}", KEY_CHARS)

    def kept(self, key: str, arguments: Any) -> dict[str, Any] | None:
        """The result that an earlier run kept. Raises WireError flow_error where the code changed under it."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.arguments_hash != hash_of(arguments):
            raise WireError("flow_error", Sentence(_("The step {key} was kept with other arguments."), key=key))
        self._unused.discard(key)
        return kept.value

    def answer(self, key: str) -> dict[str, Any] | None:
        """What was answered to the question of this key."""
        answer = self._answers.get(key)
        if answer is not None:
            self._unused.discard(key)
        return answer

    def waiting(self, *more: PendingStep) -> list[PendingStep]:
        """What is to be written. It waits until that was committed; a step that is written twice is kept once."""
        return [*([] if self.pending is None else [self.pending]), *more]
