"""Results as a table for the terminal and for `bench/results/<date>.md`."""

import statistics
from datetime import date

from bench.cpu import Machine
from bench.measure import DURABILITY, Line, Row

RULES = (
    "Floor, peer and Headrace in the same run on the same machine, taking turns; medians of {rounds} rounds, the range "
    "in brackets; ratios by round. *bare*: the same server with a raw ASGI relay, no store. *layer*: a Channels "
    "consumer, `channels_redis` pubsub, a frame a token, saved with the ORM at the end; for `accept` a DRF POST. "
    "*socketio*: python-socketio, a room a chat, an emit and a frame a token. *resumable*: an XADD a token, an XREAD a "
    "viewer. *hard*: picows on uvloop, from memory, without a model or a store. "
    "Text was equal at every viewer in every round. Server on one core; model, load and store on the others."
)


def number(value: float) -> str:
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def middle(values: list[float]) -> str:
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.median(values))} [{number(min(values))} – {number(max(values))}]"


def verdicts(line: Line) -> list[tuple[str, str, bool]]:
    """Goal, what was reached, whether that is enough."""
    found = []
    for goal in line.goals:
        reached = goal.reached(line)
        if reached:
            found.append((goal.text, middle(reached), goal.is_met(reached)))
    return found


def table(row: Row) -> str:
    """Markdown of one row."""
    names = list(dict.fromkeys(name for line in row.lines for name in line.columns))
    head = f"| {row.name} | " + " | ".join(names) + " | goal | is |"
    out = [f"### {row.title}", "", head, "| --- |" + " --- |" * (len(names) + 2)]
    for line in row.lines:
        unit = f", {line.unit}" if line.unit and line.unit not in line.name else ""
        cells = [middle(line.columns[name]) if name in line.columns else "" for name in names]
        goals = verdicts(line)
        wanted = "<br>".join(text for text, _, _ in goals)
        reached = "<br>".join(f"{'met' if is_met else '**missed**'}: {value}" for _, value, is_met in goals)
        out.append(f"| {line.name}{unit} | " + " | ".join(cells) + f" | {wanted} | {reached} |")
    out.append("")
    if row.void:
        out += [f"**Void**: {row.void}.", ""]
    out += [f"- {note}" for note in row.notes]
    return "\n".join(out) + "\n"


def document(rows: list[Row], machine: Machine, rounds: int, raised: dict[str, str], picture: str) -> str:
    parts = [
        f"# Measurements of {date.today().isoformat()}",
        "",
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb} GB, Linux {machine.kernel}, "
        f"Python {machine.python}.",
        DURABILITY,
        "",
        RULES.format(rounds=rounds),
        "",
        "Bounds raised for a single user and a single worker: "
        + ", ".join(f"`{name}={value}`" for name, value in raised.items())
        + ".",
        "",
        f"![Floor, peer and Headrace]({picture})",
        "",
        "## Goals",
        "",
        goals(rows),
        "## Rows",
        "",
    ]
    return "\n".join(parts) + "\n" + "\n".join(table(row) for row in rows)


def goals(rows: list[Row]) -> str:
    out = ["| row | figure | goal | is | |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        for line in row.lines:
            for text, value, is_met in verdicts(line):
                said = "void" if row.void else "met" if is_met else "**missed**"
                out.append(f"| {row.title} | {line.name} | {text} | {value} | {said} |")
    return "\n".join(out) + "\n"
