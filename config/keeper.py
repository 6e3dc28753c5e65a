"""The keeper of an embedded store: `keeper.py DIRECTORY BINARY MEMORY_MB START_S`, started by `config/embedded.py`.

Runs the server, says its socket's path on stdout once it answers, and ends it when it gets `users.lock` for itself:
when no process uses the store any more. It ends with its server, and on Linux the server with it; it has inherited
`keeper.lock`, so that users see its end, and one of them starts another, which takes the same address.
Imports nothing of Headrace: it is small because it lives as long as the store.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

POLL_S = 0.001
STOP_S = 10.0
SOCKET_CHARS = 100  # the kernel takes 107
PR_SET_PDEATHSIG = 1


def main(directory: str, binary: str, memory_mb: str, start_s: str) -> int:
    deadline = time.monotonic() + float(start_s)
    users = os.open(os.path.join(directory, "users.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    before = _read(os.path.join(directory, "address"))
    serving = _wait_gone(directory, before, deadline)
    if serving is None:
        _say("the server before it does not end")
        return 1
    kept = _is_ours(before)
    path = before if kept else os.path.join(_runtime_dir(), "s")
    is_unused = False
    try:
        server = _run(binary, config(directory, path, int(memory_mb)), serving)
        if not _is_ready(server, path, deadline):
            server.kill()
            status = server.wait()
            _say(_last_line(directory) or f"it ended with status {status}")
            is_unused = not kept
            return 1
        _write(os.path.join(directory, "address"), path)
        _say(path)
        threading.Thread(target=_end_unused, args=(users, server), daemon=True).start()
        server.wait()
        is_unused = _try_lock(users)
    finally:
        if is_unused:
            shutil.rmtree(os.path.dirname(path), ignore_errors=True)
            if _read(os.path.join(directory, "address")) == path:  # not of a keeper that came after `rm -r` of ours
                _remove(os.path.join(directory, "address"))
    return 0  # the locks are let go by our end, after the server's


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


def _run(binary: str, text: str, serving: int) -> "subprocess.Popen[bytes]":
    """The server. It inherits the lock `serving`: until it has ended there is no other on its files and socket."""
    server = subprocess.Popen(
        [binary, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[serving],
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    os.close(serving)
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


def _is_ready(server: "subprocess.Popen[bytes]", path: str, deadline: float) -> bool:
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


def _end_unused(users: int, server: "subprocess.Popen[bytes]") -> None:
    fcntl.flock(users, fcntl.LOCK_EX)  # no poll, no timer
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _runtime_dir() -> str:
    """A fresh directory of our own (0700), short enough for a socket's path."""
    runtime = tempfile.mkdtemp(prefix="headrace-")
    if len(os.fsencode(runtime)) < SOCKET_CHARS - 2:
        return runtime
    os.rmdir(runtime)
    return tempfile.mkdtemp(prefix="headrace-", dir="/tmp")


def _is_ours(path: str) -> bool:
    """`path` is the socket's of a keeper that was killed, or of a server that was, in a directory that is ours alone.

    Clients know it: the store comes back there. The directory is made anew where somebody has cleared up.
    """
    runtime = os.path.dirname(path)
    if not os.path.basename(runtime).startswith("headrace-"):
        return False
    try:
        os.mkdir(runtime, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return False
    found = os.lstat(runtime)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _wait_gone(directory: str, path: str, deadline: float) -> "int | None":
    """`server.lock`, once a server that a killed keeper left has ended. None: it does not end.

    Where the system does not end it with its keeper it is told to here.
    """
    serving = os.open(os.path.join(directory, "server.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    while not _try_lock(serving):
        if time.monotonic() > deadline:
            return None
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(path)
                client.sendall(b"SHUTDOWN\r\n")
                client.recv(64)
            except OSError:
                pass
        time.sleep(POLL_S)
    return serving


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
