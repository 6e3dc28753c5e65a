"""Rows about many sockets: fan-out, a slow reader, all back at once."""

from collections.abc import Callable

from bench.measure import DURABILITY, Bench, Goal, Line, Measured, Row, busy_note, line

VIEWERS = 1_000
RATE = 40  # tokens a second: each is a frame of its own at whoever can carry it
FEW = 3  # what a peer can carry
BATCH = 8


def fan_out(bench: Bench) -> list[Row]:
    """One chat and a thousand viewers: frames a second that one core delivers."""
    viewers = int(bench.pick(VIEWERS, 10))
    return [_single(bench, viewers), _batches(bench, viewers)]


def _single(bench: Bench, viewers: int) -> Row:
    window = bench.pick(8, 1)

    def of(name: str, rate: float = RATE) -> Callable:
        return lambda: bench.run("fan_out", name, viewers=viewers, rate=rate, answer_tokens=int(max(2, rate * window)))

    measured = bench.interleave(
        {
            "bare": of("bare"),
            "hard": of("hard"),
            "layer": of("layer", FEW),
            "socketio": of("socketio", FEW),
            "resumable": of("resumable", FEW),
            "headrace": of("headrace"),
            "3 workers": of("three"),
        },
        "fan-out",
    )
    goals = [
        Goal(">= 1.3 x bare", 1.3, against="bare", is_least=True),
        Goal(">= 20 x layer", 20, against="layer", is_least=True),
        Goal(">= 0.75 x hard", 0.75, against="hard", is_least=True),
    ]
    lines = [
        line("frames a CPU second of the server", "", measured, "frames_a_core", goals),
        line("delay p50", "ms", measured, "p50_ms", []),
        line("delay p99", "ms", measured, "p99_ms", []),
        line("frames a read of the client", "", measured, "frames_a_read", []),
    ]
    notes = [
        f"{viewers:,} viewers of one chat, {RATE} tokens/s, {window:g} s; peers {FEW} tokens/s, which is what they "
        "carry; hard writes a frame from memory, at the same times",
        "3 workers: of one Headrace on one store, all on the server's core, a third of the viewers each",
        f"headrace: each event in the log before it is on a socket; {DURABILITY}",
        busy_note(measured),
    ]
    return Row("fan-out", f"{viewers:,} viewers, an event at a time", lines, notes, bench.void(measured))


def _batches(bench: Bench, viewers: int) -> Row:
    turns = int(bench.pick(4, 1))

    def of(name: str) -> Callable:
        path = bench.house.get(name).path.replace("/bench?", "/many?")
        return lambda: bench.run("fan_out", name, viewers=viewers, turns=turns, path=path)

    def hard() -> Callable:
        tokens = int(bench.pick(800, 16))
        return lambda: bench.run(
            "fan_out", "hard", viewers=viewers, answer_tokens=tokens, rate=BATCH * RATE, batch=BATCH
        )

    measured = bench.interleave({"hard": hard(), "headrace": of("headrace"), "3 workers": of("three")}, "batches")
    lines = [
        line(
            "frames a CPU second of the server",
            "",
            measured,
            "frames_a_core",
            [Goal(">= 400,000", 400_000, "value", is_least=True)],
        ),
        line("frames a read of the client", "", measured, "frames_a_read", []),
    ]
    notes = [
        f"{viewers:,} viewers; headrace: {turns} turns of 60 message nodes, whose events come together and are "
        f"appended as they come; hard: {BATCH} frames in one write, {RATE} times a second",
        f"headrace: {DURABILITY}",
        busy_note(measured),
    ]
    return Row("fan-out", f"{viewers:,} viewers, events in batches", lines, notes, bench.void(measured))


def slow(bench: Bench) -> list[Row]:
    """Ninety-nine viewers who read, and one who takes 1 KB a second."""
    viewers, window = int(bench.pick(99, 5)), bench.pick(10, 1)
    rate, few = bench.pick(200, 50), bench.pick(30, 20)

    poured, tokens = int(bench.pick(10, 1)), int(bench.pick(40_000, 2_000))

    def of(name: str, rate: float, has_slow: bool) -> Callable:
        turns = poured if name == "headrace" else 0
        paced = {"viewers": viewers, "rate": rate, "window_s": window}
        return lambda: bench.run("slow", name, turns=turns, answer_tokens=tokens, has_slow=has_slow, **paced)

    measured = bench.interleave(
        {
            "layer, all read": of("layer", few, False),
            "layer": of("layer", few, True),
            "headrace, all read": of("headrace", rate, False),
            "headrace": of("headrace", rate, True),
        },
        "slow",
    )
    alone = "headrace, all read"
    lines = [
        line("delay p50", "ms", measured, "p50_ms", []),
        line("delay p99", "ms", measured, "p99_ms", [Goal("<= 1.1 x all read", 1.1, against=alone)]),
        line(
            "memory grown",
            "MiB",
            measured,
            "grown_mib",
            [Goal("<= all read + 2 MiB", 2, "difference", alone)],
        ),
    ]
    taken = max(result.figures["slow_took_bytes"] for result in measured["headrace"]) / 1024
    closed = sum(result.figures["slow_was_closed"] for result in measured["headrace"])
    notes = [
        f"{viewers} viewers of one chat for {window:g} s, headrace {rate:g} tokens/s, layer {few:g}; one viewer more "
        f"that reads 1 KB/s with a buffer of 4 KiB (it took {taken:.0f} KiB, and was closed in {closed:.0f} "
        f"of {bench.rounds} rounds); all others had each token",
        f"before that headrace pours {poured} answers of {tokens:,} tokens, and stores them, so that the slow one is "
        "behind by more than the kernel keeps for it (2.5 MiB); layer cannot pour to so many, and its memory is that "
        "of a viewer who is hardly behind",
        f"headrace: {DURABILITY}",
        busy_note(measured),
    ]
    return [Row("slow", f"{viewers} viewers and a slow one", lines, notes, bench.void(measured))]


def storm(bench: Bench) -> list[Row]:
    """A thousand sockets are cut, and all come back by position."""
    sockets, a_chat = int(bench.pick(VIEWERS, 20)), 10

    def of(name: str) -> Callable:
        return lambda: bench.run("storm", name, users=sockets // a_chat, sockets=sockets, sockets_a_chat=a_chat)

    measured = bench.interleave({"bare": of("bare"), "headrace": of("headrace")}, "storm")
    lines = [
        line(
            "until the last has all",
            "ms",
            measured,
            "last_ms",
            [Goal("<= 2 x bare", 2, against="bare")],
        ),
        _snapshots(measured),
    ]
    notes = [
        f"{sockets:,} sockets of {sockets // a_chat} chats, cut without a close frame, back over 32 handshakes at a "
        "time; bare: until the last handshake; headrace: until the last has every event that it missed",
        "a snapshot is what reads a chat's rows: who comes back by position needs none",
        f"headrace: {DURABILITY}",
        busy_note(measured),
    ]
    return [Row("storm", f"{sockets:,} sockets cut, all back", lines, notes, bench.void(measured))]


def _snapshots(measured: Measured) -> Line:
    ours = {"headrace": measured["headrace"]}
    return line("snapshots a chat", "", ours, "snapshots_a_chat", [Goal("<= 1", 1, "value")])
