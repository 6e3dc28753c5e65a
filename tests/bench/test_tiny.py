"""Each row of the measurements works: with floor, peer and a Headrace of its own. No figure is judged."""

import subprocess
import sys

import pytest

from bench.rows import ROWS
from tests.server import ROOT

# Rows of a kind in one run: what they need alike is started once.
KINDS = {
    "streams": ("burst", "paced", "first", "wire", "accept"),
    "crowds": ("fan-out", "slow", "storm"),
    "endings": ("stop", "takeover", "admin"),
    "resources": ("memory", "cost", "durability", "capacity"),
    "growth": ("growth",),
}


@pytest.mark.timeout(660)
@pytest.mark.parametrize("kind", KINDS)
def test_each_row_can_be_measured(kind: str) -> None:
    chosen = [word for name in KINDS[kind] for word in ("--row", name)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--tiny", *chosen], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in KINDS[kind]:
        assert f"{name}: {ROWS[name].__doc__}" in done.stdout


def test_no_row_is_left_out() -> None:
    assert {name for names in KINDS.values() for name in names} == set(ROWS)
