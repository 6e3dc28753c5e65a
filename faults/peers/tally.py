"""What a run lost, counted in tokens: each carries its number within its answer. Pure."""

from itertools import pairwise

import msgspec


class Answer(msgspec.Struct):
    """One that was accepted. `wanted`: its whole text; `stored`: what a tab shows that is opened at the end.

    `tabs`: what those show that were open all the time; `times`: how often what was said is stored.
    """

    wanted: str
    stored: str
    tabs: list[str]
    times: int
    has_ended: bool


class Tally(msgspec.Struct):
    """Of one run; `waits` in seconds from the fault to the next event of each tab."""

    answers: int = 0
    tokens: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    unended: int = 0
    tabs: int = 0
    unlike: int = 0
    waits: list[float] = []
    notes: list[str] = []
    took_s: float = 0.0

    def add(self, answer: Answer) -> None:
        """A token is lost where any that should have it lacks it: the store or a tab."""
        wanted = answer.wanted.split()
        everywhere = [text.split() for text in (answer.stored, *answer.tabs)]
        self.answers += 1
        self.tokens += len(wanted)
        self.lost += len(wanted) - len(set(wanted).intersection(*everywhere))
        self.doubled += max(len(words) - len(set(words)) for words in everywhere) + max(0, answer.times - 1)
        self.disordered += max(steps_back(words) for words in everywhere)
        self.unended += not answer.has_ended
        self.tabs += len(answer.tabs)
        self.unlike += sum(text != answer.stored for text in answer.tabs)


def steps_back(words: list[str]) -> int:
    """How often a token comes after a later one, each counted where it came first."""
    return sum(one > other for one, other in pairwise(dict.fromkeys(words)))


def total(tallies: list[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        for name in ("answers", "tokens", "lost", "doubled", "disordered", "unended", "tabs", "unlike"):
            setattr(whole, name, getattr(whole, name) + getattr(tally, name))
        whole.waits = whole.waits + tally.waits
    return whole
