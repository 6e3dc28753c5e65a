"""The faults' short form: three cheap ones on two workers, with beats and sweeps in fractions of a second."""

import os
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
    assert faults(*chosen).count("7 of 7") == len(chosen) // 2


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "siege", [("kills", "--turns", "24"), ("churn", "--minutes", "0.1")], ids=lambda siege: siege[0]
)
def test_a_siege_is_withstood(siege: tuple[str, ...]) -> None:
    said = faults("--siege", *siege)
    assert f"{siege[0]}, seed 1: held" in said, said


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
