"""A Headrace of its own: `manage.py setup` and `manage.py serve` as an operator runs them."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
START_S = 60.0  # a machine that runs other things besides


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    """Nothing of the caller's but what Python needs to be found."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "ENV_FILE": os.devnull, "DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1", **more}


def manage(*arguments: str, env: dict[str, str], timeout: float = START_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


class HeadraceServer:
    """`url`, `host` (with port), `passwords` of the first users, `log` (what it printed so far)."""

    def __init__(self, data_dir: Path, **env: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self.env = environment(data_dir, PORT=str(self.port), **env)
        self.passwords: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._output = data_dir.parent / f"{data_dir.name}.log"

    @property
    def log(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def setup(self, *arguments: str) -> str:
        done = manage("setup", *arguments, env=self.env)
        assert done.returncode == 0, done.stdout + done.stderr
        self.passwords |= dict(re.findall(r"^    (\w+) +(\S+)$", done.stdout, re.MULTILINE))
        return done.stdout

    def start(self) -> "HeadraceServer":
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "serve"],
                env=self.env,
                cwd=ROOT,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(self._is_up, START_S, "the server answers")
        return self

    def _is_up(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def stop(self, within_s: float = 40.0) -> int:
        """SIGTERM, and the status it ended with."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(within_s)
        self.process = None
        return status

    def kill(self) -> None:
        """kill -9, its workers too."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
