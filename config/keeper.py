"""The keeper of an embedded store: `python keeper.py DIRECTORY BINARY MEMORY_MB`, started by `config/embedded.py`.

Runs the server, says its socket's path on stdout once it answers, starts it again should it die, and ends it when it
gets `users.lock` for itself: when no process uses the store any more. On Linux the server dies with the keeper too.
Imports nothing of Headrace: it is small because it lives as long as the store.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

POLL_S = 0.001
READY_S = 9.0
STOP_S = 10.0
SOCKET_CHARS = 100  # the kernel takes 107
RESTARTS = 5
PR_SET_PDEATHSIG = 1


def main(directory: str, binary: str, memory_mb: str) -> int:
    _clear(directory)
    runtime = _runtime_dir()
    path = os.path.join(runtime, "s")
    text = config(directory, path, int(memory_mb))
    users = os.open(os.path.join(directory, "users.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    unused = threading.Event()
    try:
        server = _run(binary, text)
        if not _is_ready(server, path):
            server.kill()
            _say(_last_line(directory) or f"it ended with status {server.wait()}")
            return 1
        _write(os.path.join(directory, "address"), path)
        _say(path)
        current = [server]
        threading.Thread(target=_wait_unused, args=(users, unused, current), daemon=True).start()
        _keep(binary, text, path, unused, current)
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
        if _read(os.path.join(directory, "address")) == path:  # not of a keeper that came after `rm -r` of ours
            _remove(os.path.join(directory, "address"))
    return 0  # users.lock is let go by our end, after the server's


def config(directory: str, path: str, memory_mb: int) -> str:
    """The server's configuration. Nothing of it is a default that may change."""
    return "\n".join(
        [
            "port 0",
            f"unixsocket {quote(path)}",
            "unixsocketperm 700",
            f"dir {quote(directory)}",
            f"logfile {quote(os.path.join(directory, 'valkey.log'))}",
            "loglevel warning",
            "daemonize no",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            f"maxmemory {memory_mb}mb",
            "maxmemory-policy noeviction",
            "",
        ]
    )


def quote(path: str) -> str:
    """A path for a line of configuration: blanks, quotes and all else in it are kept."""
    safe = b"".join(
        bytes([byte]) if 0x20 <= byte < 0x7F and byte not in b'"\\' else b"\\x%02x" % byte for byte in os.fsencode(path)
    )
    return f'"{safe.decode("ascii")}"'


def _run(binary: str, text: str) -> "subprocess.Popen[bytes]":
    server = subprocess.Popen(
        [binary, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    assert server.stdin is not None
    try:
        server.stdin.write(text.encode())
        server.stdin.close()
    except BrokenPipeError:
        pass  # it has ended; who waits for it will see
    return server


def _die_with_parent() -> None:
    """In the child: SIGTERM when the thread that made it ends. `_run` is called by the main thread only."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_ready(server: "subprocess.Popen[bytes]", path: str) -> bool:
    deadline = time.monotonic() + READY_S
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(path)
                client.sendall(b"PING\r\n")
                if client.recv(16).startswith(b"+PONG"):
                    return True
            except OSError:
                pass
        time.sleep(POLL_S)
    return False


def _wait_unused(users: int, unused: threading.Event, current: "list[subprocess.Popen[bytes]]") -> None:
    fcntl.flock(users, fcntl.LOCK_EX)  # the one wait of this process: no poll, no timer
    unused.set()
    current[0].terminate()


def _keep(binary: str, text: str, path: str, unused: threading.Event, current: "list[subprocess.Popen[bytes]]") -> None:
    """Until nobody uses it: a server that died by itself is started again, a few times."""
    for _ in range(RESTARTS):
        current[0].wait()
        if unused.is_set():
            return
        current[0] = _run(binary, text)
        if unused.is_set():  # between the two lines above
            break
        if not _is_ready(current[0], path):
            break
    if not unused.is_set():
        current[0].wait()
    current[0].terminate()
    try:
        current[0].wait(STOP_S)
    except subprocess.TimeoutExpired:
        current[0].kill()
        current[0].wait()


def _runtime_dir() -> str:
    """A fresh directory of our own (0700), short enough for a socket's path."""
    runtime = tempfile.mkdtemp(prefix="headrace-")
    if len(os.fsencode(runtime)) < SOCKET_CHARS - 2:
        return runtime
    os.rmdir(runtime)
    return tempfile.mkdtemp(prefix="headrace-", dir="/tmp")


def _clear(directory: str) -> None:
    """What a keeper that was killed left: its socket; and its server, where the system does not end it with it."""
    path = _read(os.path.join(directory, "address"))
    if not path:
        return
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(path)
                client.sendall(b"SHUTDOWN\r\n")
                client.recv(64)
            except OSError:
                break
        time.sleep(POLL_S)
    if os.path.basename(os.path.dirname(path)).startswith("headrace-"):
        shutil.rmtree(os.path.dirname(path), ignore_errors=True)
    _remove(os.path.join(directory, "address"))


def _write(name: str, text: str) -> None:
    with open(name + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.replace(name + ".new", name)


def _read(name: str) -> str:
    try:
        with open(name, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _remove(name: str) -> None:
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass


def _last_line(directory: str) -> str:
    try:
        with open(os.path.join(directory, "valkey.log"), encoding="utf-8", errors="replace") as file:
            return (file.read().strip().splitlines() or [""])[-1]
    except OSError:
        return ""


def _say(line: str) -> None:
    """The one line of this process. Who reads it waits for the end of our stdout."""
    os.write(1, os.fsencode(line) + b"\n")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main(*sys.argv[1:]))
