"""Each invariant holds for a good history, and finds what is wrong in made-up ones: else it would be no check."""

import copy
from collections.abc import Callable

import pytest

from faults import facts
from faults.invariants import INVARIANTS, check

CHAT, TURN, SAID, ANSWER, SESSION, EPOCH = "chat", "turn", "said", "answer", "session", "e1"
USER = {"id": SAID, "chat": CHAT, "role": "user", "parts": [], "parent": None, "turn": TURN, "client_id": "c1"}
PART = {"id": "1.first#1", "kind": "text", "node": "first", "text": "ab"}
TOLD = {"id": ANSWER, "chat": CHAT, "role": "assistant", "parts": [PART], "parent": SAID, "turn": TURN, "client_id": ""}
BEGUN = {"seq": 1, "type": "turn_start", "turn": TURN, "message": USER, "answer": ANSWER, "attempt": 1, "parts": []}
EVENTS = [
    BEGUN,
    {"seq": 2, "type": "part", "turn": TURN, "part": PART["id"], "kind": "text", "node": "first"},
    {"seq": 3, "type": "delta", "part": PART["id"], "text": "a"},
    {"seq": 4, "type": "delta", "part": PART["id"], "text": "b"},
    {"seq": 5, "type": "turn_end", "turn": TURN, "status": "done", "message": TOLD},
]
EMPTY = {"type": "snapshot", "epoch": EPOCH, "seq": 0, "messages": [], "turns": []}
OK = {"type": "ok", "id": "c1", "message": SAID, "turn": TURN, "answer": ANSWER, "queued": False}
SIZE = 10  # bytes of every frame


def tab(name: str, *frames: facts.Json) -> facts.Client:
    greeting = [
        {"type": "welcome", "session": name, "resumed": False},
        EMPTY | {"chat": {"id": CHAT, "rev": 0, "title": "", "head": None}},
    ]
    seen = [facts.Seen(float(i), SIZE, copy.deepcopy(frame)) for i, frame in enumerate([*greeting, *frames])]
    connection = facts.Connection("w0", 0.0, name, seen, [(2.0, SIZE)], is_clean=True, is_ours=True, ended=20.0)
    return facts.Client(name, CHAT, [connection])


def good() -> facts.History:
    """Two tabs of one chat with one turn, as they should be."""
    speaker, viewer = tab("speaker", OK, *EVENTS), tab("viewer", *EVENTS)
    speaker.commands.append(facts.Command("c1", "say", 2.0, {"text": "x"}))
    history = facts.History(
        clients=[speaker, viewer],
        logs={CHAT: facts.Log(EPOCH, 5, [(event["seq"], event) for event in EVENTS])},
        turns=[facts.Turn(TURN, CHAT, 1, SAID, ANSWER, "done", 1, 0, None, True, None, False)],
        replies=[(CHAT, "c1", {name: value for name, value in OK.items() if name not in ("type", "id")})],
        stored={CHAT: facts.Stored("", ANSWER, [USER, TOLD])},
        kept=[facts.Kept(TURN, "llm:first#1:1", 5.0)],
        began=[facts.Began(TURN, 1, "w0", 3.0)],
        calls=[facts.Call("c1", "first", 3.5)],
        answers={"c1": "ab"},
        sessions=[session("speaker", 8), session("viewer", 7)],
    )
    return copy.deepcopy(history)  # events of the module stay as they are


def session(id_: str, frames: int, reason: str = "", worker: str = "w0") -> facts.Session:
    return facts.Session(id_, worker, "disconnected", reason, True, (frames, SIZE * frames, 1, SIZE))


def frames(history: facts.History, client: int = 1) -> list[facts.Json]:
    return [seen.frame for seen in history.clients[client].connections[0].seen]


def test_a_good_history_breaks_none() -> None:
    assert check(good()) == {name: [] for name in INVARIANTS}


def test_an_empty_history_breaks_none() -> None:
    assert check(facts.History()) == {name: [] for name in INVARIANTS}


# --------------------------------------------------------------------------------- how each is broken


def log_has_a_hole(history: facts.History) -> None:
    del history.logs[CHAT].entries[2]


def log_is_behind_its_top(history: facts.History) -> None:
    history.logs[CHAT].seq = 6


def client_misses_an_event(history: facts.History) -> None:
    del history.clients[1].connections[0].seen[4]


def client_gets_an_event_twice(history: facts.History) -> None:
    seen = history.clients[1].connections[0].seen
    seen.insert(4, seen[4])


def number_means_two_things(history: facts.History) -> None:
    frames(history)[4] |= {"text": "x"}


def snapshot_goes_back(history: facts.History) -> None:
    seen = history.clients[1].connections[0].seen
    seen.append(facts.Seen(9.0, SIZE, seen[1].frame | {"seq": 3}))


def ok_without_a_row(history: facts.History) -> None:
    history.replies.clear()


def one_id_two_answers(history: facts.History) -> None:
    seen = history.clients[0].connections[0].seen
    seen.append(facts.Seen(9.0, SIZE, OK | {"turn": "another"}))


def said_twice(history: facts.History) -> None:
    history.stored[CHAT].messages.append(USER | {"id": "double"})


def never_answered(history: facts.History) -> None:
    del history.clients[0].connections[0].seen[2]


def refused_and_stored(history: facts.History) -> None:
    history.clients[0].connections[0].seen[2].frame = {"type": "error", "id": "c1", "code": "busy", "retryable": True}
    history.replies.clear()


def turn_is_missing(history: facts.History) -> None:
    history.turns.clear()


def turn_never_ends(history: facts.History) -> None:
    history.turns[0].state = "running"


def two_answers(history: facts.History) -> None:
    history.stored[CHAT].messages.append(TOLD | {"id": "double"})


def ends_twice_in_one_epoch(history: facts.History) -> None:
    history.logs[CHAT].entries.append((6, EVENTS[4] | {"seq": 6}))
    history.logs[CHAT].seq = 6


def end_was_not_shown(history: facts.History) -> None:
    del history.clients[1].connections[0].seen[-1]


def message_differs_from_rest(history: facts.History) -> None:
    history.stored[CHAT].messages[0] = USER | {"parts": [PART]}


def head_differs_from_rest(history: facts.History) -> None:
    history.stored[CHAT].head = SAID


def shows_a_turn_that_ended(history: facts.History) -> None:
    for event in (BEGUN | {"seq": 6, "turn": "ghost"},):
        history.clients[1].connections[0].seen.append(facts.Seen(9.0, SIZE, event))


def stored_lacks_text(history: facts.History) -> None:
    short = TOLD | {"parts": [PART | {"text": "a"}]}
    history.stored[CHAT].messages[1] = short
    for client in (0, 1):
        frames(history, client)[-1]["message"] = short


def stored_has_text_twice(history: facts.History) -> None:
    history.stored[CHAT].messages[1] = TOLD | {"parts": [PART | {"text": "aab"}]}


def stopped_text_is_not_the_beginning(history: facts.History) -> None:
    history.turns[0].state = "stopped"
    history.stored[CHAT].messages[1] = TOLD | {"parts": [PART | {"text": "b"}]}


def shown_is_not_stored(history: facts.History) -> None:
    frames(history)[4] |= {"text": "x"}
    frames(history, 0)[5] |= {"text": "x"}


def snapshot_lacks_text(history: facts.History) -> None:
    seen = history.clients[1].connections[0].seen
    shorter = {"turn": TURN, "state": "running", "attempt": 1, "message": USER, "answer": ANSWER, "parts": []}
    seen.insert(6, facts.Seen(6.0, SIZE, seen[1].frame | {"seq": 4, "turns": [shorter]}))


def attempt_ran_twice(history: facts.History) -> None:
    history.began.append(facts.Began(TURN, 1, "w1", 4.0))


def step_done_again_after_it_was_kept(history: facts.History) -> None:
    history.began.append(facts.Began(TURN, 2, "w1", 6.0))
    history.calls.append(facts.Call("c1", "first", 7.0))


def step_done_twice_by_one_attempt(history: facts.History) -> None:
    history.kept.clear()
    history.calls.append(facts.Call("c1", "first", 7.0))


def attempt_begins_twice_in_one_epoch(history: facts.History) -> None:
    entries = history.logs[CHAT].entries[:4]
    entries += [(5, BEGUN | {"seq": 5}), (6, {"seq": 6, "type": "progress", "turn": TURN, "text": ""})]
    history.logs[CHAT].entries, history.logs[CHAT].seq = entries, 6
    for client in (0, 1):
        del history.clients[client].connections[0].seen[-1]


def earlier_attempt_begins_after_a_later_one(history: facts.History) -> None:
    later = [(6, BEGUN | {"seq": 6, "attempt": 3}), (7, BEGUN | {"seq": 7, "attempt": 2})]
    history.logs[CHAT].entries += later
    history.logs[CHAT].seq = 7


def something_is_left(history: facts.History) -> None:
    history.left_over.append("a key has no time to live")


def dead_worker_is_not_buried(history: facts.History) -> None:
    history.workers.append(facts.Worker("w9", 60.0, False))


def session_that_died_is_not_lost(history: facts.History) -> None:
    history.killed["w0"] = 15.0


def session_has_not_ended(history: facts.History) -> None:
    history.sessions[0].has_ended = False


def end_is_owed(history: facts.History) -> None:
    history.turns[0].told = False


def counter_is_off_by_one(history: facts.History) -> None:
    history.sessions[1].counted = (8, 80, 1, SIZE)


def received_is_less_than_was_sent(history: facts.History) -> None:
    history.sessions[1].counted = (7, 70, 0, 0)


def lost_session_lags_too_far(history: facts.History) -> None:
    history.sessions[1] = facts.Session("viewer", "w0", "error", "lost", True, (1, SIZE, 0, 0))
    history.killed["w0"] = 20.0


BROKEN: dict[str, list[Callable[[facts.History], None]]] = {
    "D1": [
        log_has_a_hole, log_is_behind_its_top, client_misses_an_event, client_gets_an_event_twice,
        number_means_two_things, snapshot_goes_back,
    ],
    "D2": [
        ok_without_a_row, one_id_two_answers, said_twice, never_answered, refused_and_stored, turn_is_missing,
        turn_never_ends, two_answers, ends_twice_in_one_epoch, end_was_not_shown,
    ],
    "D3": [message_differs_from_rest, head_differs_from_rest, shows_a_turn_that_ended, end_was_not_shown],
    "D4": [
        stored_lacks_text, stored_has_text_twice, stopped_text_is_not_the_beginning, shown_is_not_stored,
        snapshot_lacks_text,
    ],
    "D5": [
        attempt_ran_twice, step_done_again_after_it_was_kept, step_done_twice_by_one_attempt,
        attempt_begins_twice_in_one_epoch, earlier_attempt_begins_after_a_later_one,
    ],
    "D6": [
        something_is_left, dead_worker_is_not_buried, session_that_died_is_not_lost, session_has_not_ended, end_is_owed,
        turn_never_ends,
    ],
    "D7": [counter_is_off_by_one, received_is_less_than_was_sent, lost_session_lags_too_far],
}  # fmt: skip
CASES = [(name, breaks) for name, all_ in BROKEN.items() for breaks in all_]


@pytest.mark.parametrize(("name", "breaks"), CASES, ids=[f"{name}-{breaks.__name__}" for name, breaks in CASES])
def test_an_invariant_that_is_broken_says_so(name: str, breaks: Callable[[facts.History], None]) -> None:
    history = good()
    breaks(history)
    assert check(history)[name], f"{name} finds nothing"


def test_counters_of_a_lost_session_may_lag_by_five_seconds() -> None:
    history = good()
    history.sessions[1] = facts.Session("viewer", "w0", "error", "lost", True, (5, 50, 1, SIZE))
    history.killed["w0"] = 9.0
    assert INVARIANTS["D7"](history) == []


def test_a_cut_connection_may_have_been_written_more_than_was_read() -> None:
    history = good()
    history.clients[1].connections[0].is_clean = history.clients[1].connections[0].is_ours = False
    history.sessions[1].counted = (9, 90, 0, 0)
    assert INVARIANTS["D7"](history) == []


def test_a_row_that_owed_its_end_may_begin_its_attempt_again() -> None:
    history = good()
    entries = [*history.logs[CHAT].entries[:4], (5, BEGUN | {"seq": 5, "parts": [PART]}), (6, EVENTS[4] | {"seq": 6})]
    history.logs[CHAT] = facts.Log(EPOCH, 6, entries)
    assert not INVARIANTS["D5"](history)
