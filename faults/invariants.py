"""The seven invariants of durability.md 7, as functions of what was recorded. Pure: each returns what it found wrong.

What is not recorded is not judged: a history without sessions says nothing about counters.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby

from faults.facts import Client, Connection, History, Json, Turn
from tests.chat.view import NOT_EVENTS, View

UNENDED = {"queued", "running", "waiting"}
COUNTERS_LAG_S = 5.0
SLACK_S = 2.0  # a write of the counters that was under way, the clocks of two processes
DEAD_AFTER_S = 10.0
BURIED_WITHIN_S = 10.0  # of a death being known: some sweeps

Event = tuple[str, int, Json]  # epoch, seq, frame
Counted = tuple[int, int, int, int]


def numbering(history: History) -> list[str]:
    """D1: each epoch's log is 1..N without gap or double; every client's sequence is a piece of it."""
    wrong = []
    for chat, log in history.logs.items():
        numbers = [seq for seq, _ in log.entries]
        if numbers and numbers != list(range(numbers[0], log.seq + 1)):
            wrong.append(f"chat {chat}: the log of {log.epoch} has {_runs_of(numbers)}, its top is {log.seq}")
        for seq, event in log.entries:
            if event.get("seq") != seq:
                wrong.append(f"chat {chat}: entry {seq} says seq {event.get('seq')}")
    for client in history.clients:
        wrong += _gaps(client)
    held: dict[tuple[str, str, int], str] = {}
    for chat, events in _by_chat(history).items():
        for epoch, seq, frame in events:
            text = _canonical(frame)
            if held.setdefault((chat, epoch, seq), text) != text:
                wrong.append(f"chat {chat}: {epoch}:{seq} is {held[chat, epoch, seq][:120]} and {text[:120]}")
    return wrong


def _gaps(client: Client) -> list[str]:
    wrong = []
    epoch, seq = "", 0
    for frame in _frames(client):
        kind = frame["type"]
        if kind == "snapshot":
            if frame["epoch"] == epoch and frame["seq"] < seq:
                wrong.append(f"{client.name}: a snapshot of {epoch} goes back from {seq} to {frame['seq']}")
            epoch, seq = frame["epoch"], frame["seq"]
        elif kind not in NOT_EVENTS:
            if frame["seq"] != seq + 1:
                wrong.append(f"{client.name}: {kind} {frame['seq']} after {epoch}:{seq}")
            seq = frame["seq"]
    return wrong


def once(history: History) -> list[str]:
    """D2: every `ok` has one command; an accepted `say` one user's message, one turn, one end."""
    wrong = []
    replies = Counter((chat, command) for chat, command, _ in history.replies)
    kept = {(chat, command): reply for chat, command, reply in history.replies}
    turns = {turn.id: turn for turn in history.turns}
    for (chat, command), oks in _oks(history).items():
        who = f"{command} of {chat}"
        if len({_canonical(ok) for ok in oks}) > 1:
            wrong.append(f"{who}: different answers {oks}")
        if replies[chat, command] != 1:
            wrong.append(f"{who}: {replies[chat, command]} rows of commands for an ok")
        elif any(kept[chat, command].get(name) != oks[0].get(name) for name in kept[chat, command]):
            wrong.append(f"{who}: the row says {kept[chat, command]}, the ok {oks[0]}")
    for client in history.clients:
        for command in client.commands:
            if command.type == "say":
                wrong += _say_once(history, client, command.id, turns)
    wrong += _ends(history, turns)
    return wrong


def _say_once(history: History, client: Client, command: str, turns: dict[str, Turn]) -> list[str]:
    replied = [_reply(frame) for frame in _frames(client) if frame.get("id") == command and "code" not in frame]
    refused = [frame["code"] for frame in _frames(client) if frame.get("id") == command and "code" in frame]
    stored = history.stored.get(client.chat)
    messages = [m for m in stored.messages if m["client_id"] == command] if stored else []
    if not replied and not refused:
        return [f"{client.name}: {command} was never answered"]
    if any("question" in ok for ok in replied):
        return [f"{client.name}: {command} was an answer and a message"] if messages else []
    is_accepted = bool(replied) or any(c == client.chat and id_ == command for c, id_, _ in history.replies)
    if not is_accepted:
        return [f"{client.name}: {command} was refused ({refused}) and stored"] if messages else []
    wrong = []
    if len(messages) != 1:
        wrong.append(f"{client.name}: {command} is stored {len(messages)} times")
    for ok in replied[:1]:
        turn = turns.get(ok["turn"])
        if turn is None:
            wrong.append(f"{client.name}: {command} has no turn")
        elif turn.state in UNENDED and not (turn.state == "waiting" and turn.has_question):
            wrong.append(f"{client.name}: the turn of {command} is {turn.state}")
        elif messages and turn.input != messages[0]["id"]:
            wrong.append(f"{client.name}: {command} has a turn of another message")
    return wrong


def _ends(history: History, turns: dict[str, Turn]) -> list[str]:
    wrong = []
    for chat, stored in history.stored.items():
        answers = Counter(m["turn"] for m in stored.messages if m["role"] == "assistant")
        for turn in turns.values():
            wanted = 0 if turn.state in UNENDED else 1
            if turn.chat == chat and answers[turn.id] != wanted:
                wrong.append(f"turn {turn.id}, {turn.state}, has {answers[turn.id]} answers")
    for chat, events in _by_chat(history).items():
        ends: dict[tuple[str, str], set[int]] = defaultdict(set)
        for epoch, seq, frame in events:
            if frame["type"] == "turn_end":
                ends[epoch, frame["turn"]].add(seq)
        wrong += [f"chat {chat}: turn {t} ends at {sorted(s)} of {e}" for (e, t), s in ends.items() if len(s) > 1]
    for client in history.clients:
        shown = _shown_ends(client)
        for turn in turns.values():
            if turn.chat == client.chat and turn.state not in UNENDED and turn.id not in shown:
                wrong.append(f"{client.name}: was never shown the end of turn {turn.number} ({turn.state})")
    return wrong


def shown(history: History) -> list[str]:
    """D3: a client that applied its events shows what REST shows."""
    wrong = []
    for client in history.clients:
        stored = history.stored.get(client.chat)
        view, faults = _applied(client)
        if stored is None or not view.has_begun:
            continue
        wrong += [f"{client.name}: {fault}" for fault in faults if not fault.startswith("shown ")]
        rest = {message["id"]: message for message in stored.messages}
        for id_ in rest.keys() | view.messages.keys():
            one, other = rest.get(id_), view.messages.get(id_)
            if _canonical(one) != _canonical(other):
                wrong.append(
                    f"{client.name}: message {id_} is {_canonical(one)[:300]}, shown {_canonical(other)[:300]}"
                )
        if (view.head, view.title) != (stored.head, stored.title):
            wrong.append(
                f"{client.name}: head and title are {(stored.head, stored.title)}, shown {(view.head, view.title)}"
            )
        states = {turn.id: turn.state for turn in history.turns if turn.chat == client.chat and turn.state in UNENDED}
        open_ = {id_: turn["state"] for id_, turn in view.turns.items()}
        if open_ != states:
            wrong.append(f"{client.name}: open turns are {states}, shown {open_}")
    return wrong


def texts(history: History) -> list[str]:
    """D4: text delivered, and not replaced by a `turn_start` or a new epoch's snapshot, is in the stored answer."""
    wrong = []
    for client in history.clients:
        wrong += [f"{client.name}: {fault}" for fault in _applied(client)[1] if fault.startswith("shown ")]
        wrong += _shrunk(client)
    turns = {turn.id: turn for turn in history.turns}
    said = {(c, m["id"]): m["client_id"] for c, s in history.stored.items() for m in s.messages if m["role"] == "user"}
    for chat, stored in history.stored.items():
        for message in stored.messages:
            turn = turns.get(message["turn"])
            if message["role"] != "assistant" or turn is None:
                continue
            whole = history.answers.get(said.get((chat, turn.input), ""))
            text = "".join(part.get("text", "") for part in message["parts"] if part["kind"] == "text")
            if whole is None:
                continue
            if turn.state == "done" and text != whole:
                wrong.append(f"turn {turn.number} of {chat}: {_difference(text, whole)}")
            elif not whole.startswith(text):
                wrong.append(f"turn {turn.number} of {chat}, {turn.state}: {_difference(text, whole)}")
    return wrong


def _shrunk(client: Client) -> list[str]:
    """Text that a snapshot of the same epoch and attempt does not have any more."""
    wrong = []
    view = View()
    for frame in _frames(client):
        before = {id_: (t.get("attempt"), t["parts"]) for id_, t in view.turns.items()}
        epoch = view.epoch
        try:
            view.apply(frame)
        except AssertionError:
            return wrong  # told elsewhere
        if frame["type"] != "snapshot" or frame["epoch"] != epoch:
            continue
        for turn, (attempt, parts) in before.items():
            now = view.turns.get(turn)
            if now is None or now.get("attempt") != attempt:
                continue
            texts_now = {part["id"]: part.get("text", "") for part in now["parts"]}
            for part in parts:
                if not texts_now.get(part["id"], "").startswith(part.get("text", "")):
                    wrong.append(f"{client.name}: a snapshot of {epoch} lacks text of {part['id']}")
    return wrong


def effects(history: History) -> list[str]:
    """D5: a step is done at most once an attempt, never by one that began after it was kept; no attempt runs twice."""
    wrong = []
    runs = Counter((began.turn, began.attempt) for began in history.began)
    wrong += [
        f"turn {turn}: attempt {attempt} ran {count} times" for (turn, attempt), count in runs.items() if count > 1
    ]
    for chat, events in _by_chat(history).items():
        wrong += _restarts(chat, events)
    turns = {turn.id: turn for turn in history.turns}
    commands = {m["client_id"]: m["turn"] for s in history.stored.values() for m in s.messages if m["role"] == "user"}
    kept = {(step.turn, step.key): step.at for step in history.kept}
    began_at: dict[str, list[float]] = defaultdict(list)
    for began in history.began:
        began_at[began.turn].append(began.at)
    calls: Counter[tuple[str, str]] = Counter()
    for call in history.calls:
        turn_id = commands.get(call.command)
        if turn_id in turns:
            calls[turn_id, call.node] += 1
    for (turn_id, node), count in calls.items():
        at = next((at for (id_, key), at in kept.items() if id_ == turn_id and f":{node}#" in key), None)
        able = len([began for began in began_at[turn_id] if at is None or began <= at])
        if history.began and count > able:
            wrong.append(f"turn {turn_id}: {node} was done {count} times, {able} attempts could")
    return wrong


def _restarts(chat: str, events: list[Event]) -> list[str]:
    """A second `turn_start` of an attempt in an epoch may only bring the question or end that its row owed.

    A run that took up a lost one may begin once more: where it does anew what was cut.
    """
    wrong = []
    seen: Counter[tuple[str, str, int]] = Counter()
    known = {(epoch, seq): frame for epoch, seq, frame in events}
    attempts: dict[tuple[str, str], int] = {}
    for (epoch, seq), frame in sorted(known.items(), key=lambda item: item[0]):
        if frame["type"] != "turn_start" or frame["attempt"] == 0:
            continue
        turn = frame["turn"]
        if frame["attempt"] < attempts.get((epoch, turn), 0):
            wrong.append(f"chat {chat}: {epoch}:{seq} begins attempt {frame['attempt']} after a later one")
        attempts[epoch, turn] = frame["attempt"]
        begins = seen[epoch, turn, frame["attempt"]]
        if begins > (1 if frame["attempt"] > 1 else 0):
            following = known.get((epoch, seq + 1))
            while following is not None and following["type"] in ("part", "delta", "part_end"):
                seq += 1
                following = known.get((epoch, seq + 1))
            if following is not None and following["type"] not in ("question", "turn_end"):
                wrong.append(f"chat {chat}: attempt {frame['attempt']} of turn {turn} begins twice in {epoch}")
        seen[epoch, turn, frame["attempt"]] += 1
    return wrong


def leftovers(history: History) -> list[str]:
    """D6: nothing is left over, the dead are buried and their sessions lost, nothing is unfinished for ever."""
    wrong = list(history.left_over)
    for worker in history.workers:
        if not worker.is_buried and worker.silent_s > DEAD_AFTER_S + BURIED_WITHIN_S:
            wrong.append(f"worker {worker.id} is dead for {worker.silent_s:.0f} s and not buried")
    for session in history.sessions:
        if not session.has_ended:
            wrong.append(f"session {session.id} of {session.worker} has not ended")
    sessions = {session.id: session for session in history.sessions}
    for client in history.clients:
        for connection in client.connections:
            session = sessions.get(connection.session)
            died = history.killed.get(session.worker) if session else None
            if died is not None and connection.began < died <= connection.ended and session.reason != "lost":
                wrong.append(f"{client.name}: its session died with a worker and is {session.state} {session.reason}")
    for turn in history.turns:
        if turn.state in UNENDED and not (turn.state == "waiting" and turn.has_question):
            wrong.append(f"turn {turn.id} is {turn.state}, of worker {turn.worker}")
        if not turn.told:
            wrong.append(f"turn {turn.id}, {turn.state}, owes its event")
    return wrong


def counters(history: History) -> list[str]:
    """D7: the four counters are what the client counted; after a kill at most 5 s of traffic behind."""
    wrong = []
    sessions = {session.id: session for session in history.sessions}
    for client in history.clients:
        for connection in client.connections:
            session = sessions.get(connection.session)
            if session is None or not session.has_ended:
                continue
            whole = _counted(connection, None)
            if session.reason == "lost":
                died = history.killed.get(session.worker, connection.ended)
                least = _counted(connection, died - COUNTERS_LAG_S - SLACK_S)
                is_right = all(low <= is_ for low, is_ in zip(least, session.counted, strict=True))
            else:
                least, is_right = whole, _agree(session.counted, whole, connection)
            if not is_right:
                wrong.append(
                    f"{client.name}: {session.reason or session.state}: {session.counted} counted, the client {least}"
                )
    return wrong


def _agree(session: Counted, client: Counted, connection: Connection) -> bool:
    """Who wrote counted as much as who read; more, where the connection was cut before it was read."""
    is_sent = session[:2] == client[:2] or (not connection.is_clean and session[0] >= client[0])
    is_received = session[2:] == client[2:] or (not connection.is_ours and session[2] <= client[2])
    return is_sent and is_received


def _counted(connection: Connection, until: float | None) -> Counted:
    came = [seen.nbytes for seen in connection.seen if until is None or seen.at <= until]
    went = [nbytes for at, nbytes in connection.sent if until is None or at <= until]
    return len(came), sum(came), len(went), sum(went)


INVARIANTS: dict[str, Callable[[History], list[str]]] = {
    "D1": numbering,
    "D2": once,
    "D3": shown,
    "D4": texts,
    "D5": effects,
    "D6": leftovers,
    "D7": counters,
}


def check(history: History) -> dict[str, list[str]]:
    """What each invariant found wrong."""
    return {name: invariant(history) for name, invariant in INVARIANTS.items()}


# ------------------------------------------------------------------------------------------------- small


def _frames(client: Client) -> Iterator[Json]:
    for connection in client.connections:
        for seen in connection.seen:
            yield seen.frame


def _applied(client: Client) -> tuple[View, list[str]]:
    """The view that the frames make, and what the view found wrong, which ends it."""
    view = View()
    for frame in _frames(client):
        before = view.turns.get(frame.get("turn") or "", {}).get("parts", [])
        try:
            view.apply(frame)
        except AssertionError as error:
            said = str(error).partition("\n")[0]
            if frame["type"] == "turn_end" and said.startswith("shown "):
                said = f"shown and stored differ at the end, {view.epoch}:{frame['seq']}: "
                said += "; ".join(_unlike(before, frame["message"]["parts"]))
            return view, [said]
    return view, []


def _unlike(shown: list[Json], stored: list[Json]) -> list[str]:
    ids = [part["id"] for part in shown], [part["id"] for part in stored]
    found = [] if ids[0] == ids[1] else [f"parts {ids[0]} and {ids[1]}"]
    for one in shown:
        for other in stored:
            if one["id"] == other["id"] and one.get("text") != other.get("text"):
                found.append(f"{one['id']}: {_difference(one.get('text', ''), other.get('text', ''))}")
            elif one["id"] == other["id"] and one != other:
                found.append(f"{one} and {other}")
    return found


def _shown_ends(client: Client) -> set[str]:
    """Turns whose end an event or a snapshot showed."""
    ends = set()
    for frame in _frames(client):
        if frame["type"] == "turn_end":
            ends.add(frame["turn"])
        elif frame["type"] == "snapshot":
            ends |= {m["turn"] for m in frame["messages"] if m["role"] == "assistant" and m["turn"]}
    return ends


def _oks(history: History) -> dict[tuple[str, str], list[Json]]:
    found: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for client in history.clients:
        for frame in _frames(client):
            if frame["type"] == "ok":
                found[client.chat, frame["id"]].append(_reply(frame))
    return found


def _reply(frame: Json) -> Json:
    return {name: value for name, value in frame.items() if name not in ("type", "id")}


def _by_chat(history: History) -> dict[str, list[Event]]:
    """Every event that anybody saw, the log's too."""
    found: dict[str, list[Event]] = defaultdict(list)
    for chat, log in history.logs.items():
        found[chat] += [(log.epoch, seq, event) for seq, event in log.entries]
    for client in history.clients:
        epoch = ""
        for frame in _frames(client):
            if frame["type"] == "snapshot":
                epoch = frame["epoch"]
            elif frame["type"] not in NOT_EVENTS:
                found[client.chat].append((epoch, frame["seq"], frame))
    return found


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _runs_of(numbers: list[int]) -> str:
    """`1-5, 7-9`."""
    groups = [list(group) for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{group[0][1]}-{group[-1][1]}" for group in groups)


def _difference(text: str, whole: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b), min(len(text), len(whole)))
    return f"{len(text)} characters, not {len(whole)}: at {at} {text[at : at + 20]!r}, not {whole[at : at + 20]!r}"
