"""Each row of the measurements works: with floor, peer and a Headrace of its own. No figure is judged."""

import subprocess
import sys

import pytest

from bench.rows import ROWS
from tests.server import ROOT


@pytest.mark.timeout(300)
def test_each_row_can_be_measured() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--tiny"], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, row in ROWS.items():
        assert f"{name}: {row.__doc__}" in done.stdout
