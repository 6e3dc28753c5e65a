"""Rows about what is used: memory, calls and transactions, the price of durability."""

from collections.abc import Callable

from bench.job import Result
from bench.measure import DURABILITY, Bench, Goal, Row, busy_note, line


def memory(bench: Bench) -> list[Row]:
    """Resident memory of a socket, a running turn, a turn that waits for an answer."""
    sockets, turns, window = int(bench.pick(5_000, 30)), int(bench.pick(200, 5)), bench.pick(5, 0.5)

    def of(name: str) -> Callable[[], Result]:
        def once() -> Result:
            bench.house.renew(name)
            return bench.run("memory", name, users=sockets, sockets=sockets, turns=turns, rate=5, window_s=window)

        return once

    asked = int(bench.pick(500, 5))

    def waiting() -> Result:
        bench.house.renew("headrace")
        return bench.run("waiting", "headrace", users=asked, sockets=asked)

    measured = bench.interleave({name: of(name) for name in ("bare", "layer", "headrace")}, "memory")
    waits = bench.interleave({"headrace": waiting}, "waiting turns")
    lines = [
        line("a socket", "KiB", measured, "kib_a_socket", [Goal("<= 1.3 x bare", 1.3, against="bare")]),
        line("a running turn", "KiB", measured, "kib_a_turn", [Goal("<= 1.3 x bare", 1.3, against="bare")]),
        line("a waiting turn", "KiB", waits, "kib_a_waiting_turn", [Goal("0, as fine as RSS shows: <= 2", 2, "value")]),
    ]
    notes = [
        f"fresh processes; {sockets:,} idle sockets, each in its chat; then {turns} turns at 5 tokens/s in some of "
        "them; resident memory, without the kernel's share",
        "a waiting turn: what as many turns that ask take beyond as many that are done, no socket looking at either",
        "layer: a consumer in a group of channels_redis pubsub",
        f"headrace: a row a socket; {DURABILITY}",
        busy_note(measured),
    ]
    return [Row("memory", f"Memory at {sockets:,} sockets", lines, notes, bench.void(measured) or bench.void(waits))]


def cost(bench: Bench) -> list[Row]:
    """Round trips to Redis and calls in them a token, transactions a turn."""
    return [*_redis(bench), _transactions(bench)]


def _redis(bench: Bench) -> list[Row]:
    window, rows = bench.pick(8, 1), []
    for turns, trips in bench.some((50, 0.6), (200, 0.35)):
        turns = int(bench.pick(turns, 4))

        def paced(turns: int = turns) -> Result:
            spread = max(0.5, turns / 50)
            return bench.run(
                "paced",
                "headrace",
                users=turns,
                turns=turns,
                rate=50,
                window_s=window,
                spread_s=spread,
                is_counted=True,
            )

        measured = bench.interleave({"headrace": paced}, f"cost {turns}")
        title = f"Redis at {turns} turns of 50 tokens/s"
        rows.append(_calls(bench, title, measured, trips, 1.05, f"window {window:g} s"))
    tokens = int(bench.pick(40_000, 2_000))
    poured = bench.interleave(
        {"headrace": lambda: bench.run("burst", "headrace", turns=2, answer_tokens=tokens, is_counted=True)},
        "cost poured",
    )
    note = f"2 answers of {tokens:,} tokens; the calls of their beginnings and ends are in it"
    rows.append(_calls(bench, "Redis under a model that pours", poured, None, 0.001, note))
    return rows


def _calls(
    bench: Bench, title: str, measured: dict[str, list[Result]], trips: float | None, calls: float, note: str
) -> Row:
    trip_goals = [Goal(f"<= {trips:g}", trips, "value")] if trips else []
    lines = [
        line("round trips a token", "", measured, "trips_a_token", trip_goals),
        line("calls a token", "", measured, "calls_a_token", [Goal(f"<= {calls:g}", calls, "value")]),
    ]
    notes = [
        f"{note}; what the worker's own `/metrics` count of its two lanes to Redis, over tokens of the model",
        f"headrace: {DURABILITY}",
    ]
    return Row("cost", title, lines, notes, bench.void(measured))


def _transactions(bench: Bench) -> Row:
    senders, says = int(bench.pick(20, 2)), int(bench.pick(1_000, 10))
    path = bench.house.get("counted").path.replace("/bench?", "/plain?")

    def once() -> Result:
        return bench.run("turns", "counted", users=senders, senders=senders, says=says, path=path, is_counted=True)

    measured = bench.interleave({"headrace": once}, "transactions")
    goal = Goal("<= 2", 2, "value")
    lines = [line("transactions a turn", "", measured, "transactions_a_turn", [goal])]
    notes = [
        f"{says:,} turns of a message node by {senders} senders; calls of the bridge to the database that write, "
        "without those that come with the time (beat, sweep, counters: less than one in two turns); several may be "
        "committed together",
        f"they are: {measured['headrace'][0].note}",
        DURABILITY,
    ]
    return Row("cost", "Transactions of a plain turn", lines, notes, bench.void(measured))


def durability(bench: Bench) -> list[Row]:
    """The same server with the event log in its own memory, which nothing outlives."""
    turns, window = int(bench.pick(200, 4)), bench.pick(8, 1)

    def of(name: str) -> Callable:
        spread = max(0.5, turns / 50)
        return lambda: bench.run("paced", name, users=turns, turns=turns, rate=50, window_s=window, spread_s=spread)

    measured = bench.interleave({"no store": of("storeless"), "headrace": of("headrace")}, "durability")
    cost = line("server CPU a million tokens", "s", measured, "cpu_s_per_million", [])
    cost.goals = [Goal("<= no store / 0.7", 1 / 0.7, against="no store")]
    lines = [
        cost,
        line("delay p50", "ms", measured, "p50_ms", []),
        line("delay p99", "ms", measured, "p99_ms", []),
    ]
    notes = [
        f"{turns} turns at 50 tokens/s, window {window:g} s; no store: the same process with its event log in a list, "
        "no fence, nothing published; transactions as ever",
        f"headrace: {DURABILITY}",
        busy_note(measured),
    ]
    return [Row("durability", "What the store costs", lines, notes, bench.void(measured))]
