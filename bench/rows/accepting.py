"""The row about how messages are accepted."""

from collections.abc import Callable

from bench.measure import Bench, Goal, Row, busy_note, line


def accept(bench: Bench) -> list[Row]:
    """`say` to `ok`."""
    rows = []
    for senders, count in bench.some((1, 300), (50, 1_000), (500, 2_000)):
        count = int(bench.pick(count, 20))

        def of(name: str, senders: int = senders, count: int = count, **more: str) -> Callable:
            users = count if name == "accepting" else 1
            return lambda: bench.run("accept", name, users=users, says=count, senders=senders, **more)

        makers = {
            "bare": of("bare", path="/accept/{chat}"),
            "layer": of("layer", post="/chats/{chat}/turns/"),
            "headrace": of("accepting"),
        }
        path = bench.house.get("headrace").path.replace("/bench?", "/plain?")
        makers["whole turns"] = lambda senders=senders, count=count, path=path: bench.run(
            "turns", "headrace", users=senders, says=count, senders=senders, path=path
        )
        measured = bench.interleave(makers, f"accept {senders}")
        p50_goals, p99_goals, rate_goals = [], [], []
        if senders == 1:
            p50_goals = [Goal("<= 2 x bare", 2, against="bare")]
        elif senders == 50:
            p99_goals = [Goal("<= 50 ms", 50, "value")]
            rate_goals = [Goal(">= 6 x DRF POST", 6, against="layer", is_least=True)]
        else:
            rate_goals = [Goal(">= 3,000 /s", 3_000, "value", is_least=True)]
        lines = [
            line("p50", "ms", measured, "p50_ms", p50_goals),
            line("p99", "ms", measured, "p99_ms", p99_goals),
            line("accepted a second", "/s", measured, "per_s", rate_goals),
        ]
        refused, failed = (
            sum(int(r.figures.get("refused", 0)) for r in measured[name]) for name in ("headrace", "layer")
        )
        notes = [
            f"closed loop of {senders}, {count:,} says, each in a fresh chat; bare: a frame in, one transaction of the "
            "same four rows through the ORM, a frame out; layer: DRF POST with the same rows, no log-in; headrace: "
            "HEADRACE_TURNS=off, so that only accepting is measured; whole turns: say, run, store and end, then the "
            "next say",
            f"refused as busy or unavailable, of all says of headrace: {refused}; answered 500 by layer: {failed}",
            busy_note(measured),
        ]
        title = f"From `say` to `ok`, {senders} sender{'s' * (senders > 1)}"
        rows.append(Row("accept", title, lines, notes, bench.void(measured)))
    return rows
