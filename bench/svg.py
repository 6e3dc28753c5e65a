"""The picture of a run: for each figure with a goal, a bar a contender. A small SVG, written by hand."""

import math
import statistics
from html import escape

from bench.measure import Line, Row
from bench.report import number, verdicts

WIDTH, LEFT, RIGHT, BAR, GAP = 860, 150, 110, 16, 4
COLOURS = {
    "bare": "#8a94a6",
    "relay": "#c3cad6",
    "hard": "#5b6675",
    "no store": "#c3cad6",
    "layer": "#d9a05b",
    "socketio": "#c9824a",
    "resumable": "#e3bd8b",
    "headrace": "#1f7a8c",
    "whole turns": "#7fb7be",
    "3 workers": "#7fb7be",
}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1d2733}.t{font-weight:600}.s{fill:#5b6675}"
    "@media(prefers-color-scheme:dark){text{fill:#e6ebf2}.s{fill:#9aa6b6}}"
)


def picture(rows: list[Row]) -> str:
    y, body = 24, []
    for row in rows:
        for line in row.lines:
            if line.goals:
                drawn, y = _group(row, line, y)
                body += drawn
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *body, "</svg>"]) + "\n"


def _group(row: Row, line: Line, y: int) -> tuple[list[str], int]:
    """A title, its verdict, and the bars; on a logarithmic scale where the longest is more than 30 times the rest."""
    values = {name: statistics.median(column) for name, column in line.columns.items()}
    top, low = max(values.values()), min(value for value in values.values())
    is_log = low > 0 and top / low > 30
    unit = f" ({line.unit})" if line.unit and line.unit not in line.name else ""
    scale = " – logarithmic" if is_log else ""
    void = " – void" if row.void else ""
    out = [f'<text class="t" x="12" y="{y}">{escape(f"{row.title}: {line.name}{unit}")}'
           f'<tspan class="s">{scale}{void}</tspan></text>']  # fmt: skip
    y += 8
    for name, value in values.items():
        if is_log:
            share = (math.log(value) - math.log(low / 2)) / (math.log(top) - math.log(low / 2))
        else:
            share = value / top if top else 0
        width = max(1, round(share * (WIDTH - LEFT - RIGHT)))
        middle = y + BAR - 4
        out += [
            f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" rx="2" fill="{COLOURS.get(name, "#888")}"/>',
            f'<text x="{LEFT + width + 6}" y="{middle}">{number(value)}</text>',
        ]
        y += BAR + GAP
    for text, reached, is_met in verdicts(line):
        said = f"goal {text}: {'met' if is_met else 'missed'}, {reached}"
        out.append(f'<text class="s" x="{LEFT}" y="{y + 12}">{escape(said)}</text>')
        y += 16
    return out, y + 28
