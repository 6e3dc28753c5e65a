"""`python -m faults [--only N] [--runs K] [--seed S]`: the faults on real workers, and whether the invariants held.

Beside them what two peers lose under the same (`--no-peers`: without). `--siege kills|rolling|churn|attack`:
a long run instead of the faults.
"""

import argparse
import asyncio
import functools
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING

from faults.house import House
from faults.invariants import check
from faults.peers.house import NAMES, Peer
from faults.table import line, line_of_peer, table

if TYPE_CHECKING:
    from faults.peers.tally import Tally
    from faults.run import Result
    from faults.twenty import Fault

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
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="the same on two peers, to compare"
    )
    parser.add_argument(
        "--siege", choices=("kills", "rolling", "churn", "attack"), help="a long run instead of the faults"
    )
    parser.add_argument("--turns", type=int, default=1000, help="of the sieges kills and rolling")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the sieges churn and attack")
    parser.add_argument("--keep", action="store_true", help="keep the directory with the workers' logs")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes end with this one
    return asyncio.run(_all(chosen))


async def _all(chosen: argparse.Namespace) -> int:
    house = House(max(2, chosen.workers), chosen.quick)
    house.herd = chosen.herd
    house.is_proxied = not chosen.siege  # which cuts nothing
    peers: list[Peer] = []
    try:
        await house.open()
        print(f"{len(house.workers)} workers, {'PostgreSQL' if house.is_postgres else 'SQLite'}, {house.directory}")
        if chosen.siege:
            return 0 if await _siege(house, chosen) else 1
        if chosen.peers:
            peers += [Peer(name, chosen.quick, house.model) for name in NAMES]
            await _open(peers, chosen.herd)
        return 0 if await _faults(house, peers, chosen) else 1
    finally:
        for site in (*peers, house):
            await site.close(keep=chosen.keep)


async def _open(peers: list[Peer], herd: int) -> None:
    for peer in peers:
        peer.herd = herd
        await peer.open()


async def _faults(house: House, peers: list[Peer], chosen: argparse.Namespace) -> bool:
    """True: all held, and what the peers lost was counted."""
    from faults.peers.twenty import NOT_FOR_PEERS
    from faults.twenty import TWENTY  # it looks at rows: Django must be set up

    results: dict[int, list[Result]] = {}
    tallies: dict[str, dict[int, list[Tally | None]]] = {peer.name: {} for peer in peers}
    for number in chosen.only or sorted(TWENTY):
        fault = TWENTY[number]
        reason = fault.left_out(house)
        if reason:
            print(f"{number:2} {fault.title}: left out: {reason}", flush=True)
            continue
        for seed in range(chosen.seed, chosen.seed + chosen.runs):
            result = await _once(house, fault, seed)
            results.setdefault(number, []).append(result)
            print(line(fault, seed, result), flush=True)
            if peers and number in NOT_FOR_PEERS:
                print(f"     peers: {NOT_FOR_PEERS[number]}", flush=True)
                continue
            counted = await asyncio.gather(*(_once_on(peer, number, seed) for peer in peers))
            for peer, tally in zip(peers, counted, strict=True):
                tallies[peer.name].setdefault(number, []).append(tally)
    print("\n" + table([TWENTY[number] for number in results], results, tallies))
    has_held = all(result.has_held for runs in results.values() for result in runs)
    return has_held and None not in [tally for runs in tallies.values() for some in runs.values() for tally in some]


async def _once_on(peer: Peer, number: int, seed: int) -> "Tally | None":
    """One run of one fault on a peer. Null: the harness failed, and nothing may be told of the peer."""
    from faults.peers.run import PeerRun
    from faults.peers.twenty import TWENTY

    run = None
    try:
        async with asyncio.timeout(RUN_S):
            await peer.heal()
            run = PeerRun(peer, number * 1000 + seed)
            try:
                await TWENTY[number](run)
            except TimeoutError as error:
                if run.hit_at is None:
                    raise
                run.note(str(error))  # what the peer did not do after the fault
            await peer.heal()
            tally = await run.tally()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        print(f"     {peer.name}: could not be counted: {error!r} ({where.filename}:{where.lineno})", flush=True)
        return None
    finally:
        if run is not None:
            await run.close()
    print(line_of_peer(peer.name, tally), flush=True)
    return tally


async def _siege(house: House, chosen: argparse.Namespace) -> bool:
    from faults import sieges
    from faults.twenty import Fault

    amount = sieges.Amount(turns=chosen.turns, minutes=chosen.minutes)
    do = functools.partial(sieges.SIEGES[chosen.siege], amount=amount)
    siege = Fault(0, chosen.siege, "", do, lambda site: "")
    result = await _once(house, siege, chosen.seed, SIEGE_S)
    print(line(siege, chosen.seed, result), flush=True)
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


if __name__ == "__main__":
    sys.exit(main())
