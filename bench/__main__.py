"""`python -m bench [--row NAME] [--rounds N] [--tiny]`: measure, print, keep in `bench/results/`.

The tiny form only shows that each row works; it keeps nothing. ROUNDS in the environment is the default of --rounds.
"""

import argparse
import os
import signal
import sys
from datetime import date
from pathlib import Path

from bench import cpu, report, svg
from bench.contenders import RAISED, NotMeasured, house
from bench.measure import Bench, Row
from bench.rows import NEEDS, ROWS

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--row", action="append", choices=list(ROWS), help="only this row; may be given again")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", ROUNDS)))
    parser.add_argument("--tiny", action="store_true", help="as small as it can be, one round, nothing kept")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes end with this one
    rounds = 1 if chosen.tiny else max(1, chosen.rounds)
    rows: list[Row] = []
    failed = []
    with house(chosen.tiny) as processes:
        names = chosen.row or list(ROWS)
        bench = Bench(processes, rounds, chosen.tiny, lambda text: print(text, flush=True))
        for name in names:
            print(f"{name}: {ROWS[name].__doc__}", flush=True)
            try:
                processes.only(NEEDS[name])
                made = ROWS[name](bench)
            except NotMeasured as error:
                failed.append(name)
                print(f"  not measured: {error}", flush=True)
                continue
            rows += made
            for row in made:
                print(f"\n{report.table(row)}", flush=True)
    if rows:
        print(report.goals(rows))
    if rows and not chosen.tiny:
        _keep(rows, rounds, chosen.row)
    return 1 if failed else 0


def _keep(rows: list[Row], rounds: int, only: list[str] | None) -> None:
    """A run of all rows is the day's; one of some rows has their names."""
    stem = "-".join([date.today().isoformat(), *(only or [])])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.svg").write_text(svg.picture(rows))
    text = report.document(rows, cpu.machine(), rounds, RAISED, f"{stem}.svg")
    (RESULTS / f"{stem}.md").write_text(text)
    print(f"kept: {RESULTS / stem}.md")


if __name__ == "__main__":
    sys.exit(main())
