"""The rows: what is measured of whom, and what it should be. The goals are those of the design."""

from collections.abc import Callable

from bench.measure import Bench, Goal, Line, Measured, Row, busy_note, line, void_of

LAYER_TURNS = 40  # what the peer carries; more only shows how long its queue grows


def burst(bench: Bench) -> list[Row]:
    """A model that pours: tokens a second through one worker."""
    rows = []
    for viewers, ours, theirs, least in bench.some((1, 40_000, 4_000, 0.85), (50, 40_000, 400, 1.0)):
        tokens, few = int(bench.pick(ours, 2_000)), int(bench.pick(theirs, 100))
        turns = int(bench.pick(10 if viewers == 1 else 4, 1))

        def of(name: str, tokens: int, turns: int, viewers: int = viewers) -> Callable:
            return lambda: bench.run("burst", name, viewers=viewers, turns=turns, answer_tokens=tokens)

        measured = bench.interleave(
            {
                "bare": of("bare", tokens, turns),
                "layer": of("layer", few, 1),
                "headrace": of("headrace", tokens, turns),
            },
            f"burst {viewers}",
        )
        rate = line(
            f"tokens/s, {viewers} viewer{'s' * (viewers > 1)}",
            "tokens/s",
            measured,
            "tokens_per_s",
            [
                Goal(f">= {least:g} x bare", least, against="bare", is_least=True),
                Goal(">= 100 x layer", 100, against="layer", is_least=True),
            ],
        )
        cost = line("server CPU a million tokens", "s", measured, "cpu_s_per_million", [])
        if viewers == 1:
            cost.goals = [
                Goal("<= 1.5 s", 1.5, "value"),
                Goal("<= 0.2 x layer", 0.2, against="layer"),
            ]
        notes = [f"{turns} answers of {tokens:,} tokens (layer: 1 of {few:,})", busy_note(measured)]
        rows.append(Row("burst", f"A model that pours, {viewers} viewers", [rate, cost], notes, _void(bench, measured)))
    return rows


def paced(bench: Bench) -> list[Row]:
    """Turns at 50 tokens a second: how long each token is on its way."""
    rows = []
    window = bench.pick(8, 1)
    for turns, p50, p99 in bench.some((100, 1, 5), (200, 1, 5), (400, None, 25)):
        turns = int(bench.pick(turns, turns / 40))

        def of(name: str, turns: int = turns) -> Callable:
            return lambda: bench.run(
                "paced", name, users=turns, turns=turns, rate=50, window_s=window, spread_s=max(0.5, turns / 50)
            )

        makers = {"bare": of("bare"), "headrace": of("headrace")}
        few = int(bench.pick(LAYER_TURNS, 2))
        if p50:
            makers["layer"] = of("layer", few)
        measured = bench.interleave(makers, f"paced {turns}")
        lines = [
            line("delay p50", "ms", measured, "p50_ms", [_over_bare(p50)] if p50 else []),
            line("delay p99", "ms", measured, "p99_ms", [_over_bare(p99)]),
            line("delay p99.9", "ms", measured, "p999_ms", []),
            line("tokens a frame", "", measured, "tokens_a_frame", []),
        ]
        cost = line("server CPU a million tokens", "s", measured, "cpu_s_per_million", [])
        if p50:
            cost.goals = [
                Goal("<= 70 s", 70, "value"),
                Goal("<= 1.4 x bare", 1.4, against="bare"),
                Goal("<= 0.2 x layer", 0.2, against="layer"),
            ]
        late = max(r.figures["model_late_p99_ms"] for results in measured.values() for r in results)
        notes = [f"window {window:g} s; the model's own lateness p99 <= {late:.1f} ms", busy_note(measured)]
        if p50:
            notes.insert(0, f"layer carries {few} turns here, not {turns}")
        title = f"{turns} turns at 50 tokens/s on one worker"
        rows.append(Row("paced", title, [*lines, cost], notes, _void(bench, measured)))
    return rows


def _over_bare(bound: float) -> Goal:
    return Goal(f"<= bare + {bound:g} ms", bound, "difference", "bare")


def first_token(bench: Bench) -> list[Row]:
    """`say` to the first delta, the provider's time left out."""
    says, sockets = int(bench.pick(200, 10)), int(bench.pick(50, 4))
    per_s = bench.pick(20, 10)

    def of(name: str, **more: str) -> Callable:
        return lambda: bench.run(
            "first_token", name, users=sockets, says=says, says_per_s=per_s, senders=sockets, **more
        )

    measured = bench.interleave(
        {
            "relay": of("bare"),
            "bare": of("bare", path="/commit/{chat}"),
            "layer": of("layer"),
            "headrace": of("headrace"),
        },
        "first token",
    )
    lines = [
        line("p50", "ms", measured, "p50_ms", [Goal("<= 1.3 x (relay + commit)", 1.3, against="bare")]),
        line("p99", "ms", measured, "p99_ms", [Goal("<= relay + commit + 10 ms", 10, "difference", "bare")]),
    ]
    notes = [
        f"{says} says, {per_s:g} a second by chance, on {sockets} chats; relay: bare without a commit; bare: after "
        "one transaction of the same four rows through the ORM",
        busy_note(measured),
    ]
    return [Row("first token", "From `say` to the first delta", lines, notes, _void(bench, measured))]


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
        rows.append(Row("accept", title, lines, notes, _void(bench, measured)))
    return rows


def wire(bench: Bench) -> list[Row]:
    """Bytes of an answer of 2,000 tokens over its text."""
    tokens = int(bench.pick(2_000, 200))
    rows = []
    for name, rate, bound in bench.some(("poured", 0, 1.05), ("paced", 200, 12)):

        def of(who: str, rate: float = rate) -> Callable:
            return lambda: bench.run("wire", who, answer_tokens=tokens, rate=rate)

        measured = bench.interleave({who: of(who) for who in ("bare", "layer", "headrace")}, f"wire {name}")
        lines = [
            line(
                "bytes of deltas over text", "", measured, "deltas_over_text", [Goal(f"<= {bound:g}", bound, "value")]
            ),
            line("bytes from say to end over text", "", measured, "all_over_text", []),
            line("frames", "", measured, "frames", []),
        ]
        pace = "as fast as it can" if not rate else f"at {rate:g} tokens/s: a frame a token"
        notes = [f"{tokens:,} tokens of 5 bytes, {pace}; all: headrace's last frame holds the stored answer once more"]
        rows.append(Row("wire", f"Bytes on the wire, {name}", lines, notes, ""))
    return rows


def admin(bench: Bench) -> list[Row]:
    """Pages that list 100,000 sessions, turns and chats; their queries at few rows and at many."""
    rows_few, rows_many = int(bench.pick(1_000, 20)), int(bench.pick(100_000, 100))
    looks = int(bench.pick(40, 2))
    bench.house.fill(rows_few)
    few = bench.house.queries()
    look = bench.house.fill(rows_many)
    many = bench.house.queries()
    found: dict[str, list[float]] = {name: [] for name in look.pages}
    for turn in range(bench.rounds):
        for name, path in look.pages.items():
            p95_ms = bench.house.look(look, path, looks)
            found[name].append(p95_ms)
            bench.say(f"  admin round {turn + 1} {name}: p95 {p95_ms:,.4g} ms")
    goal = Goal("<= 300 ms", 300, "value")
    lines = [Line(f"{name}, p95", "ms", {"headrace": values}, [goal]) for name, values in found.items()]
    grown = [name for name in many if many[name] > few[name]]
    more = Line("pages that make more queries", "", {"headrace": [float(len(grown))]}, [Goal("0", 0, "value")])
    notes = [
        f"{rows_many:,} chats, turns and sessions, {2 * rows_many:,} messages; {looks} looks at each page, one after "
        f"the other; queries counted at {rows_few:,} and at {rows_many:,} rows",
        "queries: " + ", ".join(f"{name} {count}" for name, count in many.items()),
    ]
    return [Row("admin", f"Pages of the admin over {rows_many:,} rows", [*lines, more], notes)]


def _void(bench: Bench, measured: Measured) -> str:
    return "" if bench.is_tiny else void_of(measured)


NEEDS = ("bare", "layer", "headrace")
NEEDS_MORE = {"accept": ("accepting",), "admin": ("filled",)}
ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "burst": burst,
    "paced": paced,
    "first": first_token,
    "accept": accept,
    "wire": wire,
    "admin": admin,
}
