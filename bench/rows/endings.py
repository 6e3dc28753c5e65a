"""Rows about turns that end before their time: stopped, or their worker killed or drained."""

import signal
from collections.abc import Callable

from bench.contenders import DRAIN_S
from bench.job import Result
from bench.measure import DURABILITY, Bench, Goal, Row, busy_note, line

DEAD_S, SWEEP_S = 10, 3  # HEADRACE_DEAD_AFTER_S, HEADRACE_SWEEP_S


def stop(bench: Bench) -> list[Row]:
    """`stop` to the provider's socket closed."""
    senders, says = int(bench.pick(20, 2)), int(bench.pick(400, 4))

    def of(name: str) -> Callable:
        return lambda: bench.run("stop", name, users=senders, senders=senders, says=says, rate=50)

    measured = bench.interleave({name: of(name) for name in ("bare", "layer", "headrace")}, "stop")
    lines = [
        line("p50", "ms", measured, "p50_ms", []),
        line("p99", "ms", measured, "p99_ms", [Goal("<= 300 ms", 300, "value")]),
    ]
    notes = [
        f"{says} turns at 50 tokens/s on {senders} chats, each stopped at some moment; bare and layer cancel the task "
        "in their own process, and write nothing",
        f"headrace: `stop` is in the database before it is carried out; {DURABILITY}",
        busy_note(measured),
    ]
    return [Row("stop", "From `stop` to the provider's socket closed", lines, notes, bench.void(measured))]


def takeover(bench: Bench) -> list[Row]:
    """The owner of ten turns is killed, or drained, and other workers take them up."""
    turns = int(bench.pick(10, 2))

    def of(number: signal.Signals) -> Callable[[], Result]:
        def once() -> Result:
            bench.house.mend("three")
            if number == signal.SIGTERM:
                bench.house.leaves("three")
            return bench.run("takeover", "three", users=turns, turns=turns, rate=20, signal=int(number))

        return once

    measured = bench.interleave({"killed": of(signal.SIGKILL), "drained": of(signal.SIGTERM)}, "takeover")
    killed, drained = ({"headrace": measured[name]} for name in ("killed", "drained"))
    within = DEAD_S + SWEEP_S
    lines = [
        line(
            "kill -9 to the next event",
            "s",
            killed,
            "since_signal_s",
            [Goal(f"<= {DEAD_S} s + {SWEEP_S} s", within, "value")],
        ),
        line("and from there to its first text", "s", killed, "to_text_s", []),
        line("drained: from the last event to the next", "s", drained, "gap_s", [Goal("<= 1 s", 1, "value")]),
    ]
    notes = [
        f"three workers of one Headrace, {turns} turns at 20 tokens/s on one of them, each shown by a socket of "
        "another; the slowest of them; a dead worker is one that was silent for 10 s, workers sweep every 3 s",
        f"drained: SIGTERM, HEADRACE_DRAIN_TURNS_S={DRAIN_S} (20 by default), after which its turns are given away",
        "provider: `restart`, its first token is there at once",
        DURABILITY,
        busy_note(measured),
    ]
    return [Row("takeover", "The owner's end to the next event", lines, notes, bench.void(measured))]
