"""The faults' short form: cheap ones on two workers, with beats and sweeps in fractions of a second; one on peers."""

import os
import re
import subprocess
import sys

import pytest

from tests import stores
from tests.server import ROOT

CHEAP = ("3", "7", "19")
ON_POSTGRES = ("2",)


@pytest.mark.timeout(240)
def test_invariants_hold_after_cheap_faults() -> None:
    chosen = [word for number in CHEAP + (ON_POSTGRES if stores.ARE_REAL else ()) for word in ("--only", number)]
    assert faults("--no-peers", *chosen).count("7 of 7") == len(chosen) // 2


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "siege", [("kills", "--turns", "24"), ("churn", "--minutes", "0.1")], ids=lambda siege: siege[0]
)
def test_a_siege_is_withstood(siege: tuple[str, ...]) -> None:
    said = faults("--siege", *siege)
    assert f"{siege[0]}, seed 1: held" in said, said


@pytest.mark.timeout(240)
def test_what_peers_lose_is_counted() -> None:
    said = faults("--only", "3")
    for peer in ("layer", "resumable"):
        told = re.search(rf"{peer}: of 200 tokens lost (\d+), .* of 1 answers unended 1;", said)
        assert told, said
        assert int(told[1]) > 0, "a killed worker's answer ends with it"


def faults(*chosen: str) -> str:
    """What it printed; they held."""
    database = stores.DATABASE_URL if stores.ARE_REAL else "sqlite:"
    done = subprocess.run(
        [sys.executable, "-m", "faults", "--quick", *chosen],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database},
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
