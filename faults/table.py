"""What was found, as lines and as a table: Headrace's invariants, and beside them what each peer lost."""

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from faults.invariants import INVARIANTS
from faults.peers.tally import Tally, total

if TYPE_CHECKING:
    from faults.run import Result
    from faults.twenty import Fault

SHOWN = 8  # of what an invariant found wrong
NOT_COUNTED = "?"  # a run of the harness's own that went wrong
NO_FAULT = "—"

# By peer and fault: a tally of each run; null: it could not be counted.
Tallies = Mapping[str, Mapping[int, list[Tally | None]]]


def line(fault: "Fault", seed: int, result: "Result") -> str:
    said = "held" if result.has_held else "NOT HELD"
    out = [f"{fault.number:2} {fault.title}, seed {seed}: {said} ({result.took_s:.0f} s) {'; '.join(result.notes)}"]
    for name, found in result.wrong.items():
        out += [f"     {name}: {text}" for text in found[:SHOWN]]
        out += [f"     {name}: and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n".join(out)


def line_of_peer(name: str, tally: Tally) -> str:
    return (
        f"     {name}: of {tally.tokens} tokens lost {tally.lost}, doubled {tally.doubled}, out of order "
        f"{tally.disordered}; of {tally.answers} answers unended {tally.unended}; of {tally.tabs} views unlike what is "
        f"stored {tally.unlike} ({tally.took_s:.0f} s) {'; '.join(tally.notes)}"
    )


def table(faults: list["Fault"], results: dict[int, list["Result"]], peers: Tallies) -> str:
    """Markdown: what was done, what held, how long clients heard nothing new; what the peers lost."""
    heads = ["", "fault", "aimed at", "runs", "invariants held", "to the next event: median", "worst"]
    for name in peers:
        heads += [f"{name}: lost", "doubled", "out of order", "unended", "unlike", "next event"]
    out = [_row(heads), _row(["---"] * len(heads))]
    for fault in faults:
        cells = _ours(fault, results[fault.number])
        for name in peers:
            cells += _peer(peers[name].get(fault.number))
        out.append(_row(cells))
    return "\n".join(out + _legend(peers))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _ours(fault: "Fault", runs: list["Result"]) -> list[str]:
    broken = sorted({name for result in runs for name, found in result.wrong.items() if found})
    held = sum(result.has_held for result in runs)
    said = f"{len(INVARIANTS)} of {len(INVARIANTS)}" if not broken else f"**not** {', '.join(broken)} ({held} runs)"
    waits = [wait for result in runs for wait in result.waits]
    times = [f"{statistics.median(waits):.1f} s", f"{max(waits):.1f} s"] if waits else ["", ""]
    return [str(fault.number), fault.title, fault.aim, str(len(runs)), said, *times]


def _peer(runs: list[Tally | None] | None) -> list[str]:
    if runs is None:
        return [NO_FAULT] * 6
    counted = [tally for tally in runs if tally is not None]
    if len(counted) < len(runs):
        return [NOT_COUNTED] * 6
    whole = total(counted)
    waits = f"{statistics.median(whole.waits):.1f} s" if whole.waits else "never"
    return [
        f"{whole.lost} of {whole.tokens}",
        str(whole.doubled),
        str(whole.disordered),
        f"{whole.unended} of {whole.answers}",
        f"{whole.unlike} of {whole.tabs}",
        waits,
    ]


def _legend(peers: Tallies) -> list[str]:
    if not peers:
        return []
    return [
        "",
        "Of the peers, at the end: lost: tokens of accepted answers that the store, or a tab of the chat, lacks; "
        "doubled, out of order: tokens; unended: answers whose end is not stored or not shown, though nothing more "
        "came; unlike: views of an answer that differ from what a tab shows that is opened now; next event: the median "
        f"of the tabs that got one. {NO_FAULT}: there is no such fault for it.",
    ]
