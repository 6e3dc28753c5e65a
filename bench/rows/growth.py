"""Rows about size: what stays as it was when there is more of it, and how much one core carries."""

from collections.abc import Callable

from bench.job import Result
from bench.measure import BUSY_SHARE, DURABILITY, Bench, Goal, Line, Measured, Row, busy_note, line

CHATS = (1, 10, 100, 1_000)
STORED = (10, 100, 1_000, 10_000)
FLAT = 1.3


def growth(bench: Bench) -> list[Row]:
    """Burst, first token and memory at more chats, more stored messages, more workers."""
    return [_chats(bench), _stored(bench), _workers(bench)]


def _burst(bench: Bench, name: str = "headrace", **more: object) -> Callable[[], Result]:
    turns, tokens = int(bench.pick(5, 1)), int(bench.pick(40_000, 2_000))
    return lambda: bench.run("burst", name, turns=turns, answer_tokens=tokens, **more)


def _first(bench: Bench, name: str = "headrace", **more: object) -> Callable[[], Result]:
    says, per_s = int(bench.pick(60, 4)), bench.pick(10, 10)
    return lambda: bench.run("first_token", name, says=says, says_per_s=per_s, senders=1, **more)


def _chats(bench: Bench) -> Row:
    sizes = CHATS[:2] if bench.is_tiny else CHATS
    beside = {_named(size, "chat"): {"idle": size - 1, "users": size} for size in sizes}
    poured = bench.interleave({name: _burst(bench, **more) for name, more in beside.items()}, "growth, chats")
    first = bench.interleave({name: _first(bench, **more) for name, more in beside.items()}, "growth, chats, first")

    def memory(sockets: int) -> Callable[[], Result]:
        def once() -> Result:
            bench.house.renew("headrace")
            return bench.run("memory", "headrace", users=sockets, sockets=sockets, turns=0, window_s=0.1)

        return once

    weighed = [size for size in sizes if size >= 100] or sizes[-1:]  # fewer are lost in the pages of a process
    memories = bench.interleave({_named(size, "chat"): memory(size) for size in weighed}, "growth, chats, memory")
    lines = [*_flat(poured, first), line("memory a socket", "KiB", memories, "kib_a_socket", _not_more(memories))]
    notes = [
        "one chat is measured; the others have an open socket each and are silent",
        DURABILITY,
        busy_note(poured),
    ]
    return Row("growth", "By open chats", lines, notes, bench.void(poured) or bench.void(first))


def _stored(bench: Bench) -> Row:
    sizes = STORED[:2] if bench.is_tiny else STORED
    chats = {_named(size, "message"): bench.house.history("headrace", size) for size in sizes}
    of = {name: {"tokens": [token], "chats": [chat]} for name, (token, chat) in chats.items()}
    poured = bench.interleave({name: _burst(bench, **more) for name, more in of.items()}, "growth, stored")
    first = bench.interleave({name: _first(bench, **more) for name, more in of.items()}, "growth, stored, first")
    notes = [
        "messages of 256 characters in the chat that is measured; a model is given the newest 50",
        DURABILITY,
        busy_note(first),
    ]
    return Row("growth", "By stored messages", _flat(poured, first), notes, bench.void(poured) or bench.void(first))


def _workers(bench: Bench) -> Row:
    names = {"1 worker": "headrace", "2 workers": "two"} | ({} if bench.is_tiny else {"4 workers": "four"})
    bench.house.only(names.values())  # here, so that they do not idle beside the other two
    poured = bench.interleave({name: _burst(bench, who) for name, who in names.items()}, "growth, workers")
    first = bench.interleave({name: _first(bench, who) for name, who in names.items()}, "growth, workers, first")
    notes = ["all workers on the server's one core, on one database and one store", DURABILITY, busy_note(poured)]
    return Row("growth", "By workers", _flat(poured, first), notes, bench.void(poured) or bench.void(first))


def _flat(poured: Measured, first: Measured) -> list[Line]:
    least, most = list(poured)[0], list(poured)[-1]
    goal = Goal(f">= {least} / {FLAT}", 1 / FLAT, against=least, is_least=True, of=most)
    return [
        line("burst", "tokens/s", poured, "tokens_per_s", [goal]),
        line("first token p50", "ms", first, "p50_ms", _not_more(first)),
    ]


def _not_more(measured: Measured) -> list[Goal]:
    """The last size takes not much more than the first."""
    least, most = list(measured)[0], list(measured)[-1]
    return [Goal(f"<= {FLAT} x {least}", FLAT, against=least, of=most)] if least != most else []


def _named(size: int, what: str) -> str:
    return f"{size:,} {what}{'s' * (size > 1)}"


# ------------------------------------------------------------------------------------------------- capacity

LATE_MS = 100
STEP = 50  # turns
LAYER_STEP = 10
BEGINNING = {"bare": 500, "headrace": 400, "layer": 40}


def capacity(bench: Bench) -> list[Row]:
    """Turns at 50 tokens a second that one core carries with p99 within 100 ms."""
    found: dict[str, list[float]] = {name: [] for name in BEGINNING}
    seen: Measured = {name: [] for name in BEGINNING}
    bounded: set[str] = set()
    names = list(BEGINNING)
    for turn in range(bench.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begin = int(found[name][-1]) if found[name] else int(bench.pick(BEGINNING[name], 4))
            most, last = _most(bench, name, begin, seen[name])
            found[name].append(float(most))
            if last.generator_share > BUSY_SHARE:
                bounded.add(name)
            bench.say(f"  capacity round {turn + 1} {name}: {most}")
    goals = [
        Goal(">= 0.7 x bare", 0.7, against="bare", is_least=True),
        Goal(">= 8 x layer", 8, against="layer", is_least=True),
        Goal(">= 400", 400, "value", is_least=True),
    ]
    steps = f"steps of {STEP} (layer {LAYER_STEP}), from what the round before found"
    notes = [f"{steps}; the provider's own lateness is in it", DURABILITY, busy_note(seen)]
    void = ""
    if bounded and not bench.is_tiny:
        void = f"the generator had no spare time where {' and '.join(sorted(bounded))} came to the end"
    return [Row("capacity", "Turns that one core carries", [Line("turns", "", found, goals)], notes, void)]


def _most(bench: Bench, name: str, begin: int, seen: list[Result]) -> tuple[int, Result]:
    """The most turns that were carried, and the measurement that came to the end of it."""
    step = int(bench.pick(LAYER_STEP if name == "layer" else STEP, 2))
    turns, result = begin, _try(bench, name, begin, seen)
    if _is_carried(result):
        while not bench.is_tiny and result.generator_share <= BUSY_SHARE:
            result = _try(bench, name, turns + step, seen)
            if not _is_carried(result):
                break
            turns += step
        return turns, result
    end = result
    while turns > step:
        turns -= step
        result = _try(bench, name, turns, seen)
        if _is_carried(result):
            return turns, end
        end = result
    return 0, end


def _try(bench: Bench, name: str, turns: int, seen: list[Result]) -> Result:
    result = bench.run(
        "paced",
        name,
        users=turns,
        turns=turns,
        rate=50,
        window_s=bench.pick(6, 0.5),
        spread_s=max(0.5, turns / 50),
    )
    seen.append(result)
    bench.say(f"    {name}, {turns} turns: p99 {result.figures['p99_ms']:.1f} ms")
    return result


def _is_carried(result: Result) -> bool:
    return result.figures["p99_ms"] <= LATE_MS
