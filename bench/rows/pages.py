"""The row about the pages of operators."""

from bench.measure import Bench, Goal, Line, Row


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
