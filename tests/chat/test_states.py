"""The table of a turn's moves, pair by pair, and that the rows follow it."""

import itertools

import pytest

from chat.models import Turn
from chat.turns.states import ACTIVE, LEGAL, UNENDED, TurnState, can_move
from chat.turns.store import moves

QUEUED, RUNNING, WAITING = TurnState.QUEUED, TurnState.RUNNING, TurnState.WAITING
DONE, STOPPED, ERROR = TurnState.DONE, TurnState.STOPPED, TurnState.ERROR
ENDED = {DONE, STOPPED, ERROR}
MOVES = {
    (QUEUED, RUNNING),
    (QUEUED, STOPPED),
    (QUEUED, ERROR),
    (RUNNING, WAITING),
    (RUNNING, DONE),
    (RUNNING, STOPPED),
    (RUNNING, ERROR),
    (WAITING, RUNNING),
    (WAITING, STOPPED),
    (WAITING, ERROR),
}
PAIRS = list(itertools.product(TurnState, repeat=2))


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=lambda state: state.value)
def test_a_turn_moves_as_the_table_says(before: TurnState, after: TurnState):
    assert can_move(before, after) is ((before, after) in MOVES)


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=lambda state: state.value)
def test_a_row_moves_as_the_table_says_or_stays_as_it_was(before: TurnState, after: TurnState):
    turn = Turn(state=before.value)
    if (before, after) in MOVES:
        moves.move(turn, after)
        assert turn.state == after.value
    else:
        with pytest.raises(ValueError, match=f"from {before} to {after}"):
            moves.move(turn, after)
        assert turn.state == before.value


def test_every_state_is_in_the_table_and_is_either_ended_or_not():
    assert set(LEGAL) == set(TurnState)
    assert set(TurnState) - UNENDED == ENDED
    assert ACTIVE | {QUEUED} == UNENDED


def test_nothing_leaves_an_end_and_every_other_state_can_reach_one():
    for state in TurnState:
        assert bool(LEGAL[state]) is (state not in ENDED)
        assert state in ENDED or LEGAL[state] & ENDED


def test_what_may_wait_or_end_well_runs_first():
    assert {before for before, moves in LEGAL.items() if WAITING in moves} == {RUNNING}
    assert {before for before, moves in LEGAL.items() if DONE in moves} == {RUNNING}
