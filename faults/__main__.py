"""`python -m faults [--only N] [--runs K] [--seed S]`: the faults on real workers, and whether the invariants held.

`--siege kills|rolling|churn`: a long run instead of the faults.
"""

import argparse
import asyncio
import functools
import os
import signal
import statistics
import sys
import traceback
from typing import TYPE_CHECKING

from faults.house import House
from faults.invariants import INVARIANTS, check

if TYPE_CHECKING:
    from faults.run import Result
    from faults.twenty import Fault

SHOWN = 8  # of what an invariant found wrong
RUN_S = 420.0
SIEGE_S = 7200.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", type=int, choices=range(1, 21), metavar="N", help="this fault; may be given again"
    )
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS", 1)), help="of each fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--herd", type=int, default=200, help="clients that come back at once (fault 10)")
    parser.add_argument("--quick", action="store_true", help="beats and sweeps in fractions of a second")
    parser.add_argument("--siege", choices=("kills", "rolling", "churn"), help="a long run instead of the faults")
    parser.add_argument("--turns", type=int, default=1000, help="of the sieges kills and rolling")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the siege churn")
    parser.add_argument("--keep", action="store_true", help="keep the directory with the workers' logs")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes end with this one
    return asyncio.run(_all(chosen))


async def _all(chosen: argparse.Namespace) -> int:
    house = House(max(2, chosen.workers), chosen.quick)
    house.herd = chosen.herd
    try:
        await house.open()
        from faults.twenty import TWENTY  # it looks at rows: Django must be set up

        print(f"{len(house.workers)} workers, {'PostgreSQL' if house.is_postgres else 'SQLite'}, {house.directory}")
        if chosen.siege:
            return 0 if await _siege(house, chosen) else 1
        results: dict[int, list[Result]] = {}
        for number in chosen.only or sorted(TWENTY):
            fault = TWENTY[number]
            reason = fault.left_out(house)
            if reason:
                print(f"{number:2} {fault.title}: left out: {reason}", flush=True)
                continue
            for nth in range(chosen.runs):
                result = await _once(house, fault, chosen.seed + nth)
                results.setdefault(number, []).append(result)
                print(_line(fault, chosen.seed + nth, result), flush=True)
        print("\n" + table([TWENTY[number] for number in results], results))
        return 0 if all(result.has_held for runs in results.values() for result in runs) else 1
    finally:
        await house.close(keep=chosen.keep)


async def _siege(house: House, chosen: argparse.Namespace) -> bool:
    from faults import sieges
    from faults.twenty import Fault

    amount = sieges.Amount(turns=chosen.turns, minutes=chosen.minutes)
    do = functools.partial(sieges.SIEGES[chosen.siege], amount=amount)
    siege = Fault(0, chosen.siege, "", do, lambda house: "")
    result = await _once(house, siege, chosen.seed, SIEGE_S)
    print(_line(siege, chosen.seed, result), flush=True)
    return result.has_held


async def _once(house: House, fault: "Fault", seed: int, within_s: float = RUN_S) -> "Result":
    """One run of one fault, from a healed house. What goes wrong in the fault itself is told as wrong."""
    from faults.run import Run

    await house.heal()
    run = Run(house, fault.number * 1000 + seed)
    wrong: dict[str, list[str]] = {}
    try:
        async with asyncio.timeout(within_s):
            try:
                await fault.do(run)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                run.expect(
                    False, f"{type(error).__name__}: {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"
                )
            await house.heal()
            wrong = check(await run.finish())
    except TimeoutError as error:
        run.expect(False, str(error) or f"the run was not over within {within_s:.0f} s")
    except Exception as error:
        run.expect(False, f"what was seen could not be looked at: {error!r}")
    finally:
        await run.close()
    return run.result(wrong)


def _line(fault: "Fault", seed: int, result: "Result") -> str:
    said = "held" if result.has_held else "NOT HELD"
    out = [f"{fault.number:2} {fault.title}, seed {seed}: {said} ({result.took_s:.0f} s) {'; '.join(result.notes)}"]
    for name, found in result.wrong.items():
        out += [f"     {name}: {text}" for text in found[:SHOWN]]
        out += [f"     {name}: and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n".join(out)


def table(faults: list["Fault"], results: dict[int, list["Result"]]) -> str:
    """Markdown: what was done, what held, how long clients heard nothing new."""
    out = [
        "| | fault | aimed at | runs | invariants held | to the next event: median | worst |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for fault in faults:
        runs = results[fault.number]
        broken = sorted({name for result in runs for name, found in result.wrong.items() if found})
        held = sum(result.has_held for result in runs)
        said = f"{len(INVARIANTS)} of {len(INVARIANTS)}" if not broken else f"**not** {', '.join(broken)} ({held} runs)"
        waits = [wait for result in runs for wait in result.waits]
        times = (f"{statistics.median(waits):.1f} s", f"{max(waits):.1f} s") if waits else ("", "")
        out.append(f"| {fault.number} | {fault.title} | {fault.aim} | {len(runs)} | {said} | {times[0]} | {times[1]} |")
    return "\n".join(out)


if __name__ == "__main__":
    sys.exit(main())
