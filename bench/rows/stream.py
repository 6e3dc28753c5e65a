"""Rows about how an answer streams: burst, paced, first token, wire."""

from collections.abc import Callable

from bench.measure import Bench, Goal, Row, busy_note, line

LAYER_TURNS = 40  # what a peer carries; more only shows how long its queue grows
PEERS = ("layer", "socketio", "resumable")


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
                **{name: of(name, few, 1) for name in PEERS},
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
        notes = [f"{turns} answers of {tokens:,} tokens (peers: 1 of {few:,})", busy_note(measured)]
        rows.append(Row("burst", f"A model that pours, {viewers} viewers", [rate, cost], notes, bench.void(measured)))
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
            makers |= {name: of(name, few) for name in PEERS}
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
            notes.insert(0, f"peers carry {few} turns here, not {turns}")
        title = f"{turns} turns at 50 tokens/s on one worker"
        rows.append(Row("paced", title, [*lines, cost], notes, bench.void(measured)))
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
    return [Row("first token", "From `say` to the first delta", lines, notes, bench.void(measured))]


def wire(bench: Bench) -> list[Row]:
    """Bytes of an answer of 2,000 tokens over its text."""
    tokens = int(bench.pick(2_000, 200))
    rows = []
    for name, rate, bound in bench.some(("poured", 0, 1.05), ("paced", 200, 12)):

        def of(who: str, rate: float = rate) -> Callable:
            return lambda: bench.run("wire", who, answer_tokens=tokens, rate=rate)

        measured = bench.interleave({who: of(who) for who in ("bare", *PEERS, "headrace")}, f"wire {name}")
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
