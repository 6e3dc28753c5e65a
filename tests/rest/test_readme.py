"""The README's script of curl alone does what it says."""

import re
import subprocess
from collections.abc import Callable

import pytest

from tests.server import ROOT, HeadraceServer, manage


def script() -> str:
    return re.search(r"<!-- curl:.*?-->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


@pytest.mark.timeout(300)
def test_the_script_of_curl_alone_in_the_readme_works(make_server: Callable[..., HeadraceServer]) -> None:
    server = make_server().start()
    token = manage("token", "demo", env=server.env).stdout.strip()
    text = "set -eo pipefail\n" + script().replace("http://localhost:8000", server.url)
    environment = {"PATH": server.env["PATH"], "TOKEN": token}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, timeout=120)
    server.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in (
        "event: end_of_stream",
        '{"status":"success"}',
        '"note":"the first"',
        "event: snapshot",
        "event: delta",
        "event: turn_end",
        "Hello World",
        '"status":"offline"',
    ):
        assert shown in done.stdout, (shown, done.stdout, done.stderr)
