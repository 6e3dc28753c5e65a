"""What is counted of a peer: nothing where all is well, and each thing where it is so."""

from dataclasses import dataclass

import pytest

from faults.peers.tally import Answer, Tally, steps_back, total

WHOLE = "0000 0001 0002 0003 "


@dataclass
class Case:
    answer: Answer
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    unended: int = 0
    unlike: int = 0


def answer(
    stored: str = WHOLE, tabs: tuple[str, ...] = (WHOLE, WHOLE), times: int = 1, has_ended: bool = True
) -> Answer:
    return Answer(WHOLE, stored, list(tabs), times, has_ended)


CASES = {
    "all is well": Case(answer()),
    "never stored": Case(answer(stored="", has_ended=False), lost=4, unended=1, unlike=2),
    "a hole in one tab": Case(answer(tabs=(WHOLE, "0000 0003 ")), lost=2, unlike=1),
    "holes in two places": Case(answer(tabs=("0001 0002 0003 ", "0000 0001 0002 ")), lost=2, unlike=2),
    "shown twice": Case(answer(tabs=(WHOLE, "0000 0001 0001 0002 0003 ")), doubled=1, unlike=1),
    "said twice": Case(answer(times=2), doubled=1),
    "in another order": Case(answer(tabs=("0000 0002 0001 0003 ",)), disordered=1, unlike=1),
    "a tab waits for its end": Case(answer(has_ended=False), unended=1),
    "no tab, and not stored": Case(answer(stored="", tabs=()), lost=4),
}


@pytest.mark.parametrize("name", CASES)
def test_what_happened_is_counted_and_nothing_else(name: str) -> None:
    case, tally = CASES[name], Tally()
    tally.add(case.answer)
    assert (tally.answers, tally.tokens, tally.tabs) == (1, 4, len(case.answer.tabs))
    for figure in ("lost", "doubled", "disordered", "unended", "unlike"):
        assert getattr(tally, figure) == getattr(case, figure), figure


def test_what_is_shown_again_is_not_out_of_order() -> None:
    assert steps_back(["0000", "0001", "0000", "0001", "0002"]) == 0


def test_runs_are_summed() -> None:
    tallies = [Tally(answers=1, tokens=4, lost=2, waits=[1.0]), Tally(answers=2, tokens=8, lost=1, waits=[3.0])]
    assert total(tallies) == Tally(answers=3, tokens=12, lost=3, waits=[1.0, 3.0])
